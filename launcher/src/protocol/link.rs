//! Frames over a pair of descriptors, without blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;

use super::codec::{Decoder, Frame, FrameError, PREAMBLE};
use super::room::Room;

/// Most bytes asked for per read: some frames of output at a time.
const READ_BYTES: usize = 128 << 10;

/// Encoded frames are gathered up to this size before a write.
const WRITE_BYTES: usize = 256 << 10;

/// What ends a link early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The other side sent something that is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The operating system failed.
    #[error("failed to {operation} the agent link")]
    System {
        /// read or open.
        operation: &'static str,
        /// Its words.
        #[source]
        source: io::Error,
    },
}

/// Registers a pipe, socket or terminal with the runtime; a file or /dev/null is refused.
pub(crate) fn asynchronous(descriptor: OwnedFd) -> Result<AsyncFd<OwnedFd>, LinkError> {
    let open = |source: io::Error| LinkError::System { operation: "open", source };
    let flags = fcntl_getfl(&descriptor).map_err(|error| open(error.into()))?;
    fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).map_err(|error| open(error.into()))?;
    watch(descriptor).map_err(open)
}

/// Lets the runtime wait for a descriptor.
///
/// # Errors
/// The kernel cannot wait for this kind of file.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always names the same descriptor, and closes it only when it
    // is dropped, which `AsyncFd` does after it has deregistered it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Reads up to a buffer; 0 at the end of file.
pub(crate) async fn read(from: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = from.readable().await?;
        let outcome = ready.try_io(|inner| Ok(rustix::io::read(inner.get_ref(), &mut *buffer)?));
        match outcome {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(outcome) => return outcome,
            Err(_would_block) => {}
        }
    }
}

/// Writes everything.
pub(crate) async fn write_all(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = to.writable().await?;
        match ready.try_io(|inner| Ok(rustix::io::write(inner.get_ref(), bytes)?)) {
            Ok(Ok(written)) => bytes = &bytes[written..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// Until then, or for ever.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct FrameReader {
    from: AsyncFd<OwnedFd>,
    decoder: Decoder,
    room: Room,
}

impl FrameReader {
    pub(crate) fn new(descriptor: OwnedFd) -> Result<Self, LinkError> {
        let from = asynchronous(descriptor)?;
        Ok(Self { from, decoder: Decoder::default(), room: Room::up_to(READ_BYTES) })
    }

    /// As [`new`](Self::new), of a stream that a login shell may have written to before.
    pub(crate) fn after_login(descriptor: OwnedFd) -> Result<Self, LinkError> {
        Ok(Self { decoder: Decoder::after_login(), ..Self::new(descriptor)? })
    }

    /// What has come instead of the agent's first word.
    pub(crate) fn noise(&self) -> &[u8] {
        self.decoder.noise()
    }

    /// The next frame, or `None` once the other side is gone. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let count = read(&self.from, self.room.all())
                .await
                .map_err(|source| LinkError::System { operation: "read", source })?;
            if count == 0 {
                return Ok(None);
            }
            let decoder = &mut self.decoder;
            self.room.take(count, |bytes| decoder.push(bytes));
        }
    }
}

/// Writes the preamble and then every encoded frame of the queue, until the queue is closed or the
/// other side is gone.
pub(crate) async fn write_frames(
    to: AsyncFd<OwnedFd>,
    mut frames: UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    write_all(&to, &PREAMBLE).await?;
    while let Some(mut gathered) = frames.recv().await {
        while gathered.len() < WRITE_BYTES {
            let Ok(more) = frames.try_recv() else { break };
            gathered.extend_from_slice(&more);
        }
        write_all(&to, &gathered).await?;
    }
    Ok(())
}
