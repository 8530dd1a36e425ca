use std::ops::Range;

use super::FrameHeader;
use crate::{EAGER_BYTES_OUTSTANDING_MAX, MessageId};

/// Frames for which there is room from the start: what few peers are ever ahead by.
const FRAMES: usize = 64;

/// The payload of a frame that nobody has posted a receive for yet.
#[derive(Debug)]
pub(super) struct EarlyFrame {
    pub(super) header: FrameHeader,
    /// Where its payload begins in the store.
    start: usize,
    pub(super) landed: usize,
}

impl EarlyFrame {
    pub(super) fn length(&self) -> usize {
        self.header.length as usize
    }

    pub(super) fn is_complete(&self) -> bool {
        self.landed == self.length()
    }

    /// Where its bytes belong in the message.
    pub(super) fn range(&self) -> Range<usize> {
        let start = usize::try_from(self.header.offset).unwrap_or(usize::MAX);
        start..start.saturating_add(self.length())
    }

    /// Whether another frame is about some of the same bytes, or cannot be told from this one.
    pub(super) fn meets(&self, other: &FrameHeader) -> bool {
        let (start, end) = (self.header.offset, self.header.offset + u64::from(self.header.length));
        let shared = start < other.offset + u64::from(other.length) && other.offset < end;
        self.header.id == other.id && (shared || self.header.offset == other.offset)
    }
}

/// Frames that arrived before their receives were posted, in the order of their arrival.
///
/// The payloads lie behind each other in one buffer, and move together when its end is reached. It
/// holds from the start what one communicator's credit allows, so that early frames, which come
/// whenever a peer is faster, allocate nothing; only several communicators that are all full make it
/// grow.
#[derive(Debug)]
pub(super) struct EarlyFrames {
    frames: Vec<EarlyFrame>,
    bytes: Vec<u8>,
    /// Where the next payload goes.
    end: usize,
}

impl EarlyFrames {
    pub(super) fn new() -> Self {
        Self {
            frames: Vec::with_capacity(FRAMES),
            // Zeroed memory of this size is not resident before it is used.
            bytes: vec![0; EAGER_BYTES_OUTSTANDING_MAX],
            end: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn frames(&self) -> &[EarlyFrame] {
        &self.frames
    }

    pub(super) fn push(&mut self, header: FrameHeader) {
        let length = header.length as usize;
        if self.frames.is_empty() {
            self.end = 0;
        } else if self.end + length > self.bytes.len() {
            self.close_gaps();
        }
        if self.end + length > self.bytes.len() {
            self.bytes.resize(self.end + length, 0);
        }
        self.frames.push(EarlyFrame { header, start: self.end, landed: 0 });
        self.end += length;
    }

    /// Moves all payloads to the front. Frames lie in the order of their arrival.
    fn close_gaps(&mut self) {
        let mut end = 0;
        for frame in &mut self.frames {
            self.bytes.copy_within(frame.start..frame.start + frame.length(), end);
            frame.start = end;
            end += frame.length();
        }
        self.end = end;
    }

    /// The frame with these bytes of a message.
    pub(super) fn find(&self, id: MessageId, offset: u64) -> Option<usize> {
        self.frames.iter().position(|frame| frame.header.id == id && frame.header.offset == offset)
    }

    /// The payload of a frame from byte `from` on, to be filled.
    pub(super) fn payload_mut(&mut self, at: usize, from: usize) -> &mut [u8] {
        let frame = &self.frames[at];
        &mut self.bytes[frame.start + from..frame.start + frame.length()]
    }

    /// All of the frame's payload has landed.
    pub(super) fn complete(&mut self, at: usize) {
        self.frames[at].landed = self.frames[at].length();
    }

    /// Takes a frame out. Its payload can be read until the next change.
    pub(super) fn remove(&mut self, at: usize) -> (EarlyFrame, &[u8]) {
        let frame = self.frames.remove(at);
        let payload = frame.start..frame.start + frame.length();
        (frame, &self.bytes[payload])
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&EarlyFrame) -> bool) {
        self.frames.retain(keep);
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.frames.capacity() * size_of::<EarlyFrame>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameKind, flags};
    use super::*;
    use crate::Signature;

    fn header(tag: u32, length: usize) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Data,
            flags: flags::EAGER,
            epoch: 0,
            id: MessageId { communicator: 0, tag, op_seq: 0 },
            signature: Signature::default(),
            offset: 0,
            message_bytes: length as u64,
            length: u32::try_from(length).unwrap(),
            credit: 0,
        }
    }

    fn push(early: &mut EarlyFrames, tag: u32, length: usize) {
        early.push(header(tag, length));
        let at = early.find(header(tag, 0).id, 0).unwrap();
        early.payload_mut(at, 0).fill(u8::try_from(tag).unwrap());
        early.complete(at);
    }

    fn take(early: &mut EarlyFrames, tag: u32, length: usize) {
        let at = early.find(header(tag, 0).id, 0).unwrap();
        assert!(early.frames()[at].is_complete());
        let (_, payload) = early.remove(at);
        assert!(payload == vec![u8::try_from(tag).unwrap(); length], "frame {tag}");
    }

    #[test]
    fn payloads_survive_being_moved_and_need_no_more_memory_than_the_credit() {
        let mut early = EarlyFrames::new();
        let at_rest = early.memory_bytes();
        let quarter = EAGER_BYTES_OUTSTANDING_MAX / 4;
        (0..4).for_each(|tag| push(&mut early, tag, quarter));
        // Whatever leaves makes room for as much, in whatever order.
        for (gone, new) in [(1, 4), (3, 5), (0, 6), (4, 7), (7, 8)] {
            take(&mut early, gone, quarter);
            push(&mut early, new, quarter);
        }
        assert_eq!(early.memory_bytes(), at_rest);
        push(&mut early, 9, 10);
        assert!(early.memory_bytes() > at_rest, "more than one communicator's credit");
        for tag in [2, 5, 6, 8] {
            take(&mut early, tag, quarter);
        }
        take(&mut early, 9, 10);
        assert!(early.is_empty());
    }

    #[test]
    fn frames_of_no_bytes_are_frames() {
        let mut early = EarlyFrames::new();
        push(&mut early, 1, 0);
        push(&mut early, 2, 3);
        take(&mut early, 1, 0);
        take(&mut early, 2, 3);
    }
}
