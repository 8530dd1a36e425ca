//! Memory that transports may read and write, and the slices of it that are under way.

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of allocated regions: a page, so that whole pages can be registered with a NIC.
const REGION_ALIGN: usize = 4096;

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The allocator refused.
    #[error("cannot allocate {bytes} bytes of staging memory")]
    Allocate {
        /// What was asked for.
        bytes: usize,
    },
    /// The region cannot be pointed elsewhere while slices of it are posted.
    #[error("{slices} slices of the buffer are still posted to a transport")]
    InFlight {
        /// How many.
        slices: usize,
    },
}

/// A piece of memory that can be posted to endpoints.
///
/// Either it owns its bytes ([`Region::allocate`]) or it stands for a buffer that somebody lends
/// ([`Region::lend`]). Every posted slice holds a reference, so an owned region cannot be freed
/// under a transport, and [`Region::relend`] proves by the count that no slice is under way.
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    owned: Option<Layout>,
}

// SAFETY: a region is an address range. Who may access the bytes, and when, is the contract of the
// unsafe slice constructors; the range itself may be sent to and read from any thread.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives out no access to the bytes.
unsafe impl Sync for Region {}

impl Region {
    /// Allocates `len` zeroed bytes, page-aligned.
    ///
    /// # Errors
    /// [`RegionError::Allocate`] when the allocator has no such memory.
    pub fn allocate(len: usize) -> Result<Arc<Self>, RegionError> {
        let refused = RegionError::Allocate { bytes: len };
        let Ok(layout) = Layout::from_size_align(len.max(1), REGION_ALIGN) else {
            return Err(refused);
        };
        // SAFETY: the layout has a non-zero size.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { return Err(refused) };
        Ok(Arc::new(Self { base, len, owned: Some(layout) }))
    }

    /// A region of no bytes, to be [`relend`](Self::relend)ed.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self { base: NonNull::dangling(), len: 0, owned: None })
    }

    /// Makes a region of borrowed memory.
    ///
    /// # Safety
    /// `base..base + len` must be valid for reads, and for writes if a mutable slice is made of it,
    /// until the last slice of the region is gone.
    pub unsafe fn lend(base: NonNull<u8>, len: usize) -> Arc<Self> {
        Arc::new(Self { base, len, owned: None })
    }

    /// Points a borrowed region at other memory without allocating. That it succeeds proves that
    /// no slice of the former memory is posted anywhere.
    ///
    /// # Safety
    /// As for [`Region::lend`].
    ///
    /// # Errors
    /// [`RegionError::InFlight`] while slices are alive.
    pub unsafe fn relend(
        self: &mut Arc<Self>,
        base: NonNull<u8>,
        len: usize,
    ) -> Result<(), RegionError> {
        let slices = Arc::strong_count(self) - 1;
        let Some(region) = Arc::get_mut(self) else { return Err(RegionError::InFlight { slices }) };
        debug_assert!(region.owned.is_none(), "an owned region keeps its memory");
        region.base = base;
        region.len = len;
        Ok(())
    }

    /// Bytes in the region.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// A slice to send from.
    ///
    /// # Panics
    /// When the range lies outside the region: that is a bug of the caller.
    ///
    /// # Safety
    /// Until the slice is dropped nobody may write to the range.
    pub unsafe fn slice(self: &Arc<Self>, range: Range<usize>) -> BufSlice {
        assert!(range.start <= range.end && range.end <= self.len, "slice outside its region");
        BufSlice { region: Arc::clone(self), start: range.start, len: range.len() }
    }

    /// A slice to receive into.
    ///
    /// # Panics
    /// When the range lies outside the region: that is a bug of the caller.
    ///
    /// # Safety
    /// From the arrival of the first byte until the slice is dropped nobody else may read or write
    /// the range, and the memory must be writable.
    pub unsafe fn slice_mut(self: &Arc<Self>, range: Range<usize>) -> BufSliceMut {
        assert!(range.start <= range.end && range.end <= self.len, "slice outside its region");
        BufSliceMut { region: Arc::clone(self), start: range.start, len: range.len() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(layout) = self.owned {
            // SAFETY: `base` came from `alloc_zeroed` with this layout and is freed once.
            unsafe { alloc::dealloc(self.base.as_ptr(), layout) }
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len)
            .field("owned", &self.owned.is_some())
            .finish()
    }
}

/// Bytes of a [`Region`] that a transport may read.
#[derive(Debug)]
pub struct BufSlice {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

impl BufSlice {
    /// Bytes in the slice.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from `offset` on.
    ///
    /// # Panics
    /// When `offset` lies beyond the end.
    pub fn bytes(&self, offset: usize) -> &[u8] {
        assert!(offset <= self.len, "offset outside the slice");
        // SAFETY: the offset was checked against the region when the slice was made and here.
        let first = unsafe { self.region.base.add(self.start + offset) };
        // SAFETY: in bounds as above; valid and not written to by the contract of `Region::slice`.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.len - offset) }
    }
}

/// Bytes of a [`Region`] that a transport may write.
#[derive(Debug)]
pub struct BufSliceMut {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

impl BufSliceMut {
    /// Bytes in the slice.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`, to be written.
    ///
    /// # Panics
    /// When the range lies outside the slice.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the slice");
        // SAFETY: the offset was checked against the region when the slice was made and here.
        let first = unsafe { self.region.base.add(self.start + range.start) };
        // SAFETY: in bounds as above; exclusive and writable by the contract of `slice_mut`.
        unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_region_cannot_move_while_a_slice_is_out() {
        let mut first = [1u8; 8];
        let mut second = [2u8; 16];
        let at = |bytes: &mut [u8]| NonNull::new(bytes.as_mut_ptr()).unwrap();
        // SAFETY: `first` outlives the region's use of it.
        let mut region = unsafe { Region::lend(at(&mut first), 8) };
        // SAFETY: nobody writes to `first` meanwhile.
        let slice = unsafe { region.slice(2..6) };
        assert_eq!(slice.bytes(1), [1, 1, 1]);
        // SAFETY: `second` outlives the region's use of it.
        let refused = unsafe { region.relend(at(&mut second), 16) };
        assert!(matches!(refused, Err(RegionError::InFlight { slices: 1 })));
        drop(slice);
        // SAFETY: as above.
        unsafe { region.relend(at(&mut second), 16) }.unwrap();
        // SAFETY: `second` is not touched while the slice lives.
        let mut slice = unsafe { region.slice_mut(0..16) };
        slice.bytes_mut(15..16).copy_from_slice(&[9]);
        drop(slice);
        assert_eq!(second[15], 9);
    }

    #[test]
    fn owned_regions_are_zeroed_and_outlive_their_handle() {
        let region = Region::allocate(5000).unwrap();
        // SAFETY: nobody writes to the region.
        let slice = unsafe { region.slice(4000..5000) };
        drop(region);
        assert!(slice.bytes(0).iter().all(|byte| *byte == 0));
        assert!(matches!(Region::allocate(usize::MAX), Err(RegionError::Allocate { .. })));
    }
}
