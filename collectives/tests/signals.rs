//! The library leaves signals alone: every action and every mask is the same after contexts were made,
//! with threads of their own, and operations were run in all ways that there are.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_collectives::queue::{Queue, QueueOptions};
use paceline_collectives::{Context, Job, ReduceOp, TransportKind};
use support::{coordinated, over};

/// Signals of Linux are numbered from 1 to 64.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// What a process does on one signal.
#[derive(Debug, PartialEq, Eq)]
struct Action {
    signal: i32,
    handler: usize,
    flags: i32,
    mask: Vec<bool>,
}

/// Whether each signal is in a set that the system has filled in. What lies behind the signals that
/// there are means nothing.
fn members(set: &libc::sigset_t) -> Vec<bool> {
    // SAFETY: the set is initialised, and the signals exist.
    SIGNALS.map(|signal| unsafe { libc::sigismember(set, signal) } == 1).collect()
}

/// What this process does on each signal, and which ones this thread blocks.
fn dispositions() -> (Vec<Action>, Vec<bool>) {
    let action = |signal| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: no new action is given, and there is room for the old one. The C library keeps two
        // signals to itself and refuses, which leaves zeros.
        unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
        // SAFETY: zeros are an action, too.
        let action = unsafe { action.assume_init() };
        let (handler, flags) = (action.sa_sigaction, action.sa_flags);
        Action { signal, handler, flags, mask: members(&action.sa_mask) }
    };
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: no new mask is given, and there is room for the old one.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr()) };
    // SAFETY: zeros are a set, too.
    let mask = unsafe { mask.assume_init() };
    (SIGNALS.map(action).collect(), members(&mask))
}

fn work(job: Arc<Job>) {
    let before = dispositions();
    let rank = job.rank_info().rank;
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let context = Context::new(&job, &over(kind)).unwrap();
        let communicator = context.communicator().unwrap();
        communicator.all_reduce(&mut vec![1.0f32; 100_000], ReduceOp::Sum).unwrap();
        let mut received = [0];
        communicator.shift(&[1u8], &mut received, None).unwrap();
        let half = communicator.split(Some(rank), 0).unwrap();
        let queue = Queue::new(communicator, &QueueOptions::default()).unwrap();
        queue.all_reduce("tensor", vec![1i64; 10], ReduceOp::Max).wait().unwrap();
        assert!(dispositions() == before, "while everything runs");
        drop((queue, half));
    }
    job.finish(Instant::now() + Duration::from_secs(60)).unwrap();
    assert!(dispositions() == before, "afterwards");
}

#[test]
fn no_handler_is_installed_and_no_mask_is_changed() {
    let before = dispositions();
    // Something that would be noticed if it changed.
    let pipe = before.0.iter().find(|action| action.signal == libc::SIGPIPE);
    assert!(pipe.is_some_and(|action| action.handler == libc::SIG_IGN), "Rust ignores SIGPIPE");
    let (server, jobs) = coordinated(2);
    std::thread::scope(|scope| {
        for job in jobs {
            let run = move || work(job);
            std::thread::Builder::new().name("rank".to_owned()).spawn_scoped(scope, run).unwrap();
        }
    });
    drop(server);
    assert!(dispositions() == before, "in the end");
}
