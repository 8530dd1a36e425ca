//! Copies that are fast wherever the bytes lie.

mod shared;
mod streaming;

use std::ptr;

pub use shared::{SharedWriter, Way};
pub use streaming::{stream_bytes, stream_fence};

/// Shorter copies are left to the standard library, whose vector loops are as good.
const LOOP_BYTES_MIN: usize = 2 << 10;

/// Longer ones too: it then neither uses `rep movsb` nor pollutes the caches.
const LOOP_BYTES_MAX: usize = 1 << 20;

/// Bytes of a vector, and of what one turn of the loop moves.
#[cfg(target_arch = "x86_64")]
const VECTOR: usize = size_of::<std::arch::x86_64::__m256i>();
#[cfg(target_arch = "x86_64")]
const TURN: usize = 4 * VECTOR;

/// Copies `bytes` bytes.
///
/// From a few KiB on, `memcpy` uses `rep movsb` where the processor claims to be good at it. AMD's
/// Zen 3 is not where the destination lies 1 to 31 bytes further into its page than the source into
/// its own: 2 GB/s instead of 45. That is the rule here, not the exception: vectors on the heap
/// begin 16 bytes into a page, blocks of shared memory at the start of one. So these lengths are
/// copied by a loop of our own.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`].
#[inline]
pub unsafe fn copy_bytes(to: *mut u8, from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    if (LOOP_BYTES_MIN..=LOOP_BYTES_MAX).contains(&bytes) && is_x86_feature_detected!("avx") {
        // SAFETY: the conditions are those of this function, and the instructions exist.
        return unsafe { copy_avx(to, from, bytes) };
    }
    // SAFETY: the conditions are those of this function.
    unsafe { ptr::copy_nonoverlapping(from, to, bytes) }
}

/// The same for slices.
///
/// # Panics
/// If their lengths differ.
#[inline]
pub fn copy_slice<T: Copy>(to: &mut [T], from: &[T]) {
    assert_eq!(to.len(), from.len(), "both ends of a copy have one length");
    // SAFETY: both are valid for so many bytes, and one of them is borrowed exclusively.
    unsafe { copy_bytes(to.as_mut_ptr().cast(), from.as_ptr().cast(), size_of_val(from)) }
}

/// # Safety
/// As for [`ptr::copy_nonoverlapping`]; at least [`VECTOR`] bytes, and the processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn copy_avx(to: *mut u8, from: *const u8, bytes: usize) {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_store_si256};

    // Stores that cross cache lines cost twice: begin where the destination is aligned.
    let head = to.align_offset(VECTOR).min(bytes);
    // SAFETY: the first of the bytes that the caller vouches for.
    unsafe { ptr::copy_nonoverlapping(from, to, head) };
    let (mut to, mut from) = (to.wrapping_add(head), from.wrapping_add(head));
    for _ in 0..(bytes - head) / TURN {
        // Four at a time also keeps the compiler from seeing a `memcpy` in it.
        let vectors: [__m256i; TURN / VECTOR] = std::array::from_fn(|part| {
            // SAFETY: within the bytes that the caller vouches for.
            unsafe { _mm256_loadu_si256(from.wrapping_add(part * VECTOR).cast()) }
        });
        for (part, vector) in vectors.into_iter().enumerate() {
            // SAFETY: as above, and aligned since the head.
            unsafe { _mm256_store_si256(to.wrapping_add(part * VECTOR).cast(), vector) };
        }
        (to, from) = (to.wrapping_add(TURN), from.wrapping_add(TURN));
    }
    // SAFETY: the last of the bytes that the caller vouches for.
    unsafe { ptr::copy_nonoverlapping(from, to, (bytes - head) % TURN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_none_beside_them() {
        let longest = LOOP_BYTES_MAX + 300;
        let from: Vec<u8> = (0..=250).cycle().take(longest + 100).collect();
        let lengths = [0, 1, 31, LOOP_BYTES_MIN - 1, LOOP_BYTES_MIN, LOOP_BYTES_MIN + 127, 5000];
        let long = [LOOP_BYTES_MAX - 1, LOOP_BYTES_MAX, LOOP_BYTES_MAX + 1, longest];
        for bytes in lengths.into_iter().chain(long) {
            for (to_at, from_at) in [(0, 0), (1, 0), (16, 0), (31, 64), (64, 17), (33, 99)] {
                let mut to = vec![255; bytes + 200];
                copy_slice(&mut to[to_at..to_at + bytes], &from[from_at..from_at + bytes]);
                assert_eq!(to[to_at..to_at + bytes], from[from_at..from_at + bytes]);
                assert!(to[..to_at].iter().chain(&to[to_at + bytes..]).all(|byte| *byte == 255));
            }
        }
    }
}
