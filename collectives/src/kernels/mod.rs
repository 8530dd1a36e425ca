//! Host reduction kernels: element-wise combination of buffers, as fast as memory allows.
//!
//! # Results
//! The bits of a result depend on the operands alone, not on instruction set, alignment, count or
//! position, and every operator is commutative to the bit:
//! - `sum` and `prod` of floats are IEEE 754 operations, rounded to nearest even;
//! - `min` and `max` are IEEE 754-2019 `minimum` and `maximum`: NaN propagates, −0 < +0;
//! - a result that is NaN is always the one canonical quiet NaN (`0x7fc0_0000` in `f32`), never a
//!   payload of the operands;
//! - halves are widened to `f32`, combined, and rounded once to nearest even per combination;
//! - integers wrap.
//!
//! Associative they are not: which operand is accumulated first is the plan's decision. The caller
//! passes the accumulated value as `a` and the next rank's as `b`.
//!
//! # Average
//! [`ReduceOp::Avg`] combines as a sum; [`Kernel::finish`] divides by the number of ranks, once.
//!
//! # Thread safety
//! A [`Kernel`] is a handful of function pointers: `Copy`, `Send` and `Sync`.

mod arithmetic;
mod halves;
mod level;
mod loops;
mod stream;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::{ptr, slice};

use paceline_devices::{DType, Element, ReduceOp, bf16, f16};

use arithmetic::{Float, Maximum, Minimum, Operator, OrderedBf16, OrderedF16, Product, Sum};
pub use level::Isa;
use level::{Level, Portable};
use loops::{Assign, Divide, Lane, Zip};
pub use stream::copy;
use stream::{Scratch, Stream};

/// `(out, a, b, count)`
type CombineFn = unsafe fn(*mut u8, *const u8, *const u8, usize);

/// `(data, count, ranks)`
type DivideFn = unsafe fn(*mut u8, usize, u32);

/// How an out-of-place kernel stores its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stores {
    /// Through the caches: right where the result is read again soon, and for all that fits there.
    #[default]
    Cached,
    /// Past the caches, which spares memory the read of each destination line: right for
    /// destinations larger than the last-level cache. In place it changes nothing.
    Streaming,
}

/// The reduction functions for one element type and operator on this machine.
///
/// To find them takes a few nanoseconds; fetch a kernel once per operation.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    dtype: DType,
    stores: Stores,
    combine: CombineFn,
    /// As `combine`, with streaming stores where `out` is neither operand.
    stream: CombineFn,
    /// Only for [`ReduceOp::Avg`].
    divide: Option<DivideFn>,
}

impl Kernel {
    /// The fastest kernel of this machine, or `None` if the operator is not defined for the type
    /// (see [`ReduceOp::supports`]).
    pub fn new(dtype: DType, op: ReduceOp) -> Option<Self> {
        Self::with_isa(dtype, op, Isa::best())
    }

    /// The kernel for one instruction set, for tests and comparisons. `None` also where the machine
    /// lacks it.
    pub fn with_isa(dtype: DType, op: ReduceOp, isa: Isa) -> Option<Self> {
        if !isa.is_available() {
            return None;
        }
        let (combine, stream, divide) = match isa {
            Isa::Portable => functions::<Portable>(dtype, op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => functions::<level::Avx2>(dtype, op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => functions::<level::Avx512>(dtype, op),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
        }?;
        Some(Self { dtype, stores: Stores::Cached, combine, stream, divide })
    }

    /// The same kernel with another way to store results.
    #[must_use]
    pub fn with_stores(self, stores: Stores) -> Self {
        Self { stores, ..self }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `out[i] = a[i] op b[i]`, for `i` in `0..count`.
    ///
    /// # Safety
    /// The three point to `count` elements of [`Kernel::dtype`], aligned for it; `out` is valid for
    /// writes, `a` and `b` for reads. `out` equals `a`, equals `b` (but not both), or overlaps
    /// neither. Nobody else writes to them or reads `out` meanwhile. With `count` 0 any pointers
    /// will do.
    #[inline]
    pub unsafe fn reduce(&self, out: *mut u8, a: *const u8, b: *const u8, count: usize) {
        let combine = match self.stores {
            Stores::Cached => self.combine,
            Stores::Streaming => self.stream,
        };
        // SAFETY: `with_isa` chose functions that this machine can run; all else is up to the
        // caller.
        unsafe { combine(out, a, b, count) }
    }

    /// `out[i] = ((x0[i] op x1[i]) op x2[i]) …`, for `i` in `0..count`, in one pass: the same bits as
    /// repeated [`Kernel::reduce`], but every operand is read and `out` is written only once. A
    /// single input is copied.
    ///
    /// # Safety
    /// As for [`Kernel::reduce`]; `out` equals at most one of the inputs and overlaps no other.
    ///
    /// # Panics
    /// If there are no inputs.
    pub unsafe fn fold(&self, out: *mut u8, inputs: &[*const u8], count: usize) {
        // SAFETY: the conditions are those of this function.
        unsafe { self.fold_blocks(out, inputs, count, None) }
    }

    /// [`Kernel::fold`] and [`Kernel::finish`] in one pass.
    ///
    /// # Safety
    /// As for [`Kernel::fold`].
    ///
    /// # Panics
    /// If there are no inputs, or `ranks` is 0.
    pub unsafe fn fold_and_finish(
        &self,
        out: *mut u8,
        inputs: &[*const u8],
        count: usize,
        ranks: u32,
    ) {
        assert_ne!(ranks, 0, "a group has at least one rank");
        let divide = self.divide.map(|divide| (divide, ranks));
        // SAFETY: the conditions are those of this function.
        unsafe { self.fold_blocks(out, inputs, count, divide) }
    }

    /// Turns a complete reduction into the result: `data[i] = data[i] / ranks` for
    /// [`ReduceOp::Avg`], nothing for other operators.
    ///
    /// # Safety
    /// `data` points to `count` elements of [`Kernel::dtype`], aligned for it, valid for reads and
    /// writes, and nobody else accesses them meanwhile. With `count` 0 any pointer will do.
    ///
    /// # Panics
    /// If `ranks` is 0.
    pub unsafe fn finish(&self, data: *mut u8, count: usize, ranks: u32) {
        assert_ne!(ranks, 0, "a group has at least one rank");
        if let Some(divide) = self.divide {
            // SAFETY: `with_isa` chose a function that this machine can run; all else is up to the
            // caller.
            unsafe { divide(data, count, ranks) }
        }
    }

    /// [`Kernel::reduce`] for slices.
    ///
    /// # Panics
    /// If the lengths differ or `T` is not the kernel's type.
    pub fn reduce_into<T: Element>(&self, out: &mut [T], a: &[T], b: &[T]) {
        assert_eq!(T::DTYPE, self.dtype, "the kernel is for another element type");
        assert_eq!((out.len(), out.len()), (a.len(), b.len()), "operands differ in length");
        let (out_bytes, count) = (out.as_mut_ptr().cast(), out.len());
        // SAFETY: the slices have the kernel's type and one length, and `&mut` overlaps nothing.
        unsafe { self.reduce(out_bytes, a.as_ptr().cast(), b.as_ptr().cast(), count) }
    }

    /// `accumulated[i] = accumulated[i] op next[i]`.
    ///
    /// # Panics
    /// If the lengths differ or `T` is not the kernel's type.
    pub fn reduce_assign<T: Element>(&self, accumulated: &mut [T], next: &[T]) {
        assert_eq!(T::DTYPE, self.dtype, "the kernel is for another element type");
        assert_eq!(accumulated.len(), next.len(), "operands differ in length");
        let out = accumulated.as_mut_ptr().cast::<u8>();
        // SAFETY: the slices have the kernel's type and one length, and `&mut` overlaps nothing;
        // the output may equal one operand.
        unsafe { self.reduce(out, out, next.as_ptr().cast(), next.len()) }
    }

    /// The general case: blocks that stay in the first-level cache from the first input to the
    /// store.
    ///
    /// # Safety
    /// As for [`Kernel::fold`]; `divide` can run on this machine.
    unsafe fn fold_blocks(
        &self,
        out: *mut u8,
        inputs: &[*const u8],
        count: usize,
        divide: Option<(DivideFn, u32)>,
    ) {
        let (&first, others) = inputs.split_first().expect("a fold has at least one input");
        let size = self.dtype.size();
        // What is streamed has left the first-level cache, so a division comes too late.
        let in_place = inputs.contains(&out.cast_const());
        let streams = self.stores == Stores::Streaming && !in_place && divide.is_none();
        let last_combine = if streams { self.stream } else { self.combine };
        let mut scratch: Scratch = Scratch::zeroed();
        let mut done = 0;
        while done < count {
            let at = done * size;
            let out = out.wrapping_add(at);
            let block = stream::block_length(out, size).min(count - done);
            let mut accumulated = first.wrapping_add(at);
            for (index, input) in others.iter().enumerate() {
                let is_last = index + 1 == others.len();
                let to = if is_last { out } else { scratch.as_mut_ptr() };
                let combine = if is_last { last_combine } else { self.combine };
                // SAFETY: the block lies within the buffers, for which the caller vouches. The
                // scratch holds a block; `out` is written last, so an input that it equals has been
                // read by then or is the other operand.
                unsafe { combine(to, accumulated, input.wrapping_add(at), block) };
                accumulated = to;
            }
            if others.is_empty() {
                // SAFETY: as above; the input may be `out` itself.
                unsafe { ptr::copy(accumulated, out, block * size) };
            }
            if let Some((divide, ranks)) = divide {
                // SAFETY: the block of `out` that was just written.
                unsafe { divide(out, block, ranks) };
            }
            done += block;
        }
    }
}

/// The functions for one instruction set.
fn functions<L: Level>(
    dtype: DType,
    op: ReduceOp,
) -> Option<(CombineFn, CombineFn, Option<DivideFn>)> {
    let [combine, stream] = match (op, dtype) {
        (ReduceOp::Sum | ReduceOp::Avg, _) => arithmetic_functions::<L, Sum>(dtype)?,
        (ReduceOp::Prod, _) => arithmetic_functions::<L, Product>(dtype)?,
        (ReduceOp::Min, _) => order_functions::<L, Minimum>(dtype)?,
        (ReduceOp::Max, _) => order_functions::<L, Maximum>(dtype)?,
        _ => return None,
    };
    let divide: Option<DivideFn> = match (op, dtype) {
        (ReduceOp::Avg, DType::F64) => Some(divide::<L, f64>),
        (ReduceOp::Avg, DType::F32) => Some(divide::<L, f32>),
        (ReduceOp::Avg, DType::F16) => Some(divide::<L, f16>),
        (ReduceOp::Avg, DType::Bf16) => Some(divide::<L, bf16>),
        (ReduceOp::Avg, _) => return None,
        _ => None,
    };
    Some((combine, stream, divide))
}

/// The cached and the streaming function.
fn arithmetic_functions<L, O>(dtype: DType) -> Option<[CombineFn; 2]>
where
    L: Level,
    O: Operator<f64> + Operator<f32> + Operator<i64> + Operator<i32> + Operator<u8>,
{
    Some(match dtype {
        DType::F64 => [combine::<L, f64, O, false>, combine::<L, f64, O, true>],
        DType::F32 => [combine::<L, f32, O, false>, combine::<L, f32, O, true>],
        DType::F16 => [combine::<L, f16, O, false>, combine::<L, f16, O, true>],
        DType::Bf16 => [combine::<L, bf16, O, false>, combine::<L, bf16, O, true>],
        DType::I64 => [combine::<L, i64, O, false>, combine::<L, i64, O, true>],
        DType::I32 => [combine::<L, i32, O, false>, combine::<L, i32, O, true>],
        DType::U8 => [combine::<L, u8, O, false>, combine::<L, u8, O, true>],
        _ => return None,
    })
}

/// The cached and the streaming function.
fn order_functions<L, O>(dtype: DType) -> Option<[CombineFn; 2]>
where
    L: Level,
    O: Operator<f64> + Operator<f32> + Operator<OrderedF16> + Operator<OrderedBf16>,
    O: Operator<i64> + Operator<i32> + Operator<u8>,
{
    Some(match dtype {
        DType::F16 => [combine::<L, OrderedF16, O, false>, combine::<L, OrderedF16, O, true>],
        DType::Bf16 => [combine::<L, OrderedBf16, O, false>, combine::<L, OrderedBf16, O, true>],
        _ => arithmetic_functions::<L, O>(dtype)?,
    })
}

/// # Safety
/// As for [`Kernel::reduce`], for elements `T`; the machine has the instruction set `L`.
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
/// As for [`Kernel::finish`], for elements `T`; the machine has the instruction set `L`.
unsafe fn divide<L: Level, T: Lane<Number: Float>>(data: *mut u8, count: usize, ranks: u32) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller vouches for `count` elements that only we access.
    let all = unsafe { slice::from_raw_parts_mut(data.cast::<T>(), count) };
    // SAFETY: the caller vouches for the instruction set.
    unsafe { L::run(Divide { all, ranks }) }
}
