//! The blocking loop around an operation: step, idle, deadline, abort.

use std::cell::Cell;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use paceline_transports::Region;

use crate::context::ContextInner;
use crate::engine::{
    BOARDS, IdleAction, Operands, Operation, OperationId, OperationParts, StepError, Wire,
    Workspace, scratch_bytes_min,
};
use crate::error::{CollectiveError, OperationName};
use crate::kernels::Kernel;
use crate::members::Members;
use crate::node::{NodeError, NodeGroup, NodeOp, NodeRequest, Progress};
use crate::schedule::{Partition, Schedule};
use crate::timeline::{Track, What};
use crate::waiting::{Halt, PARK_MAX, Waiting};

/// Sleep of a rank that waits for its neighbours while something else crosses between nodes.
const DOZE: Duration = Duration::from_micros(200);

/// Staging memory of a communicator, once it reduces what comes by messages; more if a schedule cannot do
/// with it.
const SCRATCH_BYTES: usize = 4 << 20;

/// Yields after which a thread that wants the wire has had the time to wake up and take it: some tens of
/// microseconds.
const YIELDS_PER_TURN: usize = 64;

/// One operation to run.
pub(crate) struct Run<'a> {
    pub(crate) context: &'a ContextInner,
    pub(crate) parties: Parties<'a>,
    pub(crate) operation: OperationName,
    /// Where the tags of its messages begin: each stage of an operation has tags of its own.
    pub(crate) first_tag: u32,
    pub(crate) schedule: &'a dyn Schedule,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) partition: Partition,
    pub(crate) operands: Operands,
}

/// Whose operation it is, and who takes part in it here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parties<'a> {
    /// The communicator's ranks, who are told of a failure.
    pub(crate) members: &'a Members,
    /// Those among whom this part of the operation is carried out: all of them, or one node's, or
    /// one of each node.
    pub(crate) among: &'a Members,
    /// Longest time that the operation may take here.
    pub(crate) timeout: Duration,
    /// When the operation began, where this is not all of it: all its parts have one deadline.
    pub(crate) since: Option<&'a Cell<Instant>>,
}

impl<'a> Parties<'a> {
    /// The communicator as a whole.
    pub(crate) fn all(members: &'a Members, timeout: Duration) -> Self {
        Self { members, among: members, timeout, since: None }
    }
}

/// The ranks of this node and the memory that they share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours<'a> {
    pub(crate) group: &'a NodeGroup,
    pub(crate) members: &'a Members,
}

/// What is carried out over the wire, step by step.
pub(crate) trait Steps {
    /// Posts and moves what it can. Never blocks. Returns whether anything moved.
    fn step(&mut self, wire: &mut Wire) -> Result<bool, StepError>;

    /// Whether it receives nothing: after many of that kind in a row, messages may wait for more of them.
    fn only_sends(&self) -> bool;

    /// Whether nothing is left to do.
    fn is_done(&self, wire: &mut Wire) -> bool;

    /// The ranks of the world that it waits for.
    fn waiting_on(&self, wire: &mut Wire) -> Vec<u32>;

    /// What to call what it waits in, if not what it was called at the start.
    fn waits_in(&self, wire: &mut Wire) -> Option<OperationName>;

    /// Gives back the boards that it holds; if it is not done, also everything that it has posted.
    fn end(&mut self, wire: &mut Wire, is_complete: bool);
}

/// What is under way over the wire, and what it holds. However it ends, also by a panic, nothing stays
/// posted and what it holds is given back.
pub(crate) struct Running<'a, S: Steps> {
    context: &'a ContextInner,
    operation: S,
    /// Absent while another thread has its turn, and once nothing is left to do.
    wire: Option<MutexGuard<'a, Wire>>,
    waiting: Waiting<'a>,
    complete: bool,
}

/// A schedule under way, which whoever has begun it may leave to itself for a while.
pub(crate) type Crossing<'a> = Running<'a, Operation<'a>>;

impl<'a, S: Steps> Running<'a, S> {
    pub(crate) fn new(
        context: &'a ContextInner,
        mut wire: MutexGuard<'a, Wire>,
        operation: S,
        waiting: Waiting<'a>,
    ) -> Self {
        if !operation.only_sends() {
            wire.stop_holding_back();
        }
        Self { context, operation, wire: Some(wire), waiting, complete: false }
    }

    /// Steps until everything is done, or has failed. `node` is where other operations of the
    /// communicator run, if it has shared memory.
    pub(crate) fn finish(mut self, node: Option<Neighbours<'_>>) -> Result<(), CollectiveError> {
        while !self.complete {
            let moved = self.step(node)?;
            if self.complete {
                break;
            }
            let Self { context, operation, wire, waiting, .. } = &mut self;
            let wire = held(wire);
            if moved {
                if let Err(halt) = waiting.moved(|| operation.waiting_on(wire)) {
                    return Err(self.give_up(halt));
                }
                // Not even a long stream of bytes may keep others from theirs.
                if context.is_contended() {
                    self.take_turns();
                }
                continue;
            }
            if wire.stop_holding_back() {
                continue;
            }
            waiting.rename(operation.waits_in(wire));
            match waiting.tick(|| operation.waiting_on(wire)) {
                Err(halt) => return Err(self.give_up(halt)),
                Ok(IdleAction::Spin) => std::hint::spin_loop(),
                Ok(IdleAction::Yield) => std::thread::yield_now(),
                Ok(IdleAction::Park) => {
                    if let Some(node) = node
                        && let Some(error) = waiting.look_at_node(node.group)
                    {
                        self.wire = None; // as in `give_up`
                        return Err(self.waiting.explain_node(node.members, error));
                    }
                    if let Some(error) = waiting.look_for_strays(wire) {
                        return Err(error);
                    }
                    waiting.park(wire, PARK_MAX);
                }
            }
            if context.is_contended() {
                self.take_turns();
            }
        }
        Ok(())
    }

    /// Moves what can be moved, for a rank that is busy elsewhere meanwhile. Returns whether anything
    /// moved.
    fn advance(&mut self) -> Result<bool, CollectiveError> {
        if self.complete {
            return Ok(false);
        }
        let moved = self.step(None)?;
        if self.complete {
            self.wire = None;
        } else if self.context.is_contended() {
            self.take_turns();
        }
        Ok(moved)
    }

    /// Sleeps for a moment, or until a connection has something. Returns whether there was any reason
    /// to: nothing is left to do otherwise.
    fn doze(&mut self) -> bool {
        if let Some(wire) = &mut self.wire {
            self.waiting.park(wire, DOZE);
        }
        !self.complete
    }

    fn step(&mut self, node: Option<Neighbours<'_>>) -> Result<bool, CollectiveError> {
        let Self { operation, wire, waiting, .. } = self;
        match operation.step(held(wire)) {
            Ok(moved) => {
                self.complete = operation.is_done(held(wire));
                Ok(moved)
            }
            Err(error) => {
                waiting.rename(operation.waits_in(held(wire)));
                *wire = None; // as in `give_up`
                // Who is lost may have left because it did something else.
                if let Some(node) = node.filter(|_| matches!(error, StepError::Endpoint(_)))
                    && let Some(elsewhere) = waiting.look_at_node(node.group)
                {
                    return Err(waiting.explain_node(node.members, elsewhere));
                }
                Err(waiting.explain(error))
            }
        }
    }

    /// Finds out who is to blame, while other threads' operations go on.
    fn give_up(&mut self, halt: Halt) -> CollectiveError {
        self.wire = None;
        self.waiting.judge(halt)
    }

    /// Lets a thread that wants the wire have it. It may have to wake up first.
    fn take_turns(&mut self) {
        let waiting = self.context.waiting_for_wire();
        self.wire = None;
        for _ in 0..YIELDS_PER_TURN {
            std::thread::yield_now();
            if self.context.waiting_for_wire() < waiting {
                break;
            }
        }
        self.wire = Some(self.context.wire());
        self.waiting.resumed();
    }
}

impl<S: Steps> Drop for Running<'_, S> {
    fn drop(&mut self) {
        let mut wire = self.wire.take().unwrap_or_else(|| self.context.wire());
        self.operation.end(&mut wire, self.complete);
        let sends_in_a_row = self.operation.only_sends() && wire.ended_send();
        if sends_in_a_row && wire.hold_back() && self.context.courier().is_none() {
            // Nothing may wait if nobody can be trusted to send it.
            wire.stop_holding_back();
            return;
        }
        // Whatever operation this was: a peer may not have taken what was held back before it, or another
        // thread's may have begun to hold back while this one sent.
        if wire.holds_any_back()
            && let Some(courier) = self.context.courier()
        {
            // He does not wait for the wire: whoever has it then calls again, or sends all himself.
            drop(wire);
            courier.call();
        }
    }
}

fn held<'w>(wire: &'w mut Option<MutexGuard<'_, Wire>>) -> &'w mut Wire {
    wire.as_mut().expect("it is given away for one turn only")
}

/// Begins an operation.
///
/// # Safety
/// The buffers are valid, and accessed by nobody else, until what this returns is finished or dropped;
/// input and output are the same memory or do not overlap.
pub(crate) unsafe fn begin<'a>(
    run: Run<'a>,
    workspace: &'a mut Workspace,
) -> Result<Crossing<'a>, CollectiveError> {
    let context = run.context;
    let no_memory = |message| CollectiveError::Memory {
        collective: run.operation.kind.collective.name(),
        message,
    };
    let needed = scratch_bytes_min(run.schedule, run.operands.input.dtype.size());
    if workspace.scratch_bytes() < needed {
        // Where nothing is exchanged by messages there never is any.
        let bytes = needed.max(SCRATCH_BYTES);
        let scratch = Region::allocate(bytes).map_err(|error| no_memory(error.to_string()))?;
        workspace.replace_scratch(scratch);
    }
    let mut wire = context.wire();
    let Some(board) = wire.take_board() else {
        let message = format!("more than {BOARDS} operations under way in one context");
        return Err(no_memory(message));
    };
    let parts = OperationParts {
        schedule: run.schedule,
        workspace,
        kernel: run.kernel,
        partition: run.partition,
        id: OperationId {
            communicator: run.operation.communicator,
            op_seq: run.operation.op_seq,
            collective: run.operation.kind.collective,
            signature: run.operation.kind.signature(),
            first_tag: run.first_tag,
        },
        operands: run.operands,
        members: run.parties.among,
        contributors: run.parties.members.world_size,
        board,
    };
    // SAFETY: the contract of this function; what is dropped leaves nothing posted.
    let operation = unsafe { Operation::new(parts) };
    let waiting = Waiting::new(context, run.parties, run.operation);
    Ok(Running::new(context, wire, operation, waiting))
}

/// Runs an operation until it is complete or has failed.
///
/// # Safety
/// The buffers are valid for the duration of the call and accessed by nobody else; input and output
/// are the same memory or do not overlap.
pub(crate) unsafe fn run(
    run: Run<'_>,
    node: Option<Neighbours<'_>>,
    workspace: &mut Workspace,
) -> Result<(), CollectiveError> {
    // SAFETY: the contract of this function.
    unsafe { begin(run, workspace) }?.finish(node)
}

/// Runs an operation among the ranks of one node, in shared memory, until it is complete or has
/// failed. What is `beside` it goes on meanwhile.
///
/// # Safety
/// The request's buffers are valid for the duration of the call, as [`NodeGroup::start`] demands.
pub(crate) unsafe fn run_node(
    context: &ContextInner,
    parties: Parties<'_>,
    name: OperationName,
    group: &mut NodeGroup,
    request: NodeRequest<'_>,
    beside: Option<&mut Crossing<'_>>,
) -> Result<(), CollectiveError> {
    let panic_abort = AbortAfterPanic(group);
    // SAFETY: the contract of this function.
    let outcome = unsafe { run_in_group(context, parties, name, panic_abort.0, request, beside) };
    std::mem::forget(panic_abort);
    outcome
}

/// Ends the group, if the thread is panicking when this is dropped: the other members shall not wait
/// for what an operator of the user's did not finish. Forgotten when there was no panic.
struct AbortAfterPanic<'a>(&'a mut NodeGroup);

impl Drop for AbortAfterPanic<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What crosses beside an operation in shared memory that has failed ends with it. It shall keep nobody
/// from the wire while it is found out who is to blame.
fn release(beside: Option<&mut Crossing<'_>>) {
    if let Some(crossing) = beside {
        crossing.wire = None;
    }
}

/// The ranks of the world that an operation in shared memory waits for.
fn waits_for(members: &Members, operation: &NodeOp<'_>) -> Vec<u32> {
    operation.waits_for().map(|member| members.in_world(member)).into_iter().collect()
}

/// # Safety
/// As for [`run_node`].
unsafe fn run_in_group(
    context: &ContextInner,
    parties: Parties<'_>,
    name: OperationName,
    group: &mut NodeGroup,
    request: NodeRequest<'_>,
    mut beside: Option<&mut Crossing<'_>>,
) -> Result<(), CollectiveError> {
    let mut waiting = Waiting::new(context, parties, name);
    // SAFETY: the contract of this function; an operation that is given up touches nothing more.
    let started = unsafe { group.start(request) };
    let mut operation = started.map_err(|error| waiting.explain_node(parties.among, error))?;
    let timeline = context.timeline();
    loop {
        let started = timeline.map(|_| Instant::now());
        let stepped = operation.step(group);
        if let (Some(timeline), Some(started), Ok(Progress::Done | Progress::Moved)) =
            (timeline, started, &stepped)
        {
            let track = Track::Kernels(name.communicator);
            timeline.record(track, started, What::InMemory { label: name.label() });
        }
        match stepped {
            Ok(Progress::Done) => return Ok(()),
            Ok(progress) => {
                let crossed = beside.as_mut().map_or(Ok(false), |crossing| crossing.advance())?;
                if progress == Progress::Moved || crossed {
                    if let Err(halt) = waiting.moved(Vec::new) {
                        release(beside);
                        return Err(waiting.judge(halt));
                    }
                    continue;
                }
            }
            Err(error) => {
                release(beside);
                // Who gave up because it does something else may have sent a message before.
                let gave_up = matches!(error, NodeError::Aborted { .. });
                let message = if gave_up { waiting.look_at_wire() } else { None };
                return Err(message.unwrap_or_else(|| waiting.explain_node(parties.among, error)));
            }
        }
        match waiting.tick(|| waits_for(parties.among, &operation)) {
            Err(halt) => {
                release(beside);
                return Err(waiting.judge(halt));
            }
            Ok(IdleAction::Spin) => std::hint::spin_loop(),
            Ok(IdleAction::Yield) => std::thread::yield_now(),
            Ok(IdleAction::Park) => {
                group.publish_waiting(name.op_seq);
                if let Some(error) = waiting.look_at_wire() {
                    return Err(error);
                }
                // Nothing wakes from both: what takes long crosses between nodes.
                operation.wake(group);
                if !beside.as_mut().is_some_and(|crossing| crossing.doze()) {
                    operation.park(group, PARK_MAX);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::thread;

    use paceline_devices::Buffer;
    use paceline_transports::TransportKind;

    use super::*;
    use crate::context::{Context, ContextOptions, TransportChoice};
    use crate::job::Job;
    use crate::schedule::{Action, Rally, RecvStep, SendStep, Shift, Target};
    use crate::signature::{Collective, OperationKind};

    const COUNT: usize = 1 << 20;

    /// A shift that panics when its first message is there.
    struct Broken(Shift);

    impl Schedule for Broken {
        fn send_count(&self) -> usize {
            self.0.send_count()
        }

        fn send(&self, index: usize) -> SendStep {
            self.0.send(index)
        }

        fn recv_count(&self) -> usize {
            self.0.recv_count()
        }

        fn recv(&self, index: usize) -> RecvStep {
            let step = self.0.recv(index);
            // Without a kernel this cannot be carried out.
            let reduce = Action::Reduce { last: false, target: Target::Output };
            RecvStep { action: if index == 0 { reduce } else { step.action }, ..step }
        }

        fn scratch_elements(&self) -> usize {
            COUNT
        }
    }

    fn shift(
        context: &Context,
        communicator: u32,
        schedule: &dyn Schedule,
        workspace: &mut Workspace,
    ) -> Result<(), CollectiveError> {
        let kind = OperationKind { count: COUNT as u64, ..OperationKind::bare(Collective::Shift) };
        let mut bytes = vec![0u8; 2 * COUNT];
        let (input, output) = bytes.split_at_mut(COUNT);
        let (input, output) = (Buffer::of(input), Buffer::of_mut(output));
        let members = Members::everybody(context.rank(), 2);
        let run = Run {
            context: context.inner(),
            parties: Parties::all(&members, Duration::from_secs(60)),
            operation: OperationName { kind, communicator, op_seq: 0 },
            first_tag: 0,
            schedule,
            kernel: None,
            partition: Partition::new(COUNT, 2),
            operands: Operands { input, output, output_start: 0 },
        };
        // SAFETY: the bytes live until the end of this function.
        unsafe { super::run(run, None, workspace) }
    }

    #[test]
    fn an_operation_that_receives_leaves_nothing_behind_either() {
        let transport = TransportChoice::Only(TransportKind::Tcp);
        let options = ContextOptions { transport, ..ContextOptions::default() };
        let has_all = Barrier::new(2);
        let part = |context: &Context, holds_back: bool| {
            let rank = context.rank() as usize;
            let mut bytes = [0u8; 16];
            bytes[rank * 8..][..8].fill([1, 2][rank]);
            let all = Buffer::of_mut(&mut bytes);
            let members = Members::everybody(context.rank(), 2);
            let partition = Partition::new(16, 2);
            let kind = OperationKind { count: 16, ..OperationKind::bare(Collective::AllGather) };
            let run = Run {
                context: context.inner(),
                parties: Parties::all(&members, Duration::from_secs(60)),
                operation: OperationName { kind, communicator: 7, op_seq: 0 },
                first_tag: 0,
                schedule: &Rally::new(rank, 2, partition.clone()),
                kernel: None,
                partition,
                operands: Operands { input: all, output: all, output_start: 0 },
            };
            let mut workspace = Workspace::new(Region::allocate(1 << 20).unwrap());
            // SAFETY: the bytes live until the end of this function.
            let mut running = unsafe { begin(run, &mut workspace) }.unwrap();
            if holds_back {
                held(&mut running.wire).hold_back();
            }
            running.finish(None).unwrap();
            assert_eq!(bytes, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
        };
        thread::scope(|scope| {
            for job in Job::in_process(2).unwrap() {
                let (options, has_all, part) = (&options, &has_all, &part);
                let run = move || {
                    let context = Context::new(&job, options).unwrap();
                    if context.rank() == 0 {
                        // Another thread of this rank did nothing but send, while what this one
                        // waits for arrived.
                        thread::sleep(Duration::from_millis(200));
                        part(&context, true);
                    } else {
                        part(&context, false);
                    }
                    has_all.wait();
                };
                thread::Builder::new().spawn_scoped(scope, run).unwrap();
            }
        });
    }

    #[test]
    fn a_panic_leaves_nothing_posted() {
        let transport = TransportChoice::Only(TransportKind::Tcp);
        let options = ContextOptions { transport, ..ContextOptions::default() };
        thread::scope(|scope| {
            for job in Job::in_process(2).unwrap() {
                let options = &options;
                let run = move || {
                    let context = Context::new(&job, options).unwrap();
                    let mut workspace = Workspace::new(Region::allocate(4 * COUNT).unwrap());
                    let sound = || Shift::new(context.rank() as usize, 2, COUNT, COUNT / 8);
                    let broken = Broken(sound());
                    if context.rank() == 0 {
                        let attempt =
                            AssertUnwindSafe(|| shift(&context, 7, &broken, &mut workspace));
                        assert!(catch_unwind(attempt).is_err(), "there is no kernel");
                        for board in 0..BOARDS {
                            assert_eq!(context.inner().wire().take_board(), Some(board));
                        }
                        assert_eq!(workspace.posted(), 0);
                    } else {
                        // The other rank leaves, with or without having sent everything.
                        let _ = shift(&context, 7, &sound(), &mut workspace);
                    }
                };
                thread::Builder::new().spawn_scoped(scope, run).unwrap();
            }
        });
    }
}
