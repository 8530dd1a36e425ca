//! What can be submitted to a queue, each against its blocking form, and what users of Horovod expect
//! of it: compression, groups, Adasum, uneven data.

use std::sync::Barrier;
use std::time::Duration;

use paceline_collectives::queue::{Queue, QueueError, QueueOptions};
use paceline_collectives::{
    Communicator, Compression, Context, ContextOptions, ReduceOp, Reduction, TransportKind, bf16,
};

use super::support::{contexts, every_way, over};
use super::wait;

/// Runs `body` as every rank, each with a queue and, for comparison, a communicator.
fn queues<R: Send>(
    world_size: u32,
    context_options: &ContextOptions,
    body: impl Fn(&Queue, &Communicator) -> R + Sync,
) -> Vec<R> {
    contexts(world_size, context_options, |context: &Context| {
        let blocking = context.communicator().unwrap();
        let queue = Queue::new(context.communicator().unwrap(), &QueueOptions::default()).unwrap();
        body(&queue, &blocking)
    })
}

/// Numbers whose sums need rounding.
fn data(rank: u32, count: usize) -> Vec<f32> {
    let number =
        |at: usize| f32::from(u16::try_from((at * 131 + rank as usize * 71) % 997).unwrap());
    (0..count).map(|at| (number(at) - 400.0) / 3.0).collect()
}

const COUNTS: [usize; 6] = [0, 1, 7, 3000, 20_000, 70_001];

#[test]
fn compressed_tensors_have_the_bits_of_blocking_operations() {
    for context_options in every_way() {
        queues(3, &context_options, |queue, blocking| {
            let rank = queue.rank();
            for compression in [Compression::Fp16, Compression::Bf16] {
                let submitter = queue.compression(compression);
                let op = || Reduction::new(ReduceOp::Avg).prescale(0.3);
                // Each rank in an order of its own.
                let mut counts = COUNTS;
                counts.rotate_left(rank as usize);
                let submit = |count: usize| {
                    submitter.all_reduce(format!("{count}"), data(rank, count), op())
                };
                let handles = counts.map(submit);
                let mut results = handles.map(|handle| wait(handle).unwrap());
                results.rotate_right(rank as usize);
                for (count, result) in COUNTS.into_iter().zip(results) {
                    let mut want = data(rank, count);
                    blocking.all_reduce_compressed(&mut want, op(), compression).unwrap();
                    assert!(result == want, "{count} {compression:?}");
                }
            }
            // What cannot be compressed goes as it is.
            let integers =
                queue.compression(Compression::Fp16).all_reduce("i", vec![1u8; 5], ReduceOp::Sum);
            assert_eq!(wait(integers).unwrap(), [3; 5]);
        });
    }
}

#[test]
fn a_difference_in_compression_is_named() {
    queues(3, &over(TransportKind::Tcp), |queue, _| {
        let compression =
            [Compression::Fp16, Compression::Bf16, Compression::None][queue.rank() as usize];
        let handle =
            queue.compression(compression).all_reduce("grad.7", vec![1f32; 8], ReduceOp::Sum);
        let failed = wait(handle).unwrap_err();
        assert!(matches!(failed.error, QueueError::Mismatch { .. }), "{failed}");
        for side in [
            "rank 0 submitted all_reduce of 8 f32 as f16 (sum)",
            "rank 1 submitted all_reduce of 8 f32 as bf16 (sum)",
            "rank 2 submitted all_reduce of 8 f32 (sum)",
        ] {
            assert!(failed.to_string().contains(side), "{failed}");
        }
        assert_eq!(failed.buffer.unwrap(), [1.0; 8]);
    });
}

#[test]
fn adasum_has_the_bits_of_blocking_operations() {
    for context_options in every_way() {
        queues(3, &context_options, |queue, blocking| {
            let rank = queue.rank();
            let submit =
                |count: &usize| queue.all_reduce_adasum(format!("{count}"), data(rank, *count));
            let handles: Vec<_> = COUNTS.iter().map(submit).collect();
            let group = COUNTS.map(|count| data(rank, count)).to_vec();
            let group = wait(queue.all_reduce_adasum_group("group", group)).unwrap();
            for ((handle, count), of_group) in handles.into_iter().zip(COUNTS).zip(group) {
                let mut want = data(rank, count);
                blocking.all_reduce_adasum(&mut want).unwrap();
                assert!(wait(handle).unwrap() == want, "{count}");
                assert!(of_group == want, "{count}");
            }
        });
    }
}

#[test]
fn groups_of_every_kind_are_all_or_nothing() {
    queues(3, &over(TransportKind::Shm), |queue, blocking| {
        let rank = queue.rank();
        let gathered = vec![vec![rank; 2], vec![], vec![10 + rank]];
        let gathered = wait(queue.all_gather_group("gather", gathered)).unwrap();
        assert_eq!(gathered, [vec![0, 0, 1, 1, 2, 2], vec![], vec![10, 11, 12]]);
        let scattered = vec![vec![1i32; 7], vec![2; 3]];
        let scattered =
            wait(queue.reduce_scatter_group("scatter", scattered, ReduceOp::Sum)).unwrap();
        assert_eq!(scattered, [vec![3; blocking.own_chunk(7).len()], vec![6; 1]]);
        let compressed = queue.compression(Compression::Bf16).priority(3);
        let group = vec![vec![1f32; 3], vec![2.0; 5]];
        let group = wait(compressed.all_reduce_group("reduce", group, ReduceOp::Sum)).unwrap();
        assert_eq!(group, [vec![3.0; 3], vec![6.0; 5]]);
        // One tensor of one rank differs, and none is touched.
        let odd = vec![vec![rank; 2], vec![rank; if rank == 1 { 4 } else { 3 }]];
        let failed = wait(queue.all_gather_group("odd", odd.clone())).unwrap_err();
        assert!(failed.to_string().contains("all_gather of tensors of [2, 4] u32"), "{failed}");
        assert_eq!(failed.buffer.unwrap(), odd);
    });
}

#[test]
fn data_may_be_uneven() {
    for context_options in every_way() {
        queues(3, &context_options, |queue, _| {
            let rank = queue.rank();
            for step in 0..4 {
                // Lengths change from step to step, and one is empty.
                let length = |rank: u32| ((rank + step) % 3 * 5) as usize;
                let of = |rank: u32| vec![bf16::from_f32(rank as f32); length(rank)];
                let gathered = wait(queue.all_gather_v("gather", of(rank))).unwrap();
                assert_eq!(gathered, [of(0), of(1), of(2)]);

                let count = |from: u32, to: u32| ((from + 2 * to + step) % 4) as usize;
                let block = |from: u32, to: u32| vec![from * 10 + to; count(from, to)];
                let sent: Vec<_> = (0..3).map(|to| block(rank, to)).collect();
                let counts = sent.iter().map(Vec::len).collect();
                let received = queue.all_to_all_v("all to all", sent.concat(), counts);
                let received = wait(received).unwrap();
                assert_eq!(received, [block(0, rank), block(1, rank), block(2, rank)]);
            }
        });
    }
}

#[test]
fn the_other_collectives_do_what_their_blocking_forms_do() {
    for context_options in every_way() {
        queues(3, &context_options, |queue, blocking| {
            let rank = queue.rank();
            let blocks: Vec<u16> =
                (0..6).map(|at| u16::try_from(rank).unwrap() * 100 + at).collect();
            let exchanged = wait(queue.all_to_all("all to all", blocks)).unwrap();
            let own = u16::try_from(rank).unwrap() * 2;
            assert_eq!(exchanged, [0, 100, 200].map(|from| [from + own, from + own + 1]).concat());

            for count in [1, 2, 10_000] {
                let op = || Reduction::new(ReduceOp::Sum).prescale(0.3).postscale(1.7);
                let name = format!("scatter.{count}");
                let chunk = wait(queue.reduce_scatter(name, data(rank, count), op())).unwrap();
                let mut want = data(rank, count);
                let own = blocking.reduce_scatter_in_place(&mut want, op()).unwrap();
                assert!(chunk == want[own]);
            }
        });
    }
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    queues(2, &over(TransportKind::Tcp), |queue, _| {
        let uneven = wait(queue.all_to_all("a", vec![1u8; 3])).unwrap_err();
        assert!(matches!(uneven.error, QueueError::Submit { .. }), "{uneven}");
        let counts = wait(queue.all_to_all_v("b", vec![1u8; 3], vec![1, 1])).unwrap_err();
        assert!(matches!(counts.error, QueueError::Submit { .. }), "{counts}");
        assert_eq!(counts.buffer.unwrap(), [vec![1; 3]]);
        let average = wait(queue.reduce_scatter("c", vec![1i32], ReduceOp::Avg)).unwrap_err();
        assert!(matches!(average.error, QueueError::Submit { .. }), "{average}");
    });
}

#[test]
fn a_barrier_waits_for_everybody() {
    let (submitted, looked) = (Barrier::new(3), Barrier::new(3));
    queues(3, &over(TransportKind::Tcp), |queue, _| {
        let is_late = queue.rank() == 1;
        let early = (!is_late).then(|| queue.barrier("meeting"));
        submitted.wait();
        // The late one has not come, and will not before the others have looked.
        let early = early.map(|barrier| {
            barrier.wait_timeout(Duration::from_millis(50)).expect_err("rank 1 is missing")
        });
        looked.wait();
        wait(early.unwrap_or_else(|| queue.barrier("meeting"))).unwrap();
    });
}

#[test]
fn joined_ranks_have_a_part_in_what_can_do_without_them() {
    let joined = Barrier::new(3);
    queues(3, &over(TransportKind::Shm), |queue, blocking| {
        if queue.rank() != 2 {
            let join = queue.join();
            joined.wait();
            assert_eq!(wait(join).unwrap(), 2);
            return;
        }
        joined.wait();
        let halves = queue.compression(Compression::Fp16);
        assert_eq!(wait(halves.all_reduce("a", vec![2f32; 5], ReduceOp::Sum)).unwrap(), [2.0; 5]);
        assert_eq!(wait(queue.all_reduce_adasum("b", vec![2f32; 5])).unwrap(), [2.0; 5]);
        let own = blocking.own_chunk(8).len();
        let chunk = wait(queue.reduce_scatter("c", vec![4i64; 8], ReduceOp::Sum)).unwrap();
        assert_eq!(chunk, vec![4; own]);
        let gathered = wait(queue.all_gather_v("d", vec![1u8; 3])).unwrap();
        assert_eq!(gathered, [vec![], vec![], vec![1; 3]]);
        wait(queue.barrier("e")).unwrap();
        let lost = wait(queue.all_to_all("f", vec![1u8; 3])).unwrap_err();
        assert!(
            lost.to_string().contains("ranks 0, 1 joined, and some data is for them"),
            "{lost}"
        );
        assert_eq!(wait(queue.join()).unwrap(), 2);
    });
}

/// One after the other, each waited for at once: there is no cycle that any has to wait for, and each
/// costs one round.
#[test]
fn a_lone_operation_costs_one_round() {
    for context_options in every_way() {
        queues(2, &context_options, |queue, _| {
            let step = |value: f32| {
                let sum = queue.all_reduce("lone", vec![value; 4], ReduceOp::Sum).wait().unwrap();
                assert_eq!(sum, [2.0 * value; 4]);
            };
            step(1.0);
            let warm = queue.counts();
            (0u8..200).for_each(|value| step(value.into()));
            let counts = queue.counts();
            assert_eq!(counts.operations - warm.operations, 200);
            assert_eq!(counts.exchanges, warm.exchanges);
            // Ranks with nothing to do look every half second: a few more on a loaded machine.
            let rounds = counts.rounds - warm.rounds;
            assert!((200..300).contains(&rounds), "{rounds} rounds");
        });
    }
}

/// Handles that several threads wait for, and that are not waited for at once.
#[test]
fn threads_wait_for_their_own() {
    queues(2, &over(TransportKind::Tcp), |queue, _| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for step in 0u8..100 {
                        let name = format!("{thread}.{step}");
                        let handle = queue.all_reduce(name, vec![f32::from(step)], ReduceOp::Sum);
                        if step % 7 == thread {
                            std::thread::sleep(Duration::from_millis(3));
                        }
                        assert_eq!(handle.wait().unwrap(), [2.0 * f32::from(step)]);
                    }
                });
            }
        });
    });
}
