//! A stream of bytes to one peer: a ring of pieces each way.
//!
//! # Invariants
//! 1. The memory of a ring is freed only when none of its requests is under way; a ring whose
//!    requests do not end in time is leaked ([`super::closing`]).
//! 2. Pieces are sent and received in the order of their slots, all with one tag between the same
//!    two ranks, so that MPI matches them in that order.
//! 3. Every second half of the ring ends with a synchronous send. So the sender laps no receiver: what
//!    MPI buffers at a receiver that does not poll is bounded by twice the ring.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::calls::{Calls, MpiError, Party, Piece, Request};
use super::closing::Closing;
use super::world::World;
use crate::messaging::ByteStream;
use crate::{Region, RegionError, TransportKind};

/// Pieces of one ring.
const PIECES: usize = 8;

/// Bytes of one piece. Below the 64 KiB up to which Open MPI sends over TCP without asking first, and
/// long enough that a message costs little beside the copy.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// Synchronous sends up to this size leave at once, although they end later: every MPI sends so much
/// without asking first.
const EAGER_BYTES: usize = 1 << 10;

/// The memory of a ring.
#[derive(Debug)]
struct Memory(Arc<Region>);

impl Memory {
    fn new() -> Result<Self, RegionError> {
        Ok(Self(Region::allocate(PIECES * PIECE_BYTES)?))
    }

    fn first(&self, slot: usize) -> NonNull<u8> {
        debug_assert!(slot < PIECES, "slots are counted modulo their number");
        // SAFETY: within the region, which has `PIECES` pieces.
        unsafe { self.0.as_ptr().add(slot * PIECE_BYTES) }
    }
}

/// What is being sent.
#[derive(Debug)]
pub(super) struct OutRing {
    memory: Memory,
    to: Party,
    slots: [Option<Sending>; PIECES],
    /// Slots filled since the beginning, and how many of them are free again.
    filled: usize,
    freed: usize,
    /// Bytes taken since the beginning.
    taken: u64,
    /// Of these, how many MPI needs this process no more for.
    flushed: u64,
}

#[derive(Debug)]
struct Sending {
    /// `None` when it has ended.
    request: Option<Request>,
    /// It leaves without any further call of ours.
    leaves: bool,
    /// Bytes of the stream up to its end.
    end: u64,
}

impl OutRing {
    fn new(to: Party) -> Result<Self, RegionError> {
        Ok(Self {
            memory: Memory::new()?,
            to,
            slots: Default::default(),
            filled: 0,
            freed: 0,
            taken: 0,
            flushed: 0,
        })
    }

    /// Looks what has ended.
    pub(super) fn reap(&mut self, world: &World, calls: &mut Calls) -> Result<(), MpiError> {
        for number in self.freed..self.filled {
            let sending = self.slots[number % PIECES].as_mut().expect("filled and not freed");
            if let Some(request) = &mut sending.request {
                if calls.test(world.channel(), request)?.is_some() {
                    sending.request = None;
                } else if !sending.leaves {
                    break;
                }
            }
            self.flushed = self.flushed.max(sending.end);
            if sending.request.is_none() && number == self.freed {
                self.slots[number % PIECES] = None;
                self.freed += 1;
            }
        }
        Ok(())
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.freed == self.filled
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled - self.freed == PIECES
    }

    /// Sends one piece of the parts from byte `from` on. Returns its length; a piece of no bytes is
    /// the end of the stream.
    pub(super) fn push(
        &mut self,
        world: &World,
        calls: &mut Calls,
        parts: [&[u8]; 3],
        from: usize,
    ) -> Result<usize, MpiError> {
        debug_assert!(!self.is_full(), "the caller looks for room");
        let slot = self.filled % PIECES;
        let first = self.memory.first(slot);
        let (mut skip, mut length) = (from, 0);
        for part in parts {
            let rest = &part[skip.min(part.len())..];
            skip = skip.saturating_sub(part.len());
            let rest = &rest[..rest.len().min(PIECE_BYTES - length)];
            // SAFETY: a piece has room for `PIECE_BYTES`, which `length` stays below.
            let target = unsafe { first.as_ptr().add(length) };
            // SAFETY: the slot is free, so nobody else uses its memory, and a caller's buffer is
            // never part of it.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), target, rest.len()) };
            length += rest.len();
        }
        // The last slot of each half (invariant 3).
        let synchronous = slot % (PIECES / 2) == PIECES / 2 - 1;
        let piece = Piece { first, length };
        // SAFETY: the memory belongs to the ring and the slot is not free until the request has
        // ended (invariant 1).
        let request = unsafe { calls.send(world.channel(), piece, self.to, synchronous) }?;
        self.taken += length as u64;
        let leaves = synchronous && length <= EAGER_BYTES;
        self.slots[slot] = Some(Sending { request: Some(request), leaves, end: self.taken });
        self.filled += 1;
        Ok(length)
    }
}

/// What is being received.
#[derive(Debug)]
pub(super) struct InRing {
    memory: Memory,
    from: Party,
    /// `None` only for the head while its bytes are being taken, and after the end.
    slots: [Option<Request>; PIECES],
    head: usize,
    /// Bytes of the head once it has arrived, and how many of them were taken.
    arrived: Option<(usize, usize)>,
    /// The peer's last message has come.
    pub(super) ended: bool,
}

impl InRing {
    fn new(world: &World, calls: &mut Calls, from: Party) -> Result<Self, StartError> {
        let mut ring = Self {
            memory: Memory::new()?,
            from,
            slots: Default::default(),
            head: 0,
            arrived: None,
            ended: false,
        };
        for slot in 0..PIECES {
            if let Err(error) = ring.post(world, calls, slot) {
                // Invariant 1: the receives before it are under way.
                std::mem::forget(ring);
                return Err(error.into());
            }
        }
        Ok(ring)
    }

    fn post(&mut self, world: &World, calls: &mut Calls, slot: usize) -> Result<(), MpiError> {
        let piece = Piece { first: self.memory.first(slot), length: PIECE_BYTES };
        // SAFETY: the memory belongs to the ring, which does not touch the piece until the request
        // has ended (invariant 1).
        self.slots[slot] = Some(unsafe { calls.receive(world.channel(), piece, self.from) }?);
        Ok(())
    }

    /// Whether bytes of the head can be taken; notices the end.
    fn look(&mut self, world: &World, calls: &mut Calls) -> Result<bool, MpiError> {
        if self.arrived.is_none()
            && let Some(request) = &mut self.slots[self.head]
            && let Some(length) = calls.test(world.channel(), request)?
        {
            self.slots[self.head] = None;
            if length == 0 {
                self.ended = true;
            } else {
                self.arrived = Some((length, 0));
            }
        }
        Ok(self.arrived.is_some())
    }

    /// Takes bytes of the head. Returns how many, and whether to look for more: a short piece is
    /// mostly the last, and a look in vain costs more than another call.
    fn take(
        &mut self,
        world: &World,
        calls: &mut Calls,
        into: &mut [u8],
    ) -> Result<(usize, bool), MpiError> {
        let Some((length, taken)) = self.arrived else { return Ok((0, false)) };
        let count = into.len().min(length - taken);
        // SAFETY: `taken` is below the length of what has arrived in this piece.
        let source = unsafe { self.memory.first(self.head).as_ptr().add(taken) };
        // SAFETY: the request of the head has ended, so that nobody writes to its piece.
        unsafe { std::ptr::copy_nonoverlapping(source, into.as_mut_ptr(), count) };
        if taken + count < length {
            self.arrived = Some((length, taken + count));
            return Ok((count, true));
        }
        self.arrived = None;
        self.post(world, calls, self.head)?;
        self.head = (self.head + 1) % PIECES;
        Ok((count, length == PIECE_BYTES))
    }

    /// Throws away what comes until the end.
    pub(super) fn discard(&mut self, world: &World, calls: &mut Calls) -> Result<(), MpiError> {
        while !self.ended && self.look(world, calls)? {
            self.arrived = None;
            self.post(world, calls, self.head)?;
            self.head = (self.head + 1) % PIECES;
        }
        Ok(())
    }

    /// Takes back the receives that nothing will match any more.
    pub(super) fn cancel(&mut self, calls: &mut Calls) -> Result<(), MpiError> {
        self.slots.iter_mut().filter_map(Option::take).try_for_each(|request| calls.cancel(request))
    }
}

/// Why a stream cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Memory(#[from] RegionError),
    #[error(transparent)]
    Mpi(#[from] MpiError),
}

/// A stream to one peer.
#[derive(Debug)]
pub(super) struct MpiStream {
    world: &'static World,
    /// Present until the stream is dropped.
    rings: Option<(OutRing, InRing)>,
}

impl MpiStream {
    /// A stream to `peer`, which is sent to with its tag and receives with ours.
    pub(super) fn open(
        world: &'static World,
        calls: &mut Calls,
        peer: Party,
        own_tag: i32,
    ) -> Result<Self, StartError> {
        let out = OutRing::new(peer)?;
        let into = InRing::new(world, calls, Party { tag: own_tag, ..peer })?;
        Ok(Self { world, rings: Some((out, into)) })
    }

    fn rings(&mut self) -> &mut (OutRing, InRing) {
        self.rings.as_mut().expect("present until the stream is dropped")
    }
}

fn hung_up() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl ByteStream for MpiStream {
    const KIND: TransportKind = TransportKind::Mpi;

    const WAKES: bool = false;

    const BUFFERS: bool = true;

    fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize> {
        let world = self.world;
        let mut calls = world.enter().ok_or_else(hung_up)?;
        let (out, into) = self.rings();
        if into.ended {
            return Err(hung_up());
        }
        if out.is_full() {
            out.reap(world, &mut calls)?;
        }
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let mut written = 0;
        while written < wanted && !out.is_full() {
            written += out.push(world, &mut calls, parts, written)?;
        }
        if written == 0 && wanted > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        let world = self.world;
        let Some(mut calls) = world.enter() else { return Ok(0) };
        let (_, into) = self.rings();
        let mut read = 0;
        'parts: for mut part in [first, second] {
            while !part.is_empty() {
                if !into.look(world, &mut calls)? {
                    break 'parts;
                }
                let (count, more) = into.take(world, &mut calls, part)?;
                part = &mut part[count..];
                read += count;
                if !more {
                    break 'parts;
                }
            }
        }
        if read > 0 || into.ended { Ok(read) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn flush(&mut self) -> io::Result<u64> {
        let world = self.world;
        let (out, _) = self.rings();
        if out.flushed < out.taken {
            let mut calls = world.enter().ok_or_else(hung_up)?;
            out.reap(world, &mut calls)?;
        }
        Ok(out.flushed)
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn wait_for_room(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        let world = self.world;
        let (out, _) = self.rings();
        while out.is_full() && Instant::now() < until {
            let Some(mut calls) = world.enter() else { return };
            if out.reap(world, &mut calls).is_err() {
                return;
            }
            drop(calls);
            std::thread::yield_now();
        }
    }

    fn memory_bytes(&self) -> usize {
        2 * PIECES * PIECE_BYTES
    }
}

impl Drop for MpiStream {
    /// Says that it is the end, now or when there is room for it; the thread of MPI does the rest.
    fn drop(&mut self) {
        let Some((out, into)) = self.rings.take() else { return };
        self.world.close(Closing::new(self.world, out, into));
    }
}
