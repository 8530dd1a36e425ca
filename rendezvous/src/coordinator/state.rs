//! The coordinator without I/O and without a clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::diagnosis;
use super::groups::{Ending, GroupEndings};
use super::overview::{self, Activities};
use super::renewal::Gathering;
use super::stalls::Stalls;
use crate::hello::HelloError;
use crate::message::{
    Abort, OperationReport, OperationState, Progress, RequestId, ToCoordinator, ToRank, clip,
    message_place,
};

/// Communicators of which a rank's progress is kept: those with the highest numbers.
const COMMUNICATORS_MAX: usize = 1024;

/// What a coordinator must know of its job.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorConfig {
    /// Number of ranks.
    pub world_size: u32,
    /// The epoch that it begins with.
    pub epoch: u32,
    /// How long after the first rank the last one must have joined; `None` waits for ever.
    pub join_timeout: Option<Duration>,
    /// How long after the loss of a connection the epoch ends, so that a supervisor who knows
    /// better, such as the signal that killed the rank, can say so first.
    pub lost_grace: Duration,
    /// How long ranks wait in an operation before that is worth a word; `None` for never.
    pub stall_report: Option<Duration>,
}

/// Whether a rank is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Present,
    Left,
    Lost,
}

/// What is known of a rank that has joined.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) presence: Presence,
    pub(super) last_heard: Instant,
    /// Host and process, once it has said so.
    pub(super) place: Option<(String, u32)>,
    /// How far it is, by numbers of context and communicator.
    pub(super) progress: BTreeMap<(u32, u32), Standing>,
    /// What it is in and has moved.
    pub(super) activities: Activities,
    /// Requests for keys that do not exist yet.
    pub(super) waiting: BTreeMap<RequestId, String>,
}

/// What is known of a rank's operations in one communicator.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// How many it has entered.
    pub(super) entered: u64,
    /// Its last report, with the time of arrival.
    pub(super) report: Option<(OperationReport, Instant)>,
}

impl Member {
    fn new(now: Instant) -> Self {
        Self {
            presence: Presence::Present,
            last_heard: now,
            place: None,
            progress: BTreeMap::new(),
            activities: Activities::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// What is known of it in the communicator of a report.
    pub(super) fn standing(&self, like: &OperationReport) -> Option<&Standing> {
        self.progress.get(&(like.context, like.communicator))
    }

    fn advance(&mut self, context: u32, communicator: u32, entered: u64) -> &mut Standing {
        let key = (context, communicator);
        if self.progress.len() >= COMMUNICATORS_MAX && !self.progress.contains_key(&key) {
            self.progress.pop_first();
        }
        let standing = self.progress.entry(key).or_default();
        standing.entered = standing.entered.max(entered);
        standing
    }
}

/// The ranks that have joined; small even if someone claims an absurd world size.
pub(super) type Members = BTreeMap<u32, Member>;

/// The coordinator of a job, one epoch after the other.
///
/// # Invariants
/// - C-1: an epoch ends at most once, with the first [`Abort`], which every rank gets that is
///   present then or joins later. The next one begins when all ranks have asked for it, on all of
///   them or on none.
/// - C-2: every `Set` and `Get` is answered at most once; a `Get` waits until the key exists.
/// - C-3: memory is bounded by the limits on the store, and on the requests and the communicators of
///   a rank.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) config: CoordinatorConfig,
    pub(super) values: BTreeMap<String, Vec<u8>>,
    pub(super) stored_bytes: usize,
    pub(super) members: Members,
    first_joined: Option<Instant>,
    /// The abort that takes effect when the grace is over.
    pub(super) pending: Option<(Instant, Abort)>,
    pub(super) aborted: Option<Abort>,
    pub(super) groups: GroupEndings,
    pub(super) gathering: Gathering,
    pub(super) stalls: Stalls,
}

impl Coordinator {
    /// A coordinator that nobody has joined.
    pub fn new(config: CoordinatorConfig) -> Self {
        Self {
            config,
            values: BTreeMap::new(),
            stored_bytes: 0,
            members: BTreeMap::new(),
            first_joined: None,
            pending: None,
            aborted: None,
            groups: GroupEndings::default(),
            gathering: Gathering::default(),
            stalls: Stalls::default(),
        }
    }

    /// The number of the present epoch.
    pub const fn epoch(&self) -> u32 {
        self.config.epoch
    }

    /// What ranks have waited for so long that somebody should know; each is told once.
    pub fn take_stalls(&mut self) -> Vec<String> {
        self.stalls.take()
    }

    /// Whether `rank` may join: ranks join once.
    ///
    /// # Errors
    /// [`HelloError::Duplicate`], or [`HelloError::Gone`] if it has left or was lost since.
    pub fn admit(&self, rank: u32) -> Result<(), HelloError> {
        match self.members.get(&rank).map(|member| member.presence) {
            None => Ok(()),
            Some(Presence::Present) => Err(HelloError::Duplicate { rank }),
            Some(Presence::Left | Presence::Lost) => Err(HelloError::Gone { rank }),
        }
    }

    /// Whether `rank` has joined and neither left nor been lost.
    pub fn is_present(&self, rank: u32) -> bool {
        self.members.get(&rank).is_some_and(|member| member.presence == Presence::Present)
    }

    /// Whether every rank has joined.
    pub fn all_joined(&self) -> bool {
        u32::try_from(self.members.len()) == Ok(self.config.world_size)
    }

    /// Whether no rank is left and none is to come: all have joined, or the epoch is over.
    pub fn all_gone(&self) -> bool {
        (self.all_joined() || self.aborted.is_some())
            && self.members.values().all(|member| member.presence != Presence::Present)
    }

    /// Why the epoch is over, if it is.
    pub fn aborted(&self) -> Option<&Abort> {
        self.aborted.as_ref()
    }

    /// A rank has joined; ranks join once.
    pub fn joined(&mut self, rank: u32, now: Instant) -> Vec<(u32, ToRank)> {
        debug_assert!(rank < self.config.world_size, "the handshake admits only ranks of the job");
        debug_assert!(self.admit(rank).is_ok(), "the handshake admits a rank once");
        self.first_joined.get_or_insert(now);
        self.members.insert(rank, Member::new(now));
        match &self.aborted {
            Some(abort) => vec![(rank, ToRank::Abort { abort: abort.clone() })],
            None => Vec::new(),
        }
    }

    /// A rank has said something. What comes from a rank that is not there is ignored, but for a goodbye:
    /// one that was taken for dead shall not wait for an answer.
    pub fn handle(
        &mut self,
        rank: u32,
        message: ToCoordinator,
        now: Instant,
    ) -> Vec<(u32, ToRank)> {
        let Some(member) = self.members.get_mut(&rank) else { return Vec::new() };
        if member.presence != Presence::Present {
            let is_alive =
                member.presence == Presence::Lost && matches!(message, ToCoordinator::Goodbye);
            return is_alive.then_some((rank, ToRank::Farewell)).into_iter().collect();
        }
        member.last_heard = now;
        match message {
            ToCoordinator::Set { request, key, value } => self.set(rank, request, key, value),
            ToCoordinator::Get { request, key } => self.get(rank, request, key),
            ToCoordinator::Cancel { request } => {
                member.waiting.remove(&request);
                Vec::new()
            }
            ToCoordinator::Report { epoch, report } if epoch == self.config.epoch => {
                self.report(rank, report, now)
            }
            ToCoordinator::NextEpoch { epoch, timeout_ms } => {
                self.gather(rank, epoch, Duration::from_millis(timeout_ms), now)
            }
            ToCoordinator::Introduction { host, pid } => {
                member.place = Some((clip(&host).to_owned(), pid));
                Vec::new()
            }
            ToCoordinator::Heartbeat { epoch, progress } if epoch == self.config.epoch => {
                for Progress { context, communicator, entered } in progress {
                    member.advance(context, communicator, entered);
                }
                Vec::new()
            }
            ToCoordinator::Activity { activity } => {
                overview::learn(&mut member.activities, activity, now);
                Vec::new()
            }
            // What is said of an epoch that is over.
            ToCoordinator::Report { .. } | ToCoordinator::Heartbeat { .. } => Vec::new(),
            ToCoordinator::Goodbye => {
                member.presence = Presence::Left;
                member.waiting.clear();
                vec![(rank, ToRank::Farewell)]
            }
        }
    }

    /// Why a rank does nothing more for what `report` waits in, if it has said so: completes "…, which".
    fn has_given_up(&self, rank: u32, report: &OperationReport) -> Option<&'static str> {
        match self.members.get(&rank) {
            // Who has left after an operation has sent what it owed to it: that may be under way.
            Some(member) if member.presence == Presence::Left => {
                let owes = !diagnosis::has_entered(member, report);
                owes.then_some("has left")
            }
            Some(_) if self.gathering.contains(rank) => Some("has given up this epoch"),
            _ => None,
        }
    }

    fn report(&mut self, rank: u32, report: OperationReport, now: Instant) -> Vec<(u32, ToRank)> {
        let label = diagnosis::operation(&report);
        let ending = match &report.state {
            OperationState::Failed { reason, culprit } => {
                Some((*culprit, format!("{label} failed on rank {rank}: {}", clip(reason))))
            }
            // Whoever has said goodbye will never come.
            OperationState::Waiting { on } => on.iter().find_map(|&gone| {
                let why = self.has_given_up(gone, &report)?;
                Some((
                    Some(gone),
                    format!("{label}: rank {rank} waits for rank {gone}, which {why}"),
                ))
            }),
            _ => None,
        };
        let timed_out = matches!(report.state, OperationState::TimedOut { .. });
        if let Some(member) = self.members.get_mut(&rank) {
            let is_message = message_place(report.op_seq).is_some();
            let entered = if is_message { 0 } else { report.op_seq.saturating_add(1) };
            let standing = member.advance(report.context, report.communicator, entered);
            standing.report = Some((report.clone(), now));
        }
        match ending {
            // Who blames another has probably seen the symptom of a death that a supervisor is
            // about to explain.
            Some((culprit, reason)) if culprit.is_some_and(|culprit| culprit != rank) => {
                let abort = self.word(culprit, &reason);
                match self.group_ending(&report, &abort) {
                    Some(ending) => {
                        self.groups.end_at(now + self.config.lost_grace, ending);
                        self.groups.tick(now)
                    }
                    None => self.end_after_grace(abort, now),
                }
            }
            Some((culprit, reason)) => self.end(&report, self.word(culprit, &reason)),
            None if timed_out => {
                let stall = diagnosis::stall(&self.config, &self.members, rank, &report, now);
                let word = self.word(stall.culprit, &stall.reason);
                self.end(&report, Abort { timed_out, ..word })
            }
            None if matches!(report.state, OperationState::Waiting { .. }) => {
                match diagnosis::odds(&self.members, rank, &report) {
                    Some(odds) => self.end(&report, self.word(odds.culprit, &odds.reason)),
                    None => {
                        self.look_for_stall(rank, &report, now);
                        Vec::new()
                    }
                }
            }
            None => Vec::new(),
        }
    }

    /// Ends what a report is about: a group, or the epoch.
    fn end(&mut self, report: &OperationReport, abort: Abort) -> Vec<(u32, ToRank)> {
        match self.group_ending(report, &abort) {
            Some(ending) => self.groups.end(ending),
            None => self.end_epoch(abort),
        }
    }

    fn group_ending(&self, report: &OperationReport, abort: &Abort) -> Option<Ending> {
        let mut ending = Ending::of(report, abort.clone())?;
        ending.keep_members(|rank| self.is_present(rank));
        Some(ending)
    }

    /// The connection of a rank has ended without goodbye; the epoch ends after the grace.
    pub fn disconnected(&mut self, rank: u32, reason: &str, now: Instant) -> Vec<(u32, ToRank)> {
        match self.members.get_mut(&rank) {
            Some(member) if member.presence == Presence::Present => {
                member.presence = Presence::Lost;
                member.waiting.clear();
                let abort = self.word(Some(rank), &format!("rank {rank} was lost: {reason}"));
                self.end_after_grace(abort, now)
            }
            _ => Vec::new(),
        }
    }

    /// A rank is known to be dead; the epoch ends now. `reason` completes "rank 3 …", such as
    /// "was killed by signal 9".
    pub fn rank_lost(&mut self, rank: u32, reason: &str) -> Vec<(u32, ToRank)> {
        if let Some(member) = self.members.get_mut(&rank) {
            if member.presence == Presence::Left {
                return Vec::new();
            }
            member.presence = Presence::Lost;
            member.waiting.clear();
        }
        if let Some((_, pending)) = &self.pending
            && pending.culprit.is_some_and(|culprit| culprit != rank)
        {
            // Somebody else was lost first: this death may well be its consequence.
            return Vec::new();
        }
        self.abort(Some(rank), &format!("rank {rank} {reason}"))
    }

    /// Ends the epoch for a reason of the caller's.
    pub fn abort(&mut self, culprit: Option<u32>, reason: &str) -> Vec<(u32, ToRank)> {
        self.end_epoch(self.word(culprit, reason))
    }

    /// What ranks are told of an end that no time limit brought.
    pub(super) fn word(&self, culprit: Option<u32>, reason: &str) -> Abort {
        let (epoch, reason) = (self.config.epoch, clip(reason).to_owned());
        Abort { epoch, culprit, timed_out: false, reason }
    }

    pub(super) fn end_epoch(&mut self, abort: Abort) -> Vec<(u32, ToRank)> {
        if self.aborted.is_some() {
            return Vec::new();
        }
        self.pending = None;
        self.aborted = Some(abort.clone());
        self.members
            .iter()
            .filter(|(_, member)| member.presence == Presence::Present)
            .map(|(&rank, _)| (rank, ToRank::Abort { abort: abort.clone() }))
            .collect()
    }

    fn end_after_grace(&mut self, abort: Abort, now: Instant) -> Vec<(u32, ToRank)> {
        if self.config.lost_grace.is_zero() {
            return self.end_epoch(abort);
        }
        if self.aborted.is_none() && self.pending.is_none() {
            self.pending = Some((now + self.config.lost_grace, abort));
        }
        Vec::new()
    }

    /// The coordinator itself stood still for `gap`, as a stopped process or machine does: what the
    /// ranks said meanwhile was not heard, which is not their fault.
    pub fn stood_still(&mut self, gap: Duration) {
        for member in self.members.values_mut() {
            member.last_heard += gap;
        }
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Instant) -> Vec<(u32, ToRank)> {
        let mut told = match &self.pending {
            Some((due, abort)) if *due <= now => {
                let abort = abort.clone();
                self.end_epoch(abort)
            }
            _ => self.groups.tick(now),
        };
        if let (Some(due), Some(timeout)) = (self.join_deadline(), self.config.join_timeout)
            && due <= now
        {
            let absent = diagnosis::absent(&self.config, &self.members);
            let (who, timeout) = (diagnosis::ranks(&absent), timeout.as_secs_f64());
            let reason = format!("{who} did not join within {timeout:.1} s");
            let word = self.word(absent.first().copied(), &reason);
            told.extend(self.end_epoch(Abort { timed_out: true, ..word }));
        }
        told.extend(self.look_at_gathering(now));
        told
    }

    /// When [`Coordinator::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().map(|(due, _)| *due);
        let others = [self.groups.next_deadline(), self.gathering.due(), self.join_deadline()];
        pending.into_iter().chain(others.into_iter().flatten()).min()
    }

    fn join_deadline(&self) -> Option<Instant> {
        if self.aborted.is_some() || self.all_joined() {
            return None;
        }
        self.first_joined?.checked_add(self.config.join_timeout?)
    }
}
