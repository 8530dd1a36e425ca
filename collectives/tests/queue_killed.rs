//! A rank that is killed while the others wait for it in their queues, or that has no memory for its
//! part in what they do.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use paceline_collectives::queue::{Queue, QueueError, QueueOptions};
use paceline_collectives::{Context, ReduceOp};
use paceline_rendezvous::{Environment, ProcessEnvironment};
use rustix::process::{
    Resource, Rlimit, Signal, getpid, getrlimit, kill_process, set_parent_process_death_signal,
    setrlimit,
};

const RANK: &str = "PACELINE_RANK";
const ROLE: &str = "PACELINE_TEST_ROLE";
const WORLD_SIZE: u32 = 3;
const VICTIM: u32 = 2;

/// Far below the deadline of an operation, which the ranks are given.
const SOON: Duration = Duration::from_secs(100);
const TIMEOUT_SECONDS: &str = "300";

/// What [`ROLE`] says of ranks of which one joins.
const JOINS: &str = "joins";

/// Bytes that the rank that has joined may still allocate, and that the others' tensor has.
const LEFT: u64 = 64 << 20;
const LARGE: u64 = 160 << 20;

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    if ProcessEnvironment.get(ROLE).is_none() {
        return;
    }
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let context = Context::from_environment().unwrap();
    let options = QueueOptions::from_environment(&ProcessEnvironment).unwrap();
    let queue = Queue::new(context.communicator().unwrap(), &options).unwrap();
    let submit = |name: &str| queue.all_reduce(name, vec![1f32; 1000], ReduceOp::Sum);
    assert_eq!(submit("first").wait().unwrap(), [3.0; 1000]);
    if ProcessEnvironment.get(ROLE).is_some_and(|role| role == JOINS) {
        let failed = without_memory(&queue);
        println!("failed: {}", with_causes(&failed));
        return;
    }
    if context.rank() == VICTIM {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    for handle in [submit("second"), submit("third")] {
        let failed = handle.wait().unwrap_err();
        assert!(matches!(failed.error, QueueError::Communicator { .. }), "{failed}");
        println!("failed: {}", with_causes(&failed));
    }
}

/// The victim joins, and has no memory to stand in for itself in what the others submit.
fn without_memory(queue: &Queue) -> QueueError {
    if queue.rank() == VICTIM {
        let used = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = used.split(' ').next().unwrap().parse().unwrap();
        let most = Some(pages * 4096 + LEFT);
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: most, maximum }).unwrap();
        queue.join().wait().unwrap_err().error
    } else {
        let large = vec![1f32; (LARGE / 4) as usize];
        queue.all_reduce("embedding", large, ReduceOp::Sum).wait().unwrap_err().error
    }
}

fn with_causes(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Ranks that do not outlive the test.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            // It may have ended already.
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

fn start(transport: &str, role: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(&secret).unwrap();
    file.write_all("5a".repeat(32).as_bytes()).unwrap();
    let output = |rank: u32| directory.path().join(rank.to_string());
    let rank = |rank: u32| {
        Command::new(std::env::current_exe().unwrap())
            .args(["rank_program", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(RANK, rank.to_string())
            .env("PACELINE_WORLD_SIZE", WORLD_SIZE.to_string())
            .env("PACELINE_LOCAL_RANK", rank.to_string())
            .env("PACELINE_LOCAL_SIZE", WORLD_SIZE.to_string())
            .env("PACELINE_NODE_RANK", "0")
            .env("PACELINE_NODE_COUNT", "1")
            .env("PACELINE_RENDEZVOUS", format!("file:{}", directory.path().join("m").display()))
            .env("PACELINE_SECRET_FILE", &secret)
            .env("PACELINE_TRANSPORT", transport)
            .env("PACELINE_TIMEOUT", TIMEOUT_SECONDS)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(output(rank)).unwrap())
            .spawn()
            .unwrap()
    };
    let started = Instant::now();
    let mut ranks = Ranks((0..WORLD_SIZE).map(rank).collect());
    let statuses: Vec<_> = ranks.0.iter_mut().map(|rank| rank.wait().unwrap()).collect();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let said = |rank: u32| std::fs::read_to_string(output(rank)).unwrap();
    let is_killed = |rank: &u32| *rank == VICTIM && role != JOINS;
    (0..WORLD_SIZE).filter(|rank| !is_killed(rank)).for_each(|rank| {
        assert!(statuses[rank as usize].success(), "{transport}, rank {rank}: {}", said(rank));
    });
    (0..WORLD_SIZE).filter(|rank| !is_killed(rank)).map(said).collect()
}

#[test]
fn the_others_fail_soon_and_name_it() {
    for transport in ["tcp", "shm"] {
        for said in start(transport, "rank") {
            let failures: Vec<_> =
                said.lines().filter_map(|line| line.split_once("failed: ")).collect();
            assert_eq!(failures.len(), 2, "{said}");
            for (_, failure) in failures {
                assert!(failure.contains("rank 2"), "{transport}: {failure}");
                // What the ranks were about.
                assert!(failure.contains(" second"), "{transport}: {failure}");
            }
        }
    }
}

/// Far from the deadline: the rank that lacks memory says so, and the others hear of it.
#[test]
fn a_joined_rank_without_memory_is_named_at_once() {
    for transport in ["tcp", "shm"] {
        for said in start(transport, JOINS) {
            let (_, failure) = said
                .lines()
                .find_map(|line| line.split_once("failed: "))
                .unwrap_or_else(|| panic!("{said}"));
            assert!(failure.contains("embedding"), "{transport}: {failure}");
            assert!(failure.contains("cannot allocate"), "{transport}: {failure}");
        }
    }
}
