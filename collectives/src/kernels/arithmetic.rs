//! What one element operation computes, in scalar code that the compiler vectorises.

/// A number that can be added and multiplied. Halves are not: they are computed in `f32`.
pub(super) trait Arithmetic: Copy {
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
}

/// A number of which the smaller and the larger can be selected.
pub(super) trait Ordered: Copy {
    fn minimum(self, other: Self) -> Self;
    fn maximum(self, other: Self) -> Self;
}

/// An integer, as its bits.
pub(super) trait Bits: Copy {
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
}

/// An integer, as whether it is not 0. Results are 0 or 1.
pub(super) trait Truth: Copy {
    fn both(self, other: Self) -> Self;
    fn either(self, other: Self) -> Self;
    fn one(self, other: Self) -> Self;
}

// Wrapping arithmetic and truth do not depend on the sign, so signed integers are computed as
// unsigned ones.
macro_rules! unsigned_integers {
    ($($integer:ty),*) => {$(
        impl Arithmetic for $integer {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
        }

        impl Truth for $integer {
            #[inline(always)]
            fn both(self, other: Self) -> Self {
                Self::from((self != 0) & (other != 0))
            }
            #[inline(always)]
            fn either(self, other: Self) -> Self {
                Self::from((self | other) != 0)
            }
            #[inline(always)]
            fn one(self, other: Self) -> Self {
                Self::from((self != 0) ^ (other != 0))
            }
        }
    )*};
}

unsigned_integers!(u64, u32, u16, u8);

// Bits do not depend on the width either.
impl Bits for u8 {
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self & other
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }
}

macro_rules! ordered_integers {
    ($($integer:ty),*) => {$(
        impl Ordered for $integer {
            #[inline(always)]
            fn minimum(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                self.max(other)
            }
        }
    )*};
}

ordered_integers!(i64, i32, i16, i8, u64, u32, u16, u8);

/// A floating-point number, which alone can be averaged and scaled.
pub(super) trait Float: Arithmetic {
    /// `factor` rounded to nearest even.
    fn factor(factor: f64) -> Self;
    /// The number of ranks as a divisor; exact below 2^24.
    fn divisor(ranks: u32) -> Self;
    fn quotient(self, divisor: Self) -> Self;
}

// Which NaN an operation returns is the hardware's choice, and the compiler may swap operands. One
// canonical quiet NaN makes every operator commutative to the bit on every instruction set.
macro_rules! ieee_floats {
    ($($float:ty: $quiet_nan:literal),*) => {$(
        impl Arithmetic for $float {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                let sum = self + other;
                Self::from_bits(if sum.is_nan() { $quiet_nan } else { sum.to_bits() })
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                let product = self * other;
                Self::from_bits(if product.is_nan() { $quiet_nan } else { product.to_bits() })
            }
        }

        impl Ordered for $float {
            // A compare-and-select keeps its second operand where the two compare equal, so the
            // two orders differ only for -0 and +0, whose bits OR to -0 and AND to +0.
            #[inline(always)]
            fn minimum(self, other: Self) -> Self {
                let one = if self < other { self } else { other };
                let two = if other < self { other } else { self };
                let unordered = self.is_nan() || other.is_nan();
                Self::from_bits(if unordered { $quiet_nan } else { one.to_bits() | two.to_bits() })
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                let one = if self > other { self } else { other };
                let two = if other > self { other } else { self };
                let unordered = self.is_nan() || other.is_nan();
                Self::from_bits(if unordered { $quiet_nan } else { one.to_bits() & two.to_bits() })
            }
        }

        impl Float for $float {
            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "to round is what it is for")]
            fn factor(factor: f64) -> Self {
                factor as Self
            }
            #[inline(always)]
            fn divisor(ranks: u32) -> Self {
                ranks as Self
            }
            #[inline(always)]
            fn quotient(self, divisor: Self) -> Self {
                let quotient = self / divisor;
                Self::from_bits(if quotient.is_nan() { $quiet_nan } else { quotient.to_bits() })
            }
        }
    )*};
}

ieee_floats!(f32: 0x7fc0_0000, f64: 0x7ff8_0000_0000_0000);

/// The order of halves, which selects one operand and so needs neither `f32` nor rounding.
///
/// `INFINITY` is the bit pattern that separates numbers from NaNs.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct OrderedHalf<const INFINITY: i16>(i16);

pub(super) type OrderedF16 = OrderedHalf<0x7c00>;
pub(super) type OrderedBf16 = OrderedHalf<0x7f80>;

impl<const INFINITY: i16> OrderedHalf<INFINITY> {
    /// The most significant fraction bit: in it a quiet NaN differs from infinity.
    const QUIET: i16 = (INFINITY & -INFINITY) >> 1;

    /// Maps bit patterns to integers of the same order, and back.
    #[inline(always)]
    fn flip_negative(bits: i16) -> i16 {
        bits ^ ((bits >> 15) & 0x7fff)
    }

    #[inline(always)]
    fn select(self, other: Self, select: impl Fn(i16, i16) -> i16) -> Self {
        let selected = select(Self::flip_negative(self.0), Self::flip_negative(other.0));
        let is_nan = (self.0 & 0x7fff).max(other.0 & 0x7fff) > INFINITY;
        Self(if is_nan { INFINITY | Self::QUIET } else { Self::flip_negative(selected) })
    }
}

impl<const INFINITY: i16> Ordered for OrderedHalf<INFINITY> {
    #[inline(always)]
    fn minimum(self, other: Self) -> Self {
        self.select(other, i16::min)
    }
    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        self.select(other, i16::max)
    }
}

/// A binary operator of [`paceline_devices::ReduceOp`] on numbers of one type.
pub(super) trait Operator<N> {
    fn combine(accumulated: N, next: N) -> N;
}

macro_rules! operators {
    ($($operator:ident: $ability:ident => $method:ident),*) => {$(
        pub(super) struct $operator;

        impl<N: $ability> Operator<N> for $operator {
            #[inline(always)]
            fn combine(accumulated: N, next: N) -> N {
                accumulated.$method(next)
            }
        }
    )*};
}

operators!(
    Sum: Arithmetic => sum,
    Product: Arithmetic => product,
    Minimum: Ordered => minimum,
    Maximum: Ordered => maximum,
    BitAnd: Bits => and,
    BitOr: Bits => or,
    BitXor: Bits => xor,
    LogicalAnd: Truth => both,
    LogicalOr: Truth => either,
    LogicalXor: Truth => one
);
