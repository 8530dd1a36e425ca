//! Going on after a failure, in the next epoch of the same job.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use paceline_collectives::{
    CollectiveError, Communicator, Context, Job, ReduceOp, SetupError, TransportKind,
};

use super::{coordinated, over};

/// How ranks fail without being lost.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// Rank 1 calls something else.
    Mismatch,
    /// Rank 1 does not come, and the others give up.
    Late,
    /// Rank 1 gives up by itself, while the others wait for it.
    Leaves,
}

impl Failure {
    fn happen(self, communicator: &Communicator) {
        let rank = communicator.rank();
        let barrier = || communicator.barrier().unwrap_err();
        match self {
            Self::Mismatch if rank == 1 => {
                let error = communicator.all_reduce(&mut [1f32; 3], ReduceOp::Sum).unwrap_err();
                assert!(!error.is_timeout(), "{error}");
            }
            Self::Mismatch => assert!(!barrier().is_timeout()),
            Self::Late if rank == 1 => {}
            Self::Late => {
                let hasty = communicator.with_timeout(Duration::from_millis(300));
                let error = hasty.barrier().unwrap_err();
                assert!(error.is_timeout(), "{error}");
            }
            Self::Leaves if rank == 1 => {}
            Self::Leaves => {
                let error = barrier();
                assert!(!error.is_timeout(), "{error}");
                assert!(error.to_string().contains("given up this epoch"), "{error}");
            }
        }
    }
}

/// What goes right.
fn work(context: &Context, epoch: u32) {
    let communicator = context.communicator().unwrap();
    let group = communicator.split(Some(communicator.rank() % 2), 0).unwrap().unwrap();
    let mut sum = vec![(communicator.rank() + epoch) as f32; 40_000];
    communicator.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
    let ranks = communicator.world_size();
    let expected = (0..ranks).map(|rank| rank + epoch).sum::<u32>() as f32;
    assert!(sum.iter().all(|sum| *sum == expected), "epoch {epoch}");
    group.barrier().unwrap();
}

fn on_each(jobs: Vec<Arc<Job>>, body: impl Fn(Arc<Job>) + Sync) {
    thread::scope(|scope| {
        for job in jobs {
            let body = &body;
            thread::Builder::new().spawn_scoped(scope, move || body(job)).unwrap();
        }
    });
}

#[test]
fn ranks_go_on_after_failures_one_after_the_other() {
    let failures = [Failure::Mismatch, Failure::Late, Failure::Leaves, Failure::Mismatch];
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let (_server, with_coordinator) = coordinated(3);
        for jobs in [Job::in_process(3).unwrap(), with_coordinator] {
            on_each(jobs, |job| {
                let mut context = Context::new(&job, &over(kind)).unwrap();
                drop(job);
                for (epoch, failure) in (0..).zip(failures) {
                    assert_eq!(context.job().rank_info().epoch, epoch);
                    work(&context, epoch);
                    let communicator = context.communicator().unwrap();
                    failure.happen(&communicator);
                    let renewed = context.renew().unwrap();
                    // What belongs to the old epoch stays over, however it ended there.
                    let error = communicator.barrier().unwrap_err();
                    assert!(matches!(error, CollectiveError::Poisoned { .. }), "{error}");
                    context = renewed;
                }
                work(&context, 9);
            });
        }
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_and_may_come_later() {
    let (_server, with_coordinator) = coordinated(3);
    for jobs in [Job::in_process(3).unwrap(), with_coordinator] {
        let gave_up = Barrier::new(3);
        on_each(jobs, |job| {
            let rank = job.rank_info().rank;
            if rank != 2 {
                let error = job.next_epoch(Duration::from_millis(200)).unwrap_err();
                let SetupError::NextEpoch { abort } = &error else { panic!("{error}") };
                assert_eq!((abort.culprit, abort.timed_out, abort.epoch), (Some(2), true, 0));
                assert!(abort.reason.starts_with("rank 2 did not come to epoch 1"), "{error}");
            }
            gave_up.wait();
            let next = job.next_epoch(Duration::from_secs(60)).unwrap();
            assert_eq!((next.rank_info().epoch, next.rank_info().rank), (1, rank));
            work(&Context::new(&next, &over(TransportKind::Tcp)).unwrap(), 1);
        });
    }
}

#[test]
fn there_is_no_next_epoch_without_a_lost_rank() {
    let (server, jobs) = coordinated(3);
    let in_barrier = Barrier::new(3);
    on_each(jobs, |job| {
        let context = Context::new(&job, &over(TransportKind::Tcp)).unwrap();
        let communicator = context.communicator().unwrap();
        in_barrier.wait();
        if context.rank() == 2 {
            server.rank_lost(2, "was killed by SIGKILL");
        } else {
            let error = communicator.barrier().unwrap_err();
            assert_eq!(error.culprit(), Some(2), "{error}");
            let error = context.renew().unwrap_err();
            let SetupError::NextEpoch { abort } = &error else { panic!("{error}") };
            let expected = "rank 2 is gone: rank 2 was killed by SIGKILL";
            assert_eq!((abort.culprit, abort.reason.as_str()), (Some(2), expected));
        }
        in_barrier.wait();
    });
}

#[test]
fn a_rank_that_has_left_or_panicked_ends_the_wait_of_the_others() {
    let both = Barrier::new(2);
    on_each(Job::in_process(3).unwrap(), |job| {
        if job.rank_info().rank == 1 {
            return;
        }
        let error = job.next_epoch(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().ends_with("rank 1 has left the job"), "{error}");
        both.wait();
    });
    let mut jobs = Job::in_process(2).unwrap();
    let panics = jobs.remove(0);
    thread::scope(|scope| {
        let dies = || {
            let _job = panics;
            panic!("on purpose, in a test");
        };
        let dead = thread::Builder::new().spawn_scoped(scope, dies).unwrap();
        let error = jobs[0].next_epoch(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("rank 0 was lost"), "{error}");
        assert!(dead.join().is_err());
    });
}

#[test]
fn a_job_of_one_goes_on_alone() {
    let [job] = &Job::in_process(1).unwrap()[..] else { panic!("one rank") };
    let context = Context::new(job, &over(TransportKind::Tcp)).unwrap();
    let context = context.renew().unwrap().renew().unwrap();
    assert_eq!(context.job().rank_info().epoch, 2);
    context.communicator().unwrap().barrier().unwrap();
}
