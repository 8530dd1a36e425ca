//! Ranks in processes of their own, of which one cannot do what the others can.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, with a role.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/processes.rs"]
mod processes;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use paceline_collectives::{Batch, Context, ContextOptions, Job, ReduceOp};
use paceline_rendezvous::ProcessEnvironment;
use paceline_rendezvous::env;
use processes::{
    HOST_ADDRESS, Rank, Site, enter_network_namespace, in_a_network_of_its_own, role, say,
    with_causes,
};
use rustix::process::{Resource, Rlimit, getrlimit};

const WORLD_SIZE: u32 = 3;

/// How long the ranks wait for each other; a rank that fails must not cost the others that much.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// A loaded machine's share of that.
const FAR_BELOW_START_TIMEOUT: Duration = Duration::from_secs(100);

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(role) = role() else { return };
    let job = Job::from_environment().unwrap();
    match &*role {
        "without memory" => limit(Resource::Fsize, 0),
        "without descriptors" => limit(Resource::Nofile, next_descriptor() + 1),
        "without network" => enter_network_namespace().unwrap(),
        _ => {}
    }
    let options = ContextOptions::from_environment(&ProcessEnvironment).unwrap();
    match Context::new(&job, &options) {
        Err(error) => say("outcome: ", with_causes(&error)),
        Ok(context) => {
            let mut sum = [context.rank()].map(f64::from);
            context.communicator().unwrap().all_reduce(&mut sum, ReduceOp::Sum).unwrap();
            let fallback = context.fallback().unwrap_or("as preferred");
            let groups = groups(&context, &role);
            let transport = context.transport();
            say("outcome: ", format_args!("{} over {transport}, {fallback}{groups}", sum[0]));
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

/// Where ranks meet that use a transport.
fn site(transport: &str) -> Site {
    Site::new(WORLD_SIZE)
        .with(&env::TRANSPORT, transport)
        .with(&env::START_TIMEOUT, START_TIMEOUT.as_secs())
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
    let (site, started) = (site(transport), Instant::now());
    let outcomes = ends_of(site.start_all(role_of));
    assert!(started.elapsed() < FAR_BELOW_START_TIMEOUT, "{:?}: {outcomes:?}", started.elapsed());
    assert!(!site.meeting().exists(), "something is left behind");
    outcomes
}

fn ends_of(ranks: Vec<Rank>) -> Vec<String> {
    let end = |mut rank: Rank| {
        let outcome = rank.says("outcome: ");
        rank.ends_well();
        outcome
    };
    ranks.into_iter().map(end).collect()
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
    in_a_network_of_its_own(|| {
        let error = "cannot connect the ranks over shm: rank 1: cannot connect to rank 0";
        assert_all_say(&outcomes(1, "without network", "shm"), error, "Connection refused");
        // Without a way to reach rank 1, falling back only leads to the next failure.
        let error = "cannot connect the ranks over tcp: rank 1: cannot connect to rank 0";
        assert_all_say(&outcomes(1, "without network", "auto"), error, "unreachable");
    });
}

/// One rank in a container that has a network of its own, with a link to that of the others.
#[test]
fn all_fall_back_where_one_is_in_a_container() {
    in_a_network_of_its_own(|| {
        let site = site("auto").with(&env::RENDEZVOUS, format_args!("{HOST_ADDRESS}:4000"));
        let contained = site.start_contained(1, "ordinary");
        let start = |rank| site.start(rank, "ordinary");
        let outcomes = ends_of(vec![start(0), contained, start(2)]);
        assert_all_say(&outcomes, "3 over tcp, ", "over shm: rank 1: cannot connect to rank 0");
    });
}
