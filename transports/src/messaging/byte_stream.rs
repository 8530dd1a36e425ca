//! What a transport brings: streams of bytes.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::HeaderError;
use crate::TransportKind;

/// A non-blocking, ordered, two-way stream of bytes. "Nothing now" is `WouldBlock`, the end of the
/// incoming bytes is a read of 0.
pub(crate) trait ByteStream: Send + Debug {
    /// The transport to which the stream belongs.
    const KIND: TransportKind;

    /// Whether what [`ByteStream::wait_on`] returns also becomes readable when there is room to write
    /// again, so that nobody has to wait for it to become writable.
    const WAKES_FOR_ROOM: bool = false;

    /// Whether there is something to wait for.
    const WAKES: bool = true;

    /// Whether written bytes may wait in this process for further calls to move them. Frames are then
    /// reported as sent once [`ByteStream::flush`] says so.
    const BUFFERS: bool = false;

    /// Whether a write costs so much that small frames may wait for more of them, when those who send
    /// them want it so.
    const MAY_WAIT: bool = false;

    /// Writes from the parts in turn; some of them may be empty. A count below the sum of their
    /// lengths means that the stream takes no more now.
    fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize>;

    /// Reads into `first`, then into `second`, which may be empty. A count below the sum of their
    /// lengths means that nothing more is there now.
    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize>;

    /// How many of all bytes ever written need this process no more. Asked only where
    /// [`ByteStream::BUFFERS`].
    fn flush(&mut self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    /// What to wait for, where there is such a thing.
    fn wait_on(&self) -> Option<BorrowedFd<'_>>;

    /// Whether all written bytes are on their way to the peer, or where it finds them.
    fn has_left(&self) -> bool {
        true
    }

    /// Waits until there may be room to write, at most for `limit`.
    fn wait_for_room(&mut self, limit: Duration) {
        if let Some(fd) = self.wait_on() {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            let limit = Timespec::try_from(limit).expect("a short wait fits");
            // Whatever it says, the next write tells.
            let _ = poll(&mut fds, Some(&limit));
        }
    }

    /// Bytes of this process's memory, or of memory that it shares and alone writes to, that the
    /// stream holds.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// What can go wrong on a stream.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// The peer closed it; `orderly` if it said goodbye.
    Closed {
        orderly: bool,
    },
    Io(io::Error),
    Protocol(String),
    /// Bytes changed on the way: the checksum of `part` of a frame is not what it should be.
    Corrupted {
        part: &'static str,
        computed: u32,
        expected: u32,
    },
}

impl From<HeaderError> for StreamError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Corrupted { computed, expected } => {
                Self::Corrupted { part: "header", computed, expected }
            }
            other => Self::Protocol(other.to_string()),
        }
    }
}
