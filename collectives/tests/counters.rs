//! What is counted: bytes that cross connections, exactly as the formulas say, and operations, also
//! those that do not end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{Batch, Collective, Counters, ReduceOp, Traffic, TransportKind, TwoWay};
use support::{contexts, forced, over, world};

/// Longest wait for what must come. Only a failure reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn minus(after: Traffic, before: Traffic) -> Traffic {
    Traffic {
        messages: after.messages - before.messages,
        payload_bytes: after.payload_bytes - before.payload_bytes,
        wire_bytes: after.wire_bytes - before.wire_bytes,
    }
}

/// What has crossed the connection to each rank meanwhile, by rank; nothing for oneself.
fn crossed(before: &Counters, after: &Counters, world_size: u32) -> Vec<TwoWay> {
    let of = |counters: &Counters, rank| {
        let peer = counters.peers.iter().find(|peer| peer.peer == rank);
        peer.map(|peer| peer.total).unwrap_or_default()
    };
    let rank = |rank| {
        let (before, after) = (of(before, rank), of(after, rank));
        TwoWay {
            sent: minus(after.sent, before.sent),
            received: minus(after.received, before.received),
        }
    };
    (0..world_size).map(rank).collect()
}

fn done(counters: &Counters, collective: Collective, shared_memory: bool) -> (u64, u64) {
    let is = |of: &&paceline_collectives::OperationCounters| {
        (of.collective, of.shared_memory) == (collective, shared_memory)
    };
    let sum = counters.totals.iter().find(is);
    sum.map_or((0, 0), |of| (of.operations, of.bytes))
}

/// A ring sends 2(p−1)/p of the vector to the next rank and nothing to any other.
#[test]
fn a_ring_moves_exactly_what_its_formula_says() {
    const COUNT: usize = 12 * 5_000;
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        for world_size in [2, 3, 4] {
            let all = contexts(world_size, &forced(kind, Algorithm::Ring), |context| {
                let communicator = context.communicator().unwrap();
                let mut data = vec![1.0f32; COUNT];
                let mut nothing = context.counters();
                nothing.peers.clear();
                communicator.barrier().unwrap();
                let before = context.counters();
                communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                let after = context.counters();
                communicator.barrier().unwrap();
                assert_eq!(done(&after, Collective::AllReduce, false), (1, 4 * COUNT as u64));
                // What others send to this rank may come before it looks, or after.
                let sent = crossed(&before, &after, world_size);
                (sent, crossed(&nothing, &context.counters(), world_size))
            });
            let share = 2 * (u64::from(world_size) - 1) * 4 * COUNT as u64 / u64::from(world_size);
            for (rank, (during, in_all)) in (0..world_size).zip(&all) {
                for peer in 0..world_size {
                    let what = format!("{kind}, {rank} to {peer} of {world_size}");
                    let sent = during[peer as usize].sent;
                    let expected = if peer == (rank + 1) % world_size { share } else { 0 };
                    assert_eq!(sent.payload_bytes, expected, "{what}");
                    assert!(sent.wire_bytes >= expected + 64 * sent.messages, "{what}");
                    let (ours, theirs) =
                        (in_all[peer as usize].sent, all[peer as usize].1[rank as usize].received);
                    assert_eq!(ours.payload_bytes, theirs.payload_bytes, "{what}");
                    assert_eq!(ours.messages, theirs.messages, "{what}");
                }
            }
        }
    }
}

#[test]
fn operations_in_shared_memory_send_nothing() {
    world(3, &over(TransportKind::Shm), |communicator| {
        let mut data = vec![1i32; 1000];
        for _ in 0..5 {
            communicator.all_reduce(&mut data, ReduceOp::Max).unwrap();
        }
        let totals = communicator.counters();
        assert_eq!(totals.len(), 1);
        assert!(totals[0].shared_memory);
        assert_eq!((totals[0].operations, totals[0].bytes), (5, 5 * 4000));
    });
    contexts(3, &over(TransportKind::Shm), |context| {
        let communicator = context.communicator().unwrap();
        let before = context.counters();
        communicator.all_gather(&[1u8; 9], &mut [0; 27]).unwrap();
        let crossed = crossed(&before, &context.counters(), 3);
        assert_eq!(crossed, [TwoWay::default(); 3]);
        drop(communicator);
        // Its sums outlive it.
        assert_eq!(done(&context.counters(), Collective::AllGather, true), (1, 27));
    });
}

#[test]
fn messages_are_counted_by_side_and_peer() {
    let all = contexts(2, &over(TransportKind::Tcp), |context| {
        let communicator = context.communicator().unwrap();
        let before = context.counters();
        let (mut first, mut second) = ([0u8; 100], [0u8; 7]);
        if context.rank() == 0 {
            let mut batch = Batch::new();
            batch.send(&[1u8; 100], 1, 0).send(&[2u8; 7], 1, 1);
            communicator.exchange(batch).unwrap();
        } else {
            let mut batch = Batch::new();
            batch.recv(&mut first, 0, 0).recv(&mut second, 0, 1);
            communicator.exchange(batch).unwrap();
        }
        let after = context.counters();
        let (sent, received) =
            (done(&after, Collective::Send, false), done(&after, Collective::Receive, false));
        let expected = Traffic { messages: 2, payload_bytes: 107, wire_bytes: 2 * 64 + 107 };
        if context.rank() == 0 {
            assert_eq!((sent, received), ((2, 107), (0, 0)));
            assert_eq!(crossed(&before, &after, 2)[1].sent, expected);
        } else {
            assert_eq!((sent, received), ((0, 0), (2, 107)));
        }
        after.peers[0].total
    });
    // They may have come before rank 1 looked first.
    let (sent, received) = (all[0].sent, all[1].received);
    assert_eq!(sent.messages, received.messages);
    assert_eq!(sent.payload_bytes, received.payload_bytes);
}

/// Another thread sees at any time what its rank is stuck in.
#[test]
fn an_operation_that_does_not_end_is_seen() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let (seen, wait_until_seen) = mpsc::channel();
        let wait_until_seen = std::sync::Mutex::new(Some(wait_until_seen));
        contexts(2, &over(kind), |context| {
            let communicator = context.communicator().unwrap();
            if context.rank() == 1 {
                let wait_until_seen = wait_until_seen.lock().unwrap().take().unwrap();
                wait_until_seen.recv_timeout(PATIENCE).unwrap();
                communicator.all_reduce(&mut [1.0f64; 4], ReduceOp::Sum).unwrap();
                return;
            }
            thread::scope(|scope| {
                let watch = || {
                    let give_up = Instant::now() + PATIENCE;
                    loop {
                        let operations = context.counters().operations;
                        if let Some(stuck) = operations.first()
                            && stuck.known_for > Duration::from_millis(50)
                        {
                            assert_eq!(stuck.collective, Collective::AllReduce);
                            assert_eq!((stuck.op_seq, stuck.bytes), (0, 32));
                            break;
                        }
                        assert!(Instant::now() < give_up, "nothing to be seen: {operations:?}");
                        thread::sleep(Duration::from_millis(5));
                    }
                    seen.send(()).unwrap();
                };
                thread::Builder::new().spawn_scoped(scope, watch).unwrap();
                communicator.all_reduce(&mut [1.0f64; 4], ReduceOp::Sum).unwrap();
            });
            let counters = context.counters();
            assert_eq!(counters.operations, []);
            assert!(counters.waited > Duration::ZERO);
        });
    }
}
