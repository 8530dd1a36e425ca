//! The adapters between ranks that are threads of this process.

use std::sync::Arc;
use std::thread;

use paceline_collectives::queue::{Queue, QueueOptions};
use paceline_collectives::{Communicator, Context, ContextOptions, Job, TransportChoice};
use paceline_collectives::{TransportKind, f16};
use paceline_devices::{Bool, DType, ReduceOp};

use super::*;
use crate::run::Workload;
use crate::verify::{Pattern, TestElement};

/// Runs `body` as every rank of a group and returns the results by rank.
fn on_ranks<R: Send + 'static>(
    world_size: u32,
    body: impl Fn(&Communicator) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let body = Arc::new(body);
    let handles: Vec<_> = Job::in_process(world_size)
        .unwrap()
        .into_iter()
        .map(|job| {
            let body = Arc::clone(&body);
            thread::Builder::new()
                .spawn(move || {
                    let transport = TransportChoice::Only(TransportKind::Tcp);
                    let options = ContextOptions { transport, ..ContextOptions::default() };
                    let context = Context::new(&job, &options).unwrap();
                    body(&context.communicator().unwrap())
                })
                .unwrap()
        })
        .collect();
    handles.into_iter().map(|handle| handle.join().unwrap()).collect()
}

#[test]
fn a_group_carries_all_bits_of_a_value() {
    let large = u64::MAX - 5;
    let gathered = on_ranks(3, move |communicator| {
        let mut group = CommunicatorGroup::new(communicator);
        assert_eq!(group.world_size(), 3);
        let own = u64::from(group.rank());
        group.barrier().unwrap();
        assert_eq!(group.broadcast(large - own).unwrap(), large);
        assert_eq!(group.gather(&[]).unwrap(), vec![Vec::<u64>::new(); 3]);
        group.gather(&[own, large]).unwrap()
    });
    for all in gathered {
        assert_eq!(all, [[0, large], [1, large], [2, large]]);
    }
}

/// Runs a collective on fresh data in two slots, then spoils the output of one of them.
fn assert_counts_wrong_elements(collective: Collective, world_size: u32, out_of_place: bool) {
    let wrong = on_ranks(world_size, move |communicator| {
        let op = if collective.reduces() { ReduceOp::Sum } else { ReduceOp::Max };
        let pattern = Pattern::<f32>::new(op, world_size).unwrap();
        let shape = collective.shape(40_000, DType::F32, world_size);
        let mut workload =
            CollectiveWorkload::new(communicator, collective, op, &pattern, shape, out_of_place)
                .unwrap();
        workload.reserve_slots(2).unwrap();
        for (slot, iteration) in [(0, 7), (1, 8)] {
            workload.prepare(slot, iteration);
            workload.run(slot).unwrap();
            assert_eq!(workload.count_wrong(slot, iteration), 0, "{collective} {slot}");
        }
        // The data of another iteration is not the answer to this one.
        let stale = workload.count_wrong(1, 7);
        assert_eq!(stale > 0, gets_a_result(collective, communicator.rank()));
        workload.spoil(0);
        workload.count_wrong(0, 7)
    });
    for (rank, wrong) in wrong.into_iter().enumerate() {
        let is_checked = gets_a_result(collective, u32::try_from(rank).unwrap());
        assert_eq!(wrong, u64::from(is_checked), "{collective} on rank {rank}");
    }
}

fn gets_a_result(collective: Collective, rank: u32) -> bool {
    !matches!(collective, Collective::Reduce | Collective::Gather) || rank == 0
}

#[test]
fn every_collective_is_right_and_a_wrong_element_is_seen() {
    for collective in Collective::ALL {
        if collective != Collective::Barrier {
            assert_counts_wrong_elements(collective, 3, false);
            assert_counts_wrong_elements(collective, 2, true);
        }
    }
}

#[test]
fn settled_data_stays_as_it_is() {
    on_ranks(2, |communicator| {
        ReduceOp::defined_for(DType::F16)
            .for_each(|op| assert_settled_stays::<f16>(communicator, op));
        ReduceOp::defined_for(DType::I16)
            .for_each(|op| assert_settled_stays::<i16>(communicator, op));
        ReduceOp::defined_for(DType::Bool)
            .for_each(|op| assert_settled_stays::<Bool>(communicator, op));
    });
}

fn assert_settled_stays<T: TestElement>(communicator: &Communicator, op: ReduceOp) {
    let pattern = Pattern::<T>::new(op, 2).unwrap();
    let shape = Collective::AllReduce.shape(200, T::DTYPE, 2);
    let collective = Collective::AllReduce;
    let mut workload =
        CollectiveWorkload::new(communicator, collective, op, &pattern, shape, false).unwrap();
    workload.reserve_slots(1).unwrap();
    workload.settle(0);
    let before = workload.output(0).to_vec();
    for _ in 0..40 {
        workload.run(0).unwrap();
    }
    assert_eq!(workload.output(0), before, "{op}");
}

#[test]
fn gradients_are_right_alone_and_fused() {
    for bucketing in [Bucketing::Alone, Bucketing::Fused(4096)] {
        on_ranks(2, move |communicator| {
            let pattern = Pattern::<f32>::new(ReduceOp::Avg, 2).unwrap();
            let counts = [300, 1, 64, 5000, 7, 7];
            let mut workload =
                GradientsWorkload::new(communicator, ReduceOp::Avg, &pattern, &counts, bucketing)
                    .unwrap();
            assert_eq!(workload.slot_bytes(), 4 * counts.iter().sum::<u64>());
            assert_eq!(workload.algorithms(), "one-shot");
            workload.reserve_slots(1).unwrap();
            for iteration in 0..3 {
                workload.prepare(0, iteration);
                workload.run(0).unwrap();
                assert_eq!(workload.count_wrong(0, iteration), 0);
            }
            assert!(workload.count_wrong(0, 0) > 4000, "data of another pass");
        });
    }
}

#[test]
fn gradients_are_right_through_the_queue() {
    let job = |job: &Arc<Job>| {
        let transport = TransportChoice::Only(TransportKind::Tcp);
        let options = ContextOptions { transport, ..ContextOptions::default() };
        let communicator = Context::new(job, &options).unwrap().communicator().unwrap();
        let queue = Queue::new(communicator, &QueueOptions::default()).unwrap();
        let pattern = Pattern::<f32>::new(ReduceOp::Avg, 2).unwrap();
        let tensors = [("a", 300), ("b", 1), ("c", 40_000), ("d", 7)];
        let mut workload = QueuedWorkload::new(&queue, ReduceOp::Avg, &pattern, &tensors).unwrap();
        assert_eq!(workload.slot_bytes(), 4 * 40_308);
        workload.reserve_slots(2).unwrap();
        for (slot, iteration) in [(0, 0), (1, 1), (0, 2)] {
            workload.prepare(slot, iteration);
            workload.run(slot).unwrap();
            assert_eq!(workload.count_wrong(slot, iteration), 0);
        }
        assert!(workload.count_wrong(0, 0) > 30_000, "data of another pass");
        workload.settle(0);
        workload.run(0).unwrap();
    };
    let jobs = Job::in_process(2).unwrap();
    thread::scope(|scope| {
        let ranks: Vec<_> = jobs.iter().map(|one| scope.spawn(move || job(one))).collect();
        ranks.into_iter().for_each(|rank| rank.join().unwrap());
    });
}

#[test]
fn an_exchange_takes_any_length() {
    on_ranks(3, |communicator| {
        let mut exchange = BareExchange::new(communicator);
        for (bytes, piece) in [(1, 1), (100_000, 4096), (10, 64)] {
            exchange.exchange(bytes, Manner::Pieces(piece)).unwrap();
            exchange.exchange(bytes, Manner::Everybody).unwrap();
        }
    });
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let error = on_ranks(1, |communicator| {
        let pattern = Pattern::<f32>::new(ReduceOp::Sum, 1).unwrap();
        let shape = Collective::AllReduce.shape(1 << 60, DType::F32, 1);
        let (collective, op) = (Collective::AllReduce, ReduceOp::Sum);
        let mut workload =
            CollectiveWorkload::new(communicator, collective, op, &pattern, shape, false).unwrap();
        workload.reserve_slots(1).unwrap_err().to_string()
    });
    assert!(error[0].starts_with("cannot allocate 1073741824 GiB"), "{error:?}");
}
