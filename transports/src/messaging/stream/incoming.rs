//! What comes in: straight to where it belongs if it is long, through staging if it is short.

use std::io;

use super::{COPY_BYTES_MAX, FrameStream, is_hang_up, would_block};
use crate::copy::copy_slice;
use crate::messaging::{
    ByteStream, FrameHeader, FrameKind, HEADER_BYTES, Inbox, Landing, Outbox, StreamError,
};
use crate::{Checksum, Event};

/// Behind the rest of a payload of up to so many bytes, a read takes what else is there: more of the
/// kind. Behind a longer one it takes a header, since the payload that follows is best left where it
/// is until its slice is known.
const SHORT_BYTES_MAX: usize = COPY_BYTES_MAX;

/// Payload bytes that one call of [`FrameStream::receive`] takes before it lets others have a
/// turn: what is received is then still in the second-level cache when it is reduced.
const RECEIVE_BYTES_TURN: usize = 512 << 10;

/// How far to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::messaging) enum Until {
    /// As long as there is anything.
    NothingIsThere,
    /// Until nothing is posted any more. What a peer that is ahead has sent beyond that is best left where
    /// it is: it goes straight to where it belongs once that is known.
    NothingIsPosted,
}

impl Until {
    pub(in crate::messaging) fn is_reached(self, outbox: &Outbox, inbox: &Inbox) -> bool {
        self == Self::NothingIsPosted && !inbox.has_posted() && outbox.len() == 0
    }
}

/// A data frame whose header has arrived.
#[derive(Debug)]
pub(super) struct Reading {
    header: FrameHeader,
    landing: Landing,
    landed: usize,
    /// Checksum of what has landed.
    computed: u32,
}

impl Reading {
    fn rest(&self) -> usize {
        self.header.length as usize - self.landed
    }

    /// Whether what has landed is what was sent.
    fn verify(&self) -> Result<(), StreamError> {
        let (computed, expected) = (self.computed, self.header.payload_checksum);
        if computed == expected {
            return Ok(());
        }
        Err(StreamError::Corrupted { part: "payload", computed, expected })
    }
}

impl<S: ByteStream> FrameStream<S> {
    /// Reads what has arrived, up to one turn's worth.
    pub(in crate::messaging) fn receive(
        &mut self,
        outbox: &mut Outbox,
        inbox: &mut Inbox,
        until: Until,
        events: &mut Vec<Event>,
    ) -> Result<bool, StreamError> {
        let (mut taken, staged) = (0, self.staged.len());
        self.consume_staged(outbox, inbox, until, events)?;
        let consumed = self.staged.len() < staged;
        loop {
            if until.is_reached(outbox, inbox) {
                return Ok(true);
            }
            let (read, wanted) = match self.read_once(inbox) {
                Ok(done) => done,
                Err(error) if would_block(&error) => return Ok(consumed || taken > 0),
                Err(error) if is_hang_up(&error) => (0, 0),
                Err(error) => return Err(StreamError::Io(error)),
            };
            if read == 0 {
                return Err(StreamError::Closed { orderly: self.goodbye });
            }
            taken += read;
            self.counters.received.wire(read);
            self.consume_staged(outbox, inbox, until, events)?;
            if read < wanted || taken >= RECEIVE_BYTES_TURN {
                return Ok(true);
            }
        }
    }

    /// One read: the rest of a payload straight into its slice and what follows it into staging, or
    /// everything into staging.
    fn read_once(&mut self, inbox: &mut Inbox) -> io::Result<(usize, usize)> {
        if self.staged.is_empty() {
            self.staged = 0..0;
        } else if self.staged.start > 0 {
            self.staging.copy_within(self.staged.clone(), 0);
            self.staged = 0..self.staged.len();
        }
        let free = &mut self.staging[self.staged.end..];
        if let Some(reading) = &mut self.reading {
            let length = reading.header.length as usize;
            if let Some(target) = inbox.target(reading.landing, reading.landed, length) {
                let rest = target.len();
                let more = if rest <= SHORT_BYTES_MAX { free.len() } else { HEADER_BYTES };
                let behind = &mut free[..more];
                let read = self.stream.read(target, behind)?;
                let landed = read.min(rest);
                reading.computed = self.terms.checksum.append(reading.computed, &target[..landed]);
                reading.landed += landed;
                self.staged.end += read - landed;
                return Ok((read, rest + more));
            }
        }
        let wanted = free.len();
        let read = self.stream.read(free, &mut [])?;
        self.staged.end += read;
        Ok((read, wanted))
    }

    /// Parses and places what is in staging, and ends the frame that is complete.
    fn consume_staged(
        &mut self,
        outbox: &mut Outbox,
        inbox: &mut Inbox,
        until: Until,
        events: &mut Vec<Event>,
    ) -> Result<(), StreamError> {
        loop {
            if let Some(reading) = &mut self.reading {
                let length = reading.header.length as usize;
                let take = reading.rest().min(self.staged.len());
                if take > 0 {
                    let bytes = &self.staging[self.staged.start..self.staged.start + take];
                    reading.computed = self.terms.checksum.append(reading.computed, bytes);
                    if let Some(target) = inbox.target(reading.landing, reading.landed, length) {
                        copy_slice(&mut target[..take], bytes);
                    }
                    self.staged.start += take;
                    reading.landed += take;
                }
                if reading.rest() > 0 {
                    return Ok(());
                }
                if self.terms.checksum != Checksum::None {
                    reading.verify()?;
                }
                self.counters.received.frame(reading.header.offset == 0, reading.header.length);
                inbox.finish(reading.landing, &reading.header, events);
                self.reading = None;
            }
            if until.is_reached(outbox, inbox) {
                return Ok(());
            }
            let Some(header) = self.staging[self.staged.clone()].first_chunk::<HEADER_BYTES>()
            else {
                return Ok(());
            };
            let header = FrameHeader::decode(header, self.terms.epoch, self.terms.checksum)?;
            self.staged.start += HEADER_BYTES;
            self.begin(header, outbox, inbox, events).map_err(StreamError::Protocol)?;
        }
    }

    fn begin(
        &mut self,
        header: FrameHeader,
        outbox: &mut Outbox,
        inbox: &mut Inbox,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        if header.credit > 0 {
            outbox.credited(header.id.communicator, header.credit)?;
        }
        match header.kind {
            FrameKind::Data | FrameKind::Eager => {
                let landing = inbox.begin(&header, events)?;
                self.reading = Some(Reading { header, landing, landed: 0, computed: 0 });
            }
            FrameKind::Grant => outbox.granted(header.id)?,
            FrameKind::Credit => {}
            FrameKind::Goodbye => self.goodbye = true,
        }
        Ok(())
    }
}
