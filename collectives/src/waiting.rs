//! What a blocked caller does: idle, look at the clock and at the control connection, and in the
//! end say who is to blame.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use paceline_rendezvous::{Abort, OperationReport, OperationState};
use paceline_transports::Signature;

use crate::context::ContextInner;
use crate::drive::Parties;
use crate::engine::{Idle, IdleAction, StepError, Wire};
use crate::error::{CollectiveError, OperationName};
use crate::members::Members;
use crate::node::{NodeError, NodeGroup};
use crate::signature::OperationKind;
use crate::timeline::{Track, What};

/// Time between two looks at the control connection while waiting.
const ABORT_LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Steps with progress between two looks at the clock: a step moves tens of kilobytes at most times.
const MOVES_PER_LOOK: u32 = 256;

/// A gap between two readings of the clock that only a stopped process explains: while it waits it
/// reads the clock at least every few tens of milliseconds.
const SUSPENSION_MIN: Duration = Duration::from_secs(1);

/// Longest sleep: aborts and deadlines are seen within it even if nothing wakes us.
pub(crate) const PARK_MAX: Duration = Duration::from_millis(20);

/// Sleep while other threads want the wire.
const PARK_CONTENDED: Duration = Duration::from_micros(200);

/// How long a rank whose operation failed waits for the coordinator to name the culprit.
const VERDICT_WAIT: Duration = Duration::from_millis(1500);

/// When waiting ranks report to the coordinator what they wait for.
const STALL_REPORT_AFTER: Duration = Duration::from_secs(1);

/// How often they repeat it: who is waited for may have left since, and the coordinator tells by it
/// that they still wait.
const STALL_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Shorter waits are not shown on a timeline: there would be one for each message.
const WAIT_SHOWN_MIN: Duration = Duration::from_micros(2);

/// Why an operation is waited for no longer. Who is to blame takes a while to find out, and what the
/// caller holds is for others to use meanwhile: [`Waiting::judge`] is for after that.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The coordinator said so.
    Aborted(Abort),
    /// The deadline has passed.
    Late { times: Times, waiting_on: Vec<u32> },
}

/// How long an operation has been waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Since its beginning.
    waited: Duration,
    /// Since anything last moved for it.
    idle: Duration,
}

/// The waiting of one operation.
pub(crate) struct Waiting<'a> {
    context: &'a ContextInner,
    parties: Parties<'a>,
    name: OperationName,
    idle: Idle,
    /// When waiting was first noticed: the start of an operation in one part, as far as deadlines go.
    since: Option<Instant>,
    looked: Option<Instant>,
    /// The last time that the clock was read.
    ticked: Option<Instant>,
    moves: u32,
    /// When nothing moved for the first time since something did, as far as the clock was read.
    stretch: Option<Instant>,
    /// How long to have waited for the next report to the coordinator.
    next_report: Duration,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(
        context: &'a ContextInner,
        parties: Parties<'a>,
        name: OperationName,
    ) -> Self {
        Self {
            context,
            parties,
            name,
            idle: Idle::new(context.idle),
            since: None,
            looked: None,
            ticked: None,
            moves: 0,
            stretch: None,
            next_report: STALL_REPORT_AFTER,
        }
    }

    /// From here on it is called something else.
    pub(crate) fn rename(&mut self, name: Option<OperationName>) {
        self.name = name.unwrap_or(self.name);
    }

    /// Something moved. Looks at the clock now and then all the same: others' traffic moves too.
    pub(crate) fn moved(&mut self, waiting_on: impl FnOnce() -> Vec<u32>) -> Result<(), Halt> {
        self.end_stretch();
        self.idle.reset();
        self.moves = self.moves.wrapping_add(1);
        if self.moves.is_multiple_of(MOVES_PER_LOOK) {
            let now = self.context.pace.now();
            self.ticked = Some(now);
            self.look(now, waiting_on)?;
        }
        Ok(())
    }

    /// Nothing moved. Returns what to do, after a look at the clock and at the control connection
    /// when it is time for one.
    pub(crate) fn tick(
        &mut self,
        waiting_on: impl FnOnce() -> Vec<u32>,
    ) -> Result<IdleAction, Halt> {
        if self.stretch.is_none() && self.context.timeline().is_some() {
            self.stretch = Some(self.context.pace.now());
        }
        let (action, now) = self.idle.next(|| self.context.pace.now());
        if let Some(now) = now {
            self.stretch.get_or_insert(now);
            let gap = now - self.ticked.replace(now).unwrap_or(now);
            if gap >= SUSPENSION_MIN {
                // This process or its machine stood still: the others are not to blame for that.
                self.forget(gap);
            }
            self.look(now, waiting_on)?;
        }
        Ok(action)
    }

    /// What was waited for has come, or nobody waits for it any more.
    #[inline]
    fn end_stretch(&mut self) {
        if let Some(since) = self.stretch.take() {
            let now = self.context.pace.now();
            self.context.meters.waited(now.saturating_duration_since(since));
            if let Some(timeline) = self.context.timeline()
                && now.saturating_duration_since(since) >= WAIT_SHOWN_MIN
            {
                let track = Track::Communicator(self.name.communicator);
                timeline.record_until(track, since, now, What::Wait);
            }
        }
    }

    fn look(&mut self, now: Instant, waiting_on: impl FnOnce() -> Vec<u32>) -> Result<(), Halt> {
        let since = match self.parties.since {
            Some(since) => since.get(),
            None => *self.since.get_or_insert(now),
        };
        // The first look at the clock only starts the interval: most operations are over long
        // before it ends, and a system call would take longer than the shortest of them.
        if now - *self.looked.get_or_insert(now) >= ABORT_LOOK_INTERVAL {
            self.looked = Some(now);
            if let Some(abort) =
                self.context.job.poll_abort(self.context.number, self.name.communicator)
            {
                return Err(Halt::Aborted(abort));
            }
            let idle = self.stretch.map(|start| now.saturating_duration_since(start));
            let waited = now.saturating_duration_since(since);
            self.watch(Times { waited, idle: idle.unwrap_or_default() }, waiting_on)?;
        }
        Ok(())
    }

    /// Lets time count for nothing.
    fn forget(&mut self, gap: Duration) {
        self.stretch = self.stretch.map(|start| start + gap);
        match self.parties.since {
            Some(since) => since.set(since.get() + gap),
            None => self.since = self.since.map(|since| since + gap),
        }
    }

    /// The wire was somebody else's for a while: that is no gap in our own running.
    pub(crate) fn resumed(&mut self) {
        self.ticked = None;
    }

    fn watch(&mut self, times: Times, waiting_on: impl FnOnce() -> Vec<u32>) -> Result<(), Halt> {
        let waited = times.waited;
        if waited >= self.parties.timeout {
            return Err(Halt::Late { times, waiting_on: waiting_on() });
        }
        if waited >= self.next_report && self.context.job.is_coordinated() {
            self.next_report = waited + STALL_REPORT_INTERVAL;
            self.report(OperationState::Waiting { on: waiting_on() }, times);
        }
        Ok(())
    }

    /// What it means that an operation is waited for no longer.
    pub(crate) fn judge(&self, halt: Halt) -> CollectiveError {
        match halt {
            Halt::Aborted(abort) => self.aborted(abort),
            Halt::Late { times, waiting_on } => self.timed_out(times, waiting_on),
        }
    }

    /// Sleeps until a connection has something, or the coordinator; at most for `longest`.
    pub(crate) fn park(&self, wire: &mut Wire, longest: Duration) {
        if self.context.pace.let_others_run() {
            return;
        }
        let limit = if self.context.is_contended() { PARK_CONTENDED } else { longest };
        let control = self.context.job.rendezvous().control.as_deref();
        wire.park(control.map(AsFd::as_fd), limit);
    }

    /// What a failed step over the wire means.
    pub(crate) fn explain(&self, error: StepError) -> CollectiveError {
        let (operation, rank) = (self.name, self.context.rank());
        match error {
            StepError::Endpoint(source) => {
                // The launcher may know more: how the peer died.
                if let Some(abort) = self.verdict() {
                    return self.aborted(abort);
                }
                CollectiveError::PeerLost { operation, rank, peer: source.peer(), source }
            }
            StepError::Message { peer, error: source } => {
                CollectiveError::Message { operation, rank, peer, source }
            }
            StepError::Mismatch { peer, theirs } => self.mismatch(peer, theirs),
        }
    }

    /// Whether another member has called, and waits in, an operation in shared memory where this
    /// rank exchanges messages; or has given up. What that means is for
    /// [`explain_node`](Self::explain_node), which takes a while.
    pub(crate) fn look_at_node(&self, group: &NodeGroup) -> Option<NodeError> {
        let ours = self.name.kind.signature();
        // Where an operation has two levels others may be in its next stage.
        let elsewhere =
            group.waits_elsewhere(self.name.op_seq).filter(|(_, theirs)| *theirs != ours);
        let op_seq = self.name.op_seq;
        if let Some((member, theirs)) = elsewhere {
            return Some(NodeError::SignatureMismatch { member, op_seq, ours, theirs });
        }
        group.aborted().map(|member| NodeError::Aborted { member, op_seq })
    }

    /// Whether another rank has sent a message for this operation, where this rank works in shared
    /// memory. Does not wait for the wire: who has it looks at the shared memory in turn.
    pub(crate) fn look_at_wire(&self) -> Option<CollectiveError> {
        let mut wire = self.context.free_wire()?;
        wire.listen();
        let OperationName { kind, communicator, op_seq } = self.name;
        let (peer, theirs) = wire.early_mismatch(communicator, op_seq, kind.signature())?;
        drop(wire);
        Some(self.mismatch(peer, theirs))
    }

    /// Whether another rank has called something else in place of an operation that this rank has gone
    /// past. Looks at all connections, also at those that nothing is expected from.
    pub(crate) fn look_for_strays(&self, wire: &mut Wire) -> Option<CollectiveError> {
        wire.listen();
        let (peer, op_seq, theirs) = wire.stray(self.name.communicator, self.name.op_seq)?;
        let theirs = describe(theirs);
        Some(CollectiveError::Mismatch {
            operation: self.name,
            rank: self.context.rank(),
            peer,
            theirs: format!("{theirs} as #{op_seq}, where this rank called something else"),
        })
    }

    /// What a failed step in memory that `members` share means.
    pub(crate) fn explain_node(&self, members: &Members, error: NodeError) -> CollectiveError {
        match error {
            NodeError::SignatureMismatch { member, theirs, .. } => {
                self.mismatch(members.in_world(member), theirs)
            }
            NodeError::Aborted { member, .. } => {
                let member = members.in_world(member);
                self.aborted(self.verdict().unwrap_or_else(|| Abort {
                    epoch: 0,
                    culprit: Some(member),
                    timed_out: false,
                    reason: format!("rank {member} gave up"),
                }))
            }
            other => CollectiveError::Memory {
                collective: self.name.kind.collective.name(),
                message: other.to_string(),
            },
        }
    }

    pub(crate) fn mismatch(&self, peer: u32, theirs: Signature) -> CollectiveError {
        CollectiveError::Mismatch {
            operation: self.name,
            rank: self.context.rank(),
            peer,
            theirs: OperationKind::from_signature(theirs).map_or_else(
                || "an unknown operation".to_owned(),
                |theirs| theirs.beside(&self.name.kind),
            ),
        }
    }

    fn aborted(&self, abort: Abort) -> CollectiveError {
        CollectiveError::Aborted {
            operation: self.name,
            rank: self.context.rank(),
            culprit: abort.culprit,
            timed_out: abort.timed_out,
            reason: abort.reason,
        }
    }

    fn timed_out(&self, times: Times, waiting_on: Vec<u32>) -> CollectiveError {
        self.report(OperationState::TimedOut { on: waiting_on.clone() }, times);
        let (culprit, verdict) = match self.verdict().or_else(|| self.silent_coordinator()) {
            Some(abort) => (abort.culprit, Some(abort.reason.into())),
            // Who is waited for may itself wait for somebody.
            None => (waiting_on.first().copied().filter(|_| waiting_on.len() == 1), None),
        };
        let (operation, rank, waited) = (self.name, self.context.rank(), times.waited);
        CollectiveError::TimedOut { operation, rank, waited, waiting_on, culprit, verdict }
    }

    /// What it means that the coordinator says nothing, where another rank runs it.
    fn silent_coordinator(&self) -> Option<Abort> {
        let host = self.context.job.rendezvous().control.as_ref()?.host()?;
        let reason = format!(
            "rank {host}, which runs the coordinator, does not answer: it is stopped, or out of reach"
        );
        let (epoch, culprit) = (self.context.job.rank_info().epoch, Some(host));
        (host != self.context.rank()).then_some(Abort { epoch, culprit, timed_out: true, reason })
    }

    /// What the coordinator says, if it says something soon.
    fn verdict(&self) -> Option<Abort> {
        if !self.context.job.is_coordinated() {
            return None;
        }
        let until = Instant::now() + VERDICT_WAIT;
        while Instant::now() < until {
            if let Some(abort) =
                self.context.job.poll_abort(self.context.number, self.name.communicator)
            {
                return Some(abort);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    fn report(&self, state: OperationState, times: Times) {
        report(self.context, self.parties.members, self.name, state, times);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.end_stretch();
    }
}

/// What another rank called.
fn describe(theirs: Signature) -> String {
    OperationKind::from_signature(theirs)
        .map_or_else(|| "an unknown operation".to_owned(), |kind| kind.to_string())
}

/// Lets the others know through the coordinator that an operation failed here: they may be in it
/// already and must not wait out their deadline.
pub(crate) fn report_failure(
    context: &ContextInner,
    members: &Members,
    name: OperationName,
    error: &CollectiveError,
) {
    let culprit = match error {
        // Aborts come from the coordinator, and a time-out was reported when it was noticed.
        CollectiveError::Aborted { .. } | CollectiveError::TimedOut { .. } => return,
        CollectiveError::Memory { .. } => Some(context.rank()),
        other => other.culprit(),
    };
    let state = OperationState::Failed { reason: error.reason(), culprit };
    report(context, members, name, state, Times::default());
}

/// Tells the others, if the thread is panicking when it is dropped. Forgotten when all went well.
pub(crate) struct PanicReport<'a> {
    pub(crate) context: &'a ContextInner,
    pub(crate) members: &'a Members,
    pub(crate) name: OperationName,
}

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        let (reason, culprit) = ("it panicked".to_owned(), Some(self.context.rank()));
        let state = OperationState::Failed { reason, culprit };
        report(self.context, self.members, self.name, state, Times::default());
    }
}

fn report(
    context: &ContextInner,
    members: &Members,
    name: OperationName,
    state: OperationState,
    times: Times,
) {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    context.job.report(&OperationReport {
        context: context.number,
        communicator: name.communicator,
        members: members.of_group().map(<[u32]>::to_vec),
        op_seq: name.op_seq,
        kind: name.kind.collective.name().to_owned(),
        name: members.label().map(|label| label.to_string()),
        details: name.kind.details(),
        signature: format!("{:032x}", u128::from_be_bytes(name.kind.signature().0)),
        bytes: name.kind.bytes(),
        state,
        since_ms: millis(times.waited),
        idle_ms: millis(times.idle),
    });
}
