//! What goes out: frames made from the outbox, short ones many at a time.

use std::io;

use super::{
    COPY_BYTES_MAX, FrameStream, QUEUED_BYTES_MAX, STAGING_BYTES, is_hang_up, would_block,
};
use crate::messaging::{
    ByteStream, HEADER_BYTES, Inbox, LENGTH_MAX, OutFrame, Outbox, StreamError,
};
use crate::{Checksum, Event};

/// Bytes of small frames that are held back at most: as many as the peer reads at a time.
const HELD_BYTES_MAX: usize = STAGING_BYTES;

/// What a stream may take from the outbox at a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::messaging) struct Share {
    /// Largest payload of a frame.
    fragment_bytes: usize,
    /// Whether it takes no more after a frame that is too long to be copied.
    is_one: bool,
    /// Whether small frames may wait for more of them.
    may_wait: bool,
}

impl Share {
    /// Everything.
    pub(in crate::messaging) const ALL: Self =
        Self { fragment_bytes: LENGTH_MAX, is_one: false, may_wait: false };

    /// Everything, in pieces small enough that what is read for a checksum is still in the second-level
    /// cache when it is sent.
    pub(in crate::messaging) const IN_PIECES: Self =
        Self { fragment_bytes: 256 << 10, ..Self::ALL };

    /// What several streams share is in pieces small enough that a slow one holds up little, and large
    /// enough that the header and the call are noise.
    pub(in crate::messaging) const ONE_OF_SEVERAL: Self = Self { is_one: true, ..Self::IN_PIECES };

    /// The same, where small frames may wait for more of them, or may not.
    pub(in crate::messaging) const fn waiting(self, may_wait: bool) -> Self {
        Self { may_wait, ..self }
    }
}

/// A frame whose payload is sent from its slice.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) frame: OutFrame,
    pub(super) header: [u8; HEADER_BYTES],
    /// Bytes written, header included.
    pub(super) written: usize,
}

impl<S: ByteStream> FrameStream<S> {
    /// Writes as much as the stream takes, making frames from the outbox as it goes.
    pub(in crate::messaging) fn send(
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
    pub(super) fn write_once(&mut self, outbox: &Outbox) -> io::Result<(usize, usize)> {
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
    pub(super) fn count_written(&mut self, mut written: usize) -> Option<OutFrame> {
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
}
