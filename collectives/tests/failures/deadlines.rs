//! The deadline of a call, in place of the context's.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use paceline_collectives::{CollectiveError, ContextOptions, Job, TransportKind};

use super::{over, run};

#[test]
fn a_call_may_have_a_shorter_deadline_than_its_context() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let gave_up = Barrier::new(2);
        run(Job::in_process(2).unwrap(), &over(kind), |context| {
            let communicator = context.communicator().unwrap();
            let hasty = communicator.with_timeout(Duration::from_millis(200));
            assert_eq!(communicator.timeout(), Duration::from_secs(60));
            // One order of operations for both.
            for _ in 0..3 {
                hasty.barrier().unwrap();
                communicator.barrier().unwrap();
            }
            if context.rank() == 0 {
                let error = hasty.barrier().unwrap_err();
                assert!(error.is_timeout() && error.culprit() == Some(1), "{error}");
                let error = communicator.barrier().unwrap_err();
                assert!(matches!(error, CollectiveError::Poisoned { .. }), "{error}");
            }
            gave_up.wait();
        });
    }
}

#[test]
fn a_call_may_have_a_longer_deadline_than_its_context() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let options = ContextOptions { timeout: Duration::from_millis(300), ..over(kind) };
        run(Job::in_process(3).unwrap(), &options, |context| {
            let communicator = context.communicator().unwrap();
            let patient = communicator.with_timeout(Duration::from_secs(60));
            // The handle that it was made from may go, and groups inherit what they were split from.
            drop(communicator);
            let group = patient.split(Some(0), 0).unwrap().unwrap();
            assert_eq!(group.timeout(), Duration::from_secs(60));
            if context.rank() == 2 {
                thread::sleep(Duration::from_secs(2));
            }
            group.barrier().unwrap();
            // Messages, too.
            match context.rank() {
                0 => patient.recv(&mut [0u8; 1], 2, 0).unwrap(),
                1 => {}
                _ => {
                    thread::sleep(Duration::from_millis(500));
                    patient.send(&[1u8], 0, 0).unwrap();
                }
            }
            patient.barrier().unwrap();
        });
    }
}
