use std::fmt;
use std::str::FromStr;

use crate::DType;

/// How two elements become one.
///
/// The discriminants are part of the wire format: never renumber, only add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum ReduceOp {
    /// Addition. Integers wrap.
    Sum = 1,
    /// Sum divided by the number of ranks. Floating-point types only.
    Avg = 2,
    /// The smaller element. NaN propagates, −0 is smaller than +0, false is smaller than true.
    Min = 3,
    /// The larger element. NaN propagates, +0 is larger than −0, true is larger than false.
    Max = 4,
    /// Multiplication. Integers wrap.
    Prod = 5,
    /// The bits that are set in both. Integers only.
    BitAnd = 6,
    /// The bits that are set in either. Integers only.
    BitOr = 7,
    /// The bits that are set in exactly one of the two. Integers only.
    BitXor = 8,
    /// Whether both are true. Integers and truth values: 0 is false, the result is 0 or 1.
    LogicalAnd = 9,
    /// Whether either is true. Integers and truth values: 0 is false, the result is 0 or 1.
    LogicalOr = 10,
    /// Whether exactly one of the two is true. Integers and truth values: 0 is false, the result is 0
    /// or 1.
    LogicalXor = 11,
}

impl ReduceOp {
    /// Every operator.
    pub const ALL: [Self; 11] = [
        Self::Sum,
        Self::Avg,
        Self::Min,
        Self::Max,
        Self::Prod,
        Self::BitAnd,
        Self::BitOr,
        Self::BitXor,
        Self::LogicalAnd,
        Self::LogicalOr,
        Self::LogicalXor,
    ];

    /// The name used on the command line and in reports, e.g. `sum`. Those of the bitwise and the
    /// logical operators are MPI's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Prod => "prod",
            Self::BitAnd => "band",
            Self::BitOr => "bor",
            Self::BitXor => "bxor",
            Self::LogicalAnd => "land",
            Self::LogicalOr => "lor",
            Self::LogicalXor => "lxor",
        }
    }

    /// Whether the operator is defined for elements of this type.
    ///
    /// | | floats | integers | bool |
    /// |---|---|---|---|
    /// | sum, prod | yes | yes, wrapping | |
    /// | avg | yes | | |
    /// | min, max | yes | yes | yes |
    /// | band, bor, bxor | | yes | |
    /// | land, lor, lxor | | yes | yes |
    ///
    /// The average of integers would have to round silently. The sum of truth values is `lor` or
    /// `lxor`, and who means one should not get the other.
    pub const fn supports(self, dtype: DType) -> bool {
        match self {
            Self::Sum | Self::Prod => !matches!(dtype, DType::Bool),
            Self::Avg => dtype.is_float(),
            Self::Min | Self::Max => true,
            Self::BitAnd | Self::BitOr | Self::BitXor => dtype.is_integer(),
            Self::LogicalAnd | Self::LogicalOr | Self::LogicalXor => !dtype.is_float(),
        }
    }

    /// The operators that are defined for elements of this type.
    pub fn defined_for(dtype: DType) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |op| op.supports(dtype))
    }

    /// The operator with this wire code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|op| *op as u8 == code)
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no reduction operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown reduction {0:?}; expected one of {names}", names = names())]
pub struct ParseReduceOpError(pub String);

fn names() -> String {
    ReduceOp::ALL.map(ReduceOp::name).join(", ")
}

impl FromStr for ReduceOp {
    type Err = ParseReduceOpError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|op| op.name() == name)
            .ok_or_else(|| ParseReduceOpError(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_round_trip() {
        for op in ReduceOp::ALL {
            assert_eq!(op.name().parse(), Ok(op));
            assert_eq!(ReduceOp::from_code(op as u8), Some(op));
        }
        assert!("mean".parse::<ReduceOp>().is_err());
    }

    /// Frames of other versions carry these.
    #[test]
    fn codes_never_change() {
        assert_eq!(ReduceOp::ALL.map(|op| op as u8), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    /// The table in the documentation of [`ReduceOp::supports`], pair by pair.
    #[test]
    fn defined_pairs_are_those_of_the_table() {
        let floats = ["sum", "avg", "min", "max", "prod"].as_slice();
        let integers = &["sum", "min", "max", "prod", "band", "bor", "bxor", "land", "lor", "lxor"];
        for dtype in DType::ALL {
            let expected = match dtype {
                DType::F64 | DType::F32 | DType::F16 | DType::Bf16 => floats,
                DType::Bool => &["min", "max", "land", "lor", "lxor"],
                _ => integers,
            };
            let defined: Vec<_> = ReduceOp::defined_for(dtype).map(ReduceOp::name).collect();
            assert_eq!(defined, expected, "{dtype}");
        }
    }
}
