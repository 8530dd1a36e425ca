//! Failures of one rank, and differences between ranks, reach all of them long before a deadline.
//!
//! Ranks are threads of this process. The deadline of an operation is its default of 60 s: a test
//! whose ranks wait it out fails by the error that they get then.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod corruption;
mod deadlines;
mod mismatches;
mod renewal;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    CollectiveError, Communicator, ContextOptions, Job, ReduceOp, TransportKind,
};

use support::{coordinated, over, run};

/// What ranks call that are at odds.
#[derive(Clone, Copy, Debug)]
enum Call {
    /// Messages, on every communicator.
    Shift,
    /// Shared memory, in one hand-over.
    Short,
    /// Shared memory, block by block.
    Long,
}

impl Call {
    fn make(self, communicator: &Communicator) -> Result<(), CollectiveError> {
        match self {
            Self::Shift => communicator.shift(&[1.0f32; 100], &mut [0.0; 100], None),
            Self::Short => communicator.all_reduce(&mut [1.0f32; 10], ReduceOp::Sum),
            Self::Long => communicator.all_reduce(&mut vec![1.0f32; 1 << 20], ReduceOp::Sum),
        }
    }
}

/// Calls `calls[rank]` after an operation that all agree on; rank `late` comes later than the others.
fn at_odds(jobs: Vec<Arc<Job>>, calls: &[Call], late: usize) -> Vec<CollectiveError> {
    let all_agreed = Barrier::new(jobs.len());
    run(jobs, &over(TransportKind::Shm), |context| {
        let communicator = context.communicator().unwrap();
        let agreed = communicator.barrier();
        all_agreed.wait();
        agreed.unwrap();
        let rank = communicator.rank() as usize;
        if rank == late {
            // Long enough for the others to sleep in their wait, as a rule.
            thread::sleep(Duration::from_millis(60));
        }
        calls[rank].make(&communicator).unwrap_err()
    })
}

fn names_both(error: &CollectiveError) -> bool {
    let text = error.to_string();
    text.contains("all_reduce") && text.contains("shift")
}

#[test]
fn messages_meet_shared_memory_and_both_are_named() {
    for calls in [[Call::Shift, Call::Short], [Call::Long, Call::Shift]] {
        for late in [0, 1] {
            let errors = at_odds(Job::in_process(2).unwrap(), &calls, late);
            for (rank, error) in errors.iter().enumerate() {
                let case = format!("{calls:?}, {late} late, rank {rank}: {error}");
                assert!(names_both(error), "{case}");
            }
        }
    }
}

#[test]
fn ranks_that_are_nobodys_neighbour_in_a_difference_hear_of_it() {
    for late in 0..4 {
        let calls = [Call::Short, Call::Short, Call::Shift, Call::Short];
        let (_server, jobs) = coordinated(4);
        for (rank, error) in at_odds(jobs, &calls, late).iter().enumerate() {
            assert!(names_both(error), "{late} late, rank {rank}: {error:?}");
        }
    }
}

/// More than may be under way in one context.
const MANY: usize = 65;

#[test]
fn a_rank_with_too_many_operations_under_way_tells_the_others() {
    let (_server, jobs) = coordinated(2);
    // Rank 0 waits in all of its operations before rank 1 enters the first.
    let entered = Barrier::new(2);
    let options = ContextOptions { algorithm: Some(Algorithm::Ring), ..over(TransportKind::Tcp) };
    let errors = run(jobs, &options, |context| {
        let communicators: Vec<_> = (0..MANY).map(|_| context.communicator().unwrap()).collect();
        if context.rank() == 1 {
            entered.wait();
            return vec![Call::Short.make(&communicators[0]).unwrap_err()];
        }
        let errors = thread::scope(|scope| {
            let start = |communicator| {
                let run = move || Call::Short.make(communicator).unwrap_err();
                thread::Builder::new().spawn_scoped(scope, run).unwrap()
            };
            let threads: Vec<_> = communicators.iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        entered.wait();
        errors
    });
    let refused = |error: &&CollectiveError| matches!(error, CollectiveError::Memory { .. });
    assert_eq!(errors[0].iter().filter(refused).count(), 1, "{:?}", errors[0]);
    for error in errors[0].iter().filter(|error| !refused(error)).chain(&errors[1]) {
        assert_eq!(error.culprit(), Some(0), "{error}");
        assert!(error.to_string().contains("more than 64 operations under way"), "{error}");
    }
}

#[test]
fn a_rank_that_never_enters_is_told_from_one_that_is_stopped() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let (_server, jobs) = coordinated(3);
        let options = ContextOptions { timeout: Duration::from_secs(4), ..over(kind) };
        let gave_up = Barrier::new(3);
        let errors = run(jobs, &options, |context| {
            let [first, second] = [(); 2].map(|()| context.communicator().unwrap());
            first.barrier().unwrap();
            // What happens on another communicator says nothing about this one.
            (0..20).for_each(|_| second.barrier().unwrap());
            let outcome = if context.rank() == 1 { Ok(()) } else { first.barrier() };
            gave_up.wait();
            outcome
        });
        for (rank, error) in errors.into_iter().enumerate().filter(|(rank, _)| *rank != 1) {
            let text = error.unwrap_err().to_string();
            let process = format!("(pid {}) never entered but is alive (", std::process::id());
            let told = ["barrier #1: rank 1 on ", &process, " s ago, last entered #0); rank"];
            assert!(told.iter().all(|words| text.contains(words)), "rank {rank}: {text}");
        }
    }
}

#[test]
fn a_failed_group_leaves_its_siblings_alone_though_the_coordinator_hears_of_it() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let (_server, jobs) = coordinated(5);
        let options = ContextOptions { timeout: Duration::from_secs(4), ..over(kind) };
        run(jobs, &options, |context| {
            let world = context.communicator().unwrap();
            let rank = world.rank();
            // 4, 2, 0 and 3, 1.
            let group = world.split(Some(rank % 2), -i64::from(rank)).unwrap().unwrap();
            match rank {
                0 => {
                    // The others of the group are in a barrier; nobody but them hears of this.
                    let error = group.shift(&[1.0f32; 9], &mut [0.0; 9], None).unwrap_err();
                    assert!(error.to_string().contains("barrier"), "{error}");
                }
                2 | 4 => {
                    let error = group.barrier().unwrap_err();
                    assert!(error.to_string().contains("shift"), "{error}");
                    assert!(error.to_string().contains("of group 0 of rank 4"), "{error}");
                }
                _ => (0..100).for_each(|_| group.barrier().unwrap()),
            }
            (0..100).for_each(|_| world.barrier().unwrap());
        });
    }
}

#[test]
fn a_message_that_nobody_sends_is_explained() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let (_server, jobs) = coordinated(2);
        let options = ContextOptions { timeout: Duration::from_secs(2), ..over(kind) };
        let gave_up = Barrier::new(2);
        run(jobs, &options, |context| {
            let communicator = context.communicator().unwrap();
            if communicator.rank() == 0 {
                let error = communicator.recv(&mut [0u8; 5], 1, 8).unwrap_err();
                let text = error.to_string();
                let told = "recv #0 with tag 8: rank 1 on ";
                assert!(text.contains(told), "{text}");
                assert!(
                    text.contains("has not called the other side of it but is alive"),
                    "{text}"
                );
            }
            gave_up.wait();
        });
    }
}
