use half::{bf16, f16};

use crate::{Bool, DType};

mod sealed {
    #[expect(unnameable_types, reason = "the point of a sealed trait")]
    pub trait Sealed {}
}

/// A Rust type that is the in-memory form of one [`DType`].
///
/// Sealed: every implementor is plain old data without padding, for which every bit pattern is a
/// value. The collectives rely on that when they move elements as bytes.
pub trait Element:
    Copy + Send + Sync + PartialEq + std::fmt::Debug + sealed::Sealed + 'static
{
    /// The element type that this Rust type stores.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {
        $(
            impl sealed::Sealed for $rust {}
            impl Element for $rust {
                const DTYPE: DType = DType::$dtype;
            }
            const _: () = assert!(size_of::<$rust>() == DType::$dtype.size());
        )*
    };
}

elements!(
    f64 => F64, f32 => F32, f16 => F16, bf16 => Bf16,
    i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8,
    Bool => Bool
);
