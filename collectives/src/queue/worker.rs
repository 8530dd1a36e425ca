//! The thread of a queue: waits for news, agrees with the other ranks, carries out.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use paceline_devices::ReduceOp;

use super::cache::Cache;
use super::decide::{Decision, Lacking, Owed, decide};
use super::error::{Failed, QueueError};
use super::exchange::exchange;
use super::handle::Promise;
use super::inbox::{Closing, Inbox, News, Submission};
use super::request::{Announcement, Entry, Request, Settings, Tensor};
use super::task::{Task, stand_in};
use super::trace::QueueTrace;
use super::{QueueOptions, Stall, Tally};
use crate::communicator::Communicator;
use crate::error::CollectiveError;

/// How often ranks with nothing to do ask the others whether they wait.
const IDLE_LOOK: Duration = Duration::from_millis(500);

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
    communicator: Communicator,
    inbox: Arc<Inbox>,
    tally: Arc<Tally>,
    options: QueueOptions,
    timeout: Duration,
    cache: Cache,
    owed: Owed,
    /// In the order of submission.
    pending: Vec<Pending>,
    join: Option<Join>,
    closing: Option<Closing>,
    round: u64,
    /// The time that tensors have waited, see [`ROUND_WAIT_MAX`].
    clock: Duration,
    vector: Vec<u64>,
    /// Present if there is a timeline.
    trace: Option<QueueTrace>,
}

struct Pending {
    name: Arc<str>,
    request: Arc<Request>,
    task: Box<dyn Task>,
    /// Its place in the response cache.
    slot: Option<usize>,
    /// All ranks were told of it, and not all had it.
    is_announced: bool,
    since: Duration,
    next_report: Duration,
}

struct Join {
    promise: Promise<u32>,
    round: u64,
}

/// What is complete everywhere.
struct Ready {
    name: Arc<str>,
    request: Arc<Request>,
    /// Equal priorities go in this order.
    place: usize,
}

fn communicator_error(error: CollectiveError) -> QueueError {
    QueueError::Communicator(Box::new(error))
}

impl Worker {
    pub(super) fn new(
        communicator: Communicator,
        options: QueueOptions,
        inbox: Arc<Inbox>,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            timeout: options.timeout.unwrap_or_else(|| communicator.timeout()),
            cache: Cache::new(options.cache_capacity),
            trace: QueueTrace::of(&communicator),
            communicator,
            inbox,
            tally,
            options,
            owed: Owed::new(),
            pending: Vec::new(),
            join: None,
            closing: None,
            round: 0,
            clock: Duration::ZERO,
            vector: Vec::new(),
        }
    }

    /// Runs until this rank or another one leaves, or something fails for good.
    pub(super) fn run(mut self) {
        let error = match catch_unwind(AssertUnwindSafe(|| self.work())) {
            Ok(error) => error,
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                QueueError::Panicked { message: text.unwrap_or_else(|| "no message".to_owned()) }
            }
        };
        self.inbox.end(&error);
        for pending in self.pending {
            pending.task.finish(Err(error.clone()));
        }
        if let Some(join) = self.join {
            join.promise.complete(Err(Failed { error, buffer: None }));
        }
    }

    /// Returns why it ended.
    fn work(&mut self) -> QueueError {
        let (mut stirred, mut has_progressed) = (Instant::now(), false);
        let mut last_round = Instant::now();
        loop {
            let news = self.inbox.wait(self.pause(stirred.elapsed(), has_progressed));
            let has_news = !news.is_empty();
            // Before the news is taken: what has just come has not waited yet.
            self.clock += last_round.elapsed().min(ROUND_WAIT_MAX);
            self.take(news);
            if has_news && !self.options.cycle_time.is_zero() {
                let rest = self.options.cycle_time.saturating_sub(last_round.elapsed());
                std::thread::sleep(rest);
                let more = self.inbox.wait(Duration::ZERO);
                self.take(more);
            }
            last_round = Instant::now();
            has_progressed = match self.take_round() {
                Ok(has_progressed) => has_progressed,
                Err(error) => return error,
            };
            if has_news || has_progressed {
                stirred = Instant::now();
            }
        }
    }

    /// How long to wait for news before the next round. Whoever waits for something joins the next
    /// round at once and sleeps in it until the others come, who come when they have news. Only when
    /// every rank waits, each for another one, nobody would sleep: then all pause in between.
    fn pause(&self, without_progress: Duration, has_progressed: bool) -> Duration {
        if self.pending.is_empty() && self.join.is_none() {
            return if self.closing.is_some() { Duration::ZERO } else { IDLE_LOOK };
        }
        if has_progressed || self.closing == Some(Closing::Now) {
            return Duration::ZERO;
        }
        (without_progress / PAUSE_PART).clamp(PAUSES.0, PAUSES.1)
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

    /// Agrees with the other ranks on what is ready, and carries it out. Returns whether there was
    /// anything.
    fn take_round(&mut self) -> Result<bool, QueueError> {
        self.round += 1;
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
        agreed.map_err(communicator_error)?;
        Tally::count(&self.tally.rounds);
        let mut ready = if vector[0] & NO_EXCHANGE == 0 {
            self.exchange()?
        } else {
            self.cached_everywhere(&vector[1..])
        };
        self.vector = vector;
        ready.sort_by_key(|ready| (Reverse(ready.request.priority), ready.place));
        self.keep_what_fits(&mut ready);
        if let (Some(started), Some(trace)) = (started, &self.trace) {
            trace.agreed(started, self.round, ready.len());
        }
        let has_progressed = !ready.is_empty();
        self.carry_out(ready)?;
        Ok(has_progressed)
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
    fn exchange(&mut self) -> Result<Vec<Ready>, QueueError> {
        let announcements = exchange(&self.communicator, &self.announcement())?;
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
        self.settle(&decision);
        let waiting: HashSet<&str> =
            decision.waiting.iter().map(|lacking| &*lacking.name).collect();
        for pending in &mut self.pending {
            pending.slot = self.cache.find(&pending.name, &pending.request);
            pending.is_announced = waiting.contains(&*pending.name);
        }
        if let Some(last) = decision.all_joined
            && let Some(join) = self.join.take()
        {
            self.inbox.release_join();
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

    fn report_stalls(&mut self, waiting: &[Lacking]) {
        let (clock, communicator) = (self.clock, &self.communicator);
        let in_world = |rank| communicator.in_world(rank);
        for pending in &mut self.pending {
            if clock - pending.since < pending.next_report {
                continue;
            }
            pending.next_report += self.options.stall_report_after;
            let Some(lacking) = waiting.iter().find(|lacking| *lacking.name == *pending.name)
            else {
                continue;
            };
            (self.options.on_stall)(&Stall {
                name: lacking.name.clone(),
                missing: lacking.missing.iter().copied().map(in_world).collect(),
                submitted: lacking.submitted.iter().copied().map(in_world).collect(),
                waited: lacking.waited,
                rank: in_world(self.communicator.rank()),
            });
        }
    }

    /// Completes what failed on this rank.
    fn settle(&mut self, decision: &Decision) {
        for failure in &decision.failures {
            if !failure.ranks.contains(&self.communicator.rank()) {
                continue;
            }
            let place = self.pending.iter().position(|pending| *pending.name == *failure.name);
            if let Some(place) = place {
                let pending = self.pending.remove(place);
                if let Some(trace) = &mut self.trace {
                    trace.forget(&pending.name);
                }
                self.inbox.release(std::iter::once(&pending.name));
                pending.task.finish(Err(failure.error.clone()));
            }
        }
    }

    /// One round carries out so many bytes at most, so that what is more urgent need not wait longer.
    fn keep_what_fits(&self, ready: &mut Vec<Ready>) {
        let (limit, mut bytes) = (self.options.fusion_threshold as u64, 0u64);
        let beyond = ready.iter().position(|ready| {
            bytes = bytes.saturating_add(ready.request.bytes());
            bytes > limit
        });
        // A longer one goes alone.
        ready.truncate(beyond.map_or(ready.len(), |beyond| beyond.max(1)));
    }

    /// Carries out what all ranks are ready for, each operation fused with the others of its kind.
    fn carry_out(&mut self, ready: Vec<Ready>) -> Result<(), QueueError> {
        let places: HashMap<Arc<str>, usize> = ready
            .iter()
            .enumerate()
            .map(|(place, ready)| (Arc::clone(&ready.name), place))
            .collect();
        let mut tasks: Vec<Option<Box<dyn Task>>> = ready.iter().map(|_| None).collect();
        for pending in std::mem::take(&mut self.pending) {
            match places.get(&pending.name) {
                Some(place) => tasks[*place] = Some(pending.task),
                None => self.pending.push(pending),
            }
        }
        let mut rest = VecDeque::new();
        for (ready, task) in ready.into_iter().zip(tasks) {
            // A rank that has not submitted it has joined.
            let task = task.or_else(|| stand_in(&ready.request)).ok_or_else(|| {
                let message =
                    format!("cannot allocate a part in {} for a rank without", ready.name);
                communicator_error(CollectiveError::Memory { collective: "join", message })
            })?;
            rest.push_back((ready, task));
        }
        while let Some((head, task)) = rest.pop_front() {
            let (mut names, mut batch) = (vec![head.name], vec![task]);
            let mut others = VecDeque::new();
            for (ready, task) in rest {
                if self.options.fusion_threshold > 0 && ready.request.fuses_with(&head.request) {
                    names.push(ready.name);
                    batch.push(task);
                } else {
                    others.push_back((ready, task));
                }
            }
            rest = others;
            let started = self.trace.as_ref().map(|_| Instant::now());
            let outcome = batch.split_first_mut().map_or(Ok(()), |(first, others)| {
                first.run(&self.communicator, others).map_err(communicator_error)
            });
            if let (Some(started), Some(trace)) = (started, &mut self.trace) {
                trace.carried_out(started, self.round, &names);
            }
            Tally::count(&self.tally.operations);
            self.tally.submissions.fetch_add(names.len() as u64, Ordering::Relaxed);
            self.inbox.release(names.iter());
            for task in batch {
                task.finish(outcome.clone());
            }
            if let Err(error) = outcome {
                rest.into_iter().for_each(|(_, task)| task.finish(Err(error.clone())));
                return Err(error);
            }
        }
        Ok(())
    }
}
