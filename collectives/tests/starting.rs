//! Ranks in processes of their own, of which one cannot do what the others can.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, with a role.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says why"
)]

use std::error::Error;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::{Batch, Context, ContextOptions, Job, ReduceOp};
use paceline_rendezvous::{Environment, ProcessEnvironment};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

const ROLE: &str = "PACELINE_TEST_ROLE";

const WORLD_SIZE: u32 = 3;

/// How long the ranks wait for each other; a rank that fails must not cost the others that much.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// A loaded machine's share of that.
const FAR_BELOW_START_TIMEOUT: Duration = Duration::from_secs(100);

/// The addresses of two network namespaces on a link of their own.
const HOST_ADDRESS: &str = "10.231.9.1";
const CONTAINER_ADDRESS: &str = "10.231.9.2";

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(role) = ProcessEnvironment.get(ROLE) else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let mut input = std::io::stdin().lines();
    if role == "in a container" {
        enter_network_namespace().unwrap();
        println!("thread: {}", rustix::thread::gettid().as_raw_nonzero());
        input.next().unwrap().unwrap();
        run(&format!(
            "ip addr add {CONTAINER_ADDRESS}/24 dev container && ip link set container up"
        ));
    }
    let job = Job::from_environment().unwrap();
    match role.to_str().unwrap() {
        "without memory" => limit(Resource::Fsize, 0),
        "without descriptors" => limit(Resource::Nofile, next_descriptor() + 1),
        "without network" => enter_network_namespace().unwrap(),
        _ => {}
    }
    let options = ContextOptions::from_environment(&ProcessEnvironment).unwrap();
    match Context::new(&job, &options) {
        Err(error) => println!("outcome: {}", with_causes(&error)),
        Ok(context) => {
            let mut sum = [context.rank()].map(f64::from);
            context.communicator().unwrap().all_reduce(&mut sum, ReduceOp::Sum).unwrap();
            let fallback = context.fallback().unwrap_or("as preferred");
            let groups = groups(&context, role.to_str().unwrap());
            println!("outcome: {} over {}, {fallback}{groups}", sum[0], context.transport());
        }
    }
}

/// What comes of groups that are formed after the start, where the role is about them.
fn groups(context: &Context, role: &str) -> String {
    let rank = context.rank();
    match role {
        "in groups" => {}
        "in groups without descriptors" if rank == 1 => {
            limit(Resource::Nofile, next_descriptor() + 1);
        }
        "in groups without descriptors" => {}
        _ => return String::new(),
    }
    let world = context.communicator().unwrap();
    let turned = world.split(Some(0), -i64::from(rank)).unwrap().unwrap();
    let pair = world.split((rank != 1).then_some(7), 0).unwrap();
    for _ in 0..10 {
        let mut sum = vec![rank; 30_000];
        turned.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        assert_eq!(sum, [3; 30_000]);
        if let Some(pair) = &pair {
            let (other, mut received) = (1 - pair.rank(), vec![0; 30_000]);
            let sent = vec![rank; 30_000];
            let mut batch = Batch::new();
            batch.send(&sent, other, 1).recv(&mut received, other, 1);
            pair.exchange(batch).unwrap();
            assert_eq!(received, [2 - rank; 30_000]);
            pair.barrier().unwrap();
        }
    }
    format!(", groups share memory: {}", turned.plan_facts().shared_memory)
}

fn limit(resource: Resource, most: u64) {
    let maximum = getrlimit(resource).maximum;
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum }).unwrap();
}

/// The number of the next descriptor that this process opens.
fn next_descriptor() -> u64 {
    let probe = std::fs::File::open("/dev/null").unwrap();
    u64::try_from(probe.as_raw_fd()).unwrap()
}

/// Gives this thread, and whatever it starts from now on, a network of its own.
fn enter_network_namespace() -> rustix::io::Result<()> {
    // SAFETY: descriptors and memory stay as they are; only new sockets belong elsewhere.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

fn run(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

fn with_causes(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Whether network namespaces can be had here; says so if not.
fn may_have_namespaces() -> bool {
    let tried = thread::Builder::new().spawn(enter_network_namespace).unwrap().join().unwrap();
    let tools = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    if tried.is_err() || !tools {
        println!("skipped: network namespaces: {tried:?}, the program `ip` works: {tools}");
    }
    tried.is_ok() && tools
}

struct Rank {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Rank {
    fn start(rank: u32, role: &str, transport: &str, rendezvous: &str, secret: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["rank_program", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env("PACELINE_RANK", rank.to_string())
            .env("PACELINE_WORLD_SIZE", WORLD_SIZE.to_string())
            .env("PACELINE_LOCAL_RANK", rank.to_string())
            .env("PACELINE_LOCAL_SIZE", WORLD_SIZE.to_string())
            .env("PACELINE_NODE_RANK", "0")
            .env("PACELINE_NODE_COUNT", "1")
            .env("PACELINE_RENDEZVOUS", rendezvous)
            .env("PACELINE_SECRET_FILE", secret)
            .env("PACELINE_TRANSPORT", transport)
            .env("PACELINE_START_TIMEOUT", START_TIMEOUT.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// The rest of its next line with `word`; the test harness has its own to say.
    fn says(&mut self, word: &str) -> String {
        let marked = |line: String| line.split_once(word).map(|(_, rest)| rest.trim().to_owned());
        self.output.find_map(|line| marked(line.unwrap())).expect("the rank has ended too early")
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What all ranks say of their start, if rank `odd` has a role. They must end by themselves, and
/// early.
fn outcomes(odd: u32, role: &str, transport: &str) -> Vec<String> {
    outcomes_by(|rank| if rank == odd { role } else { "ordinary" }, transport)
}

/// The same if all have it.
fn outcomes_of_all(role: &str, transport: &str) -> Vec<String> {
    outcomes_by(|_| role, transport)
}

fn outcomes_by<'a>(role_of: impl Fn(u32) -> &'a str, transport: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let rendezvous = format!("file:{}", directory.path().join("meeting").display());
    let secret = secret_file(directory.path());
    let started = Instant::now();
    let start = |rank| Rank::start(rank, role_of(rank), transport, &rendezvous, &secret);
    let ranks: Vec<Rank> = (0..WORLD_SIZE).map(start).collect();
    let outcomes = ends_of(ranks);
    assert!(started.elapsed() < FAR_BELOW_START_TIMEOUT, "{:?}: {outcomes:?}", started.elapsed());
    assert!(!directory.path().join("meeting").exists(), "something is left behind");
    outcomes
}

fn ends_of(ranks: Vec<Rank>) -> Vec<String> {
    let end = |mut rank: Rank| {
        let outcome = rank.says("outcome: ");
        let rest: Vec<_> = rank.output.by_ref().map(Result::unwrap).collect();
        let status = rank.process.wait().unwrap();
        assert!(status.success(), "{status}: {rest:?}");
        outcome
    };
    ranks.into_iter().map(end).collect()
}

fn secret_file(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("secret");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all("5a".repeat(32).as_bytes()).unwrap();
    path
}

/// All ranks say the same, which begins with `words` and contains `cause`.
fn assert_all_say(outcomes: &[String], words: &str, cause: &str) {
    for outcome in outcomes {
        assert_eq!(outcome, &outcomes[0]);
        assert!(outcome.starts_with(words) && outcome.contains(cause), "{outcome}");
    }
}

#[test]
fn groups_of_processes_share_memory_or_exchange_messages() {
    for (role, transport, shared) in [
        ("in groups", "shm", true),
        ("in groups", "tcp", false),
        ("in groups without descriptors", "auto", false),
    ] {
        let outcomes = outcomes_of_all(role, transport);
        let words = format!("groups share memory: {shared}");
        assert_all_say(&outcomes, "3 over ", &words);
    }
}

#[test]
fn ranks_share_memory_where_all_can() {
    assert_all_say(&outcomes(0, "ordinary", "auto"), "3 over shm, as preferred", "");
}

#[test]
fn all_fall_back_where_one_may_not_allocate() {
    let cause = "rank 0: cannot allocate";
    assert_all_say(&outcomes(0, "without memory", "auto"), "3 over tcp, ", cause);
    let error = "cannot connect the ranks over shm: rank 0: cannot allocate";
    assert_all_say(&outcomes(0, "without memory", "shm"), error, "File too large");
}

#[test]
fn a_rank_that_may_open_no_more_files_is_named_by_all() {
    for transport in ["shm", "tcp"] {
        let error = format!("cannot connect the ranks over {transport}: rank 2: ");
        let outcomes = outcomes(2, "without descriptors", transport);
        assert_all_say(&outcomes, &error, "Too many open files");
    }
}

#[test]
fn a_rank_in_another_network_is_named_by_all() {
    if !may_have_namespaces() {
        return;
    }
    let error = "cannot connect the ranks over shm: rank 1: cannot connect to rank 0";
    assert_all_say(&outcomes(1, "without network", "shm"), error, "Connection refused");
    // Without a way to reach rank 1, falling back only leads to the next failure.
    let error = "cannot connect the ranks over tcp: rank 1: cannot connect to rank 0";
    assert_all_say(&outcomes(1, "without network", "auto"), error, "unreachable");
}

/// One rank in a container that has a network of its own, with a link to that of the others.
#[test]
fn all_fall_back_where_one_is_in_a_container() {
    if !may_have_namespaces() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let secret = secret_file(directory.path());
    let host = || {
        enter_network_namespace().unwrap();
        run("ip link set lo up");
        let rendezvous = format!("{HOST_ADDRESS}:4000");
        let mut contained = Rank::start(1, "in a container", "auto", &rendezvous, &secret);
        let thread = contained.says("thread: ");
        run(&format!("ip link add host type veth peer name container netns {thread}"));
        run(&format!("ip addr add {HOST_ADDRESS}/24 dev host && ip link set host up"));
        writeln!(contained.process.stdin.as_mut().unwrap(), "go on").unwrap();
        let start = |rank| Rank::start(rank, "ordinary", "auto", &rendezvous, &secret);
        ends_of(vec![start(0), contained, start(2)])
    };
    let outcomes = thread::scope(|scope| scope.spawn(host).join().unwrap());
    assert_all_say(&outcomes, "3 over tcp, ", "over shm: rank 1: cannot connect to rank 0");
}
