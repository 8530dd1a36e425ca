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
//! - integers wrap;
//! - logical operators, and `min` and `max` of truth values, make 0 and 1 only.
//!
//! Associative they are not: which operand is accumulated first is the plan's decision. The caller
//! passes the accumulated value as `a` and the next rank's as `b`.
//!
//! An operator of the user's ([`UserOp`]) computes what it likes, element by element. It need not be
//! commutative to the bit: `a` is always passed as the accumulated value and `b` as the next.
//!
//! # Average and scale
//! [`ReduceOp::Avg`] combines as a sum; [`Kernel::finish`] divides by the number of ranks, once, and
//! then multiplies by the factor of [`Kernel::with_postscale`]. A division is rounded differently
//! from a multiplication by its reciprocal, so the average is no scale.
//!
//! # Thread safety
//! A [`Kernel`] is a handful of function pointers: `Send` and `Sync`, and cheap to clone.

mod arithmetic;
mod convert;
mod halves;
mod level;
mod loops;
mod scale;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod user;

use std::ptr;
use std::sync::Arc;

use paceline_devices::{DType, Element, ReduceOp};

pub use convert::{Half, narrow, widen};
pub use level::Isa;
pub use scale::Scaler;
use stream::Scratch;
pub use stream::copy;
use table::{DivideFn, Functions};
use user::UserFunction;
pub use user::UserOp;

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

/// How two elements are combined.
#[derive(Clone, Debug)]
enum Combine {
    BuiltIn(&'static Functions),
    User(Arc<dyn UserFunction>),
}

/// The reduction functions for one element type and operator on this machine.
///
/// To find them takes a few nanoseconds; fetch a kernel once per operation.
#[derive(Clone, Debug)]
pub struct Kernel {
    dtype: DType,
    stores: Stores,
    combine: Combine,
    /// Whether what it reduces may be incomplete: then [`Kernel::finish`] leaves it as it is.
    partial: bool,
    postscale: Option<Scaler>,
}

impl Kernel {
    /// The fastest kernel of this machine, or `None` if the operator is not defined for the type
    /// (see [`ReduceOp::supports`]).
    #[inline]
    pub fn new(dtype: DType, op: ReduceOp) -> Option<Self> {
        Self::with_isa(dtype, op, Isa::best())
    }

    /// The kernel for one instruction set, for tests and comparisons. `None` also where the machine
    /// lacks it.
    #[inline]
    pub fn with_isa(dtype: DType, op: ReduceOp, isa: Isa) -> Option<Self> {
        let combine = Combine::BuiltIn(Functions::of(dtype, op, isa)?);
        Some(Self { dtype, stores: Stores::Cached, combine, partial: false, postscale: None })
    }

    /// The kernel of an operator of the user's.
    pub fn user<T: Element>(op: &UserOp<T>) -> Self {
        let combine = Combine::User(op.function());
        let stores = Stores::Cached;
        Self { dtype: T::DTYPE, stores, combine, partial: false, postscale: None }
    }

    /// The same kernel with another way to store results.
    #[must_use]
    pub fn with_stores(self, stores: Stores) -> Self {
        Self { stores, ..self }
    }

    /// The same kernel, which multiplies each complete reduction by a factor.
    ///
    /// # Panics
    /// If the scaler is for another element type.
    #[must_use]
    pub fn with_postscale(self, scaler: Scaler) -> Self {
        assert_eq!(scaler.dtype(), self.dtype, "the scaler is for another element type");
        Self { postscale: Some(scaler), ..self }
    }

    /// The same kernel for results that others will still combine: neither divides nor scales.
    #[must_use]
    pub fn partial(&self) -> Self {
        Self { partial: true, postscale: None, ..self.clone() }
    }

    /// Whether a fold of one operand, finished for one rank, is that operand to the bit.
    pub fn keeps_lone_operands(&self) -> bool {
        let alone = matches!(self.combine, Combine::BuiltIn(Functions { alone: Some(_), .. }));
        !alone && self.postscale.is_none()
    }

    /// The name of an operator of the user's, if it is one.
    pub fn user_name(&self) -> Option<&str> {
        match &self.combine {
            Combine::BuiltIn(_) => None,
            Combine::User(function) => Some(function.name()),
        }
    }

    /// Whether `a op b` and `b op a` have the same bits.
    pub fn is_commutative(&self) -> bool {
        matches!(self.combine, Combine::BuiltIn(_))
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
        // SAFETY: the conditions are those of this function.
        unsafe { self.reduce_with(self.stores, out, a, b, count) }
    }

    /// # Safety
    /// As for [`Kernel::reduce`].
    #[inline]
    unsafe fn reduce_with(
        &self,
        stores: Stores,
        out: *mut u8,
        a: *const u8,
        b: *const u8,
        count: usize,
    ) {
        match &self.combine {
            Combine::BuiltIn(functions) => {
                let combine = match stores {
                    Stores::Cached => functions.combine,
                    Stores::Streaming => functions.stream,
                };
                // SAFETY: these functions can run on this machine; all else is up to the caller.
                unsafe { combine(out, a, b, count * functions.lanes_per_element) }
            }
            // SAFETY: the conditions are those of this function.
            Combine::User(user) => unsafe { user.combine(out, a, b, count) },
        }
    }

    /// `out[i] = ((x0[i] op x1[i]) op x2[i]) …`, for `i` in `0..count`, in one pass: the same bits as
    /// repeated [`Kernel::reduce`], but every operand is read and `out` is written only once. A
    /// single input is copied, by logical operators as 0 and 1.
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
        // SAFETY: the conditions are those of this function.
        unsafe { self.fold_blocks(out, inputs, count, Some(ranks)) }
    }

    /// Turns a complete reduction into the result: `data[i] = data[i] / ranks` for
    /// [`ReduceOp::Avg`], then `data[i] = data[i] * factor` where there is a post-scale.
    ///
    /// # Safety
    /// `data` points to `count` elements of [`Kernel::dtype`], aligned for it, valid for reads and
    /// writes, and nobody else accesses them meanwhile. With `count` 0 any pointer will do.
    ///
    /// # Panics
    /// If `ranks` is 0.
    pub unsafe fn finish(&self, data: *mut u8, count: usize, ranks: u32) {
        assert_ne!(ranks, 0, "a group has at least one rank");
        if let Some(divide) = self.divide() {
            // SAFETY: the function can run on this machine; all else is up to the caller.
            unsafe { divide(data, count, ranks) }
        }
        if let Some(scaler) = &self.postscale {
            // SAFETY: the conditions are those of this function.
            unsafe { scaler.scale(data, count) }
        }
    }

    fn divide(&self) -> Option<DivideFn> {
        match &self.combine {
            Combine::BuiltIn(functions) if !self.partial => functions.divide,
            _ => None,
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
    /// store. They are finished for so many `ranks`.
    ///
    /// # Safety
    /// As for [`Kernel::fold`].
    unsafe fn fold_blocks(
        &self,
        out: *mut u8,
        inputs: &[*const u8],
        count: usize,
        ranks: Option<u32>,
    ) {
        let (&first, others) = inputs.split_first().expect("a fold has at least one input");
        let size = self.dtype.size();
        // What is streamed has left the first-level cache, so to finish it comes too late.
        let finishes = ranks.is_some() && (self.divide().is_some() || self.postscale.is_some());
        let in_place = inputs.contains(&out.cast_const());
        let last_stores = if in_place || finishes { Stores::Cached } else { self.stores };
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
                let stores = if is_last { last_stores } else { Stores::Cached };
                let input = input.wrapping_add(at);
                // SAFETY: the block lies within the buffers, for which the caller vouches. The
                // scratch holds a block; `out` is written last, so an input that it equals has been
                // read by then or is the other operand.
                unsafe { self.reduce_with(stores, to, accumulated, input, block) };
                accumulated = to;
            }
            if others.is_empty() {
                // SAFETY: as above; the input may be `out` itself.
                unsafe { self.take_alone(out, accumulated, block, &mut scratch) };
            }
            if let Some(ranks) = ranks.filter(|_| finishes) {
                // SAFETY: the block of `out` that was just written.
                unsafe { self.finish(out, block, ranks) };
            }
            done += block;
        }
    }

    /// What a lone operand of `block` elements is reduced to.
    ///
    /// # Safety
    /// `input` is valid for reads and `out` for writes of so many elements, which fit into `scratch`;
    /// the two are equal or do not overlap.
    unsafe fn take_alone(
        &self,
        out: *mut u8,
        input: *const u8,
        block: usize,
        scratch: &mut Scratch,
    ) {
        let bytes = block * self.dtype.size();
        match &self.combine {
            Combine::BuiltIn(Functions { alone: Some(alone), .. }) => {
                let copy = scratch.as_mut_ptr();
                // SAFETY: the scratch is our own and holds a block.
                unsafe { ptr::copy_nonoverlapping(input, copy, bytes) };
                // SAFETY: the function can run on this machine; `out` is apart from the scratch,
                // which holds both operands.
                unsafe { alone(out, copy, copy, block) };
            }
            // SAFETY: both are valid, and may be equal.
            _ if !ptr::eq(out, input) => unsafe { ptr::copy_nonoverlapping(input, out, bytes) },
            _ => {}
        }
    }
}
