//! A queue on a timeline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::communicator::Communicator;
use crate::timeline::{Timeline, Track, What};

/// What the worker remembers while there is a timeline.
pub(super) struct QueueTrace {
    timeline: Arc<Timeline>,
    track: Track,
    /// When the queue took what has not been carried out, by name.
    taken: HashMap<Arc<str>, Instant>,
}

impl QueueTrace {
    pub(super) fn of(communicator: &Communicator) -> Option<Self> {
        let timeline = Arc::clone(communicator.timeline()?);
        let track = Track::Queue(communicator.number());
        Some(Self { timeline, track, taken: HashMap::new() })
    }

    pub(super) fn take(&mut self, name: &Arc<str>) {
        self.taken.insert(Arc::clone(name), Instant::now());
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.taken.remove(name);
    }

    /// The ranks have agreed on what is ready.
    pub(super) fn agreed(&self, start: Instant, round: u64, ready: usize) {
        let ready = u32::try_from(ready).unwrap_or(u32::MAX);
        self.timeline.record(self.track, start, What::Negotiate { round, ready });
    }

    /// Some submissions were carried out as one operation.
    pub(super) fn carried_out<'a>(
        &mut self,
        start: Instant,
        round: u64,
        names: impl ExactSizeIterator<Item = &'a Arc<str>>,
    ) {
        let submissions = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let end = self.timeline.record(self.track, start, What::Batch { round, submissions });
        for name in names {
            // Of what a rank that has joined did not submit it takes part in the operation only.
            if let Some(taken) = self.taken.remove(name) {
                let what = What::Submission { name: self.timeline.name(name), started: start };
                self.timeline.record_until(self.track, taken, end, what);
            }
        }
    }
}
