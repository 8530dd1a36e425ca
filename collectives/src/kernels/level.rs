//! The instruction sets: which of them this machine has, and how code is compiled for each.

use std::sync::OnceLock;

use paceline_devices::f16;

use super::halves::{f16_from_f32, f32_from_f16};

/// An instruction set that the kernels are compiled for.
///
/// Results are the same to the bit on all of them; only the speed differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What the target guarantees: SSE2 on x86-64, NEON on AArch64.
    Portable,
    /// AVX2 with F16C (x86-64).
    Avx2,
    /// AVX-512 F, BW, DQ and VL (x86-64).
    Avx512,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The fastest instruction set of this machine; detected once.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let fastest = Self::ALL.into_iter().rev().find(|isa| isa.is_available());
            fastest.unwrap_or(Self::Portable)
        })
    }

    /// Whether this machine has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }
}

/// How many halves are converted at once where the instruction set has an instruction for it.
pub(super) const GROUP: usize = 16;

/// A loop that [`Level::run`] compiles for one instruction set.
pub(super) trait Body {
    /// Must be `#[inline(always)]`, and so must all that it calls in its loops.
    fn run<L: Level>(self);
}

/// An instruction set as a type, so that one generic body is compiled once for each.
pub(super) trait Level {
    /// Runs `body`, compiled for this instruction set.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn run<B: Body>(body: B);

    /// The values of a group. Call it only inside of [`Level::run`].
    fn widen(group: [f16; GROUP]) -> [f32; GROUP];

    /// Rounds a group to nearest even. Call it only inside of [`Level::run`].
    fn narrow(group: [f32; GROUP]) -> [f16; GROUP];
}

pub(super) struct Portable;

impl Level for Portable {
    #[inline(always)]
    unsafe fn run<B: Body>(body: B) {
        body.run::<Self>();
    }

    #[inline(always)]
    fn widen(group: [f16; GROUP]) -> [f32; GROUP] {
        // A loop, because the compiler does not inline `map` into vector code.
        let mut numbers = [0.0; GROUP];
        for (number, half) in numbers.iter_mut().zip(group) {
            *number = f32_from_f16(half.to_bits());
        }
        numbers
    }

    #[inline(always)]
    fn narrow(group: [f32; GROUP]) -> [f16; GROUP] {
        let mut halves = [f16::ZERO; GROUP];
        for (half, number) in halves.iter_mut().zip(group) {
            *half = f16::from_bits(f16_from_f32(number));
        }
        halves
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, __m256i, __m512, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps,
        _mm256_cvtps_ph, _mm512_cvtph_ps, _mm512_cvtps_ph,
    };
    use std::mem::transmute;

    use super::{Body, GROUP, Level, f16};

    const ROUNDING: i32 = _MM_FROUND_TO_NEAREST_INT;

    pub(in super::super) struct Avx2;

    #[target_feature(enable = "avx2,f16c")]
    fn run_avx2<B: Body>(body: B) {
        body.run::<Avx2>();
    }

    impl Level for Avx2 {
        #[inline(always)]
        unsafe fn run<B: Body>(body: B) {
            // SAFETY: the caller vouches for AVX2 and F16C.
            unsafe { run_avx2(body) }
        }

        #[inline(always)]
        fn widen(group: [f16; GROUP]) -> [f32; GROUP] {
            // SAFETY: both are 32 bytes of plain data.
            let [low, high]: [__m128i; 2] = unsafe { transmute(group) };
            // No `map`, here and below: it is not always inlined into vector code.
            // SAFETY: only `run_avx2` gets here.
            let low = unsafe { _mm256_cvtph_ps(low) };
            // SAFETY: as above.
            let high = unsafe { _mm256_cvtph_ps(high) };
            // SAFETY: both are 64 bytes of plain data.
            unsafe { transmute([low, high]) }
        }

        #[inline(always)]
        fn narrow(group: [f32; GROUP]) -> [f16; GROUP] {
            // SAFETY: both are 64 bytes of plain data.
            let [low, high]: [__m256; 2] = unsafe { transmute(group) };
            // SAFETY: only `run_avx2` gets here.
            let low = unsafe { _mm256_cvtps_ph::<ROUNDING>(low) };
            // SAFETY: as above.
            let high = unsafe { _mm256_cvtps_ph::<ROUNDING>(high) };
            // SAFETY: both are 32 bytes of plain data.
            unsafe { transmute([low, high]) }
        }
    }

    pub(in super::super) struct Avx512;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
    fn run_avx512<B: Body>(body: B) {
        body.run::<Avx512>();
    }

    impl Level for Avx512 {
        #[inline(always)]
        unsafe fn run<B: Body>(body: B) {
            // SAFETY: the caller vouches for AVX-512.
            unsafe { run_avx512(body) }
        }

        #[inline(always)]
        fn widen(group: [f16; GROUP]) -> [f32; GROUP] {
            // SAFETY: both are 32 bytes of plain data.
            let halves: __m256i = unsafe { transmute(group) };
            // SAFETY: only `run_avx512` gets here.
            let wide: __m512 = unsafe { _mm512_cvtph_ps(halves) };
            // SAFETY: both are 64 bytes of plain data.
            unsafe { transmute(wide) }
        }

        #[inline(always)]
        fn narrow(group: [f32; GROUP]) -> [f16; GROUP] {
            // SAFETY: both are 64 bytes of plain data.
            let wide: __m512 = unsafe { transmute(group) };
            // SAFETY: only `run_avx512` gets here.
            let halves: __m256i = unsafe { _mm512_cvtps_ph::<ROUNDING>(wide) };
            // SAFETY: both are 32 bytes of plain data.
            unsafe { transmute(halves) }
        }
    }
}
