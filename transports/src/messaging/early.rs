use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use super::FrameHeader;
use crate::{EAGER_BYTES_OUTSTANDING_MAX, MessageId};

/// Frames for which there is room from the start: what few peers are ever ahead by.
const FRAMES: usize = 64;

/// No slot: the end of a list.
const NONE: usize = usize::MAX;

/// The payload of a frame that nobody has posted a receive for yet.
#[derive(Clone, Debug)]
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
    fn meets(&self, other: &FrameHeader) -> bool {
        let (start, end) = (self.header.offset, self.header.offset + u64::from(self.header.length));
        let shared = start < other.offset + u64::from(other.length) && other.offset < end;
        self.header.id == other.id && (shared || self.header.offset == other.offset)
    }
}

/// What tells operations apart.
type OperationKey = (u32, u64);

fn key(id: MessageId) -> OperationKey {
    (id.communicator, id.op_seq)
}

/// Which early frame, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EarlyPlace {
    slot: usize,
    number: u64,
}

#[derive(Debug)]
struct Slot {
    frame: Option<EarlyFrame>,
    /// Of the frame: no two have the same.
    number: u64,
    /// The next frame of the same operation; of an empty slot, the next empty one.
    next: usize,
}

/// The frames of an operation, in the order of their arrival: the first and the last slot.
#[derive(Clone, Copy, Debug)]
struct List {
    first: usize,
    last: usize,
}

/// Frames that arrived before their receives were posted.
///
/// A peer that only sends may be ahead by a thousand operations, so those of one are found by its number.
///
/// The payloads lie behind each other in one buffer, and move together when its end is reached. It
/// holds from the start what one communicator's credit allows, so that early frames, which come
/// whenever a peer is faster, allocate nothing; only several communicators that are all full make it
/// grow.
#[derive(Debug)]
pub(super) struct EarlyFrames {
    slots: Vec<Slot>,
    /// The first empty slot.
    empty: usize,
    count: usize,
    next_number: u64,
    operations: HashMap<OperationKey, List>,
    bytes: Vec<u8>,
    /// Where the next payload goes.
    end: usize,
    /// Slots by the place of their payloads, while those are moved.
    order: Vec<usize>,
}

impl EarlyFrames {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::with_capacity(FRAMES),
            empty: NONE,
            count: 0,
            next_number: 0,
            operations: HashMap::with_capacity(FRAMES),
            // Zeroed memory of this size is not resident before it is used.
            bytes: vec![0; EAGER_BYTES_OUTSTANDING_MAX],
            end: 0,
            order: Vec::with_capacity(FRAMES),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All frames, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &EarlyFrame> {
        self.slots.iter().filter_map(|slot| slot.frame.as_ref())
    }

    /// The frames of the operation that a message belongs to, in the order of their arrival.
    pub(super) fn of_operation(
        &self,
        id: MessageId,
    ) -> impl Iterator<Item = (EarlyPlace, &EarlyFrame)> {
        let list = if self.count == 0 { None } else { self.operations.get(&key(id)) };
        let mut next = list.map_or(NONE, |list| list.first);
        std::iter::from_fn(move || {
            let at = self.slots.get(next)?;
            let place = EarlyPlace { slot: next, number: at.number };
            next = at.next;
            at.frame.as_ref().map(|frame| (place, frame))
        })
    }

    /// The frames of a message.
    pub(super) fn of_message(
        &self,
        id: MessageId,
    ) -> impl Iterator<Item = (EarlyPlace, &EarlyFrame)> {
        self.of_operation(id).filter(move |(_, frame)| frame.header.id == id)
    }

    /// Whether there is a frame about some of the same bytes.
    pub(super) fn meets(&self, header: &FrameHeader) -> bool {
        self.of_message(header.id).any(|(_, frame)| frame.meets(header))
    }

    pub(super) fn push(&mut self, header: FrameHeader) -> EarlyPlace {
        let length = header.length as usize;
        if self.count == 0 {
            self.end = 0;
        } else if self.end + length > self.bytes.len() {
            self.close_gaps();
        }
        if self.end + length > self.bytes.len() {
            self.bytes.resize(self.end + length, 0);
        }
        let (number, frame) = (self.next_number, EarlyFrame { header, start: self.end, landed: 0 });
        let slot = Slot { frame: Some(frame), number, next: NONE };
        let at = self.empty;
        let at = match self.slots.get_mut(at) {
            Some(empty) => {
                self.empty = empty.next;
                *empty = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        match self.operations.entry(key(header.id)) {
            Entry::Occupied(mut list) => {
                let last = std::mem::replace(&mut list.get_mut().last, at);
                self.slots[last].next = at;
            }
            Entry::Vacant(entry) => {
                entry.insert(List { first: at, last: at });
            }
        }
        self.end += length;
        self.count += 1;
        self.next_number += 1;
        EarlyPlace { slot: at, number }
    }

    /// Moves all payloads to the front.
    fn close_gaps(&mut self) {
        let Self { slots, bytes, order, .. } = self;
        let start = |slot: &Slot| slot.frame.as_ref().map(|frame| frame.start);
        order.clear();
        order.extend((0..slots.len()).filter(|at| slots[*at].frame.is_some()));
        order.sort_unstable_by_key(|at| start(&slots[*at]));
        let mut end = 0;
        for at in order {
            let Some(frame) = slots[*at].frame.as_mut() else { continue };
            bytes.copy_within(frame.start..frame.start + frame.length(), end);
            frame.start = end;
            end += frame.length();
        }
        self.end = end;
    }

    fn frame_mut(&mut self, place: EarlyPlace) -> Option<&mut EarlyFrame> {
        let slot = self.slots.get_mut(place.slot).filter(|slot| slot.number == place.number)?;
        slot.frame.as_mut()
    }

    /// The payload of a frame from byte `from` on, to be filled; `None` if it is gone.
    pub(super) fn payload_mut(&mut self, place: EarlyPlace, from: usize) -> Option<&mut [u8]> {
        let frame = self.frame_mut(place)?;
        let range = frame.start + from..frame.start + frame.length();
        Some(&mut self.bytes[range])
    }

    /// All of the frame's payload has landed.
    pub(super) fn complete(&mut self, place: EarlyPlace) {
        if let Some(frame) = self.frame_mut(place) {
            frame.landed = frame.length();
        }
    }

    /// Takes a frame out. Its payload can be read until the next change.
    pub(super) fn remove(&mut self, place: EarlyPlace) -> Option<(EarlyFrame, &[u8])> {
        let EarlyPlace { slot: at, number } = place;
        let slot = self.slots.get_mut(at).filter(|slot| slot.number == number)?;
        let frame = slot.frame.take()?;
        let next = std::mem::replace(&mut slot.next, self.empty);
        self.empty = at;
        self.count -= 1;
        self.unlink(at, next, key(frame.header.id));
        let payload = frame.start..frame.start + frame.length();
        Some((frame, &self.bytes[payload]))
    }

    /// Takes a slot, which `next` followed, out of the list of its operation.
    fn unlink(&mut self, at: usize, next: usize, key: OperationKey) {
        let Entry::Occupied(mut entry) = self.operations.entry(key) else { return };
        let list = entry.get_mut();
        if list.first == at {
            if next == NONE {
                entry.remove();
            } else {
                list.first = next;
            }
            return;
        }
        let mut before = list.first;
        while self.slots[before].next != at {
            before = self.slots[before].next;
        }
        self.slots[before].next = next;
        if next == NONE {
            list.last = before;
        }
    }

    /// Drops the frames of a communicator.
    pub(super) fn abandon(&mut self, communicator: u32) {
        for at in 0..self.slots.len() {
            let Slot { frame, number, .. } = &self.slots[at];
            let place = EarlyPlace { slot: at, number: *number };
            if frame.as_ref().is_some_and(|frame| frame.header.id.communicator == communicator) {
                self.remove(place);
            }
        }
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        let entry = size_of::<(OperationKey, List)>() + 1;
        self.bytes.capacity()
            + self.slots.capacity() * size_of::<Slot>()
            + self.operations.capacity() * entry
            + self.order.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::FrameKind;
    use super::*;
    use crate::Signature;

    fn header(tag: u32, length: usize) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Eager,
            epoch: 0,
            id: MessageId { communicator: 0, tag, op_seq: 0 },
            signature: Signature::default(),
            offset: 0,
            message_bytes: length as u64,
            length: u32::try_from(length).unwrap(),
            credit: 0,
            payload_checksum: 0,
        }
    }

    fn push(early: &mut EarlyFrames, tag: u32, length: usize) {
        let at = early.push(header(tag, length));
        early.payload_mut(at, 0).unwrap().fill(u8::try_from(tag).unwrap());
        early.complete(at);
    }

    fn take(early: &mut EarlyFrames, tag: u32, length: usize) {
        let (at, frame) = early.of_message(header(tag, 0).id).next().unwrap();
        assert!(frame.is_complete());
        let (_, payload) = early.remove(at).unwrap();
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
    fn frames_are_found_by_their_operation_whatever_leaves_first() {
        let of = |op_seq: u64, tag: u32| {
            let id = MessageId { communicator: 0, tag, op_seq };
            FrameHeader { id, ..header(tag, 1) }
        };
        let mut early = EarlyFrames::new();
        let places: Vec<EarlyPlace> =
            (0..30).map(|at| early.push(of(u64::from(at / 3), at % 3))).collect();
        let tags = |early: &EarlyFrames, op_seq| -> Vec<u32> {
            early.of_operation(of(op_seq, 0).id).map(|(_, frame)| frame.header.id.tag).collect()
        };
        // The first, the one between, the last of three; then both others.
        for (op_seq, order) in [(0, [0, 1, 2]), (1, [1, 0, 2]), (2, [2, 1, 0]), (3, [1, 2, 0])] {
            let mut rest = vec![0, 1, 2];
            for tag in order {
                assert_eq!(tags(&early, op_seq), rest);
                let at = usize::try_from(op_seq * 3).unwrap() + tag as usize;
                assert!(early.remove(places[at]).is_some());
                assert!(early.remove(places[at]).is_none(), "it is gone");
                rest.retain(|other| *other != tag);
            }
            assert_eq!(tags(&early, op_seq), [0; 0]);
        }
        // Slots are used again, for frames that are not those that were there.
        let again = early.push(of(4, 3));
        assert_eq!(tags(&early, 4), [0, 1, 2, 3]);
        assert!(early.payload_mut(places[0], 0).is_none() && !places.contains(&again));
        early.abandon(0);
        assert!(early.is_empty() && early.iter().count() == 0);
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
