//! Elements and what reductions of them are, by the definition: one number after the other, in numbers
//! that everything fits into.

use paceline_collectives::{Bool, DType, Element, ReduceOp, bf16, f16};

/// An element type whose values in these tests are whole numbers.
pub(crate) trait Value: Element {
    /// The nearest element; of integers the lowest bits.
    fn from_number(number: i128) -> Self;

    fn number(self) -> i128;

    /// What is compared.
    fn bits(self) -> u64;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it wraps")]
            fn from_number(number: i128) -> Self {
                number as Self
            }

            fn number(self) -> i128 {
                i128::from(self)
            }

            #[allow(clippy::cast_sign_loss, clippy::cast_lossless, reason = "bits")]
            fn bits(self) -> u64 {
                self as u64
            }
        }
    )*};
}

integers!(i64, i32, i16, i8, u64, u32, u16, u8);

macro_rules! floats {
    ($($type:ty: $from:expr, $to:expr);*) => {$(
        impl Value for $type {
            #[allow(clippy::cast_precision_loss, reason = "they are small")]
            fn from_number(number: i128) -> Self {
                $from(number as f32)
            }

            #[allow(clippy::cast_possible_truncation, reason = "they are small")]
            fn number(self) -> i128 {
                $to(self) as i128
            }

            fn bits(self) -> u64 {
                self.to_bits().into()
            }
        }
    )*};
}

floats!(
    f64: f64::from, |x| x;
    f32: |x| x, |x| x;
    f16: f16::from_f32, f16::to_f32;
    bf16: bf16::from_f32, bf16::to_f32
);

impl Value for Bool {
    fn from_number(number: i128) -> Self {
        Self::from_byte(u8::from_number(number))
    }

    fn number(self) -> i128 {
        i128::from(self.is_true())
    }

    fn bits(self) -> u64 {
        u64::from(self.is_true())
    }
}

/// Pseudo-random bits for an element of a rank.
pub(crate) fn hash(numbers: [u64; 3]) -> u64 {
    numbers.into_iter().fold(0x9e37_79b9_7f4a_7c15, |hash, number| {
        let mixed = (hash ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// An element of a rank. Floats are such that every result is exact, in whatever order it is made.
pub(crate) fn sample<T: Value>(
    op: ReduceOp,
    ranks: u32,
    (salt, rank, index): (u64, u32, usize),
) -> T {
    let bits = hash([salt, u64::from(rank), index as u64]);
    let any = i128::from(bits >> 3);
    T::from_number(match (op, T::DTYPE.is_float()) {
        (ReduceOp::Prod, true) => [1, -1, 2, 1][(bits % 4) as usize],
        (ReduceOp::Avg, true) => i128::from(ranks) * (any % 5 - 2),
        (_, true) => any % 17 - 8,
        // Every fourth is 0, or conjunctions would all be true.
        (_, false) if bits.is_multiple_of(4) => 0,
        (_, false) => any,
    })
}

/// What all ranks' numbers become together.
pub(crate) fn reduced<T: Value>(op: ReduceOp, numbers: &[i128]) -> T {
    let all = |f: fn(i128, i128) -> i128| numbers.iter().copied().reduce(f).expect("some rank");
    let truth = numbers.iter().filter(|number| **number != 0).count();
    T::from_number(match op {
        ReduceOp::Sum => all(i128::wrapping_add),
        ReduceOp::Avg => all(i128::wrapping_add) / numbers.len() as i128,
        ReduceOp::Prod => all(i128::wrapping_mul),
        ReduceOp::Min => all(i128::min),
        ReduceOp::Max => all(i128::max),
        ReduceOp::BitAnd => all(|a, b| a & b),
        ReduceOp::BitOr => all(|a, b| a | b),
        ReduceOp::BitXor => all(|a, b| a ^ b),
        ReduceOp::LogicalAnd => i128::from(truth == numbers.len()),
        ReduceOp::LogicalOr => i128::from(truth > 0),
        ReduceOp::LogicalXor => i128::from(truth % 2 == 1),
        _ => unreachable!("an operator without a definition here"),
    })
}

/// Calls `$run::<T>($($argument),*)` for the type that `$dtype` says.
macro_rules! for_dtype {
    ($dtype:expr, $run:ident($($argument:expr),*)) => {
        match $dtype {
            DType::F64 => $run::<f64>($($argument),*),
            DType::F32 => $run::<f32>($($argument),*),
            DType::F16 => $run::<f16>($($argument),*),
            DType::Bf16 => $run::<bf16>($($argument),*),
            DType::I64 => $run::<i64>($($argument),*),
            DType::I32 => $run::<i32>($($argument),*),
            DType::I16 => $run::<i16>($($argument),*),
            DType::I8 => $run::<i8>($($argument),*),
            DType::U64 => $run::<u64>($($argument),*),
            DType::U32 => $run::<u32>($($argument),*),
            DType::U16 => $run::<u16>($($argument),*),
            DType::U8 => $run::<u8>($($argument),*),
            DType::Bool => $run::<Bool>($($argument),*),
            other => unreachable!("{other} has no values here"),
        }
    };
}

/// What [`super::task::perform`] does, for a type known at run time only.
pub(crate) fn perform(
    communicator: &paceline_collectives::Communicator,
    dtype: DType,
    task: &super::task::Task,
) -> super::task::Verdict {
    use super::task::perform;
    for_dtype!(dtype, perform(communicator, task))
}
