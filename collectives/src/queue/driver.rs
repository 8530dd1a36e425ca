//! Who carries the queue on: its thread, or a caller who waits for a handle.
//!
//! A lone operation that is waited for at once needs no other thread: its caller takes the turn. That
//! saves two switches from one thread to another, which take longer than the operation. The queue's
//! thread carries on all the rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use super::error::QueueError;
use super::inbox::{Inbox, News};
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

    /// Takes a turn on behalf of somebody who waits. Returns whether anything was completed; if not,
    /// the queue's thread will see to it.
    pub(super) fn help(&self) -> bool {
        self.inbox.try_turn().is_some_and(|news| self.turn(news))
    }

    fn turn(&self, news: News) -> bool {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(working) = &mut *worker else { return false };
        let outcome = catch_unwind(AssertUnwindSafe(|| working.turn(news, &self.inbox)));
        let error = match outcome {
            Ok(Ok(has_progressed)) => {
                let pause = working.pause();
                drop(worker);
                self.inbox.end_turn(pause);
                return has_progressed;
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
        false
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}
