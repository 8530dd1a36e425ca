//! Several nodes: shared memory on each, messages between them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Collective, CollectiveError, Communicator, Context, ContextOptions, ReduceOp, Reduction,
    TransportKind, UserOp, f16,
};
use support::{forced, node_contexts, nodes, over, uneven};

/// Which node each rank is on.
const SHAPES: [&[u32]; 7] = [
    &[0, 0, 1, 1],
    &[0, 0, 0, 1],
    &[0, 1, 1],
    &[0, 1, 0, 1],
    &[0, 0, 0, 1, 1],
    &[0, 0, 1, 1, 1, 2],
    &[0, 0, 1, 1, 2, 2, 3, 3],
];

/// Lengths at which something changes: nothing, less than a chunk each, one-shot and rounds on the node,
/// one piece of what is staged and several.
const COUNTS: [usize; 8] = [0, 1, 3, 8, 257, 5000, 70_001, 900_001];

/// Connected on this machine, whatever other networks it has.
fn on_loopback() -> ContextOptions {
    let interface = "127.0.0.1".parse().unwrap();
    ContextOptions { interface, ..ContextOptions::default() }
}

fn flat() -> ContextOptions {
    let interface = "127.0.0.1".parse().unwrap();
    ContextOptions { interface, ..forced(TransportKind::Tcp, Algorithm::Ring) }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn value(rank: u32, at: usize) -> f32 {
    (rank as usize * 7 + at % 11) as f32
}

fn vector(rank: u32, count: usize) -> Vec<f32> {
    (0..count).map(|at| value(rank, at)).collect()
}

fn sum(world_size: u32, at: usize) -> f32 {
    (0..world_size).map(|rank| value(rank, at)).sum()
}

fn works_in_levels(communicator: &Communicator, collective: Collective, count: usize) {
    let algorithm = communicator.plan::<f32>(collective, count).algorithm;
    assert_eq!(algorithm, Algorithm::TwoLevel, "{collective}");
}

#[test]
fn all_reduce_adds_everything_once() {
    for node_of in SHAPES {
        nodes(node_of, &on_loopback(), |communicator| {
            let (rank, world_size) = (communicator.rank(), communicator.world_size());
            works_in_levels(communicator, Collective::AllReduce, 1);
            for count in COUNTS {
                let expected: Vec<f32> = (0..count).map(|at| sum(world_size, at)).collect();
                let mut data = vector(rank, count);
                communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                assert!(data == expected, "{node_of:?}, {count}, in place");
                let (input, mut output) = (vector(rank, count), vec![-1.0; count]);
                communicator.all_reduce_into(&input, &mut output, ReduceOp::Sum).unwrap();
                assert!(output == expected, "{node_of:?}, {count}, apart");
                assert!(input == vector(rank, count), "the input is left alone");
            }
        });
    }
}

#[test]
fn averages_and_factors_are_applied_once() {
    for node_of in SHAPES {
        nodes(node_of, &on_loopback(), |communicator| {
            let world_size = communicator.world_size();
            for count in [3, 5000] {
                let mut data = vector(communicator.rank(), count);
                let op = Reduction::new(ReduceOp::Avg).prescale(2.0).postscale(4.0);
                communicator.all_reduce(&mut data, op).unwrap();
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let expected = |at| {
                    (0..world_size).map(|rank| 2.0 * value(rank, at)).sum::<f32>()
                        / world_size as f32
                        * 4.0
                };
                assert!(data.iter().enumerate().all(|(at, value)| *value == expected(at)));
                let own = communicator.own_chunk(count);
                let mut data = vector(communicator.rank(), count);
                let op = Reduction::new(ReduceOp::Avg).prescale(2.0);
                communicator.reduce_scatter_in_place(&mut data, op).unwrap();
                assert!(own.clone().all(|at| data[at] == expected(at) / 4.0));
            }
        });
    }
}

#[test]
fn reduce_scatter_and_all_gather_deal_with_any_chunks() {
    for node_of in SHAPES {
        nodes(node_of, &on_loopback(), |communicator| {
            let (rank, world_size) = (communicator.rank(), communicator.world_size());
            for count in COUNTS {
                let mut data = vector(rank, count);
                let own = communicator.reduce_scatter_in_place(&mut data, ReduceOp::Sum).unwrap();
                for (at, it) in data.iter().enumerate() {
                    let mine = own.contains(&at);
                    let expected = if mine { sum(world_size, at) } else { value(rank, at) };
                    assert!(*it == expected, "{node_of:?}, {count}, {at}");
                }
                let mut gathered: Vec<f32> = vec![-1.0; count];
                gathered[own.clone()].copy_from_slice(&data[own]);
                communicator.all_gather_in_place(&mut gathered).unwrap();
                assert!(gathered.iter().enumerate().all(|(at, it)| *it == sum(world_size, at)));
            }
            let counts: Vec<usize> =
                (0..world_size as usize).map(|rank| rank * 531 % 700).collect();
            let total = counts.iter().sum();
            let mut own = vec![0.0; counts[rank as usize]];
            let input = vector(rank, total);
            communicator.reduce_scatter_v(&input, &mut own, &counts, ReduceOp::Sum).unwrap();
            let mut all = vec![0.0; total];
            communicator.all_gather_v(&own, &mut all, &counts).unwrap();
            assert!(all.iter().enumerate().all(|(at, it)| *it == sum(world_size, at)));
        });
    }
}

#[test]
fn broadcast_and_reduce_have_any_root() {
    for node_of in SHAPES {
        nodes(node_of, &on_loopback(), |communicator| {
            let (rank, world_size) = (communicator.rank(), communicator.world_size());
            works_in_levels(communicator, Collective::Broadcast, 1);
            works_in_levels(communicator, Collective::Reduce, 1);
            for count in COUNTS {
                for root in [0, world_size / 2, world_size - 1] {
                    let mut data = vector(rank, count);
                    communicator.broadcast(&mut data, root).unwrap();
                    assert!(data == vector(root, count), "{node_of:?}, {count}, from {root}");
                    let mut data = vector(rank, count);
                    communicator.reduce(&mut data, ReduceOp::Sum, root).unwrap();
                    let is_root = rank == root;
                    let expected = |at| if is_root { sum(world_size, at) } else { value(rank, at) };
                    assert!(data.iter().enumerate().all(|(at, it)| *it == expected(at)));
                }
            }
        });
    }
}

#[test]
fn everybody_waits_at_a_barrier() {
    use std::sync::atomic::{AtomicU32, Ordering};
    for node_of in SHAPES {
        let (arrived, rounds) = (AtomicU32::new(0), 20);
        nodes(node_of, &on_loopback(), |communicator| {
            works_in_levels(communicator, Collective::Barrier, 0);
            for round in 1..=rounds {
                arrived.fetch_add(1, Ordering::SeqCst);
                communicator.barrier().unwrap();
                assert!(arrived.load(Ordering::SeqCst) >= round * communicator.world_size());
                communicator.barrier().unwrap();
            }
        });
    }
}

/// Bytes of messages that this rank has sent to ranks of its own node, and to others.
fn sent(context: &Context, node_of: &[u32]) -> [u64; 2] {
    let ours = node_of[context.rank() as usize];
    let mut bytes = [0, 0];
    for peer in context.counters().peers {
        let elsewhere = node_of[peer.peer as usize] != ours;
        bytes[usize::from(elsewhere)] += peer.total.sent.payload_bytes;
    }
    bytes
}

#[test]
fn as_many_bytes_cross_as_the_formula_says() {
    // Numbers of nodes, streams and ranks that divide the lengths.
    for node_of in [&[0, 0, 1, 1][..], &[0, 0, 0, 1], &[0, 0, 1, 1, 1, 2], &[0, 0, 1, 1, 2, 2]] {
        let nodes = u64::from(*node_of.iter().max().unwrap()) + 1;
        // Within one piece of what a reduce stages: the pieces would not all divide.
        let count = 240_240;
        let bytes = count as u64 * 4;
        // What each node sends to the others, or all of them together for those with a root.
        let all_to_all = bytes / nodes * (nodes - 1);
        // Of two nodes one sends all that it has to the other.
        let reduced = all_to_all * nodes + bytes / nodes * (nodes - 1);
        let expected = [
            (Collective::AllReduce, 2 * all_to_all * nodes),
            (Collective::ReduceScatter, all_to_all * nodes),
            (Collective::AllGather, all_to_all * nodes),
            (Collective::Broadcast, bytes * (nodes - 1)),
            (Collective::Reduce, if nodes == 2 { bytes } else { reduced }),
        ];
        let measured = node_contexts(node_of, &on_loopback(), |context| {
            let communicator = context.communicator().unwrap();
            let mut data = vector(context.rank(), count);
            expected.map(|(collective, _)| {
                let before = sent(context, node_of);
                match collective {
                    Collective::AllReduce => communicator.all_reduce(&mut data, ReduceOp::Max),
                    Collective::ReduceScatter => {
                        communicator.reduce_scatter_in_place(&mut data, ReduceOp::Max).map(drop)
                    }
                    Collective::AllGather => communicator.all_gather_in_place(&mut data).map(drop),
                    Collective::Broadcast => communicator.broadcast(&mut data, 1),
                    _ => communicator.reduce(&mut data, ReduceOp::Max, 1),
                }
                .unwrap();
                let after = sent(context, node_of);
                [after[0] - before[0], after[1] - before[1]]
            })
        });
        for (index, (collective, crossing)) in expected.into_iter().enumerate() {
            let sum =
                |where_to: usize| measured.iter().map(|rank| rank[index][where_to]).sum::<u64>();
            assert_eq!(sum(0), 0, "{collective}: ranks of a node share memory");
            assert_eq!(sum(1), crossing, "{collective} on {node_of:?}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_fusion_or_place_and_are_those_of_the_order() {
    for node_of in SHAPES {
        let lengths = [5usize, 17, 1, 4000, 0, 20_000, 3, 900_001];
        let results = nodes(node_of, &on_loopback(), |communicator| {
            let rank = communicator.rank();
            let tensor =
                |length: usize| -> Vec<f32> { (0..length).map(|at| uneven(rank, at)).collect() };
            let mut alone: Vec<Vec<f32>> = lengths.map(tensor).to_vec();
            for tensor in &mut alone {
                communicator.all_reduce(tensor, ReduceOp::Sum).unwrap();
            }
            let mut fused: Vec<Vec<f32>> = lengths.map(tensor).to_vec();
            let mut slices: Vec<&mut [f32]> = fused.iter_mut().map(Vec::as_mut_slice).collect();
            communicator.all_reduce_fused(&mut slices, ReduceOp::Sum).unwrap();
            assert!(alone == fused, "{node_of:?}");
            alone
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{node_of:?}");
        for (length, result) in lengths.into_iter().zip(&results[0]) {
            assert!(*result == in_order(node_of, length), "{node_of:?}, {length}");
        }
    }
}

/// The sum as the documentation says that it is formed.
fn in_order(node_of: &[u32], length: usize) -> Vec<f32> {
    let nodes = *node_of.iter().max().unwrap() as usize + 1;
    let on = |node: usize| -> Vec<u32> {
        (0..).zip(node_of).filter(|(_, of)| **of as usize == node).map(|(rank, _)| rank).collect()
    };
    let streams = (0..nodes).map(|node| on(node).len()).min().unwrap();
    let mut sums = Vec::new();
    let shares = |length: usize, parts: usize| {
        (0..parts).map(move |part| length / parts + usize::from(part < length % parts))
    };
    let bytes = length * size_of::<f32>();
    let bands = if bytes < 2 << 20 { 1 } else { bytes / (bytes / 8).clamp(1 << 20, 4 << 20) };
    for band in shares(length, bands) {
        for (chunk, elements) in shares(band, nodes * streams).enumerate() {
            let (place, owner) = (chunk / nodes, chunk % nodes);
            for at in sums.len()..sums.len() + elements {
                let on_node = |node: usize| {
                    let ranks = on(node);
                    let order = (1..=ranks.len()).map(|step| ranks[(place + step) % ranks.len()]);
                    order.map(|rank| uneven(rank, at)).reduce(|sum, next| sum + next).unwrap()
                };
                let order = (1..=nodes).map(|step| on_node((owner + step) % nodes));
                sums.push(order.reduce(|sum, next| sum + next).unwrap());
            }
        }
    }
    sums
}

#[test]
fn halves_integers_and_operators_of_the_users_work() {
    for node_of in [SHAPES[0], SHAPES[4]] {
        nodes(node_of, &on_loopback(), |communicator| {
            let (rank, world_size) = (communicator.rank(), communicator.world_size());
            let mut halves = vec![f16::from_f32(0.5); 3000];
            communicator.all_reduce(&mut halves, ReduceOp::Sum).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let expected = f16::from_f32(world_size as f32 * 0.5);
            assert!(halves.iter().all(|half| *half == expected));
            let mut bits = vec![1u8 << rank; 100];
            communicator.all_reduce(&mut bits, ReduceOp::BitOr).unwrap();
            assert!(bits.iter().all(|it| u32::from(*it) == (1 << world_size) - 1));
            let op = UserOp::new("larger", |left: &mut [i64], right: &[i64]| {
                for (left, right) in left.iter_mut().zip(right) {
                    *left = (*left).max(*right);
                }
            });
            let mut numbers = vec![i64::from(rank); 5000];
            communicator.all_reduce(&mut numbers, &op).unwrap();
            assert!(numbers.iter().all(|it| *it == i64::from(world_size) - 1));
        });
    }
}

#[test]
fn groups_have_levels_of_their_own() {
    nodes(&[0, 0, 1, 1, 1, 2], &on_loopback(), |communicator| {
        let rank = communicator.rank();
        // Even ranks: on nodes 0, 1, 1. Odd ones: on 0, 1, 2.
        let group = communicator.split(Some(rank % 2), 0).unwrap().unwrap();
        let mut data = vec![f64::from(rank); 1000];
        group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        let (expected, levels) = if rank % 2 == 0 { (6.0, true) } else { (9.0, false) };
        assert!(data.iter().all(|it| *it == expected));
        assert_eq!(group.plan_facts().levels.is_some(), levels);
        let neighbours = communicator.group(&[2, 3, 4]).unwrap();
        if let Some(neighbours) = neighbours {
            assert!(neighbours.plan_facts().shared_memory);
            let mut data = vec![f64::from(rank); 10];
            neighbours.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            assert!(data.iter().all(|it| *it == 9.0));
        }
    });
}

#[test]
fn differences_are_named_on_and_across_nodes() {
    let shape = [0, 0, 1, 1];
    for (odd, differs) in (0..4).flat_map(|odd| (0..3).map(move |differs| (odd, differs))) {
        let errors = nodes(&shape, &on_loopback(), |communicator| {
            let is_odd = communicator.rank() == odd;
            let mut data = vec![1.0f32; 5000 + usize::from(is_odd && differs == 0)];
            match (is_odd, differs) {
                (true, 1) => communicator.all_reduce(&mut data, ReduceOp::Max),
                (true, 2) => communicator.broadcast(&mut data, 0),
                _ => communicator.all_reduce(&mut data, ReduceOp::Sum),
            }
            .unwrap_err()
        });
        for (rank, error) in errors.iter().enumerate() {
            let text = error.to_string();
            let told =
                matches!(error, CollectiveError::Mismatch { .. } | CollectiveError::Aborted { .. })
                    || matches!(
                        error,
                        CollectiveError::PeerLost { .. } | CollectiveError::TimedOut { .. }
                    );
            assert!(told, "rank {rank}, odd {odd}, {differs}: {text}");
        }
        let named = errors.iter().any(|error| matches!(error, CollectiveError::Mismatch { .. }));
        assert!(named, "odd {odd}, {differs}: {errors:?}");
    }
}

#[test]
fn without_shared_memory_there_is_one_level() {
    let options =
        ContextOptions { interface: "127.0.0.1".parse().unwrap(), ..over(TransportKind::Tcp) };
    nodes(&[0, 0, 1, 1], &options, |communicator| {
        assert_eq!(communicator.plan_facts().levels, None);
        let mut data = vec![1.0f32; 100];
        communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [4.0; 100]);
    });
    nodes(&[0, 0, 1, 1], &flat(), |communicator| {
        let choice = communicator.plan::<f32>(Collective::AllReduce, 100);
        assert_eq!(choice.algorithm, Algorithm::Ring);
    });
}
