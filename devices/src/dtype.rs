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
    /// 8-bit two's complement integer.
    I8 = 8,
    /// 16-bit two's complement integer.
    I16 = 9,
    /// 16-bit unsigned integer.
    U16 = 10,
    /// 32-bit unsigned integer.
    U32 = 11,
    /// 64-bit unsigned integer.
    U64 = 12,
    /// A truth value in one byte: 0 is false, everything else true. See [`Bool`](crate::Bool).
    Bool = 13,
}

impl DType {
    /// Every type: floats, signed integers, unsigned integers, the widest of each first; then truth
    /// values.
    pub const ALL: [Self; 13] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
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
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// Whether elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Whether elements are integers; truth values are not.
    pub const fn is_integer(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool)
    }

    /// Whether elements can be negative.
    pub const fn is_signed(self) -> bool {
        self.is_float() || matches!(self, Self::I64 | Self::I32 | Self::I16 | Self::I8)
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
#[error("unknown element type {0:?}; expected one of {names}", names = names())]
pub struct ParseDTypeError(pub String);

fn names() -> String {
    DType::ALL.map(DType::name).join(", ")
}

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
            "i16" | "int16" => Self::I16,
            "i8" | "int8" => Self::I8,
            "u64" | "uint64" => Self::U64,
            "u32" | "uint32" => Self::U32,
            "u16" | "uint16" => Self::U16,
            "u8" | "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => return Err(ParseDTypeError(name.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of other versions carry these.
    #[test]
    fn codes_never_change() {
        let codes = DType::ALL.map(|dtype| dtype as u8);
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 9, 8, 12, 11, 10, 7, 13]);
    }

    #[test]
    fn names_and_codes_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
            assert_eq!(DType::from_code(dtype as u8), Some(dtype));
        }
        assert_eq!(DType::from_code(0), None);
        let error = "f8".parse::<DType>().unwrap_err().to_string();
        assert!(error.contains("\"f8\"") && error.contains("u64") && error.contains("bool"));
    }
}
