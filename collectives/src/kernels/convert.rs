//! Conversions between `f32` and the halves, for elements that are shorter on the wire.
//!
//! Numbers are rounded once to nearest even, beyond the range to infinity; a NaN stays one, the
//! canonical one. The bits are the same on every instruction set.

use paceline_devices::{Element, bf16, f16};

#[cfg(target_arch = "x86_64")]
use super::level::{Avx2, Avx512};
use super::level::{Body, GROUP, Isa, Level, Portable};

/// A floating-point type of half the size of `f32`: `f16` or `bf16`.
#[expect(private_bounds, reason = "the bound seals the trait")]
pub trait Half: Element + Convert {}

impl Half for f16 {}
impl Half for bf16 {}

/// The loops, compiled for one instruction set.
trait Loops: Copy {
    /// `out[i] = input[i] * factor`; the lengths are equal.
    fn narrow<L: Level>(out: &mut [Self], input: &[f32], factor: f32);

    /// `out[i] = input[i] * factor`; the lengths are equal.
    fn widen<L: Level>(out: &mut [f32], input: &[Self], factor: f32);
}

/// The product, with every NaN the canonical one.
#[inline(always)]
fn product(number: f32, factor: f32) -> f32 {
    let product = number * factor;
    f32::from_bits(if product.is_nan() { 0x7fc0_0000 } else { product.to_bits() })
}

impl Loops for bf16 {
    #[inline(always)]
    fn narrow<L: Level>(out: &mut [Self], input: &[f32], factor: f32) {
        for (half, number) in out.iter_mut().zip(input) {
            let bits = product(*number, factor).to_bits();
            // No carry out of the exponent: it is all ones only in infinity and the canonical NaN.
            *half = Self::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16);
        }
    }

    #[inline(always)]
    fn widen<L: Level>(out: &mut [f32], input: &[Self], factor: f32) {
        for (number, half) in out.iter_mut().zip(input) {
            *number = product(f32::from_bits(u32::from(half.to_bits()) << 16), factor);
        }
    }
}

impl Loops for f16 {
    #[inline(always)]
    fn narrow<L: Level>(out: &mut [Self], input: &[f32], factor: f32) {
        let ((out, out_rest), (input, rest)) = (out.as_chunks_mut(), input.as_chunks());
        for (out, input) in out.iter_mut().zip(input) {
            *out = narrow_group::<L>(*input, factor);
        }
        if !rest.is_empty() {
            let mut last = [0.0; GROUP];
            last[..rest.len()].copy_from_slice(rest);
            out_rest.copy_from_slice(&narrow_group::<L>(last, factor)[..rest.len()]);
        }
    }

    #[inline(always)]
    fn widen<L: Level>(out: &mut [f32], input: &[Self], factor: f32) {
        let ((out, out_rest), (input, rest)) = (out.as_chunks_mut(), input.as_chunks());
        for (out, input) in out.iter_mut().zip(input) {
            *out = widen_group::<L>(*input, factor);
        }
        if !rest.is_empty() {
            let mut last = [Self::ZERO; GROUP];
            last[..rest.len()].copy_from_slice(rest);
            out_rest.copy_from_slice(&widen_group::<L>(last, factor)[..rest.len()]);
        }
    }
}

#[inline(always)]
fn narrow_group<L: Level>(mut group: [f32; GROUP], factor: f32) -> [f16; GROUP] {
    for number in &mut group {
        *number = product(*number, factor);
    }
    L::narrow(group)
}

#[inline(always)]
fn widen_group<L: Level>(group: [f16; GROUP], factor: f32) -> [f32; GROUP] {
    let mut numbers = L::widen(group);
    for number in &mut numbers {
        *number = product(*number, factor);
    }
    numbers
}

struct Narrow<'a, H> {
    out: &'a mut [H],
    input: &'a [f32],
    factor: f32,
}

impl<H: Loops> Body for Narrow<'_, H> {
    #[inline(always)]
    fn run<L: Level>(self) {
        H::narrow::<L>(self.out, self.input, self.factor);
    }
}

struct Widen<'a, H> {
    out: &'a mut [f32],
    input: &'a [H],
    factor: f32,
}

impl<H: Loops> Body for Widen<'_, H> {
    #[inline(always)]
    fn run<L: Level>(self) {
        H::widen::<L>(self.out, self.input, self.factor);
    }
}

/// `out[i] = input[i] * factor`, rounded once to `f32` and once to the half.
///
/// # Panics
/// If the lengths differ.
pub fn narrow<H: Half>(out: &mut [H], input: &[f32], factor: f32) {
    H::narrow_on(Isa::best(), out, input, factor);
}

/// `out[i] = input[i] * factor`.
///
/// # Panics
/// If the lengths differ.
pub fn widen<H: Half>(out: &mut [f32], input: &[H], factor: f32) {
    H::widen_on(Isa::best(), out, input, factor);
}

/// The conversions on one instruction set. Not generic, so that they are compiled in this crate.
pub(super) trait Convert: Sized {
    fn narrow_on(isa: Isa, out: &mut [Self], input: &[f32], factor: f32);
    fn widen_on(isa: Isa, out: &mut [f32], input: &[Self], factor: f32);
}

macro_rules! conversions {
    ($($half:ty),*) => {$(
        impl Convert for $half {
            fn narrow_on(isa: Isa, out: &mut [Self], input: &[f32], factor: f32) {
                assert_eq!(out.len(), input.len(), "operands differ in length");
                run(isa, Narrow { out, input, factor });
            }

            fn widen_on(isa: Isa, out: &mut [f32], input: &[Self], factor: f32) {
                assert_eq!(out.len(), input.len(), "operands differ in length");
                run(isa, Widen { out, input, factor });
            }
        }
    )*};
}

conversions!(f16, bf16);

fn run<B: Body>(isa: Isa, body: B) {
    assert!(isa.is_available(), "the machine lacks {isa:?}");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the assertion above.
        Isa::Avx2 => unsafe { Avx2::run(body) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the assertion above.
        Isa::Avx512 => unsafe { Avx512::run(body) },
        // SAFETY: every machine has it.
        _ => unsafe { Portable::run(body) },
    }
}
