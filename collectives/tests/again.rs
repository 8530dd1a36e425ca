//! Job, context and communicators made, used and dropped fifty times in one process: nothing grows.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/processes.rs"]
mod processes;
#[path = "support/weighing.rs"]
mod weighing;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::queue::{Queue, QueueOptions};
use paceline_collectives::{
    Context, ContextOptions, Job, ReduceOp, TransportChoice, TransportKind,
};
use paceline_rendezvous::{BootstrapOptions, bootstrap, env};
use processes::{PATIENCE, place};
use weighing::live_bytes;

const RANKS: u32 = 3;

/// How often.
const TIMES: usize = 50;

/// Rounds before that, after which everything has been allocated that stays for good.
const WARM_UP: usize = 4;

/// What the test itself and the standard library may come to hold meanwhile, and by how much queues
/// differ: far less than anything that a job has, fifty times.
const SMALL_THINGS: usize = 4096;

/// What a process holds that only grows if somebody forgets something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Mappings of shared memory.
    mappings: usize,
}

impl Holdings {
    fn now() -> Self {
        let count = |path: &str| fs::read_dir(path).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            mappings: maps.lines().filter(|line| line.contains("/memfd:")).count(),
        }
    }
}

/// How a round ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Well,
    /// Rank 1 calls something else than the others, so that the communicator fails.
    Failed,
}

/// What one rank does, from joining to leaving. Returns what context and communicator say they hold.
fn work(rank: u32, kind: TransportKind, end: End, meeting: &Path) -> (usize, usize) {
    let mut variables = place(rank, &[0; RANKS as usize]);
    variables.insert(env::RENDEZVOUS.name, format!("file:{}", meeting.display()));
    let rendezvous = bootstrap(&variables, &BootstrapOptions::default()).unwrap();
    let transport = TransportChoice::Only(kind);
    let options = ContextOptions { transport, ..ContextOptions::default() };
    let context = Context::new(&Job::from_rendezvous(rendezvous), &options).unwrap();
    let communicator = context.communicator().unwrap();
    let mut data = vec![1f32; 300_000];
    communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    communicator.shift(&[rank], &mut [0], None).unwrap();
    let group = communicator.split(Some(rank % 2), 0).unwrap().unwrap();
    group.all_reduce(&mut data, ReduceOp::Max).unwrap();
    let queue = Queue::new(context.communicator().unwrap(), &QueueOptions::default()).unwrap();
    let sum = queue.all_reduce("tensor", vec![1i64; 10], ReduceOp::Sum).wait().unwrap();
    assert_eq!(sum, [3; 10]);
    let held = (context.memory_bytes(), communicator.memory_bytes());
    match end {
        End::Well => communicator.barrier().unwrap(),
        End::Failed if rank == 1 => drop(communicator.all_gather(&[1u8], &mut [0; 3]).unwrap_err()),
        End::Failed => drop(communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap_err()),
    }
    held
}

/// Whether ranks hold what they held before. How long their queues become depends on who is late.
fn is_alike(now: &[(usize, usize)], before: &[(usize, usize)]) -> bool {
    let near = |a: usize, b: usize| a.abs_diff(b) <= SMALL_THINGS;
    now.iter().zip(before).all(|(a, b)| near(a.0, b.0) && near(a.1, b.1))
}

fn round(kind: TransportKind, end: End) -> Vec<(usize, usize)> {
    let directory = tempfile::tempdir().unwrap();
    let meeting = directory.path().join("meeting");
    let held = thread::scope(|scope| {
        let start = |rank| {
            let meeting = &meeting;
            let run = move || work(rank, kind, end, meeting);
            thread::Builder::new().name("rank".to_owned()).spawn_scoped(scope, run).unwrap()
        };
        let ranks: Vec<_> = (0..RANKS).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(!meeting.exists(), "the card is left");
    held
}

fn again_and_again(kind: TransportKind, end: End) {
    (1..WARM_UP).for_each(|_| drop(round(kind, end)));
    let held = round(kind, end);
    let (before, live) = (Holdings::now(), live_bytes());
    for number in 0..TIMES {
        let now = round(kind, end);
        assert!(is_alike(&now, &held), "{kind}, {end:?}, round {number}: {held:?}, then {now:?}");
    }
    // A thread that has been joined is in the list for a moment.
    let give_up = Instant::now() + PATIENCE;
    while Holdings::now() != before {
        assert!(
            Instant::now() < give_up,
            "{kind}, {end:?}: {before:?} became {:?}",
            Holdings::now()
        );
        thread::sleep(Duration::from_millis(5));
    }
    let grown = live_bytes().saturating_sub(live);
    assert!(grown <= SMALL_THINGS, "{kind}, {end:?}: {grown} bytes are left of {TIMES} rounds");
}

/// One test, since what it counts is that of the whole process.
#[test]
fn jobs_leave_nothing_behind() {
    for kind in [TransportKind::Shm, TransportKind::Tcp] {
        for end in [End::Well, End::Failed] {
            again_and_again(kind, end);
        }
    }
}
