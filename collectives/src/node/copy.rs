//! How the bytes of a result are stored.

use paceline_transports::{copy_bytes, stream_bytes, stream_fence};

/// Where a copy to memory of our own goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stores {
    /// Through the caches.
    Cached,
    /// Past the caches: it will not be read soon.
    Streaming,
}

/// Copies `bytes` bytes.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize, stores: Stores) {
    match stores {
        // SAFETY: the conditions are those of this function.
        Stores::Cached => unsafe { copy_bytes(to, from, bytes) },
        // SAFETY: as above.
        Stores::Streaming => unsafe { stream_bytes(to, from, bytes) },
    }
}

/// Makes streaming stores visible before everything that is stored afterwards.
#[inline]
pub(super) fn streamed(stores: Stores) {
    if stores == Stores::Streaming {
        stream_fence();
    }
}
