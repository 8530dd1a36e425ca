//! The words by which ranks hand memory to each other, and go to sleep and are woken, apart from where
//! the words lie. `loom/` runs this very file under loom, which tries every order.

use super::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Publishes that everything written before is there: how far a writer or reader of a ring is, which
/// round is staged or reduced, which operation is announced.
#[inline]
pub(super) fn publish(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Release);
}

/// What has been published; everything that its writer wrote before can be read now.
#[inline]
pub(super) fn published(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// For the reader of a pipe: says that it is about to sleep. It must look at everything that it waits
/// for once more before it does.
pub(super) fn announce_sleep(sleeps: &AtomicU32) {
    // A store would do. But loom gives stores of two threads no order beside a swap between them,
    // which all hardware does; and nobody is in a hurry here.
    sleeps.swap(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// For the reader of a pipe: it is awake.
pub(super) fn announce_awake(sleeps: &AtomicU32) {
    sleeps.swap(0, Ordering::Relaxed);
}

/// For the writer of a pipe, after publishing something: whether the reader sleeps and must be woken.
/// Says so once.
pub(super) fn must_wake(sleeps: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0
}

/// For a member of an arena that wants to sleep: makes the intention visible and returns what the bell
/// must still show when it does. It must look once more before.
pub(super) fn begin_sleep(bell: &AtomicU32, sleeping: &AtomicU32, sleepers: &AtomicU32) -> u32 {
    let shown = bell.load(Ordering::Acquire);
    sleeping.store(1, Ordering::Relaxed);
    sleepers.fetch_add(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    shown
}

/// For that member: it is awake.
pub(super) fn end_sleep(sleeping: &AtomicU32, sleepers: &AtomicU32) {
    sleepers.fetch_sub(1, Ordering::Relaxed);
    sleeping.store(0, Ordering::Relaxed);
}

/// For a member that has published something: whether anybody may sleep.
#[inline]
pub(super) fn may_anybody_sleep(sleepers: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    sleepers.load(Ordering::Relaxed) != 0
}

/// For a member that wakes others: whether this one sleeps; then its bell shows something else from now
/// on, and it is to be woken.
pub(super) fn ring(bell: &AtomicU32, sleeping: &AtomicU32) -> bool {
    if sleeping.load(Ordering::Relaxed) == 0 {
        return false;
    }
    bell.fetch_add(1, Ordering::Release);
    true
}
