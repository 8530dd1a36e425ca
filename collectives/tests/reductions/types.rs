use paceline_collectives::{Bool, Communicator, DType, Element, ReduceOp, bf16, f16};

use super::{bits, canonical_ways, every_way, world};

const COUNTS: [usize; 5] = [0, 1, 3, 1021, 40_003];

/// An element type with arithmetic in numbers that all its values and results fit into.
trait Sample: Element {
    fn sample(rank: u32, index: usize) -> Self;
    fn combine(op: ReduceOp, all: Self, next: Self) -> Self;
    /// What a complete reduction over so many ranks becomes.
    fn finish(op: ReduceOp, reduced: Self, ranks: u32) -> Self;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Sample for $type {
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "bits")]
            fn sample(rank: u32, index: usize) -> Self {
                // Every fourth is 0, or conjunctions would all be true.
                if bits(rank, index).is_multiple_of(4) { 0 } else { (bits(rank, index) >> 2) as Self }
            }

            fn combine(op: ReduceOp, all: Self, next: Self) -> Self {
                let truth = |truth: bool| Self::from(truth);
                match op {
                    ReduceOp::Sum => all.wrapping_add(next),
                    ReduceOp::Prod => all.wrapping_mul(next),
                    ReduceOp::Min => all.min(next),
                    ReduceOp::Max => all.max(next),
                    ReduceOp::BitAnd => all & next,
                    ReduceOp::BitOr => all | next,
                    ReduceOp::BitXor => all ^ next,
                    ReduceOp::LogicalAnd => truth(all != 0 && next != 0),
                    ReduceOp::LogicalOr => truth(all != 0 || next != 0),
                    ReduceOp::LogicalXor => truth((all != 0) != (next != 0)),
                    _ => unreachable!("{op} of integers"),
                }
            }

            fn finish(op: ReduceOp, reduced: Self, _: u32) -> Self {
                use ReduceOp::{LogicalAnd, LogicalOr, LogicalXor};
                let logical = [LogicalAnd, LogicalOr, LogicalXor].contains(&op);
                if logical { Self::from(reduced != 0) } else { reduced }
            }
        }
    )*};
}

integers!(i64, i32, i16, i8, u64, u32, u16, u8);

macro_rules! floats {
    ($($type:ty: $from:expr),*) => {$(
        impl Sample for $type {
            /// Small enough that every result is exact.
            fn sample(rank: u32, index: usize) -> Self {
                $from([-2.0f32, -1.0, 1.0, 2.0][(bits(rank, index) % 4) as usize])
            }

            fn combine(op: ReduceOp, all: Self, next: Self) -> Self {
                match op {
                    ReduceOp::Sum | ReduceOp::Avg => all + next,
                    ReduceOp::Prod => all * next,
                    ReduceOp::Min => all.min(next),
                    ReduceOp::Max => all.max(next),
                    _ => unreachable!("{op} of floats"),
                }
            }

            fn finish(op: ReduceOp, reduced: Self, ranks: u32) -> Self {
                if op == ReduceOp::Avg { reduced / $from(ranks as f32) } else { reduced }
            }
        }
    )*};
}

floats!(f64: f64::from, f32: |x| x, f16: f16::from_f32, bf16: bf16::from_f32);

impl Sample for Bool {
    /// All bytes, of which only one is false.
    fn sample(rank: u32, index: usize) -> Self {
        let byte = u8::try_from(bits(rank, index) >> 56).unwrap();
        Self::from_byte(if byte < 100 { 0 } else { byte })
    }

    fn combine(op: ReduceOp, all: Self, next: Self) -> Self {
        let (all, next) = (all.is_true(), next.is_true());
        Self::from(match op {
            ReduceOp::LogicalAnd | ReduceOp::Min => all && next,
            ReduceOp::LogicalOr | ReduceOp::Max => all || next,
            ReduceOp::LogicalXor => all != next,
            _ => unreachable!("{op} of truth values"),
        })
    }

    fn finish(_: ReduceOp, reduced: Self, _: u32) -> Self {
        Self::from(reduced.is_true())
    }
}

fn data<T: Sample>(rank: u32, count: usize) -> Vec<T> {
    (0..count).map(|index| T::sample(rank, index)).collect()
}

fn reduced<T: Sample>(world_size: u32, count: usize, op: ReduceOp) -> Vec<T> {
    let element = |index| {
        let ranks = (1..world_size).map(|rank| T::sample(rank, index));
        let all = ranks.fold(T::sample(0, index), |all, next| T::combine(op, all, next));
        T::finish(op, all, world_size)
    };
    (0..count).map(element).collect()
}

fn check_type<T: Sample>(communicator: &Communicator) {
    let (rank, world_size) = (communicator.rank(), communicator.world_size());
    for op in ReduceOp::defined_for(T::DTYPE) {
        for count in COUNTS {
            let want = reduced::<T>(world_size, count, op);
            let input = data::<T>(rank, count);
            let mut in_place = input.clone();
            communicator.all_reduce(&mut in_place, op).unwrap();
            assert!(in_place == want, "{} {op} of {count}, {world_size} ranks", T::DTYPE);
            let mut apart = vec![T::sample(9, 9); count];
            communicator.all_reduce_into(&input, &mut apart, op).unwrap();
            assert!(apart == want, "{} {op} of {count}, {world_size} ranks, apart", T::DTYPE);
            let own = communicator.reduce_scatter_in_place(&mut in_place, op);
            assert_eq!(own.unwrap(), communicator.own_chunk(count));
        }
    }
}

fn check_every_type(communicator: &Communicator) {
    check_type::<f64>(communicator);
    check_type::<f32>(communicator);
    check_type::<f16>(communicator);
    check_type::<bf16>(communicator);
    check_type::<i64>(communicator);
    check_type::<i32>(communicator);
    check_type::<i16>(communicator);
    check_type::<i8>(communicator);
    check_type::<u64>(communicator);
    check_type::<u32>(communicator);
    check_type::<u16>(communicator);
    check_type::<u8>(communicator);
    check_type::<Bool>(communicator);
}

#[test]
fn every_type_and_operator_over_every_way() {
    for options in every_way() {
        for world_size in [1, 2, 5] {
            world(world_size, &options, check_every_type);
        }
    }
}

#[test]
fn every_type_and_operator_by_every_algorithm() {
    for options in canonical_ways() {
        world(4, &options, check_every_type);
    }
}

#[test]
fn results_of_truth_values_are_the_bytes_0_and_1_and_moved_ones_stay_as_they_are() {
    for (options, world_size) in
        every_way().into_iter().flat_map(|way| [(way.clone(), 1), (way, 3)])
    {
        world(world_size, &options, |communicator| {
            let mut all = data::<Bool>(communicator.rank(), 1000);
            communicator.broadcast(&mut all, 0).unwrap();
            let bytes = |all: &[Bool]| all.iter().map(|value| value.to_byte()).collect::<Vec<_>>();
            assert_eq!(bytes(&all), bytes(&data::<Bool>(0, 1000)));
            communicator.all_reduce(&mut all, ReduceOp::Max).unwrap();
            assert!(bytes(&all).iter().all(|byte| *byte <= 1));
        });
    }
}

#[test]
fn undefined_pairs_are_refused_by_name_and_do_no_harm() {
    fn refuse<T: Sample>(communicator: &Communicator) {
        for op in ReduceOp::ALL.into_iter().filter(|op| !op.supports(T::DTYPE)) {
            let mut data = data::<T>(communicator.rank(), 10);
            let before = data.clone();
            let error = communicator.all_reduce(&mut data, op).unwrap_err().to_string();
            assert!(error.contains(&format!("{op} is not defined for {}", T::DTYPE)), "{error}");
            let error = communicator.all_reduce_fused(&mut [&mut data], op).unwrap_err();
            assert!(error.to_string().contains("is not defined"), "{error}");
            assert_eq!(data, before);
        }
    }
    for options in every_way() {
        world(2, &options, |communicator| {
            refuse::<f32>(communicator);
            refuse::<u16>(communicator);
            refuse::<Bool>(communicator);
            // One rank alone: nothing was sent that the other would have to know of.
            if communicator.rank() == 0 {
                refuse::<bf16>(communicator);
            }
            check_type::<u16>(communicator);
        });
    }
    assert_eq!(DType::ALL.len(), 13, "the tests above name every type");
}
