use std::fmt;
use std::str::FromStr;

/// The type of one element of a tensor.
///
/// The discriminants are part of the wire format (the signature in every data frame): never
/// renumber, only add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum DType {
    /// IEEE 754 binary64.
    F64 = 1,
    /// IEEE 754 binary32.
    F32 = 2,
    /// IEEE 754 binary16.
    F16 = 3,
    /// The upper half of a binary32: 8 exponent bits, 7 fraction bits.
    Bf16 = 4,
    /// 64-bit two's complement integer.
    I64 = 5,
    /// 32-bit two's complement integer.
    I32 = 6,
    /// 8-bit unsigned integer.
    U8 = 7,
}

impl DType {
    /// Every type, widest float first.
    pub const ALL: [Self; 7] =
        [Self::F64, Self::F32, Self::F16, Self::Bf16, Self::I64, Self::I32, Self::U8];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name used on the command line and in reports, e.g. `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::U8 => "u8",
        }
    }

    /// Whether elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The type with this wire code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| *dtype as u8 == code)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no element type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown element type {0:?}; expected one of f64, f32, f16, bf16, i64, i32, u8")]
pub struct ParseDTypeError(pub String);

impl FromStr for DType {
    type Err = ParseDTypeError;

    /// Accepts our names and those of nccl-tests and NumPy (`float`, `double`, `half`,
    /// `bfloat16`, `int32`, `int64`, `uint8`, `float32` …).
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "f64" | "float64" | "double" => Self::F64,
            "f32" | "float32" | "float" => Self::F32,
            "f16" | "float16" | "half" => Self::F16,
            "bf16" | "bfloat16" => Self::Bf16,
            "i64" | "int64" => Self::I64,
            "i32" | "int32" | "int" => Self::I32,
            "u8" | "uint8" => Self::U8,
            _ => return Err(ParseDTypeError(name.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
            assert_eq!(DType::from_code(dtype as u8), Some(dtype));
        }
        assert_eq!(DType::from_code(0), None);
        assert!("f8".parse::<DType>().is_err());
    }
}
