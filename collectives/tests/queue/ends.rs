//! Queues that end: closed, with a rank that is gone, by a panic.

use paceline_collectives::queue::{Queue, QueueError};
use paceline_collectives::{ReduceOp, TransportKind, UserOp};

use super::support::{contexts, every_way, over};
use super::{options, queues, wait};

#[test]
fn a_rank_that_is_gone_fails_everything_with_the_cause() {
    // In memory that ranks share, it takes the coordinator to tell that one has left.
    let [tcp, _, messages] = every_way();
    for context_options in [tcp, messages] {
        contexts(3, &context_options, |context| {
            let communicator = context.communicator().unwrap();
            if context.rank() == 1 {
                return;
            }
            let queue = Queue::new(communicator, &options()).unwrap();
            let submit = |name: &str| queue.all_reduce(name, vec![1f32; 7], ReduceOp::Sum);
            for handle in [submit("a"), submit("b")] {
                let failed = wait(handle).unwrap_err();
                assert!(matches!(failed.error, QueueError::Communicator { .. }), "{failed}");
                assert_eq!(failed.buffer.unwrap().len(), 7);
            }
            let failed = wait(submit("c")).unwrap_err();
            assert!(matches!(failed.error, QueueError::Communicator { .. }), "{failed}");
            assert!(wait(queue.join()).is_err());
        });
    }
}

#[test]
fn a_panic_is_reported_and_nobody_hangs() {
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let is_broken = queue.rank() == 0;
        let broken = UserOp::new("broken", move |_: &mut [f32], _: &[f32]| {
            assert!(!is_broken, "the operator does not like it");
        });
        // Both ranks reduce a half of it.
        let failed = wait(queue.all_reduce("a", vec![1f32; 1 << 20], &broken)).unwrap_err();
        if is_broken {
            assert!(matches!(failed.error, QueueError::Panicked { .. }), "{failed}");
            let failed = wait(queue.all_reduce("b", vec![1f32], ReduceOp::Sum)).unwrap_err();
            assert!(failed.to_string().contains("the operator does not like it"), "{failed}");
        } else {
            assert!(failed.error.is_fatal(), "{failed}");
        }
    });
}

#[test]
fn who_drops_the_queue_lets_the_others_know() {
    contexts(3, &over(TransportKind::Tcp), |context| {
        let queue = Queue::new(context.communicator().unwrap(), &options()).unwrap();
        let last = queue.all_reduce("last", vec![1f32], ReduceOp::Sum);
        if context.rank() == 1 {
            // Waits for what is under way.
            drop(queue);
            assert!(last.is_complete());
            return;
        }
        assert_eq!(wait(last).unwrap(), [3.0]);
        let failed = wait(queue.all_reduce("too late", vec![1f32], ReduceOp::Sum)).unwrap_err();
        assert_eq!(failed.to_string(), "rank 1 closed the queue");
    });
}
