use paceline_collectives::{
    CollectiveError, Communicator, Compression, ReduceOp, Reduction, TransportKind, UserOp, bf16,
    f16,
};

use super::{canonical_ways, every_way, number, over, world};

#[expect(clippy::cast_possible_truncation, reason = "any number will do")]
fn data(rank: u32, count: usize) -> Vec<f32> {
    (0..count).map(|index| number(rank, index) as f32).collect()
}

fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|element| element.to_bits()).collect()
}

macro_rules! all_reduced_by_hand {
    ($communicator:expr, $data:expr, $half:ty, $op:expr, $before:expr, $after:expr) => {{
        let narrow = |element: &f32| <$half>::from_f32(*element * $before);
        let mut halves: Vec<$half> = $data.iter().map(narrow).collect();
        $communicator.all_reduce(&mut halves, $op).unwrap();
        halves.iter().map(|half| half.to_f32() * $after).collect::<Vec<f32>>()
    }};
}

/// A compressed all-reduce is one of halves between conversions by hand.
fn check(communicator: &Communicator, op: ReduceOp, count: usize) {
    let input = data(communicator.rank(), count);
    for (before, after) in [(1.0f32, 1.0f32), (0.3, 1.7)] {
        let scaled = || Reduction::new(op).prescale(before.into()).postscale(after.into());
        let want = [
            all_reduced_by_hand!(communicator, input, f16, op, before, after),
            all_reduced_by_hand!(communicator, input, bf16, op, before, after),
        ];
        for (compression, want) in [Compression::Fp16, Compression::Bf16].into_iter().zip(want) {
            let mut data = input.clone();
            communicator.all_reduce_compressed(&mut data, scaled(), compression).unwrap();
            assert!(bits(&data) == bits(&want), "{op} of {count} as {compression:?}");
        }
        let (mut plain, mut none) = (input.clone(), input.clone());
        communicator.all_reduce(&mut plain, scaled()).unwrap();
        communicator.all_reduce_compressed(&mut none, scaled(), Compression::None).unwrap();
        assert_eq!(bits(&plain), bits(&none));
    }
}

#[test]
fn compressed_elements_are_reduced_as_halves_over_every_way() {
    for options in every_way() {
        for world_size in [1, 2, 3] {
            world(world_size, &options, |communicator| {
                for count in [0, 1, 1021, 70_001] {
                    check(communicator, ReduceOp::Sum, count);
                }
                for op in [ReduceOp::Avg, ReduceOp::Min, ReduceOp::Max, ReduceOp::Prod] {
                    check(communicator, op, 501);
                }
            });
        }
    }
}

#[test]
fn compressed_results_have_the_same_bits_by_every_algorithm() {
    let run = |options| {
        let all = world(3, options, |communicator| {
            let mut data = data(communicator.rank(), 3000);
            let (op, compression) = (ReduceOp::Avg, Compression::Bf16);
            communicator.all_reduce_compressed(&mut data, op, compression).unwrap();
            bits(&data)
        });
        assert!(all.iter().all(|bits| *bits == all[0]), "ranks differ");
        all[0].clone()
    };
    let ways = canonical_ways();
    for options in &ways[1..] {
        assert!(run(options) == run(&ways[0]), "{:?}", options.algorithm);
    }
}

/// Longer than what is staged at once. Small integers, exact in both halves.
#[test]
fn long_vectors_are_compressed_piece_by_piece() {
    let count = (4 << 20) + 1001;
    let element = |rank: u32, index: usize| ((index * 7 + rank as usize * 3) % 101) as f32;
    world(2, &over(TransportKind::Shm), |communicator| {
        let mut data: Vec<f32> = (0..count).map(|at| element(communicator.rank(), at)).collect();
        let (op, compression) = (ReduceOp::Sum, Compression::Bf16);
        communicator.all_reduce_compressed(&mut data, op, compression).unwrap();
        let right = |(at, got): (usize, &f32)| *got == element(0, at) + element(1, at);
        assert!(data.iter().enumerate().all(right));
    });
}

#[test]
fn fusing_compressed_tensors_changes_no_bit() {
    for options in every_way() {
        for world_size in [1, 2, 3] {
            world(world_size, &options, |communicator| {
                let counts = [5, 0, 3000, 7, 70_000, 64, 20_001, 1, 30_000, 9];
                let tensors = counts.map(|count| data(communicator.rank(), count));
                for compression in [Compression::None, Compression::Fp16, Compression::Bf16] {
                    let op = || Reduction::new(ReduceOp::Avg).prescale(0.3).postscale(1.7);
                    let mut fused = tensors.clone();
                    let mut slices = fused.each_mut().map(Vec::as_mut_slice);
                    communicator
                        .all_reduce_compressed_fused(&mut slices, op(), compression)
                        .unwrap();
                    for (mut alone, fused) in tensors.clone().into_iter().zip(&fused) {
                        communicator.all_reduce_compressed(&mut alone, op(), compression).unwrap();
                        assert!(bits(&alone) == bits(fused), "{} {compression:?}", alone.len());
                    }
                }
            });
        }
    }
}

#[test]
fn what_differs_between_ranks_is_noticed() {
    let sum = || Reduction::new(ReduceOp::Sum);
    let cases = [
        [(sum(), Compression::Fp16, 100), (sum(), Compression::Bf16, 100)],
        [(sum(), Compression::Fp16, 100), (sum(), Compression::None, 100)],
        [(sum(), Compression::Fp16, 100), (sum().prescale(0.5), Compression::Fp16, 100)],
        // The first pieces are equally long.
        [(sum(), Compression::Fp16, (4 << 20) + 1), (sum(), Compression::Fp16, (4 << 20) + 2)],
    ];
    for (case, calls) in cases.iter().enumerate() {
        let errors = world(2, &over(TransportKind::Shm), |communicator| {
            let (op, compression, count) = calls[communicator.rank() as usize].clone();
            communicator.all_reduce_compressed(&mut vec![1.0; count], op, compression).unwrap_err()
        });
        let told = errors.iter().find_map(|error| match error {
            CollectiveError::Mismatch { .. } => Some(error.to_string()),
            _ => None,
        });
        let told = told.unwrap_or_else(|| panic!("case {case}: {errors:?}"));
        // Lengths are those of the vectors, and types those in memory and on the wire.
        let names = calls.each_ref().map(|(_, compression, count)| match compression {
            Compression::Fp16 => format!("{count} f32 as f16, sum"),
            Compression::Bf16 => format!("{count} f32 as bf16, sum"),
            _ => format!("{count} f32, sum"),
        });
        assert!(names.iter().all(|name| told.contains(name)), "case {case}: {told}");
    }
}

#[test]
fn operators_of_the_users_on_f32_are_not_applied_to_halves() {
    world(2, &over(TransportKind::Tcp), |communicator| {
        if communicator.rank() == 0 {
            let op = UserOp::new("any", |_: &mut [f32], _: &[f32]| {});
            let refused = communicator.all_reduce_compressed(&mut [1.0], op, Compression::Fp16);
            assert!(refused.unwrap_err().to_string().contains("cannot combine f16"));
        }
        check(communicator, ReduceOp::Sum, 10);
    });
}
