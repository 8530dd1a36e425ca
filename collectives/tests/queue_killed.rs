//! A rank that is killed while the others wait for it in their queues, or that has no memory for its
//! part in what they do.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/processes.rs"]
mod processes;

use std::time::{Duration, Instant};

use paceline_collectives::queue::{Queue, QueueError, QueueOptions};
use paceline_collectives::{Context, ReduceOp};
use paceline_rendezvous::{ProcessEnvironment, env};
use processes::{Site, role, say, with_causes};
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};

const WORLD_SIZE: u32 = 3;
const VICTIM: u32 = 2;

/// Far below the deadline of an operation, which the ranks are given.
const SOON: Duration = Duration::from_secs(100);
const TIMEOUT_SECONDS: &str = "300";

/// The roles of all ranks of a job: the victim is killed, or joins.
const KILLED: &str = "killed";
const JOINS: &str = "joins";

/// Bytes that the rank that has joined may still allocate, and that the others' tensor has.
const LEFT: u64 = 64 << 20;
const LARGE: u64 = 160 << 20;

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(role) = role() else { return };
    let context = Context::from_environment().unwrap();
    let options = QueueOptions::from_environment(&ProcessEnvironment).unwrap();
    let queue = Queue::new(context.communicator().unwrap(), &options).unwrap();
    let submit = |name: &str| queue.all_reduce(name, vec![1f32; 1000], ReduceOp::Sum);
    assert_eq!(submit("first").wait().unwrap(), [3.0; 1000]);
    if role == JOINS {
        say("failed: ", with_causes(&without_memory(&queue)));
        return;
    }
    if context.rank() == VICTIM {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    for handle in [submit("second"), submit("third")] {
        let failed = handle.wait().unwrap_err();
        assert!(matches!(failed.error, QueueError::Communicator { .. }), "{failed}");
        say("failed: ", with_causes(&failed));
    }
}

/// The victim joins, and has no memory to stand in for itself in what the others submit.
fn without_memory(queue: &Queue) -> QueueError {
    if queue.rank() == VICTIM {
        until_its_thread_sleeps();
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

/// A thread that is still starting would take memory after the limit was computed, and die of it.
fn until_its_thread_sleeps() {
    let sleeps = |task: &std::path::Path| {
        let read = |file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        read("comm").trim() == "paceline-queue" && state.starts_with('S')
    };
    let tasks = || std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    while !tasks().any(|task| sleeps(&task)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the ranks that are not killed say of `failures` failures each.
fn failures(transport: &str, role: &str, failures: usize) -> Vec<Vec<String>> {
    let site =
        Site::new(WORLD_SIZE).with(&env::TRANSPORT, transport).with(&env::TIMEOUT, TIMEOUT_SECONDS);
    let started = Instant::now();
    let mut ranks = site.start_all(|_| role);
    if role == KILLED {
        assert!(!ranks.remove(VICTIM as usize).end().success());
    }
    let said = ranks.iter_mut().map(|rank| {
        let said = (0..failures).map(|_| rank.says("failed: ")).collect();
        rank.ends_well();
        said
    });
    let said = said.collect();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    said
}

#[test]
fn the_others_fail_soon_and_name_it() {
    for transport in ["tcp", "shm"] {
        for failure in failures(transport, KILLED, 2).concat() {
            assert!(failure.contains("rank 2"), "{transport}: {failure}");
            // What the ranks were about.
            assert!(failure.contains(" second"), "{transport}: {failure}");
        }
    }
}

/// Far from the deadline: the rank that lacks memory says so, and the others hear of it.
#[test]
fn a_joined_rank_without_memory_is_named_at_once() {
    for transport in ["tcp", "shm"] {
        for failure in failures(transport, JOINS, 1).concat() {
            assert!(failure.contains("embedding"), "{transport}: {failure}");
            assert!(failure.contains("cannot allocate"), "{transport}: {failure}");
        }
    }
}
