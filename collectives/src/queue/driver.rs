//! Who carries the queue on: its thread, or a caller who waits for a handle.
//!
//! Whoever waits has nothing better to do, and saves two switches from one thread to another, which
//! take longer than a short operation, and leave ranks that have a core each without the thread that
//! runs on it. The queue's thread carries on while nobody waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use super::error::QueueError;
use super::inbox::{Help, Inbox, News};
use super::worker::Worker;

pub(super) struct Driver {
    inbox: Inbox,
    /// Locked by who has the turn, so nobody ever waits for it. Absent when the queue has ended.
    worker: Mutex<Option<Worker>>,
}

impl Driver {
    pub(super) fn new(worker: Worker) -> Self {
        Self { inbox: Inbox::new(), worker: Mutex::new(Some(worker)) }
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What the queue's thread does, until this rank or another one leaves, or something fails for
    /// good.
    pub(super) fn run(&self) {
        while let Some(news) = self.inbox.wait_for_turn() {
            self.turn(news);
        }
    }

    /// Carries on until something is complete, or the queue has ended, which completes everything.
    /// Nothing is complete for whoever is called in the middle of a turn, and waits there.
    pub(super) fn help_until(&self, is_complete: impl Fn() -> bool) {
        if is_complete() || self.inbox.is_my_turn() {
            return;
        }
        self.inbox.count_caller(true);
        while !is_complete() {
            match self.inbox.help() {
                Help::Turn(news) => self.turn(news),
                Help::Look => {}
                Help::Ended => break,
            }
        }
        self.inbox.count_caller(false);
    }

    fn turn(&self, news: News) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(working) = &mut *worker else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| working.turn(news, &self.inbox)));
        let error = match outcome {
            Ok(Ok(())) => {
                let pause = working.pause();
                drop(worker);
                return self.inbox.end_turn(pause);
            }
            Ok(Err(error)) => error,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                QueueError::Panicked { message: text.unwrap_or_else(|| "no message".to_owned()) }
            }
        };
        let ended = worker.take();
        drop(worker);
        self.inbox.end(&error);
        if let Some(ended) = ended {
            ended.end(&error);
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}
