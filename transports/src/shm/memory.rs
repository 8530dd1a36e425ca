use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

/// Seals that make the size of the memory a fact: whoever holds the descriptor, nobody can cut off
/// pages that others have mapped, which would kill them with SIGBUS.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why memory cannot be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The kernel has no such memory to give.
    #[error("cannot allocate {bytes} bytes of shared memory")]
    Allocate {
        /// How much was asked for.
        bytes: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The memory exists but cannot be mapped.
    #[error("cannot map {bytes} bytes of shared memory")]
    Map {
        /// How much was to be mapped.
        bytes: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What a peer sent is not memory of the agreed form.
    #[error("the descriptor that was received is not the shared memory agreed on: {what}")]
    Foreign {
        /// What differs.
        what: String,
    },
}

/// Memory that several processes of one node have mapped.
///
/// It has no name anywhere: a memfd lives as long as a process holds or maps it, so that nothing is
/// left behind however the processes end, and the size of `/dev/shm` does not matter. All pages are
/// allocated when it is created, so that running out of memory is an error then and never a signal
/// later.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is an address range that stays valid until the value is dropped. Who accesses
// which bytes when is up to the users of `base`, who must synchronise between processes anyway.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Allocates and maps `len` > 0 zeroed bytes.
    ///
    /// # Errors
    /// [`MemoryError::Allocate`] or [`MemoryError::Map`].
    pub fn create(len: usize) -> Result<Self, MemoryError> {
        let refused = |errno: Errno| MemoryError::Allocate { bytes: len, source: errno.into() };
        let size = u64::try_from(len).map_err(|_| refused(Errno::FBIG))?;
        // The kernel would not only refuse what is larger than files may be, but also send SIGXFSZ.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < size) {
            return Err(refused(Errno::FBIG));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("paceline", flags).map_err(refused)?;
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, size).map_err(refused)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(refused)?;
        Self::map(fd, len)
    }

    /// Maps memory that another process created with [`SharedMemory::create`].
    ///
    /// # Errors
    /// [`MemoryError::Foreign`] if it is not sealed memory of `len` bytes, else
    /// [`MemoryError::Map`].
    pub fn from_fd(fd: OwnedFd, len: usize) -> Result<Self, MemoryError> {
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|errno| MemoryError::Foreign { what: format!("no memfd ({errno})") })?;
        if !seals.contains(SEALS) {
            return Err(MemoryError::Foreign { what: "its size is not sealed".to_owned() });
        }
        let status = rustix::fs::fstat(&fd)
            .map_err(|errno| MemoryError::Foreign { what: format!("no size ({errno})") })?;
        if usize::try_from(status.st_size) != Ok(len) {
            let what = format!("it has {} bytes instead of {len}", status.st_size);
            return Err(MemoryError::Foreign { what });
        }
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> Result<Self, MemoryError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // Populated, so that no operation meets a page fault later.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, flags, &fd, 0) }
            .map_err(|errno| MemoryError::Map { bytes: len, source: errno.into() })?;
        let base = NonNull::new(base.cast()).expect("mmap does not return the null page");
        Ok(Self { fd, base, len })
    }

    /// The first byte; page-aligned.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty mapping cannot be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping, and nobody can hold `base` beyond the value.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "our own mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_see_the_same_bytes() {
        let ours = SharedMemory::create(10_000).unwrap();
        let theirs =
            SharedMemory::from_fd(ours.as_fd().try_clone_to_owned().unwrap(), 10_000).unwrap();
        assert_ne!(ours.base(), theirs.base());
        // SAFETY: the first byte of a mapping that only this thread accesses.
        unsafe { ours.base().write(7) };
        // SAFETY: as above.
        assert_eq!(unsafe { theirs.base().read() }, 7);
    }

    #[test]
    fn the_size_cannot_be_changed_under_a_peer() {
        let memory = SharedMemory::create(8192).unwrap();
        assert!(rustix::fs::ftruncate(memory.as_fd(), 0).is_err());
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let other_size = SharedMemory::create(4096).unwrap();
        let fd = other_size.as_fd().try_clone_to_owned().unwrap();
        let error = SharedMemory::from_fd(fd, 8192).unwrap_err();
        assert!(error.to_string().contains("4096 bytes instead of 8192"), "{error}");
        let unsealed =
            rustix::fs::memfd_create("paceline-test", MemfdFlags::ALLOW_SEALING).unwrap();
        let error = SharedMemory::from_fd(unsealed, 4096).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = SharedMemory::from_fd(file.into(), 4096).unwrap_err();
        assert!(error.to_string().contains("no memfd"), "{error}");
    }

    #[test]
    fn too_much_is_an_error_at_once() {
        let error = SharedMemory::create(usize::MAX / 2 + 1).unwrap_err();
        assert!(matches!(error, MemoryError::Allocate { .. }), "{error}");
    }
}
