//! Every kind of data, reduced in several orders of ranks with the type's own arithmetic.

use super::*;

const WORLDS: [u32; 9] = [1, 2, 3, 4, 7, 16, 61, 256, 1000];

/// Reduces in the given order of ranks with one operation at a time in the type itself, as
/// the crudest implementation would.
fn reduce_in_order<T: TestElement>(
    pattern: &Pattern<T>,
    order: &[u32],
    x: usize,
    step: impl Fn(T, T) -> T,
) -> T {
    let entry = |rank: u32| {
        let mut element = [T::from_integer(0)];
        pattern.fill(Source::Rank(rank), 0, x, &mut element);
        element[0]
    };
    order[1..].iter().fold(entry(order[0]), |sum, rank| step(sum, entry(*rank)))
}

fn assert_exact_in_any_order<T: TestElement>(
    op: ReduceOp,
    world_size: u32,
    step: impl Fn(T, T) -> T,
    finish: impl Fn(T) -> T,
) {
    let pattern = Pattern::<T>::new(op, world_size).unwrap();
    let forwards: Vec<u32> = (0..world_size).collect();
    let backwards: Vec<u32> = forwards.iter().rev().copied().collect();
    // Odd ranks first: partial sums that neither end of a ring sees.
    let mixed: Vec<u32> =
        (0..world_size).filter(|r| r % 2 == 1).chain((0..world_size).step_by(2)).collect();
    for order in [forwards, backwards, mixed] {
        for x in (0..PERIOD).step_by(17) {
            let result = finish(reduce_in_order(&pattern, &order, x, &step));
            assert_eq!(
                pattern.count_wrong(Source::Reduced, 0, x, &[result]),
                0,
                "{op} of {} over {world_size} ranks at {x} gave {result:?}",
                T::DTYPE
            );
        }
    }
}

macro_rules! exact_in_any_order {
    ($($test:ident, $rust:ty, $add:expr, $mul:expr, $min:expr, $max:expr;)*) => {$(
        #[test]
        fn $test() {
            for world_size in WORLDS {
                let same = |x: $rust| x;
                assert_exact_in_any_order::<$rust>(ReduceOp::Sum, world_size, $add, same);
                assert_exact_in_any_order::<$rust>(ReduceOp::Prod, world_size, $mul, same);
                assert_exact_in_any_order::<$rust>(ReduceOp::Min, world_size, $min, same);
                assert_exact_in_any_order::<$rust>(ReduceOp::Max, world_size, $max, same);
            }
        }
    )*};
}

exact_in_any_order! {
    f64_is_exact, f64, |a, b| a + b, |a, b| a * b, f64::min, f64::max;
    f32_is_exact, f32, |a, b| a + b, |a, b| a * b, f32::min, f32::max;
    f16_is_exact, f16, |a, b| a + b, |a, b| a * b, f16::min, f16::max;
    bf16_is_exact, bf16, |a, b| a + b, |a, b| a * b, bf16::min, bf16::max;
    i64_is_exact, i64, i64::wrapping_add, i64::wrapping_mul, Ord::min, Ord::max;
    i32_is_exact, i32, i32::wrapping_add, i32::wrapping_mul, Ord::min, Ord::max;
    i16_is_exact, i16, i16::wrapping_add, i16::wrapping_mul, Ord::min, Ord::max;
    i8_is_exact, i8, i8::wrapping_add, i8::wrapping_mul, Ord::min, Ord::max;
    u64_is_exact, u64, u64::wrapping_add, u64::wrapping_mul, Ord::min, Ord::max;
    u32_is_exact, u32, u32::wrapping_add, u32::wrapping_mul, Ord::min, Ord::max;
    u16_is_exact, u16, u16::wrapping_add, u16::wrapping_mul, Ord::min, Ord::max;
    u8_is_exact, u8, u8::wrapping_add, u8::wrapping_mul, Ord::min, Ord::max;
}

macro_rules! bits_and_truth_are_exact {
    ($($test:ident, $rust:ty;)*) => {$(
        #[test]
        fn $test() {
            let truth = |both: fn(bool, bool) -> bool| {
                move |a: $rust, b: $rust| <$rust>::from(both(a != 0, b != 0))
            };
            let normal = |a: $rust| <$rust>::from(a != 0);
            let same = |a: $rust| a;
            for world_size in WORLDS {
                let n = world_size;
                assert_exact_in_any_order::<$rust>(ReduceOp::BitAnd, n, |a, b| a & b, same);
                assert_exact_in_any_order::<$rust>(ReduceOp::BitOr, n, |a, b| a | b, same);
                assert_exact_in_any_order::<$rust>(ReduceOp::BitXor, n, |a, b| a ^ b, same);
                let (and, or) = (truth(|a, b| a && b), truth(|a, b| a || b));
                assert_exact_in_any_order::<$rust>(ReduceOp::LogicalAnd, n, and, normal);
                assert_exact_in_any_order::<$rust>(ReduceOp::LogicalOr, n, or, normal);
                let xor = truth(|a, b| a != b);
                assert_exact_in_any_order::<$rust>(ReduceOp::LogicalXor, n, xor, normal);
            }
        }
    )*};
}

bits_and_truth_are_exact! {
    bits_of_i64_are_exact, i64;
    bits_of_i8_are_exact, i8;
    bits_of_u16_are_exact, u16;
    bits_of_u32_are_exact, u32;
}

#[test]
fn truth_values_are_exact() {
    let combine = |both: fn(bool, bool) -> bool| {
        move |a: Bool, b: Bool| Bool::from(both(a.is_true(), b.is_true()))
    };
    for world_size in WORLDS {
        for (op, step) in [
            (ReduceOp::LogicalAnd, combine(|a, b| a && b)),
            (ReduceOp::Min, combine(|a, b| a && b)),
            (ReduceOp::LogicalOr, combine(|a, b| a || b)),
            (ReduceOp::Max, combine(|a, b| a || b)),
            (ReduceOp::LogicalXor, combine(|a, b| a != b)),
        ] {
            assert_exact_in_any_order::<Bool>(op, world_size, step, |a| a);
        }
    }
}

/// Over many ranks the conjunction of random bits would be 0 everywhere.
#[test]
fn answers_of_bits_and_truth_vary_however_many_ranks_there_are() {
    let ops = [ReduceOp::BitAnd, ReduceOp::BitOr, ReduceOp::LogicalAnd, ReduceOp::LogicalOr];
    for (op, world_size) in ops.iter().flat_map(|op| WORLDS.map(|size| (*op, size))) {
        let pattern = Pattern::<u8>::new(op, world_size).unwrap();
        let mut answer = vec![0; PERIOD];
        pattern.fill(Source::Reduced, 0, 0, &mut answer);
        let ones = answer.iter().filter(|element| *element & 1 == 1).count();
        assert!((PERIOD / 8..PERIOD / 8 * 7).contains(&ones), "{op} over {world_size}: {ones}");
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "world sizes are small")]
fn averages_are_exact_by_division_and_by_scaling_each_entry() {
    for world_size in WORLDS {
        let ranks = world_size as f32;
        assert_exact_in_any_order::<f32>(ReduceOp::Avg, world_size, |a, b| a + b, |s| s / ranks);
        let half = f16::from_f32(ranks);
        assert_exact_in_any_order::<f16>(ReduceOp::Avg, world_size, |a, b| a + b, |s| s / half);
        if world_size <= 256 {
            let half = bf16::from_f32(ranks);
            let average = |s| s / half;
            assert_exact_in_any_order::<bf16>(ReduceOp::Avg, world_size, |a, b| a + b, average);
        }
    }
}

#[test]
fn what_cannot_be_exact_is_refused() {
    assert!(matches!(Pattern::<i32>::new(ReduceOp::Avg, 2), Err(PatternError::Unsupported { .. })));
    assert!(matches!(
        Pattern::<bf16>::new(ReduceOp::Avg, 257),
        Err(PatternError::TooManyRanks { .. })
    ));
    assert!(Pattern::<bf16>::new(ReduceOp::Avg, 512).is_ok());
}

/// An answer that is the same everywhere would pass data from a wrong place.
#[test]
fn answers_vary_and_depend_on_every_rank() {
    for op in [ReduceOp::Sum, ReduceOp::Min, ReduceOp::Max, ReduceOp::Prod] {
        for world_size in [2, 4, 8] {
            let pattern = Pattern::<bf16>::new(op, world_size).unwrap();
            let mut answer = vec![bf16::ZERO; PERIOD];
            pattern.fill(Source::Reduced, 0, 0, &mut answer);
            for shift in [1, 64, 1000, 4092] {
                let mut shifted = answer.clone();
                shifted.rotate_left(shift);
                let wrong = pattern.count_wrong(Source::Reduced, 0, 0, &shifted);
                assert!(wrong > 1000, "{op}, {world_size} ranks, shift {shift}: {wrong}");
            }
            for rank in 0..world_size {
                let mut own = vec![bf16::ZERO; PERIOD];
                pattern.fill(Source::Rank(rank), 0, 0, &mut own);
                assert!(pattern.count_wrong(Source::Reduced, 0, 0, &own) > 100);
                let other = (rank + 1) % world_size;
                assert!(pattern.count_wrong(Source::Rank(other), 0, 0, &own) > 1000);
            }
        }
    }
}

#[test]
fn data_of_a_former_iteration_is_wrong() {
    let pattern = Pattern::<f32>::new(ReduceOp::Sum, 4).unwrap();
    let mut buffer = vec![0.0; 10_000];
    pattern.fill(Source::Reduced, 41, 0, &mut buffer);
    assert_eq!(pattern.count_wrong(Source::Reduced, 41, 0, &buffer), 0);
    assert!(pattern.count_wrong(Source::Reduced, 42, 0, &buffer) > 9_000);
}

#[test]
fn a_buffer_may_be_filled_and_checked_in_pieces() {
    let pattern = Pattern::<i64>::new(ReduceOp::Sum, 3).unwrap();
    let mut whole = vec![0; 3 * PERIOD + 11];
    pattern.fill(Source::Rank(2), 5, 0, &mut whole);
    for split in [0, 1, 100, PERIOD, 2 * PERIOD + 5] {
        let mut tail = vec![0; whole.len() - split];
        pattern.fill(Source::Rank(2), 5, split, &mut tail);
        assert_eq!(tail, whole[split..]);
        assert_eq!(pattern.count_wrong(Source::Rank(2), 5, split, &whole[split..]), 0);
    }
}

#[test]
fn every_wrong_element_is_counted() {
    let pattern = Pattern::<u8>::new(ReduceOp::Sum, 3).unwrap();
    let mut buffer = vec![0; 2 * PERIOD];
    pattern.fill(Source::Reduced, 0, 7, &mut buffer);
    for index in [0, 1, 4000, 2 * PERIOD - 1] {
        buffer[index] ^= 0x80;
    }
    assert_eq!(pattern.count_wrong(Source::Reduced, 0, 7, &buffer), 4);
    assert_eq!(pattern.count_wrong(Source::Reduced, 0, 7, &[]), 0);
}
