//! One byte stream to a peer: what is half-written, what is half-read.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ByteStream, DEPTH_MAX, FrameHeader, FrameKind, HEADER_BYTES, Inbox, LENGTH_MAX, Landing,
    OutFrame, Outbox, StreamError, Terms,
};
use crate::copy::copy_slice;
use crate::counters::ChannelCounters;
use crate::{Checksum, Event};

/// Payloads up to this size are copied behind their header: one contiguous `send` costs less than
/// gathering, and the slice is free at once.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Bytes of small frames gathered before a send; beyond it new frames wait for the stream.
const QUEUED_BYTES_MAX: usize = 48 << 10;

/// Staging for headers and small messages, several of which one read takes. A longer payload is read
/// straight into its slice except for what arrived behind its header, so staging is kept small.
const STAGING_BYTES: usize = 32 << 10;

/// Behind the rest of a payload of up to so many bytes, a read takes what else is there: more of the
/// kind. Behind a longer one it takes a header, since the payload that follows is best left where it
/// is until its slice is known.
const SHORT_BYTES_MAX: usize = COPY_BYTES_MAX;

/// Bytes of small frames that are held back at most: as many as the peer reads at a time.
const HELD_BYTES_MAX: usize = STAGING_BYTES;

/// Control frames that may be queued besides: a grant for each posted receive, and some for credit.
const CONTROL_BYTES_MAX: usize = (DEPTH_MAX + 16) * HEADER_BYTES;

/// What a stream may take from the outbox at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Largest payload of a frame.
    fragment_bytes: usize,
    /// Whether it takes no more after a frame that is too long to be copied.
    is_one: bool,
    /// Whether small frames may wait for more of them.
    may_wait: bool,
}

impl Share {
    /// Everything.
    pub(super) const ALL: Self =
        Self { fragment_bytes: LENGTH_MAX, is_one: false, may_wait: false };

    /// Everything, in pieces small enough that what is read for a checksum is still in the second-level
    /// cache when it is sent.
    pub(super) const IN_PIECES: Self = Self { fragment_bytes: 256 << 10, ..Self::ALL };

    /// What several streams share is in pieces small enough that a slow one holds up little, and large
    /// enough that the header and the call are noise.
    pub(super) const ONE_OF_SEVERAL: Self = Self { is_one: true, ..Self::IN_PIECES };

    /// The same, where small frames may wait for more of them, or may not.
    pub(super) const fn waiting(self, may_wait: bool) -> Self {
        Self { may_wait, ..self }
    }
}

/// How far to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// As long as there is anything.
    NothingIsThere,
    /// Until nothing is posted any more. What a peer that is ahead has sent beyond that is best left where
    /// it is: it goes straight to where it belongs once that is known.
    NothingIsPosted,
}

impl Until {
    pub(super) fn is_reached(self, outbox: &Outbox, inbox: &Inbox) -> bool {
        self == Self::NothingIsPosted && !inbox.has_posted() && outbox.len() == 0
    }
}

/// Payload bytes that one call of [`FrameStream::receive`] takes before it lets others have a
/// turn: what is received is then still in the second-level cache when it is reduced.
const RECEIVE_BYTES_TURN: usize = 512 << 10;

/// Unread bytes that are thrown away before a stream is closed.
const UNREAD_BYTES_MAX: usize = 4 << 20;

/// Waits for what is written to leave, at most: only a peer that does not read costs any.
const DEPARTURE_WAITS_MAX: u32 = 400;

/// How long a goodbye waits for room at a time.
const GOODBYE_WAIT: Duration = Duration::from_millis(5);

/// Frames over one stream, in both directions.
#[derive(Debug)]
pub(crate) struct FrameStream<S> {
    stream: S,
    terms: Terms,
    /// Control frames and copied small messages, ready to write, from `queued_sent` on.
    queued: Vec<u8>,
    queued_sent: usize,
    /// Whether a control frame is among them, which does not wait.
    urgent: bool,
    /// The frames whose payload was copied into `queued`. They are not reported as sent before
    /// they are: an operation that is over may not be followed by another poll.
    copied: Vec<OutFrame>,
    /// Frames that are written, each with the number of bytes written by then: not flushed yet.
    unflushed: VecDeque<(u64, OutFrame)>,
    /// Bytes ever written.
    position: u64,
    writing: Option<Writing>,
    /// The peer takes nothing any more; what it sent before may still be there to read.
    refused: bool,
    staging: Box<[u8]>,
    staged: std::ops::Range<usize>,
    reading: Option<Reading>,
    goodbye: bool,
    counters: Arc<ChannelCounters>,
}

/// A frame whose payload is sent from its slice.
#[derive(Debug)]
struct Writing {
    frame: OutFrame,
    header: [u8; HEADER_BYTES],
    /// Bytes written, header included.
    written: usize,
}

/// A data frame whose header has arrived.
#[derive(Debug)]
struct Reading {
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
    pub(super) fn new(stream: S, terms: Terms, counters: Arc<ChannelCounters>) -> Self {
        Self {
            stream,
            terms,
            queued: Vec::with_capacity(QUEUED_BYTES_MAX + COPY_BYTES_MAX + CONTROL_BYTES_MAX),
            queued_sent: 0,
            urgent: false,
            copied: Vec::with_capacity(QUEUED_BYTES_MAX / HEADER_BYTES),
            unflushed: VecDeque::new(),
            position: 0,
            writing: None,
            refused: false,
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            staged: 0..0,
            reading: None,
            goodbye: false,
            counters,
        }
    }

    pub(super) fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        self.stream.wait_on()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.has_unwritten() || (S::BUFFERS && !self.unflushed.is_empty())
    }

    fn has_unwritten(&self) -> bool {
        !self.refused && (self.queued_sent < self.queued.len() || self.writing.is_some())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let copied = self.copied.capacity() * size_of::<OutFrame>();
        let unflushed = self.unflushed.capacity() * size_of::<(u64, OutFrame)>();
        self.queued.capacity()
            + self.staging.len()
            + copied
            + unflushed
            + self.stream.memory_bytes()
    }

    /// Queues a header without payload.
    pub(super) fn queue_control(&mut self, header: &FrameHeader) {
        self.queued.extend_from_slice(&header.encode(self.terms.checksum));
        self.urgent = true;
    }

    /// Forgets a frame of the communicator that is not begun yet. Returns whether one is begun:
    /// the stream is of no use then, since the peer waits for the rest. What was copied goes out,
    /// but is not reported any more.
    pub(super) fn abandon(&mut self, communicator: u32) -> bool {
        self.copied.retain(|frame| frame.header.id.communicator != communicator);
        self.unflushed.retain(|(_, frame)| frame.header.id.communicator != communicator);
        match &self.writing {
            Some(writing) if writing.frame.header.id.communicator == communicator => {
                let begun = writing.written > 0;
                self.writing = None;
                begun
            }
            _ => false,
        }
    }

    /// Writes what is queued and `goodbye` as the last frame. Where the peer does not take it
    /// within `patience` waits, it sees a plain close.
    pub(super) fn say_goodbye(
        &mut self,
        goodbye: &FrameHeader,
        outbox: &Outbox,
        patience: &mut u32,
    ) {
        if self.writing.as_ref().is_some_and(|writing| writing.written == 0) {
            self.writing = None;
        }
        self.queue_control(goodbye);
        while self.has_unwritten() {
            match self.write_once(outbox) {
                Ok((written, _)) => {
                    self.count_written(written);
                }
                Err(error) if would_block(&error) && *patience > 0 => {
                    *patience -= 1;
                    self.stream.wait_for_room(GOODBYE_WAIT);
                }
                Err(_) => return,
            }
        }
        // What lies unread when the stream is closed, or comes afterwards, makes the kernel reset the
        // connection, and the peer would lose what has not left by then.
        for _ in 0..DEPARTURE_WAITS_MAX {
            if !self.read_away() || self.stream.has_left() {
                return;
            }
            std::thread::sleep(GOODBYE_WAIT);
        }
    }

    /// Throws away what has arrived. Returns whether more may come.
    fn read_away(&mut self) -> bool {
        for _ in 0..UNREAD_BYTES_MAX / STAGING_BYTES {
            match self.stream.read(&mut self.staging, &mut []) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return would_block(&error),
            }
        }
        false
    }

    /// Writes as much as the stream takes, making frames from the outbox as it goes.
    pub(super) fn send(
        &mut self,
        outbox: &mut Outbox,
        inbox: &mut Inbox,
        share: Share,
        events: &mut Vec<Event>,
    ) -> Result<bool, StreamError> {
        let mut moved = false;
        loop {
            if self.refused {
                return Ok(moved);
            }
            if S::BUFFERS {
                self.report_flushed(outbox, events)?;
            }
            self.next_frames(outbox, inbox, share.fragment_bytes);
            if !self.has_unwritten() {
                return Ok(moved);
            }
            if share.may_wait && self.can_wait() {
                moved |= !self.copied.is_empty();
                self.copied.drain(..).for_each(|frame| outbox.written(&frame, events));
                return Ok(moved);
            }
            let (written, wanted) = match self.write_once(outbox) {
                Ok(done) => done,
                Err(error) if would_block(&error) => return Ok(moved),
                Err(error) if is_hang_up(&error) => {
                    // Not reported here: what the peer sent before it went comes first.
                    self.refused = true;
                    return Ok(moved);
                }
                Err(error) => return Err(StreamError::Io(error)),
            };
            moved = true;
            let complete = self.count_written(written);
            let completed = complete.is_some();
            if self.queued.is_empty() {
                for frame in self.copied.drain(..) {
                    if S::BUFFERS {
                        self.unflushed.push_back((self.position, frame));
                    } else {
                        outbox.written(&frame, events);
                    }
                }
            }
            match complete {
                Some(frame) if S::BUFFERS => self.unflushed.push_back((self.position, frame)),
                Some(frame) => outbox.written(&frame, events),
                None => {}
            }
            if written < wanted || (completed && share.is_one) {
                if S::BUFFERS {
                    self.report_flushed(outbox, events)?;
                }
                return Ok(moved);
            }
        }
    }

    /// Whether all that is to be written is a few small frames that nothing makes urgent.
    fn can_wait(&self) -> bool {
        S::MAY_WAIT
            && !self.urgent
            && self.writing.is_none()
            && self.queued.len() - self.queued_sent < HELD_BYTES_MAX
    }

    fn report_flushed(
        &mut self,
        outbox: &mut Outbox,
        events: &mut Vec<Event>,
    ) -> Result<(), StreamError> {
        if self.unflushed.is_empty() {
            return Ok(());
        }
        let flushed = self.stream.flush().map_err(StreamError::Io)?;
        while let Some((_, frame)) = self.unflushed.pop_front_if(|(end, _)| *end <= flushed) {
            outbox.written(&frame, events);
        }
        Ok(())
    }

    fn next_frames(&mut self, outbox: &mut Outbox, inbox: &mut Inbox, fragment_max: usize) {
        while self.writing.is_none() && self.queued.len() < QUEUED_BYTES_MAX {
            let Some(mut frame) = outbox.next_frame(fragment_max) else { return };
            frame.header.credit = inbox.take_credit(frame.header.id.communicator);
            if self.terms.checksum != Checksum::None {
                let payload = outbox.payload(&frame, 0);
                frame.header.payload_checksum = self.terms.checksum.append(0, payload);
            }
            let header = frame.header.encode(self.terms.checksum);
            if frame.header.length as usize <= COPY_BYTES_MAX {
                self.queued.extend_from_slice(&header);
                self.queued.extend_from_slice(outbox.payload(&frame, 0));
                // Whatever becomes of its operation, it goes out.
                self.counters.sent.frame(frame.header.offset == 0, frame.header.length);
                self.copied.push(frame);
            } else {
                self.writing = Some(Writing { frame, header, written: 0 });
            }
        }
    }

    /// One write. Returns what it took and what it was offered.
    fn write_once(&mut self, outbox: &Outbox) -> io::Result<(usize, usize)> {
        let queued = &self.queued[self.queued_sent..];
        let Some(writing) = &self.writing else {
            return Ok((self.stream.write([queued, &[], &[]])?, queued.len()));
        };
        let header = &writing.header[writing.written.min(HEADER_BYTES)..];
        let payload = outbox.payload(&writing.frame, writing.written.saturating_sub(HEADER_BYTES));
        // What was queued before the frame goes first, unless the frame is already under way.
        let queued = if writing.written == 0 { queued } else { &[] };
        let written = self.stream.write([queued, header, payload])?;
        Ok((written, queued.len() + header.len() + payload.len()))
    }

    /// Books written bytes; returns the frame that they complete.
    fn count_written(&mut self, mut written: usize) -> Option<OutFrame> {
        self.counters.sent.wire(written);
        self.position += written as u64;
        let queue_first = self.writing.as_ref().is_none_or(|writing| writing.written == 0);
        if queue_first {
            let queued = written.min(self.queued.len() - self.queued_sent);
            self.queued_sent += queued;
            written -= queued;
            if self.queued_sent == self.queued.len() {
                self.queued.clear();
                self.queued_sent = 0;
                self.urgent = false;
            }
        }
        let writing = self.writing.as_mut()?;
        writing.written += written;
        let complete = writing.written == HEADER_BYTES + writing.frame.header.length as usize;
        let frame = if complete { self.writing.take()?.frame } else { return None };
        self.counters.sent.frame(frame.header.offset == 0, frame.header.length);
        Some(frame)
    }

    /// Reads what has arrived, up to one turn's worth.
    pub(super) fn receive(
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

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}
