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
    /// The smaller element. NaN propagates, −0 is smaller than +0.
    Min = 3,
    /// The larger element. NaN propagates, +0 is larger than −0.
    Max = 4,
    /// Multiplication. Integers wrap.
    Prod = 5,
}

impl ReduceOp {
    /// Every operator.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Avg, Self::Min, Self::Max, Self::Prod];

    /// The name used on the command line and in reports, e.g. `sum`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Prod => "prod",
        }
    }

    /// Whether the operator is defined for elements of this type: all are, except the average of
    /// integers, which would have to round silently.
    pub const fn supports(self, dtype: DType) -> bool {
        !matches!(self, Self::Avg) || dtype.is_float()
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
#[error("unknown reduction {0:?}; expected one of sum, avg, min, max, prod")]
pub struct ParseReduceOpError(pub String);

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

    #[test]
    fn integers_have_no_average() {
        assert!(!ReduceOp::Avg.supports(DType::I32));
        assert!(ReduceOp::Avg.supports(DType::Bf16));
        assert!(ReduceOp::Sum.supports(DType::U8));
    }
}
