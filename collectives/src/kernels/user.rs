use std::fmt;
use std::sync::Arc;
use std::{ptr, slice};

use paceline_devices::Element;

use super::stream::{self, Scratch};

/// An operator of the user's: a name, and a function that combines elements.
///
/// The function gets accumulated elements and as many next ones, and replaces each accumulated
/// element by `accumulated op next`. It is called any number of times, with any number of elements at
/// once that lie together in memory; which these are depends on the plan, so each result may depend
/// on its own two operands only.
///
/// The operator must be associative, as far as rounding goes: chunk c of the vector is folded as
/// x\[c+1\] op x\[c+2\] op … op x\[c+p\], indices modulo the number of ranks p. As the fold begins at
/// another rank for each chunk, an operator that is not commutative means little. But it need not
/// be commutative to the bit: operands are never swapped, so results have the same bits on all ranks
/// and in every run, like those of the built-in operators. (Worlds of more than 32 ranks may fold as
/// a tree, equally fixed.)
///
/// All ranks must pass operators of the same name, and the name stands for the function: that
/// functions of one name compute the same is the user's promise.
///
/// If the function panics, so does the call on its rank.
///
/// ```
/// use paceline_collectives::kernels::{Kernel, UserOp};
///
/// let modulo = UserOp::new("sum modulo 1009", |all: &mut [u32], next: &[u32]| {
///     all.iter_mut().zip(next).for_each(|(all, next)| *all = (*all + next) % 1009);
/// });
/// let mut sums = [1000_u32, 5];
/// Kernel::user(&modulo).reduce_assign(&mut sums, &[10, 6]);
/// assert_eq!(sums, [1, 11]);
/// ```
pub struct UserOp<T>(Arc<Named<T>>);

struct Named<T> {
    name: Box<str>,
    combine: Box<CombineElements<T>>,
}

type CombineElements<T> = dyn Fn(&mut [T], &[T]) + Send + Sync;

impl<T: Element> UserOp<T> {
    /// An operator that all ranks know by this name: `combine(accumulated, next)`.
    pub fn new(
        name: impl Into<Box<str>>,
        combine: impl Fn(&mut [T], &[T]) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Named { name: name.into(), combine: Box::new(combine) }))
    }

    /// The same, to be combined by.
    pub(super) fn function(&self) -> Arc<dyn UserFunction> {
        Arc::clone(&self.0) as _
    }
}

impl<T> UserOp<T> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl<T> Clone for UserOp<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for UserOp<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> fmt::Debug for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserOp").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A [`UserOp`] whose element type is known only at run time.
pub(super) trait UserFunction: fmt::Debug + Send + Sync {
    fn name(&self) -> &str;

    /// # Safety
    /// As for [`Kernel::reduce`](super::Kernel::reduce).
    unsafe fn combine(&self, out: *mut u8, a: *const u8, b: *const u8, count: usize);
}

impl<T: Element> UserFunction for Named<T> {
    fn name(&self) -> &str {
        &self.name
    }

    unsafe fn combine(&self, out: *mut u8, a: *const u8, b: *const u8, count: usize) {
        if count == 0 {
            return;
        }
        let size = size_of::<T>();
        if ptr::eq(out, b) {
            // The result replaces the second operand, so the first accumulates elsewhere.
            let mut scratch: Scratch = Scratch::zeroed();
            let mut done = 0;
            while done < count {
                let (out, a) = (out.wrapping_add(done * size), a.wrapping_add(done * size));
                let block = stream::block_length(out, size).min(count - done);
                let sums = scratch.as_mut_ptr();
                // SAFETY: the block lies within the buffers, for which the caller vouches, and fits
                // into the scratch.
                unsafe { ptr::copy_nonoverlapping(a, sums, block * size) };
                // SAFETY: the scratch holds a block of elements, aligned for every type.
                let all = unsafe { slice::from_raw_parts_mut(sums.cast::<T>(), block) };
                // SAFETY: the caller vouches for the operand, of which any bits are an element.
                let next = unsafe { slice::from_raw_parts(out.cast_const().cast::<T>(), block) };
                (self.combine)(all, next);
                // SAFETY: as above.
                unsafe { ptr::copy_nonoverlapping(sums.cast_const(), out, block * size) };
                done += block;
            }
            return;
        }
        if !ptr::eq(out, a) {
            // SAFETY: the caller vouches for `count` elements, apart from each other.
            unsafe { ptr::copy_nonoverlapping(a, out, count * size) };
        }
        // SAFETY: the caller vouches for `count` elements that only we access.
        let all = unsafe { slice::from_raw_parts_mut(out.cast::<T>(), count) };
        // SAFETY: the caller vouches for the operand, which is not `out`.
        let next = unsafe { slice::from_raw_parts(b.cast::<T>(), count) };
        (self.combine)(all, next);
    }
}
