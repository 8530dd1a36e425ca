//! What the C library does with memory that was freed.

/// Memory at the end of the heap that is kept for later.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 16 << 20;

/// Blocks from this size on have pages of their own, which go back to the kernel at once.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES: libc::c_int = 4 << 20;

/// Keeps freed buffers of output for the next ones. Else each of them, freed at the end of the heap,
/// goes back to the kernel and is cleared page by page when it comes again: more than half of the time
/// that a gigabyte of lines took.
pub(crate) fn keep_buffers() {
    #[cfg(target_env = "gnu")]
    for (what, bytes) in
        [(libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES)]
    {
        // SAFETY: the function takes plain numbers and only changes thresholds of the allocator, at any
        // time and from any thread. Where it refuses one, that stays as it was.
        unsafe { libc::mallopt(what, bytes) };
    }
}
