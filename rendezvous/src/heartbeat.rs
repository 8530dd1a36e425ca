//! What a rank says of itself all the time: that it runs, and how far it is.
//!
//! A rank that computes, or that has left an operation behind, says nothing by its operations; and a
//! rank that is stopped says nothing at all. Heartbeats tell the two apart, and carry how many
//! operations the rank has entered in each communicator. They come from a thread that sleeps nearly
//! all the time, so that they cost operations one store.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::control::ControlClient;
use crate::message::Progress;

/// Time between two heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Communicators that one heartbeat tells of at most; the others' turn comes with the next one.
const PROGRESS_MAX: usize = 256;

/// How many operations of one communicator this rank has entered.
#[derive(Clone, Debug, Default)]
pub struct OperationCounter {
    entered: Arc<AtomicU64>,
}

impl OperationCounter {
    /// The rank enters operation `op_seq`, counted from 0, having entered all before it.
    #[inline]
    pub fn enter(&self, op_seq: u64) {
        // It says nothing about other memory.
        self.entered.store(op_seq + 1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Tracked {
    context: u32,
    communicator: u32,
    counter: OperationCounter,
    told: u64,
}

/// The counters of a rank, and what of them the coordinator knows.
#[derive(Debug, Default)]
pub(crate) struct ProgressTable {
    tracked: Mutex<Vec<Tracked>>,
}

impl ProgressTable {
    pub(crate) fn track(&self, context: u32, communicator: u32) -> OperationCounter {
        let counter = OperationCounter::default();
        let tracked = Tracked { context, communicator, counter: counter.clone(), told: 0 };
        lock(&self.tracked).push(tracked);
        counter
    }

    /// Forgets all: another epoch has begun.
    pub(crate) fn clear(&self) {
        lock(&self.tracked).clear();
    }

    /// What has changed since it was asked last.
    pub(crate) fn news(&self) -> Vec<Progress> {
        let mut tracked = lock(&self.tracked);
        let mut news = Vec::new();
        for entry in tracked.iter_mut() {
            let entered = entry.counter.entered.load(Ordering::Relaxed);
            if entered != entry.told && news.len() < PROGRESS_MAX {
                entry.told = entered;
                let Tracked { context, communicator, .. } = *entry;
                news.push(Progress { context, communicator, entered });
            }
        }
        // Those whose communicator is gone have nothing more to tell.
        tracked.retain(|entry| {
            let last = entry.counter.entered.load(Ordering::Relaxed);
            Arc::strong_count(&entry.counter.entered) > 1 || entry.told != last
        });
        news
    }
}

/// The thread that sends heartbeats, until it is dropped or the connection fails.
#[derive(Debug)]
pub(crate) struct Heart {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Heart {
    pub(crate) fn start(control: Arc<ControlClient>) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let beat = {
            let stop = Arc::clone(&stop);
            move || while !stop.wait(HEARTBEAT_INTERVAL) && control.heartbeat().is_ok() {}
        };
        let thread = std::thread::Builder::new().name("paceline-heart".to_owned()).spawn(beat)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        *lock(&self.stop.requested) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed, and there is nobody else to tell it to.
            let _ = thread.join();
        }
    }
}

impl Stop {
    /// Sleeps. Returns whether the thread shall end, at once when it is told so.
    fn wait(&self, time: Duration) -> bool {
        let requested = lock(&self.requested);
        let woken = self.changed.wait_timeout_while(requested, time, |requested| !*requested);
        *woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// No critical section here can be left half done, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(context: u32, communicator: u32, entered: u64) -> Progress {
        Progress { context, communicator, entered }
    }

    #[test]
    fn only_news_are_told_and_the_last_ones_outlive_their_communicator() {
        let table = ProgressTable::default();
        let (first, second) = (table.track(0, 0), table.track(0, 1));
        assert_eq!(table.news(), []);
        first.enter(0);
        first.enter(1);
        assert_eq!(table.news(), [progress(0, 0, 2)]);
        second.enter(0);
        drop(second);
        assert_eq!(table.news(), [progress(0, 1, 1)]);
        assert_eq!(table.news(), []);
        first.enter(2);
        assert_eq!(table.news(), [progress(0, 0, 3)]);
        assert_eq!(lock(&table.tracked).len(), 1);
    }

    #[test]
    fn many_communicators_take_turns() {
        let table = ProgressTable::default();
        let counters: Vec<_> = (0..300).map(|number| table.track(1, number)).collect();
        counters.iter().for_each(|counter| counter.enter(6));
        drop(counters);
        assert_eq!(table.news().len(), PROGRESS_MAX);
        let rest = table.news();
        assert_eq!((rest.len(), rest[0]), (300 - PROGRESS_MAX, progress(1, 256, 7)));
        assert_eq!(lock(&table.tracked).len(), 0);
    }
}
