//! Test data whose reduction is exact in any order, and the check against the exact answer.
//!
//! Every rank's element at index *i* of iteration *t* is taken from a table of [`PERIOD`] pseudo-
//! random entries at position (*i* + *t* × stride) mod [`PERIOD`], one table per rank. The period
//! is prime, so data that ends up at a wrong offset, in a wrong chunk or from a former iteration
//! differs; the answer is a table of the same period, so filling and checking run at the speed of
//! memory.
//!
//! The entries are chosen so that no partial result of any order of reduction needs rounding:
//! sums of small integers within the mantissa, products of signs and a bounded number of powers of
//! two, averages of multiples of the world size. Integers may wrap: they do so in any order alike.

use paceline_devices::{Bool, DType, Element, ReduceOp, bf16, f16};

use crate::random::mix64;

/// Entries in a table: prime, and small enough that two tables of 8-byte elements stay in L2.
pub const PERIOD: usize = 4093;

/// How far the table moves from one iteration to the next.
const ITERATION_STRIDE: usize = 1021;

/// Largest magnitude of an entry: enough to tell entries apart, small enough to read in a debugger.
const MAGNITUDE_MAX: u64 = 1000;

/// An element type that test data can be made of.
pub trait TestElement: Element {
    /// All integers up to this magnitude are values of the type; the sums of integer types wrap,
    /// so that for them there is no limit.
    const EXACT_MAX: u64;

    /// A product may hold this many factors of 2 or 1/2 without overflow or loss of digits.
    const EXPONENT_MAX: u64;

    /// The integer `value`: exact in a float, which only small ones reach; wrapped in an integer.
    fn from_integer(value: i64) -> Self;

    /// A number that the type holds exactly.
    fn from_exact(value: f64) -> Self;

    /// The bit pattern: what makes two elements the same.
    fn bits(self) -> u64;
}

macro_rules! float_elements {
    ($($rust:ty, $mantissa:literal, $exponents:literal, $from:expr;)*) => {$(
        impl TestElement for $rust {
            const EXACT_MAX: u64 = 1 << $mantissa;
            const EXPONENT_MAX: u64 = $exponents;

            #[expect(clippy::cast_precision_loss, reason = "entries and answers are below 2^24")]
            fn from_integer(value: i64) -> Self {
                Self::from_exact(value as f64)
            }

            fn from_exact(value: f64) -> Self {
                $from(value)
            }

            fn bits(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    )*};
}

#[expect(clippy::cast_possible_truncation, reason = "callers pass values that are exact in f32")]
const fn narrow(value: f64) -> f32 {
    value as f32
}

// Mantissa bits with the hidden one (all integers up to 2^n are exact), and a bound on exponents
// that stays among normal numbers. f64 sums are kept to 2^24: entries need no more.
float_elements! {
    f64, 24, 1000, std::convert::identity;
    f32, 24, 120, narrow;
    bf16, 8, 120, bf16::from_f64;
    f16, 11, 14, f16::from_f64;
}

macro_rules! integer_elements {
    ($($rust:ty),*) => {$(
        impl TestElement for $rust {
            const EXACT_MAX: u64 = u64::MAX;
            const EXPONENT_MAX: u64 = 0;

            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "integer reductions wrap; which lint fires depends on the macro's argument"
            )]
            fn from_integer(value: i64) -> Self {
                value as Self
            }

            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "exact by contract; which lint fires depends on the macro's argument"
            )]
            fn from_exact(value: f64) -> Self {
                value as Self
            }

            fn bits(self) -> u64 {
                u64::from_le_bytes({
                    let mut word = [0; 8];
                    word[..size_of::<Self>()].copy_from_slice(&self.to_le_bytes());
                    word
                })
            }
        }
    )*};
}

integer_elements!(i64, i32, i16, i8, u64, u32, u16, u8);

impl TestElement for Bool {
    const EXACT_MAX: u64 = 1;
    const EXPONENT_MAX: u64 = 0;

    fn from_integer(value: i64) -> Self {
        Self::from(value != 0)
    }

    fn from_exact(value: f64) -> Self {
        Self::from(value != 0.0)
    }

    fn bits(self) -> u64 {
        u64::from(self.to_byte())
    }
}

/// Why there is no exact test data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The operator is not defined for the type.
    #[error("{op} is not defined for {dtype}")]
    Unsupported {
        /// The operator.
        op: ReduceOp,
        /// The element type.
        dtype: DType,
    },
    /// The world is too large for the mantissa.
    #[error("{dtype} has too few digits for an exact {op} over {world_size} ranks")]
    TooManyRanks {
        /// The operator.
        op: ReduceOp,
        /// The element type.
        dtype: DType,
        /// Number of ranks.
        world_size: u32,
    },
}

/// The test data of all ranks for one operator and world size, and the exact answer.
#[derive(Clone, Debug)]
pub struct Pattern<T> {
    /// One table per rank.
    contributions: Vec<Vec<T>>,
    reduced: Vec<T>,
}

/// Which table a buffer should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// What this rank contributes.
    Rank(u32),
    /// The reduction over all ranks.
    Reduced,
}

impl<T: TestElement> Pattern<T> {
    /// Data for reducing with `op` over `world_size` ranks; for collectives that only move data,
    /// any operator will do, e.g. [`ReduceOp::Max`].
    ///
    /// # Errors
    /// When the operator is not defined for the type, or no exact data exists for so many ranks:
    /// averages in f16 above 2048 and in bf16 above 256 ranks (unless a power of two).
    pub fn new(op: ReduceOp, world_size: u32) -> Result<Self, PatternError> {
        let world_size = world_size.max(1);
        if !op.supports(T::DTYPE) {
            return Err(PatternError::Unsupported { op, dtype: T::DTYPE });
        }
        let recipe = Recipe::of::<T>(op, world_size).ok_or(PatternError::TooManyRanks {
            op,
            dtype: T::DTYPE,
            world_size,
        })?;
        let contributions = (0..world_size)
            .map(|rank| (0..PERIOD).map(|x| recipe.element::<T>(rank, x)).collect())
            .collect();
        let reduced = (0..PERIOD).map(|x| recipe.answer::<T>(world_size, x)).collect();
        Ok(Self { contributions, reduced })
    }

    /// Fills `buffer`, which starts at `first_index` of the operation's data, with `source`.
    ///
    /// # Panics
    /// If the rank of `source` is not below the world size.
    pub fn fill(&self, source: Source, iteration: u64, first_index: usize, buffer: &mut [T]) {
        let table = self.table(source);
        let mut position = start(iteration, first_index);
        let mut rest = buffer;
        while !rest.is_empty() {
            let length = rest.len().min(PERIOD - position);
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&table[position..position + length]);
            rest = later;
            position = 0;
        }
    }

    /// Counts the elements of `buffer` that differ from `source` in any bit.
    ///
    /// # Panics
    /// If the rank of `source` is not below the world size.
    pub fn count_wrong(
        &self,
        source: Source,
        iteration: u64,
        first_index: usize,
        buffer: &[T],
    ) -> u64 {
        let table = self.table(source);
        let mut position = start(iteration, first_index);
        let mut rest = buffer;
        let mut wrong = 0;
        while !rest.is_empty() {
            let length = rest.len().min(PERIOD - position);
            let (now, later) = rest.split_at(length);
            let expected = &table[position..position + length];
            // At most PERIOD per piece: a 32-bit counter keeps the loop in narrow vector lanes.
            let different: u32 =
                now.iter().zip(expected).map(|(a, b)| u32::from(a.bits() != b.bits())).sum();
            wrong += u64::from(different);
            rest = later;
            position = 0;
        }
        wrong
    }

    fn table(&self, source: Source) -> &[T] {
        match source {
            Source::Reduced => &self.reduced,
            Source::Rank(rank) => {
                &self.contributions[usize::try_from(rank).expect("a rank is an index in memory")]
            }
        }
    }
}

fn start(iteration: u64, first_index: usize) -> usize {
    let period = u64::try_from(PERIOD).expect("a small constant");
    let iteration = usize::try_from(iteration % period).expect("below a usize");
    (first_index % PERIOD + iteration * ITERATION_STRIDE) % PERIOD
}

/// How entries are made from random numbers.
enum Recipe {
    /// Integers in ±`magnitude` (0..=`magnitude` where unsigned) times `unit`, from one rank in
    /// `every`; the others contribute 0. `divisor` turns the sum into the average.
    Sum { magnitude: u64, unit: u64, every: u64, divisor: i64 },
    /// Integers in ±`magnitude`.
    Extreme { magnitude: u64, want_max: bool },
    /// ±2^{−1, 0, 1} from one rank in `every`, ±1 from the others.
    PowerOfTwo { every: u64 },
    /// Odd integers: their product never becomes 0 however it wraps.
    Odd,
    /// Random bits, of which as many are set as `op` needs for its result to vary.
    Bits { op: ReduceOp, ranks: u64 },
    /// Numbers or 0, of which as many are 0 as `op` needs for its result to vary.
    Truth { op: ReduceOp, ranks: u64 },
}

impl Recipe {
    fn of<T: TestElement>(op: ReduceOp, world_size: u32) -> Option<Self> {
        let ranks = u64::from(world_size);
        match op {
            ReduceOp::Sum => Self::sum(T::EXACT_MAX, ranks, 1, 1),
            // Dividing by a power of two is exact anyway.
            ReduceOp::Avg if ranks.is_power_of_two() => {
                Self::sum(T::EXACT_MAX, ranks, 1, i64::from(world_size))
            }
            ReduceOp::Avg => Self::sum(T::EXACT_MAX, ranks, ranks, i64::from(world_size)),
            ReduceOp::Min | ReduceOp::Max => Some(Self::Extreme {
                magnitude: match T::DTYPE {
                    DType::U8 => 255,
                    DType::I8 => 127,
                    _ => T::EXACT_MAX.min(MAGNITUDE_MAX),
                },
                want_max: op == ReduceOp::Max,
            }),
            ReduceOp::Prod if T::DTYPE.is_float() => {
                Some(Self::PowerOfTwo { every: ranks.div_ceil(T::EXPONENT_MAX) })
            }
            ReduceOp::Prod => Some(Self::Odd),
            ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => Some(Self::Bits { op, ranks }),
            ReduceOp::LogicalAnd | ReduceOp::LogicalOr | ReduceOp::LogicalXor => {
                Some(Self::Truth { op, ranks })
            }
            _ => None,
        }
    }

    fn sum(exact_max: u64, ranks: u64, unit: u64, divisor: i64) -> Option<Self> {
        let budget = exact_max / unit;
        if budget == 0 {
            return None;
        }
        Some(Self::Sum {
            magnitude: (budget / ranks).clamp(1, MAGNITUDE_MAX),
            unit,
            every: ranks.div_ceil(budget),
            divisor,
        })
    }

    /// The integer (or, for [`Self::PowerOfTwo`], the exponent) behind an entry.
    fn integer(&self, signed: bool, rank: u32, x: usize) -> i64 {
        let random = mix(rank, x);
        let within = |magnitude: u64| {
            let magnitude = i64::try_from(magnitude).expect("magnitudes are small");
            let span = if signed { 2 * magnitude + 1 } else { magnitude + 1 };
            let draw = i64::try_from(random >> 8).expect("56 bits") % span;
            if signed { draw - magnitude } else { draw }
        };
        match self {
            Self::Sum { magnitude, unit, every, .. } => {
                let unit = i64::try_from(*unit).expect("the world size at most");
                if contributes(rank, x, *every) { within(*magnitude) * unit } else { 0 }
            }
            Self::Extreme { magnitude, .. } => within(*magnitude),
            Self::PowerOfTwo { every } => {
                if contributes(rank, x, *every) {
                    i64::try_from(random >> 8).expect("56 bits") % 3 - 1
                } else {
                    0
                }
            }
            Self::Odd => within(MAGNITUDE_MAX / 2) * 2 + 1,
            Self::Bits { op, ranks } => random_bits(*op, *ranks, rank, x).cast_signed(),
            Self::Truth { op, ranks } => {
                let is_true = random_bits(*op, *ranks, rank, x) & 1 == 1;
                // Up to 120, which is not 0 in any type.
                i64::from(is_true) * (1 + i64::try_from(random >> 8).expect("56 bits") % 120)
            }
        }
    }

    fn element<T: TestElement>(&self, rank: u32, x: usize) -> T {
        let integer = self.integer(T::DTYPE.is_signed(), rank, x);
        match self {
            Self::PowerOfTwo { .. } => signed_power(integer, negative(rank, x)),
            _ => T::from_integer(integer),
        }
    }

    fn answer<T: TestElement>(&self, world_size: u32, x: usize) -> T {
        let integers = (0..world_size).map(|rank| self.integer(T::DTYPE.is_signed(), rank, x));
        match self {
            Self::Sum { divisor: 1, .. } => T::from_integer(integers.sum()),
            Self::Sum { divisor, .. } => T::from_exact(as_f64(integers.sum()) / as_f64(*divisor)),
            Self::Extreme { want_max, .. } => {
                let extreme = if *want_max { integers.max() } else { integers.min() };
                T::from_integer(extreme.expect("at least one rank"))
            }
            Self::PowerOfTwo { .. } => {
                let negatives = (0..world_size).filter(|rank| negative(*rank, x)).count();
                signed_power(integers.sum(), negatives % 2 == 1)
            }
            Self::Odd => T::from_integer(integers.fold(1, i64::wrapping_mul)),
            Self::Bits { op, .. } => T::from_integer(combined(*op, integers)),
            Self::Truth { op, .. } => {
                T::from_integer(combined(*op, integers.map(|integer| i64::from(integer != 0))))
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sums of entries are below 2^24")]
const fn as_f64(integer: i64) -> f64 {
    integer as f64
}

/// All bits independent. One in two is set for XOR; of so many that over all ranks one in a few is
/// decisive for AND and OR.
fn random_bits(op: ReduceOp, ranks: u64, rank: u32, x: usize) -> u64 {
    let draws = u64::from(ranks.next_power_of_two().trailing_zeros().max(1));
    let draw = |index: u64| mix64(mix(rank, x) ^ (index << 48));
    match op {
        ReduceOp::BitAnd | ReduceOp::LogicalAnd => (0..draws).map(draw).fold(0, |a, b| a | b),
        ReduceOp::BitOr | ReduceOp::LogicalOr => (0..draws).map(draw).fold(u64::MAX, |a, b| a & b),
        _ => draw(0),
    }
}

fn combined(op: ReduceOp, integers: impl Iterator<Item = i64>) -> i64 {
    match op {
        ReduceOp::BitAnd | ReduceOp::LogicalAnd => integers.fold(-1, |a, b| a & b),
        ReduceOp::BitOr | ReduceOp::LogicalOr => integers.fold(0, |a, b| a | b),
        _ => integers.fold(0, |a, b| a ^ b),
    }
}

fn signed_power<T: TestElement>(exponent: i64, negative: bool) -> T {
    let power = 2_f64.powi(i32::try_from(exponent).expect("exponents are small"));
    T::from_exact(if negative { -power } else { power })
}

/// Whether the entry is one that may differ from the neutral element, where only one rank in
/// `every` may. Which ranks these are changes with the index.
const fn contributes(rank: u32, x: usize, every: u64) -> bool {
    (rank as u64 + x as u64).is_multiple_of(every)
}

fn negative(rank: u32, x: usize) -> bool {
    mix(rank, x) & 1 == 1
}

/// A random number for each rank and table position, the same on every machine.
const fn mix(rank: u32, x: usize) -> u64 {
    mix64(((rank as u64) << 32) | x as u64)
}

#[cfg(test)]
mod tests;
