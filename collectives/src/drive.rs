//! The blocking loop around an operation: step, idle, deadline, abort.

use crate::context::ContextInner;
use crate::engine::{
    Buffers, IdleAction, Operation, OperationId, OperationParts, Workspace, scratch_bytes_min,
};
use crate::error::{CollectiveError, OperationName};
use crate::kernels::Kernel;
use crate::node::{NodeGroup, NodeRequest, Progress};
use crate::schedule::{Partition, Schedule};
use crate::waiting::{PARK_MAX, Waiting};

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
        let scratch = paceline_transports::Region::allocate(needed).map_err(|error| {
            let error = CollectiveError::Memory { collective, message: error.to_string() };
            // The others are in the operation already and must not wait out their deadline.
            Waiting::new(run.context, run.operation).report_failure(&error);
            error
        })?;
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
                    match waiting.moved(|| operation.waiting_on(&mut wire)) {
                        Ok(()) => continue,
                        Err(error) => break Err(error),
                    }
                }
            }
            Err(error) => break Err(waiting.explain(error)),
        }
        match waiting.tick(|| operation.waiting_on(&mut wire)) {
            Ok(IdleAction::Spin) => std::hint::spin_loop(),
            Ok(IdleAction::Yield) => std::thread::yield_now(),
            Ok(IdleAction::Park) => waiting.park(&wire),
            Err(error) => break Err(error),
        }
        if context.is_contended() {
            drop(wire);
            std::thread::yield_now();
            wire = context.wire();
            waiting.resumed();
        }
    };
    if let Err(error) = &outcome {
        operation.give_up(&mut wire);
        waiting.report_failure(error);
    }
    wire.free_board(board);
    outcome
}

/// Runs an operation among the ranks of one node, in shared memory, until it is complete or has
/// failed.
///
/// # Safety
/// The request's buffers are valid for the duration of the call, as [`NodeGroup::start`] demands.
pub(crate) unsafe fn run_node(
    context: &ContextInner,
    name: OperationName,
    group: &mut NodeGroup,
    request: NodeRequest,
) -> Result<(), CollectiveError> {
    let mut waiting = Waiting::new(context, name);
    // SAFETY: the contract of this function; an operation that is given up touches nothing more.
    let started = unsafe { group.start(request) };
    let mut operation = started.map_err(|error| waiting.explain_node(error))?;
    let outcome = loop {
        match operation.step(group) {
            Ok(Progress::Done) => return Ok(()),
            Ok(Progress::Moved) => match waiting.moved(Vec::new) {
                Ok(()) => continue,
                Err(error) => break error,
            },
            Ok(Progress::Waiting) => {}
            Err(error) => break waiting.explain_node(error),
        }
        match waiting.tick(|| operation.waits_for().into_iter().collect()) {
            Ok(IdleAction::Spin) => std::hint::spin_loop(),
            Ok(IdleAction::Yield) => std::thread::yield_now(),
            Ok(IdleAction::Park) => operation.park(group, PARK_MAX),
            Err(error) => break error,
        }
    };
    group.abort();
    waiting.report_failure(&outcome);
    Err(outcome)
}
