use paceline_devices::{bf16, f16};

use super::*;
use crate::kernels::convert::{Convert, Half};

/// A half, and its conversions by the `half` crate.
trait Reference: Half {
    fn every() -> Vec<Self>;
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    fn bits(self) -> u16;
}

macro_rules! references {
    ($($half:ty),*) => {$(
        impl Reference for $half {
            fn every() -> Vec<Self> {
                (0..=u16::MAX).map(Self::from_bits).collect()
            }
            fn from_f32(value: f32) -> Self {
                <$half>::from_f32(value)
            }
            fn to_f32(self) -> f32 {
                <$half>::to_f32(self)
            }
            fn bits(self) -> u16 {
                self.to_bits()
            }
        }
    )*};
}

references!(f16, bf16);

fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { value }
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Random numbers, every half, the points half-way to its neighbour, and those next to them.
#[expect(clippy::cast_possible_truncation, reason = "any bits, and nearly the middle, will do")]
fn interesting<H: Reference>() -> Vec<f32> {
    let every = H::every();
    let around = |value: &H| {
        let bits = value.to_f32().to_bits();
        let next = H::from_f32(f32::from_bits(bits.wrapping_add(0x3000))).to_f32();
        let middle = ((f64::from(value.to_f32()) + f64::from(next)) / 2.0) as f32;
        let middle = middle.to_bits();
        [bits, middle, middle.wrapping_add(1), middle.wrapping_sub(1), bits.wrapping_add(0x8000)]
    };
    let random = (0..100_000).scan(Bits(3), |bits, _| Some(bits.next() as u32));
    every.iter().flat_map(around).chain(random).map(f32::from_bits).collect()
}

fn check_narrow<H: Reference>() {
    let input = interesting::<H>();
    for factor in [1.0, 0.125, 3.7] {
        for isa in available() {
            let mut out = vec![H::from_f32(0.0); input.len()];
            H::narrow_on(isa, &mut out, &input, factor);
            for (from, to) in input.iter().zip(&out) {
                let want = H::from_f32(canonical(from * factor));
                assert_eq!(to.bits(), want.bits(), "{from:e} * {factor} on {isa:?}");
            }
        }
    }
}

#[test]
fn narrowing_rounds_to_nearest_even_on_every_instruction_set() {
    check_narrow::<f16>();
    check_narrow::<bf16>();
}

fn check_widen<H: Reference>() {
    let input = H::every();
    for factor in [1.0, 0.125, 3.7] {
        for isa in available() {
            let mut out = vec![0.0; input.len()];
            H::widen_on(isa, &mut out, &input, factor);
            for (from, to) in input.iter().zip(&out) {
                let want = canonical(from.to_f32() * factor);
                assert_eq!(to.to_bits(), want.to_bits(), "{from:?} * {factor} on {isa:?}");
            }
        }
    }
}

#[test]
fn widening_is_exact_on_every_instruction_set() {
    check_widen::<f16>();
    check_widen::<bf16>();
}

#[test]
fn every_length_and_alignment_is_converted_to_its_end() {
    let input: Vec<f32> = (0..200).map(|value| value as f32).collect();
    for (start, count) in (0..20).flat_map(|start| (0..70).map(move |count| (start, count))) {
        let input = &input[start..start + count];
        for isa in available() {
            let mut halves = vec![f16::NAN; count + 7];
            f16::narrow_on(isa, &mut halves[3..count + 3], input, 1.0);
            assert!(halves[..3].iter().chain(&halves[count + 3..]).all(|half| half.is_nan()));
            let mut out = vec![f32::NAN; count + 7];
            f16::widen_on(isa, &mut out[2..count + 2], &halves[3..count + 3], 1.0);
            assert_eq!(&out[2..count + 2], input);
            assert!(out[..2].iter().chain(&out[count + 2..]).all(|number| number.is_nan()));
        }
    }
}
