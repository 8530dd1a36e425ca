//! Members of an arena that publish, sleep on futexes and are woken; announcements in two generations.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::handoff::{begin_sleep, end_sleep, may_anybody_sleep, publish, published, ring};

struct Member {
    staged: AtomicU64,
    bell: AtomicU32,
    sleeping: AtomicU32,
    /// The kernel's queue of a futex: it compares and sleeps in one.
    futex: (Mutex<()>, Condvar),
    announced: [AtomicU64; 2],
    inline: [UnsafeCell<u64>; 2],
}

struct Arena {
    members: [Member; 2],
    sleepers: AtomicU32,
}

impl Arena {
    fn new() -> Arc<Self> {
        let member = || Member {
            staged: AtomicU64::new(0),
            bell: AtomicU32::new(0),
            sleeping: AtomicU32::new(0),
            futex: (Mutex::new(()), Condvar::new()),
            announced: [AtomicU64::new(0), AtomicU64::new(0)],
            inline: [UnsafeCell::new(0), UnsafeCell::new(0)],
        };
        Arc::new(Self { members: [member(), member()], sleepers: AtomicU32::new(0) })
    }

    fn sleep(&self, own: usize, ready: impl FnOnce() -> bool) {
        let member = &self.members[own];
        let shown = begin_sleep(&member.bell, &member.sleeping, &self.sleepers);
        if !ready() {
            let (queue, woken) = &member.futex;
            let guard = queue.lock().unwrap();
            if member.bell.load(Ordering::Relaxed) == shown {
                // Without a time limit: a wake-up that is lost is a deadlock.
                drop(woken.wait(guard).unwrap());
            }
        }
        end_sleep(&member.sleeping, &self.sleepers);
    }

    fn wake_sleepers(&self, own: usize) {
        if may_anybody_sleep(&self.sleepers) {
            let member = &self.members[1 - own];
            if ring(&member.bell, &member.sleeping) {
                let (queue, woken) = &member.futex;
                drop(queue.lock().unwrap());
                woken.notify_one();
            }
        }
    }

    fn await_staged(&self, own: usize, round: u64) {
        let staged = || published(&self.members[1 - own].staged) >= round;
        while !staged() {
            self.sleep(own, staged);
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    loom::model(|| {
        let arena = Arena::new();
        let other = Arc::clone(&arena);
        let thread = thread::spawn(move || {
            publish(&other.members[1].staged, 1);
            other.wake_sleepers(1);
            other.await_staged(1, 1);
        });
        publish(&arena.members[0].staged, 1);
        arena.wake_sleepers(0);
        arena.await_staged(0, 1);
        thread.join().unwrap();
    });
}

/// Each writes its inline bytes for an operation only when it has seen the others' announcement of the
/// one before: nobody reads the older generation any more.
#[test]
fn two_generations_of_announcements_are_enough() {
    let operation = |arena: &Arena, own: usize, op_seq: u64| {
        let generation = (op_seq % 2) as usize;
        arena.members[own].inline[generation].with_mut(|cell| unsafe { *cell = op_seq + 10 });
        publish(&arena.members[own].announced[generation], op_seq + 1);
        let other = &arena.members[1 - own];
        while published(&other.announced[generation]) != op_seq + 1 {
            thread::yield_now();
        }
        let read = other.inline[generation].with(|cell| unsafe { *cell });
        assert_eq!(read, op_seq + 10);
    };
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let arena = Arena::new();
        let other = Arc::clone(&arena);
        let thread = thread::spawn(move || (0..3).for_each(|op_seq| operation(&other, 1, op_seq)));
        (0..3).for_each(|op_seq| operation(&arena, 0, op_seq));
        thread.join().unwrap();
    });
}
