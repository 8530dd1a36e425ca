//! Which function computes what: one per (type, operator, instruction set).

use std::marker::PhantomData;
use std::sync::OnceLock;
use std::{ptr, slice};

use paceline_devices::{DType, ReduceOp, bf16, f16};

use super::arithmetic::{
    BitAnd, BitOr, BitXor, Float, LogicalAnd, LogicalOr, LogicalXor, Maximum, Minimum, Operator,
    OrderedBf16, OrderedF16, Product, Sum,
};
use super::level::{self, Isa, Level, Portable};
use super::loops::{Assign, Divide, Lane, Multiply, Zip};
use super::stream::Stream;

/// `(out, a, b, lanes)`
pub(super) type CombineFn = unsafe fn(*mut u8, *const u8, *const u8, usize);

/// `(data, count, ranks)`
pub(super) type DivideFn = unsafe fn(*mut u8, usize, u32);

/// `(data, count, factor)`
pub(super) type MultiplyFn = unsafe fn(*mut u8, usize, f64);

/// What an operator is made of on one instruction set. All of it can run on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Functions {
    pub(super) combine: CombineFn,
    /// As `combine`, with streaming stores where `out` is neither operand.
    pub(super) stream: CombineFn,
    /// What the two count as one: usually an element, for bitwise operators a byte of it.
    pub(super) lanes_per_element: usize,
    /// Only for [`ReduceOp::Avg`].
    pub(super) divide: Option<DivideFn>,
    /// Only for operators whose result says more than a lone operand: combined with itself in this
    /// way an operand becomes the result.
    pub(super) alone: Option<CombineFn>,
}

/// One row per element type, by its code, of one entry per operator, by its code.
type Table = [[Option<Functions>; CODES_MAX]; CODES_MAX];

/// Beyond every code of an element type and of an operator.
const CODES_MAX: usize = 16;

impl Functions {
    /// `None` if the operator is not defined for the type or the machine lacks the instruction set.
    ///
    /// The functions of an instruction set are looked up once: a kernel is made for every operation,
    /// of which the shortest take a tenth of a microsecond.
    #[inline]
    pub(super) fn of(dtype: DType, op: ReduceOp, isa: Isa) -> Option<&'static Self> {
        static TABLES: [OnceLock<Box<Table>>; 3] = [const { OnceLock::new() }; 3];
        let place = match isa {
            Isa::Portable => 0,
            Isa::Avx2 => 1,
            Isa::Avx512 => 2,
        };
        let table = TABLES[place].get_or_init(|| Self::table(isa));
        table[dtype as usize][op as usize].as_ref()
    }

    #[cold]
    fn table(isa: Isa) -> Box<Table> {
        let mut table = Box::new([[None; CODES_MAX]; CODES_MAX]);
        if isa.is_available() {
            for dtype in DType::ALL {
                for op in ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)) {
                    table[dtype as usize][op as usize] = Self::find(dtype, op, isa);
                }
            }
        }
        table
    }

    fn find(dtype: DType, op: ReduceOp, isa: Isa) -> Option<Self> {
        match isa {
            Isa::Portable => functions::<Portable>(dtype, op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => functions::<level::Avx2>(dtype, op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => functions::<level::Avx512>(dtype, op),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
        }
    }
}

/// What multiplies elements by a factor; `None` for integers, or if the machine lacks the instruction
/// set.
pub(super) fn multiply_function(dtype: DType, isa: Isa) -> Option<MultiplyFn> {
    match isa {
        _ if !isa.is_available() => None,
        Isa::Portable => multiply_functions::<Portable>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => multiply_functions::<level::Avx2>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => multiply_functions::<level::Avx512>(dtype),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => None,
    }
}

fn functions<L: Level>(dtype: DType, op: ReduceOp) -> Option<Functions> {
    let [combine, stream] = match op {
        ReduceOp::Sum | ReduceOp::Avg => arithmetic_functions::<L, Sum>(dtype)?,
        ReduceOp::Prod => arithmetic_functions::<L, Product>(dtype)?,
        ReduceOp::Min => match dtype {
            DType::Bool => logical_functions::<L, LogicalAnd>(dtype)?,
            _ => order_functions::<L, Minimum>(dtype)?,
        },
        ReduceOp::Max => match dtype {
            DType::Bool => logical_functions::<L, LogicalOr>(dtype)?,
            _ => order_functions::<L, Maximum>(dtype)?,
        },
        ReduceOp::BitAnd => pair::<L, u8, BitAnd>(),
        ReduceOp::BitOr => pair::<L, u8, BitOr>(),
        ReduceOp::BitXor => pair::<L, u8, BitXor>(),
        ReduceOp::LogicalAnd => logical_functions::<L, LogicalAnd>(dtype)?,
        ReduceOp::LogicalOr => logical_functions::<L, LogicalOr>(dtype)?,
        ReduceOp::LogicalXor => logical_functions::<L, LogicalXor>(dtype)?,
        _ => return None,
    };
    let is_bitwise = matches!(op, ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor);
    let is_logical = dtype == DType::Bool
        || matches!(op, ReduceOp::LogicalAnd | ReduceOp::LogicalOr | ReduceOp::LogicalXor);
    Some(Functions {
        combine,
        stream,
        lanes_per_element: if is_bitwise { dtype.size() } else { 1 },
        divide: if op == ReduceOp::Avg { Some(divide_function::<L>(dtype)?) } else { None },
        alone: if is_logical { Some(logical_functions::<L, LogicalOr>(dtype)?[0]) } else { None },
    })
}

fn divide_function<L: Level>(dtype: DType) -> Option<DivideFn> {
    Some(match dtype {
        DType::F64 => divide::<L, f64>,
        DType::F32 => divide::<L, f32>,
        DType::F16 => divide::<L, f16>,
        DType::Bf16 => divide::<L, bf16>,
        _ => return None,
    })
}

fn multiply_functions<L: Level>(dtype: DType) -> Option<MultiplyFn> {
    Some(match dtype {
        DType::F64 => multiply::<L, f64>,
        DType::F32 => multiply::<L, f32>,
        DType::F16 => multiply::<L, f16>,
        DType::Bf16 => multiply::<L, bf16>,
        _ => return None,
    })
}

/// The cached and the streaming function.
fn pair<L: Level, T: Lane, O: Operator<T::Number>>() -> [CombineFn; 2] {
    [combine::<L, T, O, false>, combine::<L, T, O, true>]
}

fn arithmetic_functions<L, O>(dtype: DType) -> Option<[CombineFn; 2]>
where
    L: Level,
    O: Operator<f64> + Operator<f32>,
    O: Operator<u64> + Operator<u32> + Operator<u16> + Operator<u8>,
{
    Some(match dtype {
        DType::F64 => pair::<L, f64, O>(),
        DType::F32 => pair::<L, f32, O>(),
        DType::F16 => pair::<L, f16, O>(),
        DType::Bf16 => pair::<L, bf16, O>(),
        DType::I64 | DType::U64 => pair::<L, u64, O>(),
        DType::I32 | DType::U32 => pair::<L, u32, O>(),
        DType::I16 | DType::U16 => pair::<L, u16, O>(),
        DType::I8 | DType::U8 => pair::<L, u8, O>(),
        _ => return None,
    })
}

fn order_functions<L, O>(dtype: DType) -> Option<[CombineFn; 2]>
where
    L: Level,
    O: Operator<f64> + Operator<f32> + Operator<OrderedF16> + Operator<OrderedBf16>,
    O: Operator<i64> + Operator<i32> + Operator<i16> + Operator<i8>,
    O: Operator<u64> + Operator<u32> + Operator<u16> + Operator<u8>,
{
    Some(match dtype {
        DType::F64 => pair::<L, f64, O>(),
        DType::F32 => pair::<L, f32, O>(),
        DType::F16 => pair::<L, OrderedF16, O>(),
        DType::Bf16 => pair::<L, OrderedBf16, O>(),
        DType::I64 => pair::<L, i64, O>(),
        DType::I32 => pair::<L, i32, O>(),
        DType::I16 => pair::<L, i16, O>(),
        DType::I8 => pair::<L, i8, O>(),
        DType::U64 => pair::<L, u64, O>(),
        DType::U32 => pair::<L, u32, O>(),
        DType::U16 => pair::<L, u16, O>(),
        DType::U8 => pair::<L, u8, O>(),
        _ => return None,
    })
}

fn logical_functions<L, O>(dtype: DType) -> Option<[CombineFn; 2]>
where
    L: Level,
    O: Operator<u64> + Operator<u32> + Operator<u16> + Operator<u8>,
{
    Some(match dtype {
        DType::I64 | DType::U64 => pair::<L, u64, O>(),
        DType::I32 | DType::U32 => pair::<L, u32, O>(),
        DType::I16 | DType::U16 => pair::<L, u16, O>(),
        DType::I8 | DType::U8 | DType::Bool => pair::<L, u8, O>(),
        _ => return None,
    })
}

/// # Safety
/// As for [`Kernel::reduce`](super::Kernel::reduce), for elements `T`; the machine has the instruction set `L`.
unsafe fn combine<L: Level, T: Lane, O: Operator<T::Number>, const STREAMS: bool>(
    out: *mut u8,
    a: *const u8,
    b: *const u8,
    count: usize,
) {
    if count == 0 {
        return;
    }
    let (out, a, b) = (out.cast::<T>(), a.cast::<T>(), b.cast::<T>());
    debug_assert!(out.is_aligned() && a.is_aligned() && b.is_aligned(), "unaligned element");
    let in_place = ptr::eq(out, a) || ptr::eq(out, b);
    let other = if ptr::eq(out, a) { b } else { a };
    // SAFETY: the caller vouches for `count` elements that only we access.
    let out = unsafe { slice::from_raw_parts_mut(out, count) };
    // SAFETY: the caller vouches for `count` elements; this operand is not `out`.
    let other = unsafe { slice::from_raw_parts(other, count) };
    if in_place {
        // Which operand it was does not matter: operators are commutative to the bit.
        // SAFETY: the caller vouches for the instruction set.
        unsafe { L::run(Assign::<T, O> { all: out, next: other, op: PhantomData }) }
    } else {
        // SAFETY: as for `other`.
        let b = unsafe { slice::from_raw_parts(b, count) };
        let zip = Zip::<T, O> { out, a: other, b, op: PhantomData };
        if STREAMS {
            // SAFETY: the caller vouches for the instruction set.
            unsafe { L::run(Stream(zip)) }
        } else {
            // SAFETY: the caller vouches for the instruction set.
            unsafe { L::run(zip) }
        }
    }
}

/// # Safety
/// As for [`Kernel::finish`](super::Kernel::finish), for elements `T`; the machine has the instruction set `L`.
unsafe fn divide<L: Level, T: Lane<Number: Float>>(data: *mut u8, count: usize, ranks: u32) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller vouches for `count` elements that only we access.
    let all = unsafe { slice::from_raw_parts_mut(data.cast::<T>(), count) };
    // SAFETY: the caller vouches for the instruction set.
    unsafe { L::run(Divide { all, ranks }) }
}

/// # Safety
/// As for [`Kernel::finish`](super::Kernel::finish), for elements `T`; the machine has the
/// instruction set `L`.
unsafe fn multiply<L: Level, T: Lane<Number: Float>>(data: *mut u8, count: usize, factor: f64) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller vouches for `count` elements that only we access.
    let all = unsafe { slice::from_raw_parts_mut(data.cast::<T>(), count) };
    // SAFETY: the caller vouches for the instruction set.
    unsafe { L::run(Multiply { all, factor }) }
}
