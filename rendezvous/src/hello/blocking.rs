//! The handshake over a stream.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::PollFlags;

use super::error::{HelloError, Stage};
use super::wire::{FINISH_LEN, HELLO_LEN, REPLY_LEN, check_hello_prefix};
use super::{Admission, Identity, Initiator, Purpose, Responder, Session};
use crate::run::Secret;
use crate::socket::{is_retry, wait_ready};

/// Runs the side that connected: proves itself to `expected_rank` (or
/// [`COORDINATOR_RANK`](super::COORDINATOR_RANK)) and makes sure of it.
///
/// The stream may be blocking or not; its mode is left as it is.
///
/// # Errors
/// [`HelloError`]; the stream must be closed then.
pub fn initiate<S>(
    stream: &mut S,
    identity: Identity,
    purpose: Purpose,
    expected_rank: u32,
    secret: &Secret,
    deadline: Instant,
) -> Result<Session, HelloError>
where
    S: Read + Write + AsFd,
{
    let initiator = Initiator::new(identity, purpose, expected_rank, secret)?;
    send(stream, initiator.hello(), Stage::Hello, deadline)?;
    let mut reply = [0; REPLY_LEN];
    receive(stream, &mut reply, Stage::Reply, deadline)?;
    let (finish, session) = initiator.on_reply(&reply)?;
    send(stream, &finish, Stage::Finish, deadline)?;
    Ok(session)
}

/// Runs the side that accepted a connection. `admit` decides by rank and purpose whether the peer is
/// let in, before it has proven who it is; see [`Responder::on_hello`].
///
/// The stream may be blocking or not; its mode is left as it is.
///
/// # Errors
/// [`HelloError`]; the stream must be closed then. A peer that is turned away has been told why.
pub fn accept<S>(
    stream: &mut S,
    identity: Identity,
    admission: Admission,
    secret: &Secret,
    deadline: Instant,
    admit: impl FnOnce(u32, Purpose) -> Result<(), HelloError>,
) -> Result<Session, HelloError>
where
    S: Read + Write + AsFd,
{
    let responder = Responder::new(identity, admission, secret)?;
    let mut hello = [0; HELLO_LEN];
    if let Err(error) = receive(stream, &mut hello, Stage::Hello, deadline) {
        if matches!(error, HelloError::VersionMismatch { .. }) {
            // The reason to refuse is more useful than a failure to say it.
            let _ = send(stream, &responder.version_reply(), Stage::Reply, deadline);
        }
        return Err(error);
    }
    let pending = match responder.on_hello(&hello, admit) {
        Ok((reply, pending)) => {
            send(stream, &reply, Stage::Reply, deadline)?;
            pending
        }
        Err(turned) => {
            if let Some(reply) = turned.reply {
                let _ = send(stream, &reply, Stage::Reply, deadline);
            }
            return Err(turned.error);
        }
    };
    let mut finish = [0; FINISH_LEN];
    receive(stream, &mut finish, Stage::Finish, deadline)?;
    pending.on_finish(&finish)
}

fn send<S: Write + AsFd>(
    stream: &mut S,
    mut bytes: &[u8],
    stage: Stage,
    deadline: Instant,
) -> Result<(), HelloError> {
    let failed = |source| HelloError::Io { stage, source };
    while !bytes.is_empty() {
        if !wait_ready(&*stream, PollFlags::OUT, deadline).map_err(failed)? {
            return Err(HelloError::TimedOut { stage });
        }
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_retry(&error) => {}
            Err(error) if is_hang_up(&error) => return Err(HelloError::Closed { stage }),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Fills `buffer`. Hellos and replies are looked at as they come, so that garbage or another
/// version fails at once instead of at the deadline.
fn receive<S: Read + AsFd>(
    stream: &mut S,
    buffer: &mut [u8],
    stage: Stage,
    deadline: Instant,
) -> Result<(), HelloError> {
    let failed = |source| HelloError::Io { stage, source };
    let mut filled = 0;
    while filled < buffer.len() {
        if !wait_ready(&*stream, PollFlags::IN, deadline).map_err(failed)? {
            return Err(HelloError::TimedOut { stage });
        }
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(HelloError::Closed { stage }),
            Ok(count) => filled += count,
            Err(error) if is_retry(&error) => continue,
            Err(error) if is_hang_up(&error) => return Err(HelloError::Closed { stage }),
            Err(error) => return Err(failed(error)),
        }
        if stage != Stage::Finish {
            check_hello_prefix(&buffer[..filled])?;
        }
    }
    Ok(())
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
