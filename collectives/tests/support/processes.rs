//! Ranks that are processes of their own: this test binary, which runs its test `rank_program` alone.
//!
//! That test does nothing unless the process was started with a [`role`].

#![allow(dead_code, reason = "each test program uses some of it")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::{self, Environment, ProcessEnvironment, Variable};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

/// What a rank is to do.
const ROLE: &str = "PACELINE_TEST_ROLE";

/// A directory of the test, which its ranks see.
const DIRECTORY: &str = "PACELINE_TEST_DIRECTORY";

/// Set where a rank is to have a network of its own.
const CONTAINED: &str = "PACELINE_TEST_CONTAINED";

/// The addresses of two network namespaces on a link of their own.
pub(crate) const HOST_ADDRESS: &str = "10.231.9.1";
const CONTAINER_ADDRESS: &str = "10.231.9.2";

/// Longest wait for what must come. Only a failure reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What this process is to do, if it was started as a rank; it does not outlive the test then.
pub(crate) fn role() -> Option<String> {
    let role = ProcessEnvironment.get(ROLE)?;
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    if ProcessEnvironment.get(CONTAINED).is_some() {
        enter_network_namespace().unwrap();
        say("thread: ", rustix::thread::gettid().as_raw_nonzero());
        std::io::stdin().lines().next().unwrap().unwrap();
        run(&format!(
            "ip link set lo up && ip addr add {CONTAINER_ADDRESS}/24 dev container && \
             ip link set container up"
        ));
    }
    Some(role.into_string().unwrap())
}

/// The directory of the test that this rank belongs to.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(ProcessEnvironment.get(DIRECTORY).unwrap())
}

/// Lets the test [hear](Rank::says) something.
#[expect(clippy::print_stdout, reason = "what a rank says is what the test reads")]
pub(crate) fn say(word: &str, rest: impl std::fmt::Display) {
    println!("{word}{rest}");
}

/// An error and what caused it.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// What the ranks of one job have in common.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    node_of: Vec<u32>,
    variables: BTreeMap<&'static str, String>,
}

impl Site {
    /// Ranks on one node, which meet in a directory.
    pub(crate) fn new(world_size: u32) -> Self {
        let one_node: Vec<u32> = (0..world_size).map(|_| 0).collect();
        Self::on_nodes(&one_node)
    }

    /// The same where rank r is on node `node_of[r]`.
    pub(crate) fn on_nodes(node_of: &[u32]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rendezvous = format!("file:{}", directory.path().join("meeting").display());
        let secret = secret_file(directory.path(), "secret", "5a");
        let site = Self { directory, node_of: node_of.to_vec(), variables: BTreeMap::new() };
        site.with(&env::RENDEZVOUS, rendezvous).with(&env::SECRET_FILE, secret.display())
    }

    /// Gives all ranks a variable.
    pub(crate) fn with(mut self, variable: &Variable, value: impl std::fmt::Display) -> Self {
        self.variables.insert(variable.name, value.to_string());
        self
    }

    /// The directory in which the ranks meet.
    pub(crate) fn meeting(&self) -> PathBuf {
        self.directory.path().join("meeting")
    }

    /// A rank that has not been started.
    pub(crate) fn rank(&self, rank: u32, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["rank_program", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DIRECTORY, self.directory.path())
            .envs(place(rank, &self.node_of))
            .envs(&self.variables);
        command
    }

    pub(crate) fn start(&self, rank: u32, role: &str) -> Rank {
        Rank::start(self.rank(rank, role))
    }

    /// Starts all ranks.
    pub(crate) fn start_all<'a>(&self, role_of: impl Fn(u32) -> &'a str) -> Vec<Rank> {
        let ranks = 0..u32::try_from(self.node_of.len()).unwrap();
        ranks.map(|rank| self.start(rank, role_of(rank))).collect()
    }

    /// Starts a rank in a container that has a network of its own, with a link called `host` to that
    /// of this thread.
    pub(crate) fn start_contained(&self, rank: u32, role: &str) -> Rank {
        let mut command = self.rank(rank, role);
        command.env(CONTAINED, "yes");
        let mut contained = Rank::start(command);
        let thread = contained.says("thread: ");
        run(&format!(
            "ip link add host type veth peer name container netns {thread} && \
             ip addr add {HOST_ADDRESS}/24 dev host && ip link set host up"
        ));
        contained.tell("go on");
        contained
    }
}

/// The variables that say which rank a process is, where rank r is on node `node_of[r]`.
pub(crate) fn place(rank: u32, node_of: &[u32]) -> BTreeMap<&'static str, String> {
    let (own, nodes) = (rank as usize, node_of.iter().max().unwrap() + 1);
    let on_same = |others: &[u32]| others.iter().filter(|node| **node == node_of[own]).count();
    BTreeMap::from([
        (env::RANK.name, rank.to_string()),
        (env::WORLD_SIZE.name, node_of.len().to_string()),
        (env::LOCAL_RANK.name, on_same(&node_of[..own]).to_string()),
        (env::LOCAL_SIZE.name, on_same(node_of).to_string()),
        (env::NODE_RANK.name, node_of[own].to_string()),
        (env::NODE_COUNT.name, nodes.to_string()),
    ])
}

/// A file with a secret that is one byte, in hexadecimal, again and again.
pub(crate) fn secret_file(directory: &Path, name: &str, byte: &str) -> PathBuf {
    let path = directory.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(byte.repeat(32).as_bytes()).unwrap();
    path
}

/// A rank that has been started, and is killed when this is dropped.
pub(crate) struct Rank {
    process: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Rank {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        // It ends with the process. A rank that nobody listens to any more may go on talking.
        let read = move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        };
        thread::Builder::new().name("listener".to_owned()).spawn(read).unwrap();
        Self { process, lines, heard: Vec::new() }
    }

    /// The rest of its next line with `word`; the test harness has its own to say.
    pub(crate) fn says(&mut self, word: &str) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let remaining = give_up.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(remaining).unwrap_or_else(|error| {
                panic!("the rank did not say {word:?}: {error}; it said {:?}", self.heard)
            });
            self.heard.push(line.clone());
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Gives it a line to read.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Stops it while `body` runs, also if somebody else continues it, as sandboxes do that put all their
    /// processes to sleep for a while.
    pub(crate) fn while_stopped(&self, body: impl FnOnce()) {
        let (is_over, pid) = (AtomicBool::new(false), self.pid());
        let stop = || {
            while !is_over.load(Ordering::Relaxed) {
                send(pid, Signal::STOP);
                thread::sleep(Duration::from_millis(10));
            }
        };
        thread::scope(|scope| {
            let stop = thread::Builder::new().name("stop".to_owned()).spawn_scoped(scope, stop);
            let outcome = catch_unwind(AssertUnwindSafe(body));
            is_over.store(true, Ordering::Relaxed);
            stop.unwrap().join().unwrap();
            self.signal(Signal::CONT);
            outcome.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up, "it does not end; it said {:?}", self.heard);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn ends_well(&mut self) {
        let status = self.end();
        self.heard.extend(self.lines.try_iter());
        assert!(status.success(), "{status}: {:?}", self.heard);
    }
}

/// Sends a signal to a child that has not been waited for.
fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

impl Drop for Rank {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Gives this thread, and whatever it starts from now on, a network of its own.
pub(crate) fn enter_network_namespace() -> rustix::io::Result<()> {
    // SAFETY: descriptors and memory stay as they are; only new sockets belong elsewhere.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

pub(crate) fn run(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

/// Runs `body` in a network of its own, if that can be had here; says so if not.
#[expect(clippy::print_stdout, reason = "whoever reads the test's output shall know")]
pub(crate) fn in_a_network_of_its_own(body: impl FnOnce() + Send) {
    let tools = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    let host = || {
        let entered = enter_network_namespace();
        if entered.is_err() || !tools {
            println!("skipped: network namespaces: {entered:?}, the program `ip` works: {tools}");
            return;
        }
        run("ip link set lo up");
        body();
    };
    thread::scope(|scope| {
        let host = thread::Builder::new().name("host".to_owned()).spawn_scoped(scope, host);
        if let Err(panic) = host.unwrap().join() {
            resume_unwind(panic);
        }
    });
}
