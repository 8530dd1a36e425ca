//! Short messages of a rank that does nothing but send wait for more of them, but never for ever.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use paceline_collectives::{
    Communicator, ContextOptions, ReduceOp, TransportChoice, TransportKind,
};
use support::{nodes, over, world};

/// More operations than it takes until messages are held back, and than fit into what is.
const OPERATIONS: u32 = 3000;

fn gather_many(communicator: &Communicator, operations: u32) {
    let ranks = communicator.world_size();
    for operation in 0..operations {
        let own = [communicator.rank() * 10_000 + operation; 3];
        let mut all = vec![0; own.len() * ranks as usize];
        let output = (communicator.rank() == 0).then_some(&mut all[..]);
        communicator.gather(&own, output, 0).unwrap();
        if communicator.rank() == 0 {
            let expected = (0..ranks).flat_map(|rank| [rank * 10_000 + operation; 3]);
            assert!(all.iter().copied().eq(expected), "operation {operation}");
        }
    }
}

#[test]
fn a_rank_that_goes_on_with_something_else_leaves_nothing_behind() {
    // The others make no call after the last gather before rank 0 has ended it.
    let done = Barrier::new(3);
    world(3, &over(TransportKind::Tcp), |communicator| {
        for burst in [20, 17, OPERATIONS, 25] {
            gather_many(communicator, burst);
            done.wait();
        }
        communicator.all_reduce(&mut [1.0f32; 100], ReduceOp::Sum).unwrap();
    });
}

#[test]
fn a_rank_that_waits_in_another_operation_leaves_nothing_behind() {
    for sockets in [1, 3] {
        let options = ContextOptions { sockets: Some(sockets), ..over(TransportKind::Tcp) };
        world(3, &options, |communicator| {
            gather_many(communicator, OPERATIONS);
            let mut sum = [communicator.rank()];
            communicator.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
            assert_eq!(sum, [3]);
            // Long messages behind short ones, and the other way round.
            for count in [1, 5000, 1, 100_000, 7] {
                if communicator.rank() == 0 {
                    for peer in [1, 2] {
                        let mut data = vec![0; count];
                        communicator.recv(&mut data, peer, 5).unwrap();
                        assert!(data.iter().all(|value| *value == peer));
                    }
                } else {
                    let data = vec![communicator.rank(); count];
                    communicator.send(&data, 0, 5).unwrap();
                }
            }
        });
    }
}

#[test]
fn a_rank_that_leaves_leaves_nothing_behind() {
    let seen = AtomicU64::new(0);
    world(2, &over(TransportKind::Tcp), |communicator| {
        for operation in 0..100_u64 {
            let mut data = [operation];
            communicator.broadcast(&mut data, 0).unwrap();
            if communicator.rank() == 1 {
                seen.fetch_add(data[0], Ordering::Relaxed);
            }
        }
    });
    assert_eq!(seen.load(Ordering::Relaxed), 99 * 100 / 2);
}

#[test]
fn ranks_that_wait_in_shared_memory_leave_nothing_behind() {
    let options = ContextOptions { transport: TransportChoice::Auto, ..over(TransportKind::Tcp) };
    nodes(&[0, 0, 1, 1], &options, |communicator| {
        for round in 0..200_u32 {
            for _ in 0..20 {
                let mut data = [round; 10];
                communicator.broadcast(&mut data, 0).unwrap();
                assert_eq!(data, [round; 10]);
            }
            let mut sum = [1_u32];
            communicator.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
            assert_eq!(sum, [4]);
        }
    });
}

#[test]
fn every_message_leaves_also_when_they_come_one_by_one() {
    let done = Barrier::new(2);
    world(2, &over(TransportKind::Tcp), |communicator| {
        for operation in 0..200_u32 {
            let mut data = [operation];
            communicator.broadcast(&mut data, 0).unwrap();
            assert_eq!(data, [operation]);
            done.wait();
            if operation % 7 == 0 {
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
}
