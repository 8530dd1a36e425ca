//! The halves in portable integer and `f32` arithmetic, branch-free so that loops over them
//! vectorise.

use std::mem::transmute;

use paceline_devices::bf16;

/// The value of IEEE 754 binary16 `bits`; a NaN keeps its payload.
#[inline(always)]
pub(super) fn f32_from_f16(bits: u16) -> f32 {
    const REBIAS: u32 = (127 - 15) << 23;
    const INFINITY: u32 = 0x7c00 << 13;
    const SMALLEST_NORMAL: u32 = 0x0400 << 13;
    let sign = (u32::from(bits) & 0x8000) << 16;
    let magnitude = (u32::from(bits) & 0x7fff) << 13;
    let normal = magnitude + REBIAS;
    // With an exponent of one instead of zero a subnormal is too large by exactly 2^-14.
    let one_exponent_up = magnitude + REBIAS + SMALLEST_NORMAL;
    let smallest_normal = f32::from_bits(REBIAS + SMALLEST_NORMAL);
    let subnormal = (f32::from_bits(one_exponent_up) - smallest_normal).to_bits();
    let finite = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= INFINITY { normal + REBIAS } else { finite })
}

/// `value` rounded to nearest even as IEEE 754 binary16; any NaN becomes a quiet one of its sign.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the upper halves are zero by construction")]
pub(super) fn f16_from_f32(value: f32) -> u16 {
    const REBIAS: u32 = (127 - 15) << 23;
    const INFINITY: u32 = 0x7f80_0000;
    const OVERFLOW: u32 = (127 + 16) << 23;
    const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
    let sign = (value.to_bits() >> 16) & 0x8000;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let tie_to_even = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0xfff + tie_to_even) >> 13;
    // One unit in the last place of 0.5 is the smallest subnormal half: the adder rounds for us.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    let special = if magnitude > INFINITY { 0x7e00 } else { 0x7c00 };
    let finite = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    (sign | if magnitude >= OVERFLOW { special } else { finite }) as u16
}

/// The values of two bfloat16.
#[inline(always)]
pub(super) fn bf16_pair_values(pair: [bf16; 2]) -> [f32; 2] {
    // SAFETY: both are four bytes of plain data.
    let word: u32 = unsafe { transmute(pair) };
    let in_order = [word << 16, word & 0xffff_0000].map(f32::from_bits);
    if cfg!(target_endian = "little") { in_order } else { [in_order[1], in_order[0]] }
}

/// Two values rounded to nearest even as bfloat16. Neither is a NaN other than the canonical one.
#[inline(always)]
pub(super) fn bf16_pair(values: [f32; 2]) -> [bf16; 2] {
    // No carry out of the exponent: it is all ones only with an empty fraction (infinity) or one
    // that has just the first bit (canonical NaN).
    let rounded = values.map(|value| {
        let bits = value.to_bits();
        bits.wrapping_add(0x7fff + ((bits >> 16) & 1))
    });
    let [low, high] =
        if cfg!(target_endian = "little") { rounded } else { [rounded[1], rounded[0]] };
    // SAFETY: both are four bytes of plain data.
    unsafe { transmute((low >> 16) | (high & 0xffff_0000)) }
}
