use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::handoff;
use super::memory::SharedMemory;
use crate::copy::{SharedWriter, copy_bytes};

/// Bytes of one pipe: several pieces of 16 KiB, so that some are written while others are read, and
/// the reader finds them in the cache that both share.
const PIPE_BYTES_MAX: usize = 128 << 10;

/// Smallest pipe worth the name.
const PIPE_BYTES_MIN: usize = 8 << 10;

/// Bytes of all the pipes that one rank writes into.
const RANK_BYTES_MAX: usize = 2 << 20;

/// Where the pipes between all members lie: one for every ordered pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct PipeLayout {
    members: usize,
    pipe_bytes: usize,
}

/// Positions of a pipe, each on lines of its own. They count bytes since the beginning and never
/// wrap in practice (2^64 bytes).
#[repr(C, align(128))]
#[derive(Debug)]
struct Positions {
    written: Separated<AtomicU64>,
    read: Separated<AtomicU64>,
    /// 1 while the reading side sleeps, whatever it waits for.
    reader_sleeps: Separated<AtomicU32>,
}

#[repr(C, align(128))]
#[derive(Debug)]
struct Separated<T>(T);

impl PipeLayout {
    pub(super) fn new(members: usize) -> Self {
        let fair = RANK_BYTES_MAX / members.max(2);
        let power = if fair.is_power_of_two() { fair } else { fair.next_power_of_two() / 2 };
        Self { members, pipe_bytes: power.clamp(PIPE_BYTES_MIN, PIPE_BYTES_MAX) }
    }

    fn stride(&self) -> usize {
        size_of::<Positions>() + self.pipe_bytes
    }

    /// Bytes of memory for all pipes; a page at least, since there is no empty memory.
    pub(super) fn bytes(&self) -> usize {
        (self.members * self.members.saturating_sub(1) * self.stride())
            .next_multiple_of(4096)
            .max(4096)
    }

    /// The pipe in which `from` writes to `to`.
    pub(super) fn pipe(&self, memory: &Arc<SharedMemory>, from: usize, to: usize) -> Pipe {
        assert!(from < self.members && to < self.members && from != to, "two different members");
        assert!(memory.len() >= self.bytes(), "the memory was made for this layout");
        let index = from * (self.members - 1) + to - usize::from(to > from);
        // SAFETY: within the memory by the definition of `bytes`.
        let base = unsafe { memory.base().add(index * self.stride()) };
        Pipe { memory: Arc::clone(memory), base, bytes: self.pipe_bytes }
    }
}

/// A ring of bytes from one rank to another. Each end is used by one of the two only.
///
/// The writer publishes `written` with a release store after the bytes; the reader loads it with
/// acquire before it reads them, and publishes `read` the same way before the writer may overwrite
/// them. Sleep is announced and checked as in the arena: a sequentially consistent fence on both
/// sides between the own store and the look at the other's.
#[derive(Debug)]
pub(super) struct Pipe {
    memory: Arc<SharedMemory>,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the pointer stays valid as long as `memory`, which the pipe holds; all shared words are
// atomics, and the bytes are accessed as the positions allow.
unsafe impl Send for Pipe {}

impl Pipe {
    fn positions(&self) -> &Positions {
        debug_assert!(!self.memory.is_empty(), "a pipe keeps its memory");
        // SAFETY: aligned, zeroed when made, alive as long as `memory`; all fields are atomics.
        unsafe { self.base.cast::<Positions>().as_ref() }
    }

    /// Bytes of memory, with those for the positions.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Positions>() + self.bytes
    }

    /// Bytes of the ring.
    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.bytes
    }

    /// Where the byte at a position lies, and how many follow it before the ring wraps.
    fn place(&self, position: u64) -> (*mut u8, usize) {
        let mask = self.bytes as u64 - 1;
        let offset = usize::try_from(position & mask).expect("an offset into memory");
        let data = self.base.as_ptr().wrapping_add(size_of::<Positions>());
        (data.wrapping_add(offset), self.bytes - offset)
    }

    /// For the writer: bytes that may be written at its position, which is returned too; `None` if
    /// the reader broke the protocol.
    pub(super) fn room(&self) -> Option<(u64, usize)> {
        let positions = self.positions();
        let written = positions.written.0.load(Ordering::Relaxed);
        let used = written.checked_sub(handoff::published(&positions.read.0))?;
        let room = self.bytes.checked_sub(usize::try_from(used).ok()?)?;
        Some((written, room))
    }

    /// For the reader: bytes that may be read at its position, which is returned too; `None` if the
    /// writer broke the protocol.
    pub(super) fn filled(&self) -> Option<(u64, usize)> {
        let positions = self.positions();
        let read = positions.read.0.load(Ordering::Relaxed);
        let filled = handoff::published(&positions.written.0).checked_sub(read)?;
        let filled = usize::try_from(filled).ok().filter(|filled| *filled <= self.bytes)?;
        Some((read, filled))
    }

    /// Copies bytes into the ring. Nobody sees them before [`Pipe::publish_written`].
    ///
    /// `position` and the length must lie within what [`Pipe::room`] said.
    pub(super) fn put(&self, writer: &mut SharedWriter, position: u64, bytes: &[u8]) {
        assert!(bytes.len() <= self.bytes, "no more than the ring holds");
        let (place, before_wrap) = self.place(position);
        let (first, second) = bytes.split_at(bytes.len().min(before_wrap));
        // SAFETY: up to the wrap; the reader leaves alone what `room` counted.
        unsafe { writer.copy(place, first.as_ptr(), first.len()) };
        if !second.is_empty() {
            let (start, _) = self.place(0);
            // SAFETY: after the wrap; as above.
            unsafe { writer.copy(start, second.as_ptr(), second.len()) };
        }
    }

    /// Copies bytes out of the ring.
    ///
    /// `position` and the length must lie within what [`Pipe::filled`] said.
    pub(super) fn take(&self, position: u64, bytes: &mut [u8]) {
        assert!(bytes.len() <= self.bytes, "no more than the ring holds");
        let (place, before_wrap) = self.place(position);
        let split = bytes.len().min(before_wrap);
        let (first, second) = bytes.split_at_mut(split);
        // SAFETY: up to the wrap; the writer leaves alone what `filled` counted.
        unsafe { copy_bytes(first.as_mut_ptr(), place, first.len()) };
        if !second.is_empty() {
            let (start, _) = self.place(0);
            // SAFETY: after the wrap; as above.
            unsafe { copy_bytes(second.as_mut_ptr(), start, second.len()) };
        }
    }

    pub(super) fn publish_written(&self, position: u64) {
        handoff::publish(&self.positions().written.0, position);
    }

    pub(super) fn publish_read(&self, position: u64) {
        handoff::publish(&self.positions().read.0, position);
    }

    /// For the reader: says that it is about to sleep. It must look at everything that it waits for
    /// once more before it does.
    pub(super) fn announce_sleep(&self) {
        handoff::announce_sleep(&self.positions().reader_sleeps.0);
    }

    /// For the reader: it is awake.
    pub(super) fn announce_awake(&self) {
        handoff::announce_awake(&self.positions().reader_sleeps.0);
    }

    /// For the writer, after publishing something (here, or room in the pipe the other way): whether
    /// the reader sleeps and must be woken. Says so once.
    pub(super) fn must_wake_reader(&self) -> bool {
        handoff::must_wake(&self.positions().reader_sleeps.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Pipe, Pipe) {
        let layout = PipeLayout::new(3);
        let memory = Arc::new(SharedMemory::create(layout.bytes()).unwrap());
        (layout.pipe(&memory, 2, 1), layout.pipe(&memory, 2, 1))
    }

    #[test]
    fn bytes_come_out_as_they_went_in_across_the_wrap() {
        let (writer, reader) = pipe();
        let step = writer.capacity() / 3;
        for round in 0..10_u8 {
            let (position, room) = writer.room().unwrap();
            assert_eq!(room, writer.capacity());
            let sent: Vec<u8> = (0..=250).cycle().take(step).map(|at: u8| at ^ round).collect();
            writer.put(&mut SharedWriter::default(), position, &sent);
            assert_eq!(reader.filled().unwrap().1, 0);
            writer.publish_written(position + step as u64);
            let (position, filled) = reader.filled().unwrap();
            assert_eq!(filled, step);
            let mut received = vec![0; step];
            reader.take(position, &mut received);
            assert_eq!(received, sent);
            assert_eq!(writer.room().unwrap().1, writer.capacity() - step);
            reader.publish_read(position + step as u64);
        }
    }

    #[test]
    fn pipes_of_different_pairs_are_apart() {
        for members in 2..6 {
            let layout = PipeLayout::new(members);
            let memory = Arc::new(SharedMemory::create(layout.bytes()).unwrap());
            let mut bases = Vec::new();
            for from in 0..members {
                for to in (0..members).filter(|to| *to != from) {
                    let pipe = layout.pipe(&memory, from, to);
                    bases.push(pipe.base.as_ptr().addr() - memory.base().as_ptr().addr());
                }
            }
            bases.sort_unstable();
            assert!(bases.windows(2).all(|pair| pair[1] - pair[0] == layout.stride()));
            assert!(bases.last().unwrap() + layout.stride() <= memory.len());
        }
    }

    #[test]
    fn a_sleeper_is_seen_once() {
        let (writer, reader) = pipe();
        assert!(!writer.must_wake_reader());
        reader.announce_sleep();
        assert!(writer.must_wake_reader());
        assert!(!writer.must_wake_reader());
        reader.announce_sleep();
        reader.announce_awake();
        assert!(!writer.must_wake_reader());
    }

    #[test]
    fn impossible_positions_are_noticed() {
        let (writer, reader) = pipe();
        writer.publish_written(reader.capacity() as u64 + 1);
        assert_eq!(reader.filled(), None);
        writer.publish_written(0);
        reader.publish_read(5);
        assert_eq!(writer.room(), None);
    }
}
