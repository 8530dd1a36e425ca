//! Stores that go past the caches.

use std::mem::MaybeUninit;
use std::{ptr, slice};

use super::Stores;
use super::arithmetic::Operator;
use super::level::{Body, Level};
use super::loops::{Lane, Zip};

/// What non-temporal stores write at once: a whole cache line never has to be read first.
const LINE: usize = 64;

/// Bytes computed between bursts of streaming stores. Short, so that reads and writes of memory
/// overlap (4096 gain nothing over the caches), but a loop's length for the vectoriser.
const BURST: usize = 256;

/// Bytes that a fold keeps in the first-level cache. Small beside its 32 KiB, so that the inputs fit
/// too; large beside the few nanoseconds that a call costs.
const BLOCK: usize = 4096;

/// Bytes in the first-level cache.
#[repr(align(64))]
pub(super) struct Scratch<const BYTES: usize = BLOCK>([MaybeUninit<u8>; BYTES]);

impl<const BYTES: usize> Scratch<BYTES> {
    pub(super) fn zeroed() -> Self {
        Self([MaybeUninit::zeroed(); BYTES])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// How many elements of `size` bytes the next block of a fold has, so that the following ones start
/// on a cache line.
pub(super) fn block_length(out: *const u8, size: usize) -> usize {
    (BLOCK - out.addr() % LINE) / size
}

/// [`Zip`] with streaming stores for all whole lines of `out`.
pub(super) struct Stream<'a, T, O>(pub(super) Zip<'a, T, O>);

impl<T: Lane, O: Operator<T::Number>> Body for Stream<'_, T, O> {
    #[inline(always)]
    fn run<L: Level>(self) {
        let Zip { out, a, b, op } = self.0;
        let burst_length = BURST / size_of::<T>();
        let head = out.as_ptr().align_offset(LINE).min(out.len());
        let (out_head, out) = out.split_at_mut(head);
        let ((a_head, a), (b_head, b)) = (a.split_at(head), b.split_at(head));
        Zip::<T, O> { out: out_head, a: a_head, b: b_head, op }.run::<L>();
        let mut scratch = Scratch::<BURST>::zeroed();
        let mut out = out.chunks_exact_mut(burst_length);
        let (mut a, mut b) = (a.chunks_exact(burst_length), b.chunks_exact(burst_length));
        for ((out, a), b) in out.by_ref().zip(a.by_ref()).zip(b.by_ref()) {
            let from = scratch.as_mut_ptr();
            // SAFETY: the scratch is initialised, aligned and as long as a burst.
            let burst = unsafe { slice::from_raw_parts_mut(from.cast::<T>(), burst_length) };
            Zip::<T, O> { out: burst, a, b, op }.run::<L>();
            // SAFETY: both have the length of a burst, and `out` starts on a line.
            unsafe { store_lines(out.as_mut_ptr().cast(), from, BURST / LINE) };
        }
        let (a, b) = (a.remainder(), b.remainder());
        Zip::<T, O> { out: out.into_remainder(), a, b, op }.run::<L>();
        fence();
    }
}

/// Orders streaming stores before all that follows, as other stores are.
#[inline(always)]
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Copies `bytes` bytes. Streaming, into memory that is in no cache, is half as fast again as an
/// ordinary copy in pieces of up to a few MiB; the standard library streams only very large ones.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`]: `from` is valid for reads of `bytes` bytes, `to` for writes,
/// and the two do not overlap. No alignment is needed.
pub unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize, stores: Stores) {
    if stores == Stores::Cached {
        // SAFETY: the conditions are those of this function.
        unsafe { ptr::copy_nonoverlapping(from, to, bytes) };
        return;
    }
    let head = to.align_offset(LINE).min(bytes);
    let lines = (bytes - head) / LINE;
    let tail = head + lines * LINE;
    // SAFETY: the caller vouches for `bytes` bytes, of which these are the first.
    unsafe { ptr::copy_nonoverlapping(from, to, head) };
    // SAFETY: these follow; after the head `to` is aligned to a line.
    unsafe { store_lines(to.wrapping_add(head), from.wrapping_add(head), lines) };
    let (from, to) = (from.wrapping_add(tail), to.wrapping_add(tail));
    // SAFETY: these are the last.
    unsafe { ptr::copy_nonoverlapping(from, to, bytes - tail) };
    fence();
}

/// # Safety
/// As for [`ptr::copy_nonoverlapping`] of `lines` times [`LINE`] bytes, with `to` aligned to that.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn store_lines(to: *mut u8, from: *const u8, lines: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const PER_LINE: usize = LINE / size_of::<__m128i>();
    for part in 0..lines * PER_LINE {
        // SAFETY: within the lines that the caller vouches for.
        let bytes = unsafe { _mm_loadu_si128(from.cast::<__m128i>().wrapping_add(part)) };
        // SAFETY: as above.
        unsafe { _mm_stream_si128(to.cast::<__m128i>().wrapping_add(part), bytes) };
    }
}

/// # Safety
/// As for [`ptr::copy_nonoverlapping`] of `lines` times [`LINE`] bytes.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn store_lines(to: *mut u8, from: *const u8, lines: usize) {
    // SAFETY: the conditions are those of this function.
    unsafe { ptr::copy_nonoverlapping(from, to, lines * LINE) };
}
