//! Stores that go past the caches.

use std::mem::MaybeUninit;
use std::ptr;

/// What non-temporal stores write at once: a whole cache line never has to be read first.
const LINE: usize = 64;

/// Bytes that a fold keeps in the first-level cache. Small beside its 32 KiB, so that the inputs fit
/// too; large beside the few nanoseconds that a call costs.
const BLOCK: usize = 4096;

/// The same where results are streamed: longer blocks keep memory waiting by turns for reads and
/// for writes. With 4096 streaming gains nothing over the caches, with 512 nearly all there is.
const STREAMED_BLOCK: usize = 512;

/// Room for one block.
#[repr(align(64))]
pub(super) struct Scratch([MaybeUninit<u8>; BLOCK]);

impl Scratch {
    pub(super) fn zeroed() -> Self {
        Self([MaybeUninit::zeroed(); BLOCK])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// How many elements of `size` bytes the next block has, so that the following ones start on a
/// cache line.
pub(super) fn block_length(out: *const u8, size: usize, streams: bool) -> usize {
    let bytes = if streams { STREAMED_BLOCK } else { BLOCK };
    (bytes - out.addr() % LINE) / size
}

/// Copies `bytes` bytes; whole lines go past the caches. Needs a [`fence`] at the end.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`].
pub(super) unsafe fn store(to: *mut u8, from: *const u8, bytes: usize) {
    let head = to.align_offset(LINE).min(bytes);
    let lines = (bytes - head) / LINE;
    let tail = head + lines * LINE;
    // SAFETY: the caller vouches for `bytes` bytes, of which these are the first.
    unsafe { ptr::copy_nonoverlapping(from, to, head) };
    // SAFETY: the caller vouches for `bytes` bytes; `to + head` is aligned to a line.
    unsafe { store_lines(to.add(head), from.add(head), lines) };
    // SAFETY: the caller vouches for `bytes` bytes, of which these are the last.
    unsafe { ptr::copy_nonoverlapping(from.add(tail), to.add(tail), bytes - tail) };
}

/// Orders streaming stores before all that follows, as other stores are.
pub(super) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn store_lines(to: *mut u8, from: *const u8, lines: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const PER_LINE: usize = LINE / size_of::<__m128i>();
    let (to, from) = (to.cast::<__m128i>(), from.cast::<__m128i>());
    for line in 0..lines {
        let at = line * PER_LINE;
        for part in at..at + PER_LINE {
            // SAFETY: within the lines that the caller vouches for.
            let bytes = unsafe { _mm_loadu_si128(from.add(part)) };
            // SAFETY: as above; the caller vouches for the alignment.
            unsafe { _mm_stream_si128(to.add(part), bytes) };
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn store_lines(to: *mut u8, from: *const u8, lines: usize) {
    // SAFETY: within the lines that the caller vouches for.
    unsafe { ptr::copy_nonoverlapping(from, to, lines * LINE) };
}
