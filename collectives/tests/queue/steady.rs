//! What a queue does when all ranks agree: how much of it, in which order, and how one waits for it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use paceline_collectives::queue::QueueOptions;
use paceline_collectives::{ReduceOp, TransportKind, UserOp};

use super::support::over;
use super::{PATIENCE, options, queues, until, wait};

#[test]
fn the_steady_state_exchanges_no_names() {
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let step = || {
            let submit =
                |index| queue.all_reduce(format!("{index}"), vec![1f32; 100], ReduceOp::Sum);
            let handles: Vec<_> = (0..100).map(submit).collect();
            handles.into_iter().for_each(|handle| drop(wait(handle).unwrap()));
        };
        step();
        let warm = queue.counts();
        for _ in 0..10 {
            step();
        }
        let counts = queue.counts();
        assert_eq!(counts.exchanges, warm.exchanges);
        assert_eq!(counts.submissions - warm.submissions, 1000);
        // They are fused, and no round does nothing but on the way from one step to the next.
        let (rounds, operations) =
            (counts.rounds - warm.rounds, counts.operations - warm.operations);
        assert!(operations <= 1000, "{counts:?}");
        assert!(rounds <= 2 * operations + 20, "{counts:?}");
    });
}

#[test]
fn ranks_that_wait_for_each_other_do_not_spin() {
    let meeting = Barrier::new(2);
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let names = if queue.rank() == 0 { ["a", "b"] } else { ["b", "a"] };
        let first = queue.all_reduce(names[0], vec![1f32], ReduceOp::Sum);
        thread::sleep(Duration::from_millis(300));
        let rounds = queue.counts().rounds;
        assert!(rounds < 1000, "{rounds} rounds for nothing");
        meeting.wait();
        let second = queue.all_reduce(names[1], vec![2f32], ReduceOp::Sum);
        assert_eq!((wait(first).unwrap(), wait(second).unwrap()), (vec![3.0], vec![3.0]));
    });
}

#[test]
fn all_gather_collects_in_the_order_of_ranks() {
    queues(3, &over(TransportKind::Tcp), &options(), |queue| {
        let gathered = wait(queue.all_gather("ranks", vec![queue.rank(); 2])).unwrap();
        assert_eq!(gathered, [0, 0, 1, 1, 2, 2]);
    });
}

#[test]
fn priorities_decide_who_goes_first() {
    let gate_open = Arc::new(AtomicBool::new(false));
    let submitted = Barrier::new(2);
    let one_by_one = QueueOptions { fusion_threshold: 0, ..options() };
    queues(2, &over(TransportKind::Tcp), &one_by_one, |queue| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let is_open = Arc::clone(&gate_open);
        let gate = UserOp::new("gate", move |_: &mut [f32], _: &[f32]| {
            until("the gate opens", || is_open.load(Ordering::Acquire));
        });
        let logged = |what: i32| {
            let order = Arc::clone(&order);
            UserOp::new("logged", move |_: &mut [f32], _: &[f32]| {
                let mut order = order.lock().unwrap();
                if order.last() != Some(&what) {
                    order.push(what);
                }
            })
        };
        let gate = queue.all_reduce("gate", vec![1f32; 2], &gate);
        let handles: Vec<_> = [(0, "a"), (-1, "b"), (7, "c"), (3, "d")]
            .into_iter()
            .map(|(priority, name)| {
                queue.priority(priority).all_reduce(name, vec![1f32; 2], logged(priority))
            })
            .collect();
        submitted.wait();
        gate_open.store(true, Ordering::Release);
        wait(gate).unwrap();
        handles.into_iter().for_each(|handle| drop(wait(handle).unwrap()));
        assert_eq!(*order.lock().unwrap(), [7, 3, 0, -1]);
    });
}

#[test]
fn handles_that_are_dropped_change_nothing() {
    queues(2, &over(TransportKind::Shm), &options(), |queue| {
        for index in 0..50 {
            let handle = queue.all_reduce(format!("{index}"), vec![1f32; 100], ReduceOp::Sum);
            if (index + queue.rank()).is_multiple_of(2) {
                drop(handle);
            } else {
                assert_eq!(wait(handle).unwrap(), [2.0; 100]);
            }
        }
    });
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn handles_are_futures() {
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = std::task::Context::from_waker(&waker);
        let mut handle = pin!(queue.all_reduce("a", vec![1f32; 10], ReduceOp::Avg));
        let result = loop {
            match handle.as_mut().poll(&mut context) {
                Poll::Ready(result) => break result,
                Poll::Pending => thread::park_timeout(PATIENCE),
            }
        };
        assert_eq!(result.unwrap(), [1.0; 10]);
    });
}
