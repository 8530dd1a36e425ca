//! The elements that a rank without data contributes.

use paceline_devices::{Bool, Element, ReduceOp, bf16, f16};

use super::request::Operator;

/// Types with elements that change nothing when others are combined with them.
pub(super) trait Neutral: Element {
    /// The neutral element of an operator that is defined for the type. That of an average is the one
    /// of the sum: the average is over all ranks, whether they have data or not.
    fn neutral(op: ReduceOp) -> Self;
}

/// Whether there is a neutral element. Factors before the reduction would apply to it, too, which only
/// zeros survive.
pub(super) fn exists(operator: &Operator) -> bool {
    let is_scaled = operator.scale().before.to_bits() != 1.0f64.to_bits();
    match operator.built_in() {
        None => false,
        Some(ReduceOp::Sum | ReduceOp::Avg) => true,
        Some(_) => !is_scaled,
    }
}

macro_rules! floats {
    ($($float:ty { $zero:expr, $one:expr }),*) => {$(
        impl Neutral for $float {
            fn neutral(op: ReduceOp) -> Self {
                match op {
                    ReduceOp::Prod => $one,
                    ReduceOp::Min => <$float>::INFINITY,
                    ReduceOp::Max => <$float>::NEG_INFINITY,
                    // Negative, because −0 + 0 = 0, but −0 + −0 = −0.
                    _ => $zero,
                }
            }
        }
    )*};
}

floats!(
    f64 { -0.0, 1.0 },
    f32 { -0.0, 1.0 },
    f16 { Self::NEG_ZERO, Self::ONE },
    bf16 { Self::NEG_ZERO, Self::ONE }
);

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Neutral for $integer {
            fn neutral(op: ReduceOp) -> Self {
                match op {
                    ReduceOp::Prod | ReduceOp::LogicalAnd => 1,
                    ReduceOp::Min => Self::MAX,
                    ReduceOp::Max => Self::MIN,
                    ReduceOp::BitAnd => !0,
                    _ => 0,
                }
            }
        }
    )*};
}

integers!(i64, i32, i16, i8, u64, u32, u16, u8);

impl Neutral for Bool {
    fn neutral(op: ReduceOp) -> Self {
        Self::from(matches!(op, ReduceOp::Min | ReduceOp::LogicalAnd))
    }
}
