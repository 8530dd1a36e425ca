//! The blocking loop around an operation: step, idle, deadline, abort.

use std::time::{Duration, Instant};

use paceline_rendezvous::{Abort, OperationReport, OperationState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::context::ContextInner;
use crate::engine::{
    Buffers, Idle, IdleAction, Operation, OperationId, OperationParts, StepError, Wire, Workspace,
    scratch_bytes_min,
};
use crate::error::{CollectiveError, OperationName};
use crate::kernels::Kernel;
use crate::schedule::{Partition, Schedule};
use crate::signature::OperationKind;

/// Time between two looks at the control connection while waiting.
const ABORT_LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Longest sleep: aborts and deadlines are seen within it even if no descriptor wakes us.
const PARK_MAX: Duration = Duration::from_millis(20);

/// Sleep while other threads want the wire.
const PARK_CONTENDED: Duration = Duration::from_micros(200);

/// How long a rank that timed out waits for the coordinator to name the culprit.
const VERDICT_WAIT: Duration = Duration::from_millis(1500);

/// When waiting ranks report to the coordinator what they wait for.
const STALL_REPORT_AFTER: Duration = Duration::from_secs(1);

/// One operation to run.
pub(crate) struct Run<'a> {
    pub(crate) context: &'a ContextInner,
    pub(crate) communicator: u32,
    pub(crate) operation: OperationName,
    pub(crate) schedule: &'a dyn Schedule,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) partition: Partition,
    pub(crate) buffers: Buffers,
}

/// Runs an operation until it is complete or has failed.
///
/// # Safety
/// The buffers are valid for the duration of the call and accessed by nobody else; input and output
/// are the same memory or do not overlap.
pub(crate) unsafe fn run(run: Run<'_>, workspace: &mut Workspace) -> Result<(), CollectiveError> {
    let needed = scratch_bytes_min(run.schedule, run.buffers.element_bytes);
    if workspace.scratch_bytes() < needed {
        let collective = run.operation.kind.collective.name();
        let scratch = paceline_transports::Region::allocate(needed)
            .map_err(|error| CollectiveError::Memory { collective, message: error.to_string() })?;
        workspace.replace_scratch(scratch);
    }
    let context = run.context;
    let mut wire = context.wire();
    let Some(board) = wire.take_board() else {
        return Err(CollectiveError::Memory {
            collective: run.operation.kind.collective.name(),
            message: "too many operations under way in this context".to_owned(),
        });
    };
    let parts = OperationParts {
        schedule: run.schedule,
        workspace,
        kernel: run.kernel,
        partition: run.partition,
        id: OperationId {
            communicator: run.communicator,
            op_seq: run.operation.op_seq,
            signature: run.operation.kind.signature(),
        },
        buffers: run.buffers,
        rank: context.rank() as usize,
        world_size: context.world_size() as usize,
        board,
    };
    // SAFETY: the contract of this function; the operation ends before it returns.
    let mut operation = unsafe { Operation::new(parts) };
    let mut waiting = Waiting::new(context, run.operation);
    let outcome = loop {
        match operation.step(&mut wire) {
            Ok(moved) => {
                if operation.is_done(&mut wire) {
                    break Ok(());
                }
                if moved {
                    waiting.idle.reset();
                    continue;
                }
            }
            Err(error) => break Err(waiting.explain(error)),
        }
        if let Err(error) = waiting.tick(&operation, &mut wire) {
            break Err(error);
        }
        if context.is_contended() {
            drop(wire);
            std::thread::yield_now();
            wire = context.wire();
        }
    };
    if let Err(error) = &outcome {
        operation.give_up(&mut wire);
        waiting.report_failure(error);
    }
    wire.free_board(board);
    outcome
}

/// What a blocked caller keeps track of.
struct Waiting<'a> {
    context: &'a ContextInner,
    name: OperationName,
    idle: Idle,
    /// When waiting was first noticed; the start of the operation as far as deadlines go.
    since: Option<Instant>,
    looked: Option<Instant>,
    stall_reported: bool,
}

impl<'a> Waiting<'a> {
    fn new(context: &'a ContextInner, name: OperationName) -> Self {
        Self {
            context,
            name,
            idle: Idle::new(context.idle),
            since: None,
            looked: None,
            stall_reported: false,
        }
    }

    /// Nothing moved: spin, yield or sleep, and now and then look at the clock and at the control
    /// connection.
    fn tick(&mut self, operation: &Operation<'_>, wire: &mut Wire) -> Result<(), CollectiveError> {
        let (action, now) = self.idle.next();
        if let Some(now) = now {
            let since = *self.since.get_or_insert(now);
            if self.looked.is_none_or(|looked| now - looked >= ABORT_LOOK_INTERVAL) {
                self.looked = Some(now);
                if let Some(abort) = self.context.job.poll_abort() {
                    return Err(self.aborted(abort));
                }
                self.watch(now - since, operation, wire)?;
            }
        }
        match action {
            IdleAction::Spin => std::hint::spin_loop(),
            IdleAction::Yield => std::thread::yield_now(),
            IdleAction::Park => self.park(wire),
        }
        Ok(())
    }

    fn watch(
        &mut self,
        waited: Duration,
        operation: &Operation<'_>,
        wire: &mut Wire,
    ) -> Result<(), CollectiveError> {
        if waited >= self.context.timeout {
            return Err(self.timed_out(waited, operation.waiting_on(wire)));
        }
        if waited >= STALL_REPORT_AFTER && !self.stall_reported {
            self.stall_reported = true;
            self.report(OperationState::Waiting { on: operation.waiting_on(wire) }, waited);
        }
        Ok(())
    }

    fn park(&self, wire: &Wire) {
        let limit = if self.context.is_contended() { PARK_CONTENDED } else { PARK_MAX };
        let timeout = Timespec::try_from(limit).expect("a short wait fits");
        let mut wakeups = Vec::new();
        for endpoint in wire.endpoints.iter().flatten().filter(|endpoint| endpoint.is_active()) {
            endpoint.wakeups(&mut wakeups);
        }
        let control = self.context.job.rendezvous().control.as_deref();
        let mut fds: Vec<PollFd<'_>> = wakeups
            .iter()
            .map(|wakeup| {
                let writable = if wakeup.writable { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::from_borrowed_fd(wakeup.fd, PollFlags::IN | writable)
            })
            .chain(control.map(|control| PollFd::new(control, PollFlags::IN)))
            .collect();
        // An interrupted or failed sleep is a short one; the loop goes on either way.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn explain(&self, error: StepError) -> CollectiveError {
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
            StepError::Mismatch { peer, theirs } => CollectiveError::Mismatch {
                operation,
                rank,
                peer,
                theirs: OperationKind::from_signature(theirs)
                    .map_or_else(|| "an unknown operation".to_owned(), |kind| kind.to_string()),
            },
        }
    }

    fn aborted(&self, abort: Abort) -> CollectiveError {
        CollectiveError::Aborted {
            operation: self.name,
            rank: self.context.rank(),
            culprit: abort.culprit,
            reason: abort.reason,
        }
    }

    fn timed_out(&self, waited: Duration, waiting_on: Vec<u32>) -> CollectiveError {
        self.report(OperationState::TimedOut { on: waiting_on.clone() }, waited);
        let verdict = self.verdict().map(|abort| abort.reason);
        let (operation, rank) = (self.name, self.context.rank());
        CollectiveError::TimedOut { operation, rank, waited, waiting_on, verdict }
    }

    /// What the coordinator says, if it says something soon.
    fn verdict(&self) -> Option<Abort> {
        self.context.job.rendezvous().control.as_ref()?;
        let until = Instant::now() + VERDICT_WAIT;
        while Instant::now() < until {
            if let Some(abort) = self.context.job.poll_abort() {
                return Some(abort);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    fn report_failure(&self, error: &CollectiveError) {
        // Aborts come from the coordinator, and a time-out was reported when it was noticed.
        if !matches!(error, CollectiveError::Aborted { .. } | CollectiveError::TimedOut { .. }) {
            let state =
                OperationState::Failed { reason: error.to_string(), culprit: error.culprit() };
            self.report(state, self.since.map_or(Duration::ZERO, |since| since.elapsed()));
        }
    }

    fn report(&self, state: OperationState, waited: Duration) {
        self.context.job.report(&OperationReport {
            op_seq: self.name.op_seq,
            kind: self.name.kind.collective.name().to_owned(),
            name: None,
            bytes: self.name.kind.bytes(),
            state,
            since_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        });
    }
}
