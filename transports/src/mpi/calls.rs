//! The calls into MPI that move bytes, each made by whoever holds the lock.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use ::mpi::ffi;

use super::closing::Closing;

/// Room that every MPI has enough of for the text of an error.
const ERROR_TEXT_BYTES: usize = 4096;

/// MPI refused a call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{call}: {text}")]
pub struct MpiError {
    call: &'static str,
    text: String,
}

impl MpiError {
    pub(super) fn new(call: &'static str, code: c_int) -> Self {
        let mut text: [c_char; ERROR_TEXT_BYTES] = [0; ERROR_TEXT_BYTES];
        let mut length = 0;
        // SAFETY: the buffer is longer than MPI_MAX_ERROR_STRING of any implementation, and may be
        // asked for at any time after the start.
        let outcome = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &raw mut length) };
        text[ERROR_TEXT_BYTES - 1] = 0;
        // SAFETY: the last byte is a zero.
        let said = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
        let unnamed = outcome != 0 || said.is_empty();
        let text = if unnamed { format!("error {code}") } else { said.into_owned() };
        Self { call, text }
    }
}

impl From<MpiError> for io::Error {
    fn from(error: MpiError) -> Self {
        Self::other(error)
    }
}

/// A result of MPI as one of ours.
pub(super) fn check(call: &'static str, code: c_int) -> Result<(), MpiError> {
    if code == 0 { Ok(()) } else { Err(MpiError::new(call, code)) }
}

/// What is the same for every message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) communicator: ffi::MPI_Comm,
    pub(super) bytes: ffi::MPI_Datatype,
}

// SAFETY: MPI's handles name objects of the library and may be used by any thread, at the thread
// level that we ask for by one at a time, which the lock sees to.
unsafe impl Send for Channel {}
// SAFETY: as above; a shared reference gives out no more than the handle.
unsafe impl Sync for Channel {}

/// Something that MPI works on.
#[derive(Debug)]
pub(super) struct Request(ffi::MPI_Request);

// SAFETY: as for `Channel`.
unsafe impl Send for Request {}

/// The right to call MPI: there is one in a process, behind a lock.
#[derive(Debug)]
pub struct Calls {
    /// MPI has been finalized, or will be at once: nobody may call it any more.
    pub(super) ended: bool,
    /// Streams that are closed here and not yet at the other end.
    pub(super) closing: Vec<Closing>,
}

/// Memory of one message. It stays valid until the request has ended: see [`super::stream`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) first: NonNull<u8>,
    pub(super) length: usize,
}

impl Piece {
    fn count(self) -> c_int {
        c_int::try_from(self.length).expect("pieces are short")
    }

    const fn address(self) -> *mut c_void {
        self.first.as_ptr().cast()
    }
}

/// Who is at the other end, and the tag of the messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party {
    pub(super) rank: c_int,
    pub(super) tag: c_int,
}

impl Calls {
    /// Begins to send. `synchronous`: it ends only once a receive has matched it.
    ///
    /// # Safety
    /// The piece must be valid, and not written to, until the request has ended.
    pub(super) unsafe fn send(
        &mut self,
        channel: Channel,
        piece: Piece,
        to: Party,
        synchronous: bool,
    ) -> Result<Request, MpiError> {
        let mut request = MaybeUninit::uninit();
        let (call, begin) = if synchronous {
            ("MPI_Issend", ffi::MPI_Issend as unsafe extern "C" fn(_, _, _, _, _, _, _) -> _)
        } else {
            ("MPI_Isend", ffi::MPI_Isend as unsafe extern "C" fn(_, _, _, _, _, _, _) -> _)
        };
        let Channel { communicator, bytes } = channel;
        let at = piece.address().cast_const();
        // SAFETY: valid until the request has ended, as the caller promises; the handles are those of
        // a started MPI.
        let code = unsafe {
            begin(at, piece.count(), bytes, to.rank, to.tag, communicator, request.as_mut_ptr())
        };
        check(call, code)?;
        // SAFETY: MPI has set it, since it reports no error.
        Ok(Request(unsafe { request.assume_init() }))
    }

    /// Begins to receive at most the length of the piece.
    ///
    /// # Safety
    /// The piece must be valid, and neither read nor written by others, until the request has ended.
    pub(super) unsafe fn receive(
        &mut self,
        channel: Channel,
        piece: Piece,
        from: Party,
    ) -> Result<Request, MpiError> {
        let mut request = MaybeUninit::uninit();
        let Channel { communicator, bytes } = channel;
        let (at, count) = (piece.address(), piece.count());
        // SAFETY: as in `send`.
        let code = unsafe {
            ffi::MPI_Irecv(
                at,
                count,
                bytes,
                from.rank,
                from.tag,
                communicator,
                request.as_mut_ptr(),
            )
        };
        check("MPI_Irecv", code)?;
        // SAFETY: MPI has set it, since it reports no error.
        Ok(Request(unsafe { request.assume_init() }))
    }

    /// Lets MPI work, and looks whether a request has ended; then the bytes that were received, and
    /// the request must not be used again. One that has failed has ended, too.
    pub(super) fn test(
        &mut self,
        channel: Channel,
        request: &mut Request,
    ) -> Result<Option<usize>, MpiError> {
        let mut ended = 0;
        let mut status = MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: the request was made by `send` or `receive` and has not ended.
        let code =
            unsafe { ffi::MPI_Test(&raw mut request.0, &raw mut ended, status.as_mut_ptr()) };
        check("MPI_Test", code)?;
        if ended == 0 {
            return Ok(None);
        }
        let mut count = 0;
        // SAFETY: a request that has ended has set the status, whose every bit pattern is valid.
        let code = unsafe { ffi::MPI_Get_count(status.as_ptr(), channel.bytes, &raw mut count) };
        check("MPI_Get_count", code)?;
        // What was cancelled, and a send, has no count.
        Ok(Some(usize::try_from(count).unwrap_or(0)))
    }

    /// Takes a receive back that nothing will match.
    pub(super) fn cancel(&mut self, mut request: Request) -> Result<(), MpiError> {
        // SAFETY: the request was made by `receive` and has not ended.
        let code = unsafe { ffi::MPI_Cancel(&raw mut request.0) };
        check("MPI_Cancel", code)?;
        let mut status = MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: as above. It ends at once, because it is cancelled or because it has ended before.
        let code = unsafe { ffi::MPI_Wait(&raw mut request.0, status.as_mut_ptr()) };
        check("MPI_Wait", code)
    }

    /// Works on streams that are being closed.
    pub(super) fn tend(&mut self) {
        if !self.closing.is_empty() {
            let mut closing = std::mem::take(&mut self.closing);
            closing.retain_mut(|stream| !stream.advance(self));
            self.closing.append(&mut closing);
        }
    }
}
