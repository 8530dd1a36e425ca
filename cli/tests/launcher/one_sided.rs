//! What goes wrong on one rank alone reaches all others, with its name and its cause.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, with a case.

use std::path::Path;
use std::time::{Duration, Instant};

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    CollectiveError, Context, ContextOptions, Job as RankJob, ReduceOp, TransportChoice,
};
use paceline_rendezvous::RankInfo;
use paceline_rendezvous::env::{Environment, ProcessEnvironment};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::support::{Finished, Job, eventually, while_stopped};

const CASE: &str = "PACELINE_TEST_CASE";

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The rank that something happens to.
const ACTOR: u32 = 1;

/// What the ranks have no memory in stock for.
#[derive(Clone, Copy, Debug)]
struct Case {
    transport: &'static str,
    /// Tensors packed into one buffer; one alone is exchanged as it is, all with all.
    tensors: usize,
    /// Elements of each.
    count: usize,
    ranks: u32,
}

const CASES: [Case; 3] = [
    Case { transport: "tcp", tensors: 16, count: 16 << 10, ranks: 3 },
    Case { transport: "shm", tensors: 16, count: 16 << 10, ranks: 3 },
    // With this many ranks their inputs do not fit into the staging memory that is always there.
    Case { transport: "tcp", tensors: 1, count: 1 << 16, ranks: 18 },
];

/// A job of this test binary, whose ranks run one of its tests.
fn job(test: &str, case: &str, ranks: u32) -> Job {
    let program = std::env::current_exe().expect("this binary");
    let program = program.to_str().expect("UTF-8");
    let (test, ranks) = (format!("one_sided::{test}"), ranks.to_string());
    let mut arguments = vec!["-np", &ranks, "-q", "--", program];
    arguments.extend(["--exact", &test, "--nocapture", "--test-threads=1"]);
    Job::new(&arguments).env(CASE, case)
}

fn run(number: usize) -> Finished {
    // The C library reserves address space for threads' arenas, which would not count as new.
    let job = job("rank_program", &number.to_string(), CASES[number].ranks);
    job.env("MALLOC_ARENA_MAX", "1").run()
}

/// Lets this process have hardly more memory than it has.
fn starve() {
    let status = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages: u64 = status.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    let limit = Some(pages * 4096 + (512 << 10));
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).expect("lower than before");
}

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(number) = ProcessEnvironment.get(CASE) else { return };
    let number: usize = number.to_str().and_then(|text| text.parse().ok()).expect("a number");
    let Case { transport, tensors, count, .. } = CASES[number];
    let transport: TransportChoice = transport.parse().expect("a transport");
    let algorithm = (tensors == 1).then_some(Algorithm::OneShot);
    let options = ContextOptions { transport, algorithm, ..ContextOptions::default() };
    let job = RankJob::from_environment().expect("a job");
    let context = Context::new(&job, &options).expect("connected");
    let communicator = context.communicator().expect("a communicator");
    let mut tensors = vec![vec![1f32; count]; tensors];
    let mut slices: Vec<&mut [f32]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
    communicator.barrier().expect("nothing is wrong yet");
    let store = &job.rendezvous().store;
    store.set(&format!("ready/{}", communicator.rank()), b"").expect("stored");
    if communicator.rank() == ACTOR {
        // What it is about to do would end the barrier of a rank that is still in it.
        for rank in 0..communicator.world_size() {
            store.get(&format!("ready/{rank}"), Instant::now() + PATIENCE).expect("there");
        }
        starve();
    }
    let outcome = match &mut slices[..] {
        [alone] => communicator.all_reduce(alone, ReduceOp::Sum),
        fused => communicator.all_reduce_fused(fused, ReduceOp::Sum),
    };
    let error = outcome.expect_err("a rank has no memory");
    let again = communicator.barrier().expect_err("the communicator is of no use any more");
    assert!(matches!(again, CollectiveError::Poisoned { .. }), "{again}");
    eprintln!("culprit {:?}: {error}", error.culprit());
}

#[test]
fn a_rank_without_memory_tells_the_others_at_once() {
    for (number, case) in CASES.into_iter().enumerate() {
        let ended = run(number);
        let says = |rank: u32, words: &[&str]| {
            let prefix = format!("[{rank}]");
            let mut lines = ended.stderr.lines().filter(|line| line.starts_with(&prefix));
            lines.any(|line| words.iter().all(|word| line.contains(word)))
        };
        let starved = says(ACTOR, &["culprit None: all_reduce: cannot allocate"]);
        assert!(starved, "{case:?}: {}", ended.stderr);
        for rank in (0..case.ranks).filter(|rank| *rank != ACTOR) {
            let told = ["culprit Some(1)", "all_reduce #1 failed on rank 1: cannot allocate"];
            assert!(says(rank, &told), "rank {rank}, {case:?}: {}", ended.stderr);
        }
    }
}

/// Deadline of an operation that passes while the launcher stands still.
const SHORT: Duration = Duration::from_secs(3);

/// Does nothing unless it was started as a rank.
#[test]
fn late_rank_program() {
    if ProcessEnvironment.get(CASE).is_none() {
        return;
    }
    let (place, _) = RankInfo::from_environment(&ProcessEnvironment).expect("a rank");
    if place.rank == ACTOR {
        // The coordinator hears the others first.
        eventually("rank 0 has joined", || Path::new("joined").exists());
    }
    let job = RankJob::from_environment().expect("a job");
    std::fs::write("joined", "").expect("writable");
    let options = ContextOptions { timeout: SHORT, ..ContextOptions::default() };
    let context = Context::new(&job, &options).expect("connected");
    let communicator = context.communicator().expect("a communicator");
    communicator.barrier().expect("nothing is wrong yet");
    if place.rank == ACTOR {
        let control = job.rendezvous().control.as_ref().expect("a launcher runs");
        let mut abort = None;
        eventually("the verdict", || {
            abort = control.poll_abort();
            abort.is_some()
        });
        eprintln!("told: {}", abort.expect("just seen"));
    } else {
        std::fs::write("waiting", "").expect("writable");
        communicator.barrier().expect_err("a rank never comes");
        std::fs::write("over", "").expect("writable");
    }
}

#[test]
fn what_a_launcher_that_was_stopped_did_not_hear_is_nobodys_silence() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    let running = job("late_rank_program", "late", 2).directory(directory.path()).start();
    eventually("rank 0 waits", || file("waiting").exists());
    while_stopped(running.launcher(), || eventually("rank 0 gives up", || file("over").exists()));
    let ended = running.wait();
    let told = ended.stderr.lines().any(|line| {
        line.starts_with("[1] told: barrier #1") && line.contains(") never entered but is alive (")
    });
    assert!(told, "{}", ended.stderr);
}
