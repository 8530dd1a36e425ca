//! Bits against the canonical order: element of chunk c is x\[c+1\] op x\[c+2\] op … op x\[c\].

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{Communicator, Element, ReduceOp, TransportKind, bf16, f16};

use super::over;
use super::value::hash;

/// A float, combined as the rules of ARCHITECTURE.md say.
trait Float: Element {
    fn of(number: f64) -> Self;
    fn combine(op: ReduceOp, a: Self, b: Self) -> Self;
    fn bits(self) -> u64;
}

macro_rules! wide {
    ($($type:ty, $of:expr);*) => {$(
        impl Float for $type {
            fn of(number: f64) -> Self {
                $of(number)
            }

            fn combine(op: ReduceOp, a: Self, b: Self) -> Self {
                match op {
                    ReduceOp::Sum => a + b,
                    ReduceOp::Prod => a * b,
                    _ if a.is_nan() || b.is_nan() => Self::NAN,
                    ReduceOp::Min => if a.total_cmp(&b).is_lt() { a } else { b },
                    _ => if a.total_cmp(&b).is_gt() { a } else { b },
                }
            }

            /// One bit pattern for all that are no numbers.
            fn bits(self) -> u64 {
                if self.is_nan() { Self::NAN.to_bits().into() } else { self.to_bits().into() }
            }
        }
    )*};
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
fn narrow(number: f64) -> f32 {
    number as f32
}

wide!(f64, |number| number; f32, narrow);

macro_rules! halves {
    ($($type:ty),*) => {$(
        impl Float for $type {
            fn of(number: f64) -> Self {
                Self::from_f32(narrow(number))
            }

            fn combine(op: ReduceOp, a: Self, b: Self) -> Self {
                Self::from_f32(f32::combine(op, a.to_f32(), b.to_f32()))
            }

            fn bits(self) -> u64 {
                if self.is_nan() { Self::NAN.to_bits().into() } else { self.to_bits().into() }
            }
        }
    )*};
}

halves!(f16, bf16);

/// Numbers whose sums and products need rounding; now and then one of the special ones.
fn number<T: Float>(rank: u32, index: usize) -> T {
    let bits = hash([3, u64::from(rank), index as u64]);
    let special = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0, -0.0, 1e-40, 1e-310, -1e5];
    if bits.is_multiple_of(31) {
        return T::of(special[(bits >> 40) as usize % special.len()]);
    }
    let fraction = f64::from((bits >> 33) as u32) / f64::from(u32::MAX >> 1);
    T::of((fraction - 0.5) * f64::from(1 << (bits % 9)))
}

fn input<T: Float>(rank: u32, count: usize) -> Vec<T> {
    (0..count).map(|index| number(rank, index)).collect()
}

fn bits<T: Float>(vector: &[T]) -> Vec<u64> {
    vector.iter().map(|number| number.bits()).collect()
}

/// The bits of a reduction whose chunks have these lengths.
fn canonical<T: Float>(op: ReduceOp, lengths: &[usize]) -> Vec<u64> {
    let ranks = lengths.len();
    let owners = lengths.iter().enumerate().flat_map(|(owner, length)| vec![owner; *length]);
    let fold = |(index, owner): (usize, usize)| {
        let rank = |nth: usize| number::<T>(((owner + nth) % ranks) as u32, index);
        (2..=ranks).fold(rank(1), |all, nth| T::combine(op, all, rank(nth))).bits()
    };
    owners.enumerate().map(fold).collect()
}

fn even(count: usize, ranks: usize) -> Vec<usize> {
    (0..ranks).map(|rank| count / ranks + usize::from(rank < count % ranks)).collect()
}

fn check<T: Float>(communicator: &Communicator) {
    let (me, ranks) = (communicator.rank(), communicator.world_size() as usize);
    for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max] {
        for count in [1, ranks + 1, 1021, 9_001] {
            let case = || format!("{} {op} of {count}, {ranks} ranks", T::DTYPE);
            let lengths = even(count, ranks);
            let want = canonical::<T>(op, &lengths);
            let mut data = input::<T>(me, count);
            communicator.all_reduce(&mut data, op).unwrap();
            assert!(bits(&data) == want, "all_reduce of {}", case());
            let mut data = input::<T>(me, count);
            let own = communicator.reduce_scatter_in_place(&mut data, op).unwrap();
            assert!(bits(&data[own.clone()]) == want[own], "reduce_scatter of {}", case());
            let mut data = input::<T>(me, count);
            communicator.reduce(&mut data, op, 0).unwrap();
            assert!(me != 0 || bits(&data) == want, "reduce of {}", case());
            let (mut long, mut short) = (input::<T>(me, count), input::<T>(me, 7));
            communicator.all_reduce_fused(&mut [&mut long, &mut short], op).unwrap();
            assert!(bits(&long) == want, "all_reduce_fused of {}", case());
            let short_want = canonical::<T>(op, &even(7, ranks));
            assert!(bits(&short) == short_want, "all_reduce_fused of 7 and {}", case());
            // All of it to the last rank.
            let mut lengths = vec![0; ranks];
            lengths[ranks - 1] = count;
            let mut data = input::<T>(me, count);
            communicator.reduce_scatter_v_in_place(&mut data, &lengths, op).unwrap();
            let last = me as usize == ranks - 1;
            let want = if last { canonical::<T>(op, &lengths) } else { vec![] };
            assert!(!last || bits(&data) == want, "reduce_scatter_v of {}", case());
        }
    }
}

#[test]
fn every_way_gives_the_bits_of_the_canonical_order() {
    use Algorithm::{NodeOneShot, NodeTwoShot, OneShot, Ring, Star, TwoShot};
    let messages = [None, Some(Ring), Some(OneShot), Some(Star), Some(TwoShot)];
    let shared = [None, Some(NodeOneShot), Some(NodeTwoShot), Some(Ring)];
    let ways = [TransportKind::Sim, TransportKind::Tcp]
        .into_iter()
        .flat_map(|kind| messages.map(|algorithm| (kind, algorithm)))
        .chain(shared.map(|algorithm| (TransportKind::Shm, algorithm)));
    for (kind, algorithm) in ways {
        for ranks in [2, 3, 4, 7, 8] {
            over(kind, ranks, algorithm, |communicator| {
                check::<f64>(communicator);
                check::<f32>(communicator);
                check::<f16>(communicator);
                check::<bf16>(communicator);
            });
        }
    }
}
