//! The reference: one element at a time, halves through the `half` crate, integers exact in 128 bits.

use std::cmp::Ordering;

use paceline_devices::{DType, ReduceOp, bf16, f16};

pub(super) fn reference(dtype: DType, op: ReduceOp, a: &[u8], b: &[u8]) -> Vec<u8> {
    match dtype {
        DType::F64 => each(a, b, |a, b| {
            let (a, b) = (f64::from_le_bytes(a), f64::from_le_bytes(b));
            let combined = float(op, a, b, a + b, a * b, a.is_nan() || b.is_nan(), a.total_cmp(&b));
            let bits = if combined.is_nan() { 0x7ff8 << 48 } else { combined.to_bits() };
            bits.to_le_bytes()
        }),
        DType::F32 => each(a, b, |a, b| {
            f32_reference(op, f32::from_le_bytes(a), f32::from_le_bytes(b)).to_le_bytes()
        }),
        DType::F16 => each(a, b, |a, b| {
            let (a, b) = (f16::from_le_bytes(a).to_f32(), f16::from_le_bytes(b).to_f32());
            f16::from_f32(f32_reference(op, a, b)).to_le_bytes()
        }),
        DType::Bf16 => each(a, b, |a, b| {
            let (a, b) = (bf16::from_le_bytes(a).to_f32(), bf16::from_le_bytes(b).to_f32());
            bf16::from_f32(f32_reference(op, a, b)).to_le_bytes()
        }),
        DType::Bool => each(a, b, |[a], [b]| [truth(op, a != 0, b != 0)]),
        _ => {
            let size = dtype.size();
            let (a, b) = (a.chunks_exact(size), b.chunks_exact(size));
            let combined =
                a.zip(b).map(|(a, b)| integer(op, dtype, wide(dtype, a), wide(dtype, b)));
            combined.flat_map(|wide| wide.to_le_bytes()[..size].to_vec()).collect()
        }
    }
}

fn each<const N: usize>(a: &[u8], b: &[u8], f: impl Fn([u8; N], [u8; N]) -> [u8; N]) -> Vec<u8> {
    let (a, b) = (a.as_chunks::<N>().0, b.as_chunks::<N>().0);
    a.iter().zip(b).flat_map(|(a, b)| f(*a, *b)).collect()
}

fn float<F>(op: ReduceOp, a: F, b: F, sum: F, product: F, any_nan: bool, order: Ordering) -> F
where
    F: From<f32>,
{
    match op {
        ReduceOp::Sum | ReduceOp::Avg => sum,
        ReduceOp::Prod => product,
        _ if any_nan => F::from(f32::NAN),
        ReduceOp::Min => {
            if order.is_le() {
                a
            } else {
                b
            }
        }
        ReduceOp::Max => {
            if order.is_ge() {
                a
            } else {
                b
            }
        }
        _ => unreachable!("an operator without a reference"),
    }
}

fn f32_reference(op: ReduceOp, a: f32, b: f32) -> f32 {
    let combined = float(op, a, b, a + b, a * b, a.is_nan() || b.is_nan(), a.total_cmp(&b));
    if combined.is_nan() { f32::from_bits(0x7fc0_0000) } else { combined }
}

/// An element as a number that every integer type fits into.
fn wide(dtype: DType, element: &[u8]) -> i128 {
    let mut bytes = [0; 16];
    bytes[..element.len()].copy_from_slice(element);
    if dtype.is_signed() && element[element.len() - 1] & 0x80 != 0 {
        bytes[element.len()..].fill(0xff);
    }
    i128::from_le_bytes(bytes)
}

/// Exact modulo 2^128; wrapping is truncation.
fn integer(op: ReduceOp, dtype: DType, a: i128, b: i128) -> i128 {
    match op {
        ReduceOp::Sum => a + b,
        ReduceOp::Prod => a.wrapping_mul(b),
        ReduceOp::Min => a.min(b),
        ReduceOp::Max => a.max(b),
        ReduceOp::BitAnd => a & b,
        ReduceOp::BitOr => a | b,
        ReduceOp::BitXor => a ^ b,
        ReduceOp::LogicalAnd | ReduceOp::LogicalOr | ReduceOp::LogicalXor => {
            truth(op, a != 0, b != 0).into()
        }
        _ => unreachable!("{op} of {dtype} without a reference"),
    }
}

fn truth(op: ReduceOp, a: bool, b: bool) -> u8 {
    u8::from(match op {
        ReduceOp::LogicalAnd | ReduceOp::Min => a && b,
        ReduceOp::LogicalOr | ReduceOp::Max => a || b,
        ReduceOp::LogicalXor => a != b,
        _ => unreachable!("{op} of truth values without a reference"),
    })
}

/// What a lone operand is reduced to.
pub(super) fn alone(dtype: DType, op: ReduceOp, operand: &[u8]) -> Vec<u8> {
    match op {
        ReduceOp::LogicalAnd | ReduceOp::LogicalOr | ReduceOp::LogicalXor => {
            let element = |element: &[u8]| {
                let mut truth = vec![0; element.len()];
                truth[0] = u8::from(element.iter().any(|byte| *byte != 0));
                truth
            };
            operand.chunks_exact(dtype.size()).flat_map(element).collect()
        }
        _ if dtype == DType::Bool => operand.iter().map(|byte| u8::from(*byte != 0)).collect(),
        _ => operand.to_vec(),
    }
}

/// The reference for [`Scaler`](super::super::Scaler).
#[expect(clippy::cast_possible_truncation, reason = "the factor is rounded")]
pub(super) fn scaled(dtype: DType, data: &[u8], factor: f64) -> Vec<u8> {
    let canonical = |x: f32| if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x };
    let times = |x: f32| canonical(x * factor as f32);
    match dtype {
        DType::F64 => each(data, data, |x, _| {
            let product = f64::from_le_bytes(x) * factor;
            let bits = if product.is_nan() { 0x7ff8 << 48 } else { product.to_bits() };
            bits.to_le_bytes()
        }),
        DType::F32 => each(data, data, |x, _| times(f32::from_le_bytes(x)).to_le_bytes()),
        DType::F16 => each(data, data, |x, _| {
            f16::from_f32(times(f16::from_le_bytes(x).to_f32())).to_le_bytes()
        }),
        DType::Bf16 => each(data, data, |x, _| {
            bf16::from_f32(times(bf16::from_le_bytes(x).to_f32())).to_le_bytes()
        }),
        _ => unreachable!("integers have no scale"),
    }
}

/// The reference for [`Kernel::finish`].
pub(super) fn finished(dtype: DType, op: ReduceOp, sum: &[u8], ranks: u32) -> Vec<u8> {
    let divided = |sum: f32| {
        let quotient = sum / ranks as f32;
        if quotient.is_nan() { f32::from_bits(0x7fc0_0000) } else { quotient }
    };
    match (op, dtype) {
        (ReduceOp::Avg, DType::F64) => each(sum, sum, |sum, _| {
            let quotient = f64::from_le_bytes(sum) / f64::from(ranks);
            let bits = if quotient.is_nan() { 0x7ff8 << 48 } else { quotient.to_bits() };
            bits.to_le_bytes()
        }),
        (ReduceOp::Avg, DType::F32) => {
            each(sum, sum, |sum, _| divided(f32::from_le_bytes(sum)).to_le_bytes())
        }
        (ReduceOp::Avg, DType::F16) => each(sum, sum, |sum, _| {
            f16::from_f32(divided(f16::from_le_bytes(sum).to_f32())).to_le_bytes()
        }),
        (ReduceOp::Avg, DType::Bf16) => each(sum, sum, |sum, _| {
            bf16::from_f32(divided(bf16::from_le_bytes(sum).to_f32())).to_le_bytes()
        }),
        _ => sum.to_vec(),
    }
}
