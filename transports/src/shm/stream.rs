use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::pipe::Pipe;
use crate::TransportKind;
use crate::copy::SharedWriter;
use crate::messaging::ByteStream;

/// Bytes after which the other side may start on what is being copied.
const PIECE_BYTES: usize = 16 << 10;

/// Reads in vain after which the socket is looked at. Whoever sleeps learns of the peer's end from
/// the socket at once; this is for callers that never sleep.
const LOOK_INTERVAL: u32 = 1024;

/// Two pipes to one peer, and a socket: it carries a byte when the other side must be woken, and its
/// end is the end of the peer's process.
#[derive(Debug)]
pub(super) struct ShmStream {
    socket: UnixStream,
    out: Pipe,
    writer: SharedWriter,
    into: Pipe,
    /// Always readable: what to wait for when there is nothing to wait for.
    ready: Arc<OwnedFd>,
    /// Whether the socket has ended.
    ended: bool,
    /// Whether the peer has been told that we sleep.
    asleep: Cell<bool>,
    reads_in_vain: u32,
    /// Room in the outgoing pipe when it was last found too small.
    room_before: Option<usize>,
}

impl ShmStream {
    pub(super) fn new(socket: UnixStream, out: Pipe, into: Pipe, ready: Arc<OwnedFd>) -> Self {
        Self {
            socket,
            out,
            writer: SharedWriter::default(),
            into,
            ready,
            ended: false,
            asleep: Cell::new(false),
            reads_in_vain: 0,
            room_before: None,
        }
    }

    /// After having slept: takes back the announcement, and the bells that it brought.
    fn wake_up(&mut self) {
        if self.asleep.replace(false) {
            self.into.announce_awake();
            self.look_at_socket();
        }
    }

    /// Empties the socket of what woke us, and notices its end.
    fn look_at_socket(&mut self) {
        let mut bells = [0; 64];
        while !self.ended {
            match recv(&self.socket, &mut bells[..], RecvFlags::DONTWAIT) {
                Ok((count, _)) if count == bells.len() => {}
                Ok((0, _)) => self.ended = true,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => self.ended = true,
            }
        }
    }

    fn wake_peer(&self) {
        if self.out.must_wake_reader() {
            // If the socket is full the peer has been woken often enough; if it is closed we learn
            // of it when we look at it.
            let _ = send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    fn filled(&self) -> io::Result<(u64, usize)> {
        self.into.filled().ok_or_else(broken)
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a pipe in shared memory has impossible positions")
}

impl ByteStream for ShmStream {
    const KIND: TransportKind = TransportKind::Shm;

    const WAKES_FOR_ROOM: bool = true;

    fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize> {
        self.wake_up();
        let (start, room) = self.out.room().ok_or_else(broken)?;
        let mut left = room;
        let mut position = start;
        for part in parts {
            for piece in part[..part.len().min(left)].chunks(PIECE_BYTES) {
                self.out.put(&mut self.writer, position, piece);
                position += piece.len() as u64;
                left -= piece.len();
                self.out.publish_written(position);
            }
        }
        if position > start {
            self.wake_peer();
        }
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let written = room - left;
        self.room_before = (written < wanted).then_some(left);
        match written {
            0 if self.ended => Err(io::ErrorKind::BrokenPipe.into()),
            0 if wanted > 0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(written),
        }
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        self.wake_up();
        let (start, mut filled) = self.filled()?;
        if filled == 0 {
            self.reads_in_vain += 1;
            if self.reads_in_vain >= LOOK_INTERVAL {
                self.reads_in_vain = 0;
                self.look_at_socket();
            }
            if !self.ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // What the peer wrote before its end is there by now.
            filled = self.filled()?.1;
        }
        self.reads_in_vain = 0;
        let mut left = filled;
        let mut position = start;
        for part in [first, second] {
            let length = part.len().min(left);
            for piece in part[..length].chunks_mut(PIECE_BYTES) {
                self.into.take(position, piece);
                position += piece.len() as u64;
                left -= piece.len();
                self.into.publish_read(position);
            }
        }
        if position > start {
            self.wake_peer();
        }
        Ok(filled - left)
    }

    fn memory_bytes(&self) -> usize {
        self.out.memory_bytes()
    }

    /// Also announces that this side is about to sleep.
    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        self.into.announce_sleep();
        self.asleep.set(true);
        // Something may have come between the last look and the announcement.
        let arrived = self.into.filled().is_none_or(|(_, filled)| filled > 0);
        let room = self
            .room_before
            .is_some_and(|before| self.out.room().is_none_or(|(_, room)| room > before));
        Some(if arrived || room { self.ready.as_fd() } else { self.socket.as_fd() })
    }
}
