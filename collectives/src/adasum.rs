//! The arithmetic of Adasum: sums that adapt to how much two gradients agree.
//!
//! Two vectors become `(1 − a·b / 2|a|²) a + (1 − a·b / 2|b|²) b`: their sum where they are orthogonal,
//! their average where they are equal. More vectors are combined in pairs of neighbours, the results
//! again, and so on; who has no partner goes on as it is.

use std::iter::zip;

use paceline_devices::{Element, bf16, f16};

use crate::kernels::{Half, narrow, widen};

/// Sums that are kept apart, so that they need not wait for each other. It is part of the order of
/// summation, and so of the result.
const LANES: usize = 8;

/// Halves that are widened at once: what two first-level caches hold besides other things.
const WIDENED: usize = 512;

/// Which vectors are combined when the distance between neighbours is `distance`: 1 first, then twice
/// that, below the number of vectors.
pub(crate) fn pairs(vectors: usize, distance: usize) -> impl Iterator<Item = (usize, usize)> {
    let firsts = (0..vectors).step_by(2 * distance);
    firsts.map(move |first| (first, first + distance)).filter(move |pair| pair.1 < vectors)
}

/// The distances at which there are pairs.
pub(crate) fn distances(vectors: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |distance| Some(2 * distance))
        .take_while(move |distance| *distance < vectors)
}

/// What both vectors are multiplied by, after their products `[a·b, a·a, b·b]`.
pub(crate) fn factors([dot, first, second]: [f64; 3]) -> [f64; 2] {
    // A vector of zeros adds nothing, and takes nothing away.
    [first, second].map(|norm| if norm == 0.0 { 1.0 } else { 1.0 - dot / (2.0 * norm) })
}

mod sealed {
    pub(crate) trait Arithmetic: Sized {
        const ZERO: Self;

        /// `[a·b, a·a, b·b]` of vectors of equal lengths.
        fn products(a: &[Self], b: &[Self]) -> [f64; 3];

        /// Multiplies both vectors and adds the second to the first.
        fn combine(a: &mut [Self], b: &[Self], factors: [f64; 2]);
    }
}

pub(crate) use sealed::Arithmetic;

/// The types of floating-point numbers: `f64`, `f32`, `f16` and `bf16`.
#[expect(private_bounds, reason = "the bound seals the trait")]
pub trait Float: Element + Arithmetic {}

macro_rules! floats {
    ($($float:ty: $factor:expr),*) => {$(
        impl Float for $float {}

        impl Arithmetic for $float {
            const ZERO: Self = 0.0;

            fn products(a: &[Self], b: &[Self]) -> [f64; 3] {
                let mut sums = [[0.0; LANES]; 3];
                let mut add = |a: &[Self], b: &[Self]| {
                    for (lane, (a, b)) in zip(a, b).enumerate() {
                        let (a, b) = (f64::from(*a), f64::from(*b));
                        sums[0][lane] += a * b;
                        sums[1][lane] += a * a;
                        sums[2][lane] += b * b;
                    }
                };
                let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
                zip(a, b).for_each(|(a, b)| add(a, b));
                add(a_rest, b_rest);
                sums.map(|lanes| lanes.into_iter().sum())
            }

            fn combine(a: &mut [Self], b: &[Self], factors: [f64; 2]) {
                let [first, second] = factors.map($factor);
                for (a, b) in zip(a, b) {
                    *a = first * *a + second * *b;
                }
            }
        }
    )*};
}

#[expect(clippy::cast_possible_truncation, reason = "a factor is rounded to what it applies to")]
fn rounded(factor: f64) -> f32 {
    factor as f32
}

floats!(f64: |factor| factor, f32: rounded);

macro_rules! halves {
    ($($half:ty),*) => {$(
        impl Float for $half {}

        impl Arithmetic for $half {
            const ZERO: Self = <$half>::from_bits(0);

            fn products(a: &[Self], b: &[Self]) -> [f64; 3] {
                products_of_halves(a, b)
            }

            fn combine(a: &mut [Self], b: &[Self], factors: [f64; 2]) {
                combine_halves(a, b, factors);
            }
        }
    )*};
}

halves!(f16, bf16);

fn products_of_halves<H: Half>(a: &[H], b: &[H]) -> [f64; 3] {
    let (mut sums, mut wide) = ([0.0; 3], [[0.0f32; WIDENED]; 2]);
    for (a, b) in zip(a.chunks(WIDENED), b.chunks(WIDENED)) {
        let [wide_a, wide_b] = wide.each_mut().map(|wide| &mut wide[..a.len()]);
        widen(wide_a, a, 1.0);
        widen(wide_b, b, 1.0);
        let products = f32::products(wide_a, wide_b);
        zip(&mut sums, products).for_each(|(sum, product)| *sum += product);
    }
    sums
}

fn combine_halves<H: Half>(a: &mut [H], b: &[H], factors: [f64; 2]) {
    let mut wide = [[0.0f32; WIDENED]; 2];
    for (a, b) in zip(a.chunks_mut(WIDENED), b.chunks(WIDENED)) {
        let [wide_a, wide_b] = wide.each_mut().map(|wide| &mut wide[..a.len()]);
        widen(wide_a, a, 1.0);
        widen(wide_b, b, 1.0);
        f32::combine(wide_a, wide_b, factors);
        narrow(a, wide_a, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(vectors: usize) -> Vec<Vec<(usize, usize)>> {
        distances(vectors).map(|distance| pairs(vectors, distance).collect()).collect()
    }

    #[test]
    fn neighbours_are_combined_until_one_is_left() {
        assert!(tree(1).is_empty());
        assert_eq!(tree(2), [[(0, 1)]]);
        assert_eq!(tree(4), [vec![(0, 1), (2, 3)], vec![(0, 2)]]);
        assert_eq!(tree(5), [vec![(0, 1), (2, 3)], vec![(0, 2)], vec![(0, 4)]]);
        assert_eq!(tree(6), [vec![(0, 1), (2, 3), (4, 5)], vec![(0, 2)], vec![(0, 4)]]);
        for vectors in 1..=64 {
            // All but the first are combined into another one once.
            let mut seconds: Vec<_> = tree(vectors).concat().iter().map(|pair| pair.1).collect();
            seconds.sort_unstable();
            assert_eq!(seconds, (1..vectors).collect::<Vec<_>>());
        }
    }

    #[test]
    fn lengths_of_any_kind_are_summed_up() {
        for length in [0usize, 1, 7, 8, 9, 511, 512, 513, 2000] {
            let a: Vec<f32> = (0..length).map(|index| (index % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..length).map(|index| (index % 5) as f32).collect();
            let exact =
                |a: &[f32], b: &[f32]| -> f64 { zip(a, b).map(|(a, b)| f64::from(a * b)).sum() };
            let expected = [exact(&a, &b), exact(&a, &a), exact(&b, &b)];
            assert_eq!(f32::products(&a, &b), expected);
            let halves = |all: &[f32]| all.iter().copied().map(f16::from_f32).collect::<Vec<_>>();
            assert_eq!(f16::products(&halves(&a), &halves(&b)), expected);
            let mut sum = halves(&a);
            f16::combine(&mut sum, &halves(&b), [1.0, 0.5]);
            for ((sum, a), b) in sum.iter().zip(&a).zip(&b) {
                assert_eq!(sum.to_f32(), a + 0.5 * b);
            }
        }
    }

    #[test]
    fn factors_of_vectors_that_agree_and_that_do_not() {
        assert_eq!(factors([0.0, 4.0, 9.0]), [1.0, 1.0]);
        assert_eq!(factors([4.0, 4.0, 4.0]), [0.5, 0.5]);
        assert_eq!(factors([8.0, 4.0, 16.0]), [0.0, 0.75]);
        assert_eq!(factors([0.0, 0.0, 4.0]), [1.0, 1.0]);
        assert_eq!(factors([-4.0, 4.0, 4.0]), [1.5, 1.5]);
        assert!(factors([f64::NAN, 1.0, 1.0]).iter().all(|factor| factor.is_nan()));
    }
}
