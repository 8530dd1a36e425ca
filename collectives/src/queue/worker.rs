//! What a queue does: takes in what has come, agrees with the other ranks, carries out.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_devices::ReduceOp;

use super::cache::Cache;
use super::carry::Part;
use super::decide::{Owed, decide};
use super::error::{Failed, QueueError};
use super::exchange::{Unexchanged, exchange};
use super::handle::Promise;
use super::inbox::{Closing, IDLE_LOOK, Inbox, News, Submission};
use super::request::{Announcement, Entry, Request, Settings, Tensor};
use super::task::Task;
use super::trace::QueueTrace;
use super::{QueueOptions, Tally};
use crate::communicator::Communicator;
use crate::error::CollectiveError;
use crate::members::Label;

/// Bounds of the pause between two rounds that find nothing ready though every rank waits for
/// something.
const PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(20));

/// The part of the time without progress that such a pause takes: what it may add to a wait.
const PAUSE_PART: u32 = 8;

/// What one round counts at most as waiting for ranks that have not submitted something: ranks look
/// more often than that, so more is the time of an operation, or of a process that was stopped.
const ROUND_WAIT_MAX: Duration = Duration::from_secs(1);

/// In the first word of a round's vector: this rank does not need an exchange. The rest are the slots
/// of what it has submitted.
const NO_EXCHANGE: u64 = 1;

pub(super) struct Worker {
    pub(super) communicator: Communicator,
    pub(super) tally: Arc<Tally>,
    pub(super) options: QueueOptions,
    timeout: Duration,
    cache: Cache,
    owed: Owed,
    /// In the order of submission.
    pub(super) pending: Vec<Pending>,
    /// What all ranks are ready for and carry out in this order.
    pub(super) agreed: VecDeque<Part>,
    join: Option<Join>,
    closing: Option<Closing>,
    pub(super) round: u64,
    last_round: Instant,
    /// The last turn completed something.
    has_progressed: bool,
    /// When something came or was completed.
    stirred: Instant,
    /// The time that tensors have waited, see [`ROUND_WAIT_MAX`].
    pub(super) clock: Duration,
    vector: Vec<u64>,
    /// Present if there is a timeline.
    pub(super) trace: Option<QueueTrace>,
}

pub(super) struct Pending {
    pub(super) name: Arc<str>,
    pub(super) request: Arc<Request>,
    pub(super) task: Box<dyn Task>,
    /// Its place in the response cache.
    slot: Option<usize>,
    /// All ranks were told of it, and not all had it.
    is_announced: bool,
    pub(super) since: Duration,
    pub(super) next_report: Duration,
}

struct Join {
    promise: Promise<u32>,
    round: u64,
}

/// What is complete everywhere.
pub(super) struct Ready {
    pub(super) name: Arc<str>,
    pub(super) request: Arc<Request>,
    /// Equal priorities go in this order.
    place: usize,
}

impl Worker {
    pub(super) fn new(
        communicator: Communicator,
        options: QueueOptions,
        tally: Arc<Tally>,
    ) -> Self {
        let now = Instant::now();
        Self {
            timeout: options.timeout.unwrap_or_else(|| communicator.timeout()),
            cache: Cache::new(options.cache_capacity),
            trace: QueueTrace::of(&communicator),
            communicator,
            tally,
            options,
            owed: Owed::new(),
            pending: Vec::new(),
            agreed: VecDeque::new(),
            join: None,
            closing: None,
            round: 0,
            last_round: now,
            has_progressed: false,
            stirred: now,
            clock: Duration::ZERO,
            vector: Vec::new(),
        }
    }

    /// Takes in what has come, and carries out one operation: of what the ranks have agreed on, or if
    /// nothing is left of that, after a round with them. An error ends the queue.
    pub(super) fn turn(&mut self, news: News, inbox: &Inbox) -> Result<(), QueueError> {
        let has_news = !news.is_empty();
        if self.agreed.is_empty() {
            // Before the news is taken: what has just come has not waited yet.
            self.clock += self.last_round.elapsed().min(ROUND_WAIT_MAX);
            self.take(news);
            if has_news && !self.options.cycle_time.is_zero() {
                let rest = self.options.cycle_time.saturating_sub(self.last_round.elapsed());
                std::thread::sleep(rest);
                self.take(inbox.more());
            }
            self.last_round = Instant::now();
            self.take_round(inbox)?;
        } else {
            self.take(news);
        }
        self.has_progressed = self.carry_out_one(inbox)?;
        if has_news || self.has_progressed {
            self.stirred = Instant::now();
        }
        Ok(())
    }

    /// Everything has failed.
    pub(super) fn end(self, error: &QueueError) {
        for part in self.agreed {
            part.task.finish(Err(error.clone()));
        }
        for pending in self.pending {
            pending.task.finish(Err(error.clone()));
        }
        if let Some(join) = self.join {
            join.promise.complete(Err(Failed { error: error.clone(), buffer: None }));
        }
    }

    /// How long to wait for news before the next round. Whoever waits for something joins the next
    /// round at once and sleeps in it until the others come, who come when they have news. Only when
    /// every rank waits, each for another one, nobody would sleep: then all pause in between.
    pub(super) fn pause(&self) -> Duration {
        if !self.agreed.is_empty() {
            return Duration::ZERO;
        }
        if self.pending.is_empty() && self.join.is_none() {
            return if self.closing.is_some() { Duration::ZERO } else { IDLE_LOOK };
        }
        if self.has_progressed || self.closing == Some(Closing::Now) {
            return Duration::ZERO;
        }
        (self.stirred.elapsed() / PAUSE_PART).clamp(PAUSES.0, PAUSES.1)
    }

    fn take(&mut self, news: News) {
        for Submission { name, request, task } in news.submissions {
            if let Some(trace) = &mut self.trace {
                trace.take(&name);
            }
            let slot = self.cache.find(&name, &request);
            let (since, next_report) = (self.clock, self.options.stall_report_after);
            let is_announced = false;
            let pending = Pending { name, request, task, slot, is_announced, since, next_report };
            self.pending.push(pending);
        }
        if let Some(promise) = news.join {
            self.join = Some(Join { promise, round: self.round + 1 });
        }
        self.closing = news.closing.or(self.closing);
    }

    fn leaves(&self) -> bool {
        match self.closing {
            None => false,
            Some(Closing::AfterWork) => self.pending.is_empty() && self.join.is_none(),
            Some(Closing::Now) => true,
        }
    }

    fn waited(&self, pending: &Pending) -> Duration {
        self.clock - pending.since
    }

    /// Agrees with the other ranks on what is ready.
    fn take_round(&mut self, inbox: &Inbox) -> Result<(), QueueError> {
        self.round += 1;
        self.communicator.set_label(self.label());
        let started = self.trace.as_ref().map(|_| Instant::now());
        let needs_exchange = self.leaves()
            || self.join.is_some()
            || self.pending.iter().any(|pending| {
                let waited = self.waited(pending);
                let is_new = pending.slot.is_none() && !pending.is_announced;
                is_new || waited >= pending.next_report || waited >= self.timeout
            });
        let mut vector = std::mem::take(&mut self.vector);
        vector.clear();
        vector.resize(1 + self.cache.len().div_ceil(64), 0);
        vector[0] = if needs_exchange { 0 } else { NO_EXCHANGE };
        for slot in self.pending.iter().filter_map(|pending| pending.slot) {
            vector[1 + slot / 64] |= 1 << (slot % 64);
        }
        let agreed = self.communicator.all_reduce(&mut vector, ReduceOp::BitAnd);
        agreed.map_err(|error| self.failed_round(error))?;
        Tally::count(&self.tally.rounds);
        let mut ready = if vector[0] & NO_EXCHANGE == 0 {
            self.exchange(inbox)?
        } else {
            self.cached_everywhere(&vector[1..])
        };
        self.vector = vector;
        ready.sort_by_key(|ready| (Reverse(ready.request.priority), ready.place));
        self.keep_what_fits(&mut ready);
        if let (Some(started), Some(trace)) = (started, &self.trace) {
            trace.agreed(started, self.round, ready.len());
        }
        self.agreed = self.parts(ready)?;
        Ok(())
    }

    fn cached_everywhere(&mut self, slots: &[u64]) -> Vec<Ready> {
        let mut ready = Vec::new();
        for pending in &self.pending {
            if let Some(slot) = pending.slot
                && slots[slot / 64] & (1 << (slot % 64)) != 0
            {
                self.cache.touch(slot, self.round);
                let (name, request) = (Arc::clone(&pending.name), Arc::clone(&pending.request));
                ready.push(Ready { name, request, place: slot });
            }
        }
        ready
    }

    /// Tells the others everything, and concludes with them.
    fn exchange(&mut self, inbox: &Inbox) -> Result<Vec<Ready>, QueueError> {
        let announcements = exchange(&self.communicator, &self.announcement());
        let announcements = announcements.map_err(|error| match error {
            Unexchanged::Failed(error) => self.failed_round(error),
            Unexchanged::Unusable(error) => error,
        })?;
        Tally::count(&self.tally.exchanges);
        let in_world = |rank| self.communicator.in_world(rank);
        let decision = decide(&announcements, &mut self.cache, &mut self.owed, &in_world)?;
        if !decision.leaving.is_empty() {
            let ranks = decision.leaving.into_iter().map(in_world).collect();
            return Err(QueueError::Closed { ranks });
        }
        for complete in &decision.ready {
            self.cache.insert(&complete.name, &complete.request, self.round);
        }
        self.report_stalls(&decision.waiting);
        self.settle(&decision, inbox);
        let waiting: HashSet<&str> =
            decision.waiting.iter().map(|lacking| &*lacking.name).collect();
        for pending in &mut self.pending {
            pending.slot = self.cache.find(&pending.name, &pending.request);
            pending.is_announced = waiting.contains(&*pending.name);
        }
        if let Some(last) = decision.all_joined
            && let Some(join) = self.join.take()
        {
            inbox.release_join();
            join.promise.complete(Ok(last));
        }
        let ready = decision.ready.into_iter().enumerate();
        Ok(ready
            .map(|(place, complete)| Ready {
                name: Arc::from(complete.name),
                request: complete.request,
                place,
            })
            .collect())
    }

    fn announcement(&self) -> Announcement {
        let settings = Settings {
            fusion_threshold: self.options.fusion_threshold as u64,
            cache_capacity: self.options.cache_capacity as u64,
        };
        let (leaves, joined_in) = (self.leaves(), self.join.as_ref().map(|join| join.round));
        let entry = |pending: &Pending| {
            let waited = self.waited(pending);
            let tensor = match pending.slot.and_then(|slot| u32::try_from(slot).ok()) {
                Some(slot) => Tensor::Cached(slot),
                None => Tensor::Named(pending.name.to_string(), Request::clone(&pending.request)),
            };
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            Entry { tensor, waited_ms, is_expired: waited >= self.timeout }
        };
        let entries = if leaves { Vec::new() } else { self.pending.iter().map(entry).collect() };
        Announcement { entries, joined_in, leaves, settings }
    }

    /// What a rank that is stuck in a round waits for.
    fn label(&self) -> Option<Label> {
        let first = self.pending.first()?;
        Some(Label { name: Arc::clone(&first.name), more: self.pending.len() - 1 })
    }

    fn failed_round(&self, error: CollectiveError) -> QueueError {
        let waited_for = self.label().map(|label| format!("while {label} waited for other ranks"));
        QueueError::Communicator { during: waited_for, source: Box::new(error) }
    }
}
