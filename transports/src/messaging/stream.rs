//! One byte stream to a peer: what is half-written, what is half-read.

mod incoming;
mod outgoing;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{ByteStream, DEPTH_MAX, FrameHeader, HEADER_BYTES, OutFrame, Outbox, Terms};
use crate::counters::ChannelCounters;
use incoming::Reading;
use outgoing::Writing;

pub(super) use incoming::Until;
pub(super) use outgoing::Share;

/// Payloads up to this size are copied behind their header: one contiguous `send` costs less than
/// gathering, and the slice is free at once.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Bytes of small frames gathered before a send; beyond it new frames wait for the stream.
const QUEUED_BYTES_MAX: usize = 48 << 10;

/// Staging for headers and small messages, several of which one read takes. A longer payload is read
/// straight into its slice except for what arrived behind its header, so staging is kept small.
const STAGING_BYTES: usize = 32 << 10;

/// Control frames that may be queued besides: a grant for each posted receive, and some for credit.
const CONTROL_BYTES_MAX: usize = (DEPTH_MAX + 16) * HEADER_BYTES;

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

    /// Whether small frames are queued, which may have been reported as sent.
    pub(super) fn has_queued(&self) -> bool {
        !self.refused && self.queued_sent < self.queued.len()
    }

    fn has_unwritten(&self) -> bool {
        self.has_queued() || (!self.refused && self.writing.is_some())
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
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}
