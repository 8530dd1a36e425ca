//! How what all ranks are ready for is carried out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Tally;
use super::error::QueueError;
use super::inbox::Inbox;
use super::task::{Task, stand_in};
use super::worker::{Ready, Worker};
use crate::error::CollectiveError;
use crate::members::Label;

/// Something to carry out, with this rank's part in it.
pub(super) struct Part {
    pub(super) ready: Ready,
    pub(super) task: Box<dyn Task>,
}

impl Worker {
    /// One round carries out so many bytes at most, so that what is more urgent need not wait longer.
    pub(super) fn keep_what_fits(&self, ready: &mut Vec<Ready>) {
        let (limit, mut bytes) = (self.options.fusion_threshold as u64, 0u64);
        let beyond = ready.iter().position(|ready| {
            bytes = bytes.saturating_add(ready.request.bytes());
            bytes > limit
        });
        // A longer one goes alone.
        ready.truncate(beyond.map_or(ready.len(), |beyond| beyond.max(1)));
    }

    /// Carries out the first operation of those that are agreed on, fused with the others of its kind.
    /// Returns whether there was one.
    pub(super) fn carry_out_one(&mut self, inbox: &Inbox) -> Result<bool, QueueError> {
        let mut rest = std::mem::take(&mut self.agreed);
        let Some(Part { ready: head, task }) = rest.pop_front() else { return Ok(false) };
        let (mut batch, mut tasks) = (vec![head], vec![task]);
        for part in rest {
            let fuses = self.options.fusion_threshold > 0
                && part.ready.request.fuses_with(&batch[0].request);
            if fuses {
                batch.push(part.ready);
                tasks.push(part.task);
            } else {
                self.agreed.push_back(part);
            }
        }
        let label = Label { name: Arc::clone(&batch[0].name), more: batch.len() - 1 };
        self.communicator.set_label(Some(label.clone()));
        let started = self.trace.as_ref().map(|_| Instant::now());
        let outcome = tasks.split_first_mut().map_or(Ok(()), |(first, others)| {
            let outcome = first.run(&self.communicator, others);
            outcome.map_err(|error| failed(&label, error))
        });
        if let (Some(started), Some(trace)) = (started, &mut self.trace) {
            trace.carried_out(started, self.round, batch.iter().map(|ready| &ready.name));
        }
        Tally::count(&self.tally.operations);
        self.tally.submissions.fetch_add(batch.len() as u64, Ordering::Relaxed);
        inbox.release(batch.iter().map(|ready| &ready.name));
        for task in tasks {
            task.finish(outcome.clone());
        }
        outcome.map(|()| true)
    }

    /// This rank's parts, in order. Who has not submitted something has joined, and stands in.
    pub(super) fn parts(&mut self, ready: Vec<Ready>) -> Result<VecDeque<Part>, QueueError> {
        let names = ready.iter().map(|ready| Arc::clone(&ready.name));
        let places: HashMap<Arc<str>, usize> = names.zip(0..).collect();
        let mut tasks: Vec<Option<Box<dyn Task>>> = ready.iter().map(|_| None).collect();
        for pending in std::mem::take(&mut self.pending) {
            match places.get(&pending.name) {
                Some(place) => tasks[*place] = Some(pending.task),
                None => self.pending.push(pending),
            }
        }
        let (mut parts, mut lacking) = (VecDeque::with_capacity(ready.len()), None);
        for (ready, task) in ready.into_iter().zip(tasks) {
            match task.or_else(|| stand_in(&ready.request)) {
                Some(task) => parts.push_back(Part { ready, task }),
                None => lacking = Some(ready),
            }
        }
        let Some(lacking) = lacking else { return Ok(parts) };
        // The others begin now, and would wait for this rank until their time is up.
        let (label, bytes) = (Label::from(Arc::clone(&lacking.name)), lacking.request.bytes());
        let message =
            format!("cannot allocate {bytes} bytes for the part of a rank that has joined");
        self.communicator.set_label(Some(label.clone()));
        let error = CollectiveError::Memory { collective: "join", message };
        let error = failed(&label, self.communicator.give_up(error));
        parts.into_iter().for_each(|part| part.task.finish(Err(error.clone())));
        Err(error)
    }
}

fn failed(label: &Label, error: CollectiveError) -> QueueError {
    let during = Some(format!("while it carried out {label}"));
    QueueError::Communicator { during, source: Box::new(error) }
}
