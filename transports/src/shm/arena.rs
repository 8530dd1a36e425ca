use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::futex;

use super::handoff;
use super::memory::{MemoryError, SharedMemory};
use crate::Signature;

/// Marks memory that is an arena, and its version.
const MAGIC: u64 = 0x5041_4345_4152_0001;

/// Distance between things that different ranks write: two cache lines, because prefetchers fetch
/// lines in pairs.
const SEPARATION: usize = 128;

/// Alignment of rings.
const PAGE: usize = 4096;

/// What an arena looks like: every member computes the same from the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaLayout {
    /// Members, ≥ 1.
    pub members: u32,
    /// Bytes of each member's ring for its inputs. A multiple of 4096.
    pub input_ring_bytes: usize,
    /// Bytes of each member's ring for its results. A multiple of 4096.
    pub result_ring_bytes: usize,
}

impl ArenaLayout {
    const fn members_usize(&self) -> usize {
        self.members as usize
    }

    const fn rings_offset(&self) -> usize {
        let control = size_of::<Common>() + self.members_usize() * size_of::<Member>();
        control.next_multiple_of(PAGE)
    }

    const fn member_ring_bytes(&self) -> usize {
        self.input_ring_bytes + self.result_ring_bytes
    }

    /// Bytes of the whole arena.
    pub const fn bytes(&self) -> usize {
        self.rings_offset() + self.members_usize() * self.member_ring_bytes()
    }
}

/// What belongs to nobody in particular.
#[repr(C, align(128))]
struct Common {
    /// Written once by the creator, last.
    magic: AtomicU64,
    input_ring_bytes: AtomicU64,
    result_ring_bytes: AtomicU64,
    members: AtomicU64,
    /// 0, or 1 + the member that gave up.
    abort: Separated<AtomicU64>,
    /// How many members sleep, so that those who publish look at one word only.
    sleepers: Separated<AtomicU32>,
}

/// Alone on its cache lines.
#[repr(C, align(128))]
struct Separated<T>(T);

/// What one member writes and all others read.
#[repr(C, align(128))]
struct Member {
    /// Two generations: see [`Arena::announce`].
    announcements: [Separated<Announcement>; 2],
    staged: Separated<AtomicU64>,
    reduced: Separated<AtomicU64>,
    waiting: Separated<AtomicU64>,
    sleep: Separated<Sleep>,
}

/// One cache line that says which operation a member has entered, and with which data.
#[repr(C, align(64))]
struct Announcement {
    /// 1 + the number of the operation. Written last.
    sequence: AtomicU64,
    signature: [AtomicU64; 2],
    inline: [u8; Arena::INLINE_BYTES_MAX],
}

struct Sleep {
    /// Counts rings; the futex word.
    bell: AtomicU32,
    /// 1 while the member sleeps or is about to.
    sleeping: AtomicU32,
}

const _: () = assert!(size_of::<Announcement>() == 64);
const _: () = assert!(size_of::<Separated<AtomicU64>>() == SEPARATION);

/// Counters by which members tell each other how far they are. Each only ever grows, is written by
/// its owner alone, and is the release of everything that the owner wrote before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Rounds whose inputs lie in the owner's input ring.
    Staged,
    /// Rounds whose results lie in the owner's result ring (or output).
    Reduced,
    /// What the owner has been waiting in for long, as a number of the user's.
    Waiting,
}

/// Memory shared by the ranks of one node, with what they need to work in it together.
///
/// The arena knows members, counters and bytes; which byte means what is up to its users, who all
/// follow the same program. One member's announcements and counters are written by that member
/// only.
///
/// # Memory ordering
/// [`Arena::announce`] and [`Arena::publish`] are release stores, [`Arena::announced`] and
/// [`Arena::published`] acquire loads of the same words: whoever sees the value also sees every byte
/// that its writer wrote before. Ring bytes themselves are plain memory; a user must make sure that
/// the bytes it writes are read by nobody until it publishes, and by nobody any more since the last
/// time.
///
/// Sleeping is the store-buffer pattern (writer: word, then sleepers; sleeper: sleepers, then word)
/// and has a sequentially consistent fence on both sides: either the sleeper sees the word, or the
/// writer sees the sleeper. [`Arena::wake_sleepers`] has the writer's fence, so that a writer can
/// publish several words, or look for its peers' first, and pay for one fence.
#[derive(Debug)]
pub struct Arena {
    memory: SharedMemory,
    layout: ArenaLayout,
    member: u32,
}

impl Arena {
    /// Bytes that travel with an announcement.
    pub const INLINE_BYTES_MAX: usize = 40;

    /// Makes an arena; the caller is member `member`.
    ///
    /// # Errors
    /// [`MemoryError`] when there is no memory.
    pub fn create(layout: ArenaLayout, member: u32) -> Result<Self, MemoryError> {
        let memory = SharedMemory::create(layout.bytes())?;
        let arena = Self::new(memory, layout, member);
        let common = arena.common();
        common.members.store(u64::from(layout.members), Ordering::Relaxed);
        common.input_ring_bytes.store(layout.input_ring_bytes as u64, Ordering::Relaxed);
        common.result_ring_bytes.store(layout.result_ring_bytes as u64, Ordering::Relaxed);
        common.magic.store(MAGIC, Ordering::Release);
        Ok(arena)
    }

    /// Joins an arena that another process made; the caller is member `member`.
    ///
    /// # Errors
    /// [`MemoryError`] when the descriptor is no arena of this layout or cannot be mapped.
    pub fn join(fd: OwnedFd, layout: ArenaLayout, member: u32) -> Result<Self, MemoryError> {
        let memory = SharedMemory::from_fd(fd, layout.bytes())?;
        let arena = Self::new(memory, layout, member);
        let common = arena.common();
        let found = [&common.magic, &common.members, &common.input_ring_bytes]
            .map(|word| word.load(Ordering::Acquire));
        if found != [MAGIC, u64::from(layout.members), layout.input_ring_bytes as u64] {
            return Err(MemoryError::Foreign { what: "it is laid out differently".to_owned() });
        }
        Ok(arena)
    }

    fn new(memory: SharedMemory, layout: ArenaLayout, member: u32) -> Self {
        assert!(member < layout.members, "a member has a place in the arena");
        assert!(
            layout.input_ring_bytes.is_multiple_of(PAGE)
                && layout.result_ring_bytes.is_multiple_of(PAGE),
            "rings are whole pages"
        );
        Self { memory, layout, member }
    }

    fn common(&self) -> &Common {
        // SAFETY: the mapping starts with a `Common`, is zeroed when made, page-aligned, lives as
        // long as `self`, and all fields are atomics.
        unsafe { self.memory.base().cast().as_ref() }
    }

    #[inline]
    fn member_pointer(&self, member: usize) -> NonNull<Member> {
        assert!(member < self.layout.members_usize(), "no such member");
        // SAFETY: the members lie behind each other after `Common`, within the mapping.
        let first = unsafe { self.memory.base().add(size_of::<Common>()).cast::<Member>() };
        // SAFETY: the index was checked.
        unsafe { first.add(member) }
    }

    #[inline]
    fn words(&self, member: usize) -> &Member {
        // SAFETY: in bounds, aligned and alive as `self`. All fields are atomics except the inline
        // bytes, which are accessed through raw pointers only.
        unsafe { self.member_pointer(member).as_ref() }
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.layout.members_usize()
    }

    /// Which one the caller is.
    pub fn member(&self) -> usize {
        self.member as usize
    }

    /// The layout.
    pub fn layout(&self) -> ArenaLayout {
        self.layout
    }

    /// Where this member's announcement of operation `op_seq` carries its inline data;
    /// [`Arena::INLINE_BYTES_MAX`] bytes, aligned to 8.
    ///
    /// Two generations alternate. The user must have seen every member's announcement of
    /// `op_seq - 1` before it writes here for `op_seq`: whoever announced that had ended
    /// `op_seq - 2`, the last operation that used these bytes.
    #[inline]
    pub fn inline_bytes(&self, member: usize, op_seq: u64) -> NonNull<u8> {
        let member = self.member_pointer(member).as_ptr();
        let generation = usize::from(op_seq & 1 == 1);
        // SAFETY: the field lies within the member's words; no reference is made.
        let inline = unsafe { &raw mut (*member).announcements[generation].0.inline };
        NonNull::new(inline.cast()).expect("a field of a mapping is not null")
    }

    /// Tells all members that this one has entered operation `op_seq`, what it is, and that its
    /// inline bytes and everything written before are there.
    #[inline]
    pub fn announce(&self, op_seq: u64, signature: Signature) {
        let announcement = &self.words(self.member()).announcements[usize::from(op_seq & 1 == 1)].0;
        let [low, high] = halves(signature);
        announcement.signature[0].store(low, Ordering::Relaxed);
        announcement.signature[1].store(high, Ordering::Relaxed);
        handoff::publish(&announcement.sequence, op_seq + 1);
    }

    /// What `member` says operation `op_seq` is, once it has entered it.
    #[inline]
    pub fn announced(&self, member: usize, op_seq: u64) -> Option<Signature> {
        let announcement = &self.words(member).announcements[usize::from(op_seq & 1 == 1)].0;
        if handoff::published(&announcement.sequence) != op_seq + 1 {
            return None;
        }
        let low = announcement.signature[0].load(Ordering::Relaxed);
        let high = announcement.signature[1].load(Ordering::Relaxed);
        Some(from_halves([low, high]))
    }

    #[inline]
    fn counter(&self, member: usize, counter: Counter) -> &AtomicU64 {
        let words = self.words(member);
        match counter {
            Counter::Staged => &words.staged.0,
            Counter::Reduced => &words.reduced.0,
            Counter::Waiting => &words.waiting.0,
        }
    }

    /// Sets this member's counter.
    #[inline]
    pub fn publish(&self, counter: Counter, value: u64) {
        handoff::publish(self.counter(self.member(), counter), value);
    }

    /// A member's counter.
    #[inline]
    pub fn published(&self, member: usize, counter: Counter) -> u64 {
        handoff::published(self.counter(member, counter))
    }

    /// The first byte of a member's input ring.
    #[inline]
    pub fn input_ring(&self, member: usize) -> NonNull<u8> {
        assert!(member < self.layout.members_usize(), "no such member");
        let offset = self.layout.rings_offset() + member * self.layout.member_ring_bytes();
        // SAFETY: within the mapping by the definition of `ArenaLayout::bytes`.
        unsafe { self.memory.base().add(offset) }
    }

    /// The first byte of a member's result ring.
    #[inline]
    pub fn result_ring(&self, member: usize) -> NonNull<u8> {
        // SAFETY: the result ring follows the input ring within the mapping.
        unsafe { self.input_ring(member).add(self.layout.input_ring_bytes) }
    }

    /// Tells all members that this one has given up, and wakes them. The first to say so is
    /// remembered.
    pub fn abort(&self) {
        let ours = u64::from(self.member) + 1;
        let abort = &self.common().abort.0;
        // Whoever was first is the cause; the result does not matter.
        let _ = abort.compare_exchange(0, ours, Ordering::AcqRel, Ordering::Relaxed);
        self.wake_sleepers();
    }

    /// The member that gave up, if one did.
    pub fn aborted(&self) -> Option<u32> {
        let value = self.common().abort.0.load(Ordering::Acquire);
        u32::try_from(value.checked_sub(1)?).ok()
    }

    /// Wakes members that sleep. To be called after publishing something, before waiting for
    /// others or doing anything long.
    #[inline]
    pub fn wake_sleepers(&self) {
        if handoff::may_anybody_sleep(&self.common().sleepers.0) {
            self.ring_bells();
        }
    }

    #[cold]
    fn ring_bells(&self) {
        for member in (0..self.members()).filter(|member| *member != self.member()) {
            let sleep = &self.words(member).sleep.0;
            if handoff::ring(&sleep.bell, &sleep.sleeping) {
                // A failure would mean that the word is not mapped, and it is; a sleeper that is
                // missed wakes up by its timeout.
                let _ = futex::wake(&sleep.bell, futex::Flags::empty(), 1);
            }
        }
    }

    /// Sleeps until another member publishes something or `timeout` has passed, unless `ready` says
    /// that there is no need. `ready` is asked once after the intention to sleep is visible to all,
    /// so that no wake-up is lost.
    pub fn sleep(&self, timeout: Duration, ready: impl FnOnce() -> bool) {
        let sleep = &self.words(self.member()).sleep.0;
        let sleepers = &self.common().sleepers.0;
        let bell = handoff::begin_sleep(&sleep.bell, &sleep.sleeping, sleepers);
        if !ready() {
            let timeout = futex::Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(timeout.subsec_nanos()),
            };
            // Rung, interrupted or timed out: the caller looks again in any case.
            let _ = futex::wait(&sleep.bell, futex::Flags::empty(), bell, Some(&timeout));
        }
        handoff::end_sleep(&sleep.sleeping, sleepers);
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn halves(signature: Signature) -> [u64; 2] {
    let (halves, _) = signature.0.as_chunks::<8>();
    [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])]
}

fn from_halves([low, high]: [u64; 2]) -> Signature {
    let mut bytes = [0; Signature::LEN];
    bytes[..8].copy_from_slice(&low.to_ne_bytes());
    bytes[8..].copy_from_slice(&high.to_ne_bytes());
    Signature(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    const LAYOUT: ArenaLayout =
        ArenaLayout { members: 2, input_ring_bytes: 8192, result_ring_bytes: 4096 };

    fn pair() -> (Arena, Arena) {
        let first = Arena::create(LAYOUT, 0).unwrap();
        let fd = first.as_fd().try_clone_to_owned().unwrap();
        let second = Arena::join(fd, LAYOUT, 1).unwrap();
        (first, second)
    }

    #[test]
    fn announcements_and_counters_reach_the_other_member() {
        let (first, second) = pair();
        let signature = Signature(*b"0123456789abcdef");
        assert_eq!(second.announced(0, 0), None);
        // SAFETY: nobody reads the bytes before they are announced.
        unsafe { first.inline_bytes(0, 0).write(9) };
        first.announce(0, signature);
        assert_eq!(second.announced(0, 0), Some(signature));
        assert_eq!(second.announced(0, 1), None);
        // SAFETY: announced, and nobody writes them now.
        assert_eq!(unsafe { second.inline_bytes(0, 0).read() }, 9);
        first.publish(Counter::Reduced, 5);
        assert_eq!(second.published(0, Counter::Reduced), 5);
        assert_eq!(second.published(0, Counter::Staged), 0);
    }

    #[test]
    fn rings_do_not_overlap_and_end_with_the_arena() {
        let (arena, _) = pair();
        let start = arena.memory.base().as_ptr().addr();
        let mut ranges = Vec::new();
        for member in 0..2 {
            ranges.push((arena.input_ring(member), LAYOUT.input_ring_bytes));
            ranges.push((arena.result_ring(member), LAYOUT.result_ring_bytes));
        }
        let mut end = start + LAYOUT.rings_offset();
        for (ring, bytes) in ranges {
            assert_eq!(ring.as_ptr().addr(), end);
            end += bytes;
        }
        assert_eq!(end, start + LAYOUT.bytes());
    }

    #[test]
    fn another_layout_is_refused() {
        let (first, _) = pair();
        let fd = first.as_fd().try_clone_to_owned().unwrap();
        let swapped = ArenaLayout { input_ring_bytes: 4096, result_ring_bytes: 8192, ..LAYOUT };
        let error = Arena::join(fd, swapped, 1).unwrap_err();
        assert!(error.to_string().contains("laid out differently"), "{error}");
    }

    #[test]
    fn a_sleeper_is_woken_by_what_is_published() {
        let (first, second) = pair();
        let woken = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let give_up = Instant::now() + Duration::from_secs(60);
                while second.published(0, Counter::Staged) == 0 && Instant::now() < give_up {
                    let ready = || second.published(0, Counter::Staged) != 0;
                    second.sleep(Duration::from_secs(60), ready);
                }
                woken.store(true, Ordering::Release);
            });
            while second.common().sleepers.0.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            first.publish(Counter::Staged, 1);
            first.wake_sleepers();
        });
        assert!(woken.load(Ordering::Acquire));
        assert_eq!(first.published(0, Counter::Staged), 1);
        assert_eq!(second.common().sleepers.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_first_to_abort_is_named() {
        let (first, second) = pair();
        assert_eq!(first.aborted(), None);
        second.abort();
        first.abort();
        assert_eq!((first.aborted(), second.aborted()), (Some(1), Some(1)));
    }
}
