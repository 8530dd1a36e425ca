use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    CollectiveError, Communicator, ContextOptions, Element, ReduceOp, Reduction, TransportKind,
    UserOp, bf16, f16,
};

use super::{canonical_ways, every_way, forced, number, over, world};

const BEFORE: f64 = 0.3;
const AFTER: f64 = 1.7;

trait Float: Element {
    fn from_f64(value: f64) -> Self;
    /// The product with a factor, rounded as documented.
    fn times(self, factor: f64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! floats {
    ($($type:ty: $from:expr, $times:expr;)*) => {$(
        impl Float for $type {
            fn from_f64(value: f64) -> Self {
                ($from)(value)
            }
            fn times(self, factor: f64) -> Self {
                ($times)(self, factor)
            }
            fn bits(self) -> u64 {
                self.to_bits().into()
            }
        }
    )*};
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is tested")]
mod conversions {
    use super::*;

    floats! {
        f64: |value| value, |x: Self, factor| x * factor;
        f32: |value| value as Self, |x: Self, factor: f64| x * factor as Self;
        f16: f16::from_f64, |x: Self, factor: f64| Self::from_f32(x.to_f32() * factor as f32);
        bf16: bf16::from_f64, |x: Self, factor: f64| Self::from_f32(x.to_f32() * factor as f32);
    }
}

fn data<T: Float>(rank: u32, count: usize) -> Vec<T> {
    (0..count).map(|index| T::from_f64(number(rank, index))).collect()
}

fn times<T: Float>(data: &[T], factor: f64) -> Vec<T> {
    data.iter().map(|element| element.times(factor)).collect()
}

fn bits<T: Float>(data: &[T]) -> Vec<u64> {
    data.iter().map(|element| element.bits()).collect()
}

fn scaled(op: ReduceOp) -> Reduction<f32> {
    Reduction::new(op).prescale(BEFORE).postscale(AFTER)
}

/// An all-reduce with factors has the bits of one without, between multiplications by hand.
fn check_all_reduce<T: Float>(communicator: &Communicator, op: ReduceOp, count: usize) {
    let input = data::<T>(communicator.rank(), count);
    for (before, after) in [(BEFORE, AFTER), (1.0, AFTER), (BEFORE, 1.0)] {
        let mut want = times(&input, before);
        communicator.all_reduce(&mut want, op).unwrap();
        let want = bits(&times(&want, after));
        let reduction = || Reduction::new(op).prescale(before).postscale(after);
        let case = format!("{} {op} of {count}, {before} and {after}", T::DTYPE);
        let mut in_place = input.clone();
        communicator.all_reduce(&mut in_place, reduction()).unwrap();
        assert!(bits(&in_place) == want, "{case}");
        let mut apart = data::<T>(77, count);
        communicator.all_reduce_into(&input, &mut apart, reduction()).unwrap();
        assert!(bits(&apart) == want, "{case}, apart");
        assert!(input == data::<T>(communicator.rank(), count), "{case}: the input is left alone");
    }
}

#[test]
fn factors_multiply_each_element_once_before_and_each_result_once_after() {
    for options in every_way() {
        for world_size in [1, 2, 3] {
            world(world_size, &options, |communicator| {
                for count in [0, 1, 7, 1021, 100_003] {
                    check_all_reduce::<f32>(communicator, ReduceOp::Sum, count);
                }
                for op in ReduceOp::defined_for(f32::DTYPE) {
                    check_all_reduce::<f64>(communicator, op, 501);
                    check_all_reduce::<f16>(communicator, op, 501);
                    check_all_reduce::<bf16>(communicator, op, 501);
                }
            });
        }
    }
}

#[test]
fn scaled_results_have_the_same_bits_by_every_algorithm_and_on_every_rank() {
    let run = |options: &ContextOptions, count: usize| {
        let all = world(3, options, |communicator| {
            let mut data = data::<f32>(communicator.rank(), count);
            communicator.all_reduce(&mut data, scaled(ReduceOp::Avg)).unwrap();
            bits(&data)
        });
        assert!(all.iter().all(|bits| *bits == all[0]), "ranks differ");
        all[0].clone()
    };
    for count in [5, 3000] {
        let want = run(&canonical_ways()[0], count);
        for options in &canonical_ways()[1..] {
            assert!(run(options, count) == want, "{:?}", options.algorithm);
        }
    }
}

/// A tree's order is not the canonical one, but as fixed; five ranks are no power of two.
#[test]
fn factors_come_once_in_the_order_of_a_tree_too() {
    for algorithm in [Algorithm::RecursiveDoubling, Algorithm::HalvingDoubling] {
        let all = world(5, &forced(TransportKind::Tcp, algorithm), |communicator| {
            check_all_reduce::<f32>(communicator, ReduceOp::Avg, 1021);
            let mut data = data::<f32>(communicator.rank(), 1021);
            communicator.all_reduce(&mut data, scaled(ReduceOp::Avg)).unwrap();
            bits(&data)
        });
        assert!(all.iter().all(|bits| *bits == all[0]), "{algorithm}: ranks differ");
    }
}

#[test]
fn factors_of_scattered_rooted_and_fused_reductions() {
    for options in every_way() {
        for world_size in [1, 2, 3] {
            world(world_size, &options, |communicator| {
                let rank = communicator.rank();
                let count = 1200 * world_size as usize;
                let input = data::<f32>(rank, count);
                let mut want = input.clone();
                communicator.all_reduce(&mut want, scaled(ReduceOp::Sum)).unwrap();
                let own = communicator.own_chunk(count);

                let mut chunk = vec![0.0; own.len()];
                communicator.reduce_scatter(&input, &mut chunk, scaled(ReduceOp::Sum)).unwrap();
                assert_eq!(bits(&chunk), bits(&want[own.clone()]));
                let mut in_place = input.clone();
                communicator.reduce_scatter_in_place(&mut in_place, scaled(ReduceOp::Sum)).unwrap();
                assert_eq!(bits(&in_place[own.clone()]), bits(&want[own.clone()]));
                let others = |data: &[f32]| [bits(&data[..own.start]), bits(&data[own.end..])];
                assert_eq!(others(&in_place), others(&input), "the rest is as it was");

                for root in 0..world_size {
                    let mut rooted = input.clone();
                    communicator.reduce(&mut rooted, scaled(ReduceOp::Sum), root).unwrap();
                    assert!(rooted == if rank == root { want.clone() } else { input.clone() });
                }
                assert_eq!(bits(&input), bits(&data::<f32>(rank, count)), "inputs are left alone");

                let (mut one, mut two) = (input.clone(), input.clone());
                let mut long = input.repeat(40);
                let tensors = &mut [one.as_mut_slice(), long.as_mut_slice(), two.as_mut_slice()];
                communicator.all_reduce_fused(tensors, scaled(ReduceOp::Sum)).unwrap();
                assert_eq!([bits(&one), bits(&two)], [bits(&want), bits(&want)]);
                let mut alone = input.repeat(40);
                communicator.all_reduce(&mut alone, scaled(ReduceOp::Sum)).unwrap();
                assert_eq!(bits(&long), bits(&alone));
            });
        }
    }
}

#[test]
fn what_cannot_be_scaled_is_refused_before_anything_is_sent() {
    world(2, &over(TransportKind::Tcp), |communicator| {
        if communicator.rank() == 0 {
            let halved = Reduction::new(ReduceOp::Sum).postscale(0.5);
            let error = communicator.all_reduce(&mut [1i32], halved).unwrap_err();
            assert!(matches!(error, CollectiveError::InvalidArgument { .. }));
            assert!(error.to_string().contains("a scale is not defined for i32"), "{error}");
            let infinite = Reduction::new(ReduceOp::Sum).prescale(f64::INFINITY);
            let error = communicator.all_reduce(&mut [1f64], infinite).unwrap_err();
            assert!(error.to_string().contains("the factor inf"), "{error}");
        }
        check_all_reduce::<f32>(communicator, ReduceOp::Sum, 100);
    });
}

#[test]
fn ranks_with_different_factors_are_told_so() {
    for options in every_way() {
        let errors = world(2, &options, |communicator| {
            let factor = f64::from(communicator.rank() + 1) * 0.25;
            let op = Reduction::new(ReduceOp::Sum).postscale(factor);
            communicator.all_reduce(&mut [1.0f32; 10], op).unwrap_err()
        });
        let mismatch = errors.iter().find_map(|error| match error {
            CollectiveError::Mismatch { .. } => Some(error.to_string()),
            _ => None,
        });
        let text = mismatch.unwrap();
        assert!(text.contains("sum, scaled, by ") && text.contains("with other factors"), "{text}");
        let here = ["here the factors are 1 and 0.25", "here the factors are 1 and 0.5"];
        assert!(here.iter().any(|here| text.ends_with(here)), "{text}");
    }
}

/// Longer than what is staged at once: the result is that of multiplying by hand, to the bit, and the
/// staging memory stays small.
#[test]
fn long_inputs_are_scaled_piece_by_piece() {
    const STAGED: usize = 8 << 20;
    for options in every_way() {
        world(3, &options, |communicator| {
            let (rank, count) = (communicator.rank(), 5_000_011);
            let number = |at: usize| f32::from(u16::try_from((at * 7 + 3) % 1009).unwrap());
            let input: Vec<f32> = (0..count).map(|at| number(at + rank as usize) / 3.0).collect();
            let by_hand: Vec<f32> = input.iter().map(|element| element * 0.3).collect();
            let scaled = || Reduction::new(ReduceOp::Sum).prescale(0.3);
            let mut want = by_hand.clone();
            communicator.reduce(&mut want, ReduceOp::Sum, 1).unwrap();

            let mut rooted = input.clone();
            communicator.reduce(&mut rooted, scaled(), 1).unwrap();
            assert!(rooted == if rank == 1 { &want[..] } else { &input[..] });
            let mut output = (rank == 1).then(|| vec![0.0; count]);
            communicator.reduce_into(&input, output.as_deref_mut(), scaled(), 1).unwrap();
            assert!(output.is_none_or(|output| output == want));

            let mut want = by_hand.clone();
            let own = communicator.reduce_scatter_in_place(&mut want, ReduceOp::Sum).unwrap();
            let mut scattered = input.clone();
            communicator.reduce_scatter_in_place(&mut scattered, scaled()).unwrap();
            assert!(scattered[own.clone()] == want[own.clone()]);
            assert!(scattered[..own.start] == input[..own.start]);
            assert!(scattered[own.end..] == input[own.end..]);

            // Chunks of very different lengths, one of them empty.
            let counts = [count - 7, 0, 7];
            let mut want = by_hand;
            let own = communicator.reduce_scatter_v_in_place(&mut want, &counts, ReduceOp::Sum);
            let own = own.unwrap();
            let mut output = vec![0.0; own.len()];
            communicator.reduce_scatter_v(&input, &mut output, &counts, scaled()).unwrap();
            assert!(output == want[own]);
            let held = communicator.memory_bytes();
            assert!(held < STAGED + (7 << 20), "{held} bytes");
        });
    }
}

#[test]
fn names_of_operators_that_differ_are_told() {
    let errors = world(2, &over(TransportKind::Tcp), |communicator| {
        let name = ["first", "second"][communicator.rank() as usize];
        let op = UserOp::new(name, |_: &mut [f32], _: &[f32]| {});
        communicator.all_reduce(&mut [1.0f32; 10], op).unwrap_err()
    });
    let told = errors.iter().find_map(|error| match error {
        CollectiveError::Mismatch { .. } => Some(error.to_string()),
        _ => None,
    });
    let text = told.unwrap();
    assert!(text.contains("here the operator is "), "{text}");
}
