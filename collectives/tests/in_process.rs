//! Every collective, over real TCP connections between threads of this process, against results
//! computed the slow way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::thread;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Checksum, CollectiveError, Communicator, Context, ContextOptions, Element, Job, ReduceOp,
    SetupError, TransportKind, bf16, f16,
};
use support::{every_way, over, world};

fn product(worlds: &[u32], options: [ContextOptions; 3]) -> Vec<(u32, ContextOptions)> {
    let pair = |world_size: &u32| options.clone().map(|options| (*world_size, options));
    worlds.iter().flat_map(pair).collect()
}

fn tcp(algorithm: Option<Algorithm>) -> ContextOptions {
    ContextOptions { algorithm, ..over(TransportKind::Tcp) }
}

/// Small integers, so that every order of summation is exact in every type.
fn value(rank: u32, index: usize) -> u8 {
    u8::try_from((index * 7 + rank as usize * 3) % 5 + 1).unwrap()
}

fn expected(world_size: u32, index: usize, op: ReduceOp) -> f64 {
    let values = (0..world_size).map(|rank| f64::from(value(rank, index)));
    match op {
        ReduceOp::Sum => values.sum(),
        ReduceOp::Avg => values.sum::<f64>() / f64::from(world_size),
        _ => unreachable!("tests/reductions covers the other operators"),
    }
}

trait Number: Element {
    fn from_f64(value: f64) -> Self;
}

macro_rules! numbers {
    ($($type:ty: $from:expr),*) => {
        $(impl Number for $type {
            fn from_f64(value: f64) -> Self {
                ($from)(value)
            }
        })*
    };
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small integers")]
mod conversions {
    use super::*;

    numbers! {
        f64: |value| value,
        f32: |value| value as Self,
        f16: f16::from_f64,
        bf16: bf16::from_f64,
        i64: |value| value as Self,
        i32: |value| value as Self,
        u8: |value| value as Self
    }
}

fn data<T: Number>(rank: u32, count: usize) -> Vec<T> {
    (0..count).map(|index| T::from_f64(f64::from(value(rank, index)))).collect()
}

fn reduced<T: Number>(world_size: u32, count: usize, op: ReduceOp) -> Vec<T> {
    (0..count).map(|index| T::from_f64(expected(world_size, index, op))).collect()
}

fn check_all_reduce<T: Number>(communicator: &Communicator, count: usize, op: ReduceOp) {
    let (rank, world_size) = (communicator.rank(), communicator.world_size());
    let want = reduced::<T>(world_size, count, op);
    let mut in_place = data::<T>(rank, count);
    communicator.all_reduce(&mut in_place, op).unwrap();
    assert_eq!(in_place, want, "{} {op} of {count} on {rank}/{world_size}", T::DTYPE);
    let input = data::<T>(rank, count);
    let mut output = vec![T::from_f64(0.0); count];
    communicator.all_reduce_into(&input, &mut output, op).unwrap();
    assert_eq!(output, want);
    assert_eq!(input, data::<T>(rank, count), "the input is left alone");
}

#[test]
fn all_reduce_by_every_algorithm_and_raggedness() {
    use Algorithm::{
        Dissemination, HalvingDoubling, OneShot, RecursiveDoubling, Ring, Star, TwoShot,
    };
    for algorithm in
        [Ring, OneShot, Dissemination, Star, TwoShot, RecursiveDoubling, HalvingDoubling]
    {
        for world_size in [2, 3, 4, 7] {
            world(world_size, &tcp(Some(algorithm)), |communicator| {
                for count in [0, 1, 2, 6, 7, 8, 17, 16_383, 16_385, 200_003] {
                    check_all_reduce::<f32>(communicator, count, ReduceOp::Sum);
                }
            });
        }
    }
}

#[test]
fn large_messages_over_one_and_several_sockets() {
    for sockets in [None, Some(3)] {
        let options = ContextOptions { sockets, ..tcp(None) };
        world(3, &options, |communicator| {
            for count in [1 << 20, (5 << 20) + 3] {
                check_all_reduce::<f32>(communicator, count, ReduceOp::Sum);
            }
        });
    }
}

#[test]
fn checksums_change_no_result() {
    let sockets = ContextOptions { sockets: Some(3), ..tcp(None) };
    for options in every_way().into_iter().chain([sockets]) {
        let options = ContextOptions { checksum: Checksum::Crc32c, ..options };
        world(3, &options, |communicator| {
            for count in [0, 1, 17, 16_385, (1 << 20) + 3] {
                check_all_reduce::<f32>(communicator, count, ReduceOp::Sum);
            }
            // Messages, whatever carries the rest.
            let rank = communicator.rank();
            for count in [1, 5000, 200_003] {
                let mut from_left = vec![0; count];
                communicator.shift(&vec![rank; count], &mut from_left, None).unwrap();
                assert_eq!(from_left, vec![(rank + 2) % 3; count]);
            }
        });
    }
}

#[test]
fn reduce_scatter_and_all_gather() {
    let ways = every_way().into_iter().chain([tcp(Some(Algorithm::Ring))]);
    for options in ways {
        for world_size in [1, 2, 3, 4] {
            world(world_size, &options, |communicator| {
                let rank = communicator.rank();
                for part in [0, 1, 5, 70_001] {
                    let count = part * world_size as usize;
                    let input = data::<i32>(rank, count);
                    let mut own = vec![0; part];
                    communicator.reduce_scatter(&input, &mut own, ReduceOp::Sum).unwrap();
                    let want = reduced::<i32>(world_size, count, ReduceOp::Sum);
                    assert_eq!(own, want[part * rank as usize..][..part]);
                    let mut all = vec![0; count];
                    communicator.all_gather(&own, &mut all).unwrap();
                    assert_eq!(all, want);
                }
                for count in [1, 10, 100_003] {
                    let mut data = data::<f32>(rank, count);
                    let before = data.clone();
                    let own =
                        communicator.reduce_scatter_in_place(&mut data, ReduceOp::Sum).unwrap();
                    let want = reduced::<f32>(world_size, count, ReduceOp::Sum);
                    assert_eq!(data[own.clone()], want[own.clone()]);
                    assert_eq!(data[..own.start], before[..own.start], "others' chunks stay");
                    assert_eq!(data[own.end..], before[own.end..], "others' chunks stay");
                    communicator.all_gather_in_place(&mut data).unwrap();
                    assert_eq!(data, want);
                }
            });
        }
    }
}

#[test]
fn broadcast_reduce_and_barrier_with_every_root() {
    for (world_size, options) in product(&[1, 2, 3, 5], every_way()) {
        world(world_size, &options, |communicator| {
            let rank = communicator.rank();
            for root in 0..world_size {
                for count in [0, 1, 1000, 300_001] {
                    let mut copy = data::<u8>(rank, count);
                    communicator.broadcast(&mut copy, root).unwrap();
                    assert_eq!(copy, data::<u8>(root, count));
                    let mut sum = data::<f64>(rank, count);
                    communicator.reduce(&mut sum, ReduceOp::Sum, root).unwrap();
                    if rank == root {
                        assert_eq!(sum, reduced::<f64>(world_size, count, ReduceOp::Sum));
                    }
                }
                communicator.barrier().unwrap();
            }
        });
    }
}

#[test]
fn results_have_the_same_bits_by_ring_by_direct_exchange_and_in_shared_memory() {
    let run = |options: ContextOptions, slice_count: usize| {
        world(4, &options, move |communicator| {
            let rank = communicator.rank();
            let mut data: Vec<f32> = (0..slice_count)
                .map(|index| (index as f32 + 0.1).sin() * (rank as f32 + 1.3).exp())
                .collect();
            communicator.all_reduce(&mut data, ReduceOp::Avg).unwrap();
            data.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    for count in [3, 1000, 50_001] {
        let ring = run(tcp(Some(Algorithm::Ring)), count);
        assert!(ring.iter().all(|bits| *bits == ring[0]), "all ranks hold the same bits");
        assert_eq!(run(tcp(Some(Algorithm::TwoShot)), count), ring);
        assert_eq!(run(tcp(Some(Algorithm::OneShot)), count), ring);
        assert_eq!(run(tcp(Some(Algorithm::Star)), count), ring);
        assert_eq!(run(over(TransportKind::Shm), count), ring);
    }
}

#[test]
fn fused_tensors_get_the_bits_that_they_would_get_alone() {
    let tensor = |rank: u32, nth: usize| -> Vec<f32> {
        let count = [1000, 1, 0, 33_333, 7][nth];
        (0..count).map(|i| ((i + nth) as f32 * 0.37).sin() * (rank as f32 + 0.7).exp()).collect()
    };
    for (world_size, options) in product(&[1, 2, 3, 5], every_way()) {
        world(world_size, &options, |communicator| {
            let rank = communicator.rank();
            let mut alone: Vec<Vec<f32>> = (0..5).map(|nth| tensor(rank, nth)).collect();
            for data in &mut alone {
                communicator.all_reduce(data, ReduceOp::Avg).unwrap();
            }
            let mut fused: Vec<Vec<f32>> = (0..5).map(|nth| tensor(rank, nth)).collect();
            let mut slices: Vec<&mut [f32]> = fused.iter_mut().map(Vec::as_mut_slice).collect();
            communicator.all_reduce_fused(&mut slices, ReduceOp::Avg).unwrap();
            let bits = |tensors: &[Vec<f32>]| -> Vec<u32> {
                tensors.iter().flatten().map(|value| value.to_bits()).collect()
            };
            assert_eq!(bits(&fused), bits(&alone));
        });
    }
}

#[test]
fn many_fused_tensors_take_several_operations() {
    for options in [tcp(None), over(TransportKind::Shm)] {
        world(3, &options, |communicator| {
            let count = |nth: usize| if nth.is_multiple_of(7) { 20_000 } else { 15_000 + nth };
            let mut tensors: Vec<Vec<i32>> =
                (0..40).map(|nth| data(communicator.rank(), count(nth))).collect();
            let mut slices: Vec<&mut [i32]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
            communicator.all_reduce_fused(&mut slices, ReduceOp::Sum).unwrap();
            for tensor in &tensors {
                assert!(*tensor == reduced::<i32>(3, tensor.len(), ReduceOp::Sum));
            }
        });
    }
}

#[test]
fn a_shift_passes_vectors_on() {
    world(3, &tcp(None), |communicator| {
        let (rank, before) = (communicator.rank(), (communicator.rank() + 2) % 3);
        for slice_bytes in [None, Some(1), Some(1000), Some(1 << 20)] {
            let input = data::<f32>(rank, 1001);
            let mut output = vec![0.0; 1001];
            communicator.shift(&input, &mut output, slice_bytes).unwrap();
            assert_eq!(output, data::<f32>(before, 1001));
        }
    });
}

#[test]
fn ranks_that_call_different_operations_are_told_so() {
    for options in every_way() {
        told_so(&options);
    }
}

fn told_so(options: &ContextOptions) {
    let errors = world(2, options, |communicator| {
        let mut data = vec![0f32; 10 + communicator.rank() as usize];
        let first = communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
        let second = communicator.barrier().unwrap_err();
        assert!(matches!(second, CollectiveError::Poisoned { .. }), "{second}");
        first
    });
    for (rank, error) in errors.iter().enumerate() {
        let text = error.to_string();
        let named = text.contains("10 f32") && text.contains("11 f32");
        // The slower rank may find the other gone already.
        assert!(named || matches!(error, CollectiveError::PeerLost { .. }), "rank {rank}: {text}");
    }
    assert!(errors.iter().any(|error| matches!(error, CollectiveError::Mismatch { .. })));
}

#[test]
fn bad_arguments_are_refused_and_do_no_harm() {
    world(2, &tcp(None), |communicator| {
        let refused = communicator.all_reduce_into(&[1.0f32], &mut [0.0; 2], ReduceOp::Sum);
        assert!(matches!(refused, Err(CollectiveError::InvalidArgument { .. })));
        let refused = communicator.all_reduce(&mut [1i32], ReduceOp::Avg);
        assert!(refused.unwrap_err().to_string().contains("avg is not defined for i32"));
        let refused = communicator.broadcast(&mut [1i32], 2);
        assert!(refused.unwrap_err().to_string().contains("root 2"));
        let refused = communicator.all_gather(&[1i32], &mut [0; 3]);
        assert!(refused.unwrap_err().to_string().contains("3 elements"));
        check_all_reduce::<f32>(communicator, 100, ReduceOp::Sum);
    });
}

#[test]
fn ranks_with_different_options_are_told_so_at_once() {
    for error in at_odds([over(TransportKind::Tcp), over(TransportKind::Shm)]) {
        assert!(error.contains("transport tcp") && error.contains("transport shm"), "{error}");
    }
    let checked = ContextOptions { checksum: Checksum::Crc32c, ..ContextOptions::default() };
    for error in at_odds([ContextOptions::default(), checked]) {
        assert!(error.contains("checksum none") && error.contains("checksum crc32c"), "{error}");
    }
}

#[test]
fn an_interface_that_a_rank_lacks_is_named_whatever_the_transport() {
    let tcp = over(TransportKind::Tcp);
    for options in [ContextOptions::default(), tcp, over(TransportKind::Shm)] {
        let interface = "no-such0".parse().unwrap();
        let lacking = ContextOptions { interface, ..options.clone() };
        let jobs = Job::in_process(1).unwrap();
        assert!(matches!(Context::new(&jobs[0], &lacking), Err(SetupError::Interface(_))));
        for error in errors_of([options, lacking]) {
            let SetupError::Interface(source) = &error else { panic!("{error:?}") };
            let text = source.to_string();
            assert!(text.starts_with("rank 1: no interface matches \"no-such0\""), "{text}");
            assert!(text.contains("127.0.0.1") && error.hint().is_some(), "{text}");
        }
    }
}

/// What the ranks of a world say whose options differ.
fn at_odds(options: [ContextOptions; 2]) -> Vec<String> {
    errors_of(options).iter().map(SetupError::to_string).collect()
}

fn errors_of(options: [ContextOptions; 2]) -> Vec<SetupError> {
    let jobs = Job::in_process(2).unwrap();
    thread::scope(|scope| {
        let start = |(job, options): (Arc<Job>, ContextOptions)| {
            let run = move || Context::new(&job, &options).unwrap_err();
            thread::Builder::new().name("rank".to_owned()).spawn_scoped(scope, run).unwrap()
        };
        let ranks: Vec<_> = jobs.into_iter().zip(options).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn ranks_that_make_no_context_are_named() {
    let start_timeout = std::time::Duration::from_secs(2);
    let options = ContextOptions { start_timeout, ..ContextOptions::default() };
    let mut jobs = Job::in_process(4).unwrap();
    jobs.truncate(3);
    let absent = jobs.remove(1);
    let errors: Vec<String> = thread::scope(|scope| {
        let options = &options;
        let start = |job: Arc<Job>| {
            let run = move || Context::new(&job, options).unwrap_err().to_string();
            thread::Builder::new().name("rank".to_owned()).spawn_scoped(scope, run).unwrap()
        };
        let ranks: Vec<_> = jobs.into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    drop(absent);
    assert_eq!(errors, ["ranks 1, 3 did not connect within 2.0 s"; 2]);
}
