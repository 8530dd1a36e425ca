//! Results against the definition: every call, type, operator, world size, way and algorithm, for
//! awkward counts.

use paceline_collectives::plan::{Algorithm, Tuning};
use paceline_collectives::{Collective, Communicator, DType, ReduceOp, TransportKind};

use super::task::{Call, Task, Verdict};
use super::value::perform;
use super::{EVERY_WAY, over};

const WORLDS: std::ops::RangeInclusive<u32> = 1..=8;

/// Around the number of ranks, and primes.
fn awkward(ranks: u32) -> impl Iterator<Item = usize> {
    let ranks = ranks as usize;
    let mut counts = vec![0, 1, ranks - 1, ranks, ranks + 1, 13, 251, 1021];
    counts.sort_unstable();
    counts.dedup();
    counts.into_iter()
}

fn check(communicator: &Communicator, dtype: DType, call: Call, op: ReduceOp, count: usize) {
    let root = (count as u32 + 1) % communicator.world_size();
    let task = Task { call, op, count, root, salt: count as u64 };
    let case = || format!("{} {dtype} {task:?}", communicator.world_size());
    match perform(communicator, dtype, &task) {
        Verdict::Right => {}
        Verdict::Wrong(what) => panic!("{}: {what}", case()),
        Verdict::Failed(failed) => panic!("{}: {}", case(), failed.error),
    }
}

fn every_type_and_operator(kind: TransportKind) {
    for ranks in WORLDS {
        over(kind, ranks, None, |communicator| {
            for dtype in DType::ALL {
                for op in ReduceOp::defined_for(dtype) {
                    for call in Call::REDUCE {
                        for count in [1, ranks as usize + 1, 251] {
                            check(communicator, dtype, call, op, count);
                        }
                    }
                }
                for call in Call::MOVE {
                    for count in awkward(ranks) {
                        check(communicator, dtype, call, ReduceOp::Max, count);
                    }
                }
            }
        });
    }
}

#[test]
fn every_type_and_operator_over_the_simulated_network() {
    every_type_and_operator(TransportKind::Sim);
}

#[test]
fn every_type_and_operator_over_tcp() {
    every_type_and_operator(TransportKind::Tcp);
}

#[test]
fn every_type_and_operator_over_shared_memory() {
    every_type_and_operator(TransportKind::Shm);
}

/// What a call is.
fn collective(call: Call) -> Collective {
    match call {
        Call::AllReduce | Call::AllReduceInto | Call::Fused => Collective::AllReduce,
        Call::ReduceScatter | Call::ReduceScatterInPlace => Collective::ReduceScatter,
        Call::ReduceScatterV | Call::ReduceScatterVInPlace => Collective::ReduceScatterV,
        Call::Reduce | Call::ReduceInto => Collective::Reduce,
        Call::Broadcast | Call::BroadcastInto => Collective::Broadcast,
        Call::AllGather | Call::AllGatherInPlace => Collective::AllGather,
        Call::AllGatherV | Call::AllGatherVInPlace => Collective::AllGatherV,
        Call::AllToAll => Collective::AllToAll,
        Call::AllToAllV => Collective::AllToAllV,
        Call::Gather => Collective::Gather,
        Call::GatherV => Collective::GatherV,
        Call::Scatter => Collective::Scatter,
        Call::ScatterV => Collective::ScatterV,
        Call::Shift => Collective::Shift,
        Call::Messages => Collective::Send,
        Call::Barrier => Collective::Barrier,
    }
}

/// What is carried out by an algorithm, at counts around what the plan depends on.
fn by(communicator: &Communicator, algorithm: Algorithm) {
    let ranks = communicator.world_size();
    for call in Call::REDUCE.into_iter().chain(Call::MOVE) {
        if !algorithm.supports(collective(call)) {
            continue;
        }
        for (dtype, op) in
            [(DType::F32, ReduceOp::Sum), (DType::Bf16, ReduceOp::Avg), (DType::U8, ReduceOp::Prod)]
        {
            for count in awkward(ranks) {
                check(communicator, dtype, call, op, count);
            }
        }
        // Several slices, and more bytes than a rank may send before they are asked for.
        check(communicator, DType::F64, call, ReduceOp::Sum, 20_011);
    }
}

#[test]
fn every_algorithm() {
    for kind in EVERY_WAY {
        for algorithm in Algorithm::ALL {
            if algorithm.node_manner().is_some() && kind != TransportKind::Shm {
                continue;
            }
            for ranks in WORLDS {
                over(kind, ranks, Some(algorithm), |communicator| by(communicator, algorithm));
            }
        }
    }
}

/// Bytes at which plans, slices or grants change.
fn limits(ranks: usize) -> Vec<usize> {
    let one_shot = Tuning::BUILT_IN.one_shot_bytes_sent / (ranks - 1).max(1);
    let powers = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10];
    [one_shot / 4, one_shot].into_iter().chain(powers).collect()
}

#[test]
fn counts_around_every_limit() {
    let calls = [
        Call::AllReduce,
        Call::ReduceScatterV,
        Call::Reduce,
        Call::AllGatherInPlace,
        Call::Broadcast,
        Call::AllToAll,
        Call::GatherV,
        Call::Messages,
    ];
    for kind in EVERY_WAY {
        for ranks in [2, 3, 5, 8] {
            over(kind, ranks, None, |communicator| {
                for limit in limits(ranks as usize) {
                    for call in calls {
                        for count in [limit - 1, limit, limit + 1] {
                            check(communicator, DType::U8, call, ReduceOp::Sum, count);
                        }
                        check(communicator, DType::F16, call, ReduceOp::Sum, limit / 2 + 1);
                    }
                }
            });
        }
    }
}
