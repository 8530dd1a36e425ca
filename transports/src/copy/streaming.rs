//! Copies past the caches.

use std::ptr;

/// What the processor writes to memory at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Copies `bytes` bytes past the caches, which spares memory the read of each line that is
/// overwritten, and other cores the question for it.
///
/// The bytes must not be published before [`stream_fence`]: even a release store could overtake them.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`].
#[cfg(target_arch = "x86_64")]
pub unsafe fn stream_bytes(to: *mut u8, from: *const u8, bytes: usize) {
    let head = to.align_offset(LINE).min(bytes);
    let lines = (bytes - head) / LINE;
    let tail = head + lines * LINE;
    // SAFETY: the first bytes of those that the caller vouches for.
    unsafe { ptr::copy_nonoverlapping(from, to, head) };
    let (lines_to, lines_from) = (to.wrapping_add(head), from.wrapping_add(head));
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the middle of the range, aligned to a line; the instructions exist.
        unsafe { stream_lines_avx512(lines_to, lines_from, lines) }
    } else {
        // SAFETY: as above.
        unsafe { stream_lines_sse2(lines_to, lines_from, lines) }
    }
    // SAFETY: the last bytes of those that the caller vouches for.
    unsafe {
        ptr::copy_nonoverlapping(from.wrapping_add(tail), to.wrapping_add(tail), bytes - tail);
    }
}

/// Makes what [`stream_bytes`] stored visible before everything that is stored afterwards.
#[inline]
pub fn stream_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// # Safety
/// `lines` lines are valid at both places, `to` is aligned to a line, the processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn stream_lines_avx512(to: *mut u8, from: *const u8, lines: usize) {
    use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
    for line in 0..lines {
        // SAFETY: within the lines that the caller vouches for.
        let bytes = unsafe { _mm512_loadu_si512(from.wrapping_add(line * LINE).cast()) };
        // SAFETY: as above, and aligned.
        unsafe { _mm512_stream_si512(to.wrapping_add(line * LINE).cast(), bytes) };
    }
}

/// # Safety
/// `lines` lines are valid at both places and `to` is aligned to a line.
#[cfg(target_arch = "x86_64")]
unsafe fn stream_lines_sse2(to: *mut u8, from: *const u8, lines: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const PARTS: usize = LINE / size_of::<__m128i>();
    let (to, from) = (to.cast::<__m128i>(), from.cast::<__m128i>());
    for part in 0..lines * PARTS {
        // SAFETY: within the lines that the caller vouches for.
        let bytes = unsafe { _mm_loadu_si128(from.wrapping_add(part)) };
        // SAFETY: as above, and aligned.
        unsafe { _mm_stream_si128(to.wrapping_add(part), bytes) };
    }
}

/// # Safety
/// As for [`ptr::copy_nonoverlapping`].
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn stream_bytes(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: the conditions are those of this function.
    unsafe { ptr::copy_nonoverlapping(from, to, bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streaming_copies_every_byte_at_every_alignment() {
        let from: Vec<u8> = (0..1000_u32).map(|index| (index % 251) as u8).collect();
        for (to_at, from_at, bytes) in [
            (0, 0, 0),
            (1, 0, 63),
            (3, 5, 64),
            (63, 1, 65),
            (7, 0, 500),
            (64, 64, 900),
            (0, 3, 128),
        ] {
            let mut to = vec![255; 1000];
            let (target, source) = (to[to_at..].as_mut_ptr(), from[from_at..].as_ptr());
            // SAFETY: `to_at + bytes` and `from_at + bytes` lie within the two vectors.
            unsafe { stream_bytes(target, source, bytes) };
            stream_fence();
            assert_eq!(to[to_at..to_at + bytes], from[from_at..from_at + bytes]);
            assert!(to[..to_at].iter().chain(&to[to_at + bytes..]).all(|byte| *byte == 255));
        }
    }
}
