//! One operation under way: a schedule carried out over the wire by non-blocking steps.

mod apply;

use paceline_devices::Buffer;
use paceline_transports::{
    BufSlice, BufSliceMut, EndpointError, MessageId, OpError, RecvPost, Rejected, SendPost,
    Signature,
};

use super::board::{Token, WINDOW_MAX};
use super::slots::{SLOTS_MAX, Slots};
use super::wire::Wire;
use super::workspace::Workspace;
use crate::drive::Steps;
use crate::error::OperationName;
use crate::kernels::Kernel;
use crate::members::Members;
use crate::schedule::{Action, Partition, RecvStep, Schedule, SendStep, Source};
use crate::signature::Collective;
use crate::timeline::OperationLabel;

/// The memory of an operation.
///
/// `output` may begin at a later element than `input`: a rank that only gets its own chunk passes
/// a buffer of just that, and `output_start` says which element it begins with. A buffer that the
/// schedule does not use on this rank may be empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) input: Buffer,
    pub(crate) output: Buffer,
    pub(crate) output_start: usize,
}

/// What names an operation on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OperationId {
    pub(crate) communicator: u32,
    pub(crate) op_seq: u64,
    pub(crate) collective: Collective,
    pub(crate) signature: Signature,
    /// What the tags of the schedule begin with, where the operation has more than one.
    pub(crate) first_tag: u32,
}

/// Why a step failed. Peers are ranks of the world.
#[derive(Debug)]
pub(crate) enum StepError {
    /// A connection is dead.
    Endpoint(EndpointError),
    /// A message failed; from which peer.
    Message { peer: u32, error: OpError },
    /// A peer is in another operation.
    Mismatch { peer: u32, theirs: Signature },
}

/// A schedule under way.
pub(crate) struct Operation<'a> {
    schedule: &'a dyn Schedule,
    workspace: &'a mut Workspace,
    kernel: Option<Kernel>,
    partition: Partition,
    id: OperationId,
    operands: Operands,
    element_bytes: usize,
    members: &'a Members,
    rank: usize,
    world_size: usize,
    contributors: u32,
    board: usize,
    sends: usize,
    recvs: usize,
    next_send: usize,
    next_recv: usize,
    slots: Slots,
    /// Bytes from one scratch slot to the next.
    slot_bytes: usize,
}

impl std::fmt::Debug for Operation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Everything that an operation is made of.
pub(crate) struct OperationParts<'a> {
    pub(crate) schedule: &'a dyn Schedule,
    pub(crate) workspace: &'a mut Workspace,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) partition: Partition,
    pub(crate) id: OperationId,
    pub(crate) operands: Operands,
    /// Those whose ranks the schedule counts.
    pub(crate) members: &'a Members,
    /// How many ranks' contributions a complete reduction is made of.
    pub(crate) contributors: u32,
    pub(crate) board: usize,
}

/// Bytes of one scratch slot for a schedule: whole cache lines, so that slots do not share any.
pub(crate) fn slot_bytes(schedule: &dyn Schedule, element_bytes: usize) -> usize {
    (schedule.scratch_elements() * element_bytes).next_multiple_of(64)
}

/// Scratch that a schedule cannot do without.
pub(crate) fn scratch_bytes_min(schedule: &dyn Schedule, element_bytes: usize) -> usize {
    slot_bytes(schedule, element_bytes) * (schedule.held_max() + 1)
}

impl<'a> Operation<'a> {
    /// # Safety
    /// The buffers must be valid, the input for reads and the output for writes, until the
    /// operation is [done](Steps::is_done) or has [ended](Steps::end), and nobody else may access
    /// them meanwhile. Input and output are the same memory or do not overlap.
    pub(crate) unsafe fn new(parts: OperationParts<'a>) -> Self {
        let OperationParts {
            schedule,
            workspace,
            kernel,
            partition,
            id,
            operands,
            members,
            contributors,
            board,
        } = parts;
        let element_bytes = operands.input.dtype.size();
        // SAFETY: the contract of this function.
        unsafe { workspace.lend(&operands.input, &operands.output) };
        let slot_bytes = slot_bytes(schedule, element_bytes);
        let slot_count = match slot_bytes {
            0 => SLOTS_MAX,
            bytes => (workspace.scratch.len() / bytes).min(SLOTS_MAX),
        };
        assert!(slot_count > schedule.held_max(), "scratch holds what the schedule holds back");
        Self {
            sends: schedule.send_count(),
            recvs: schedule.recv_count(),
            schedule,
            workspace,
            kernel,
            partition,
            id,
            operands,
            element_bytes,
            members,
            rank: members.rank as usize,
            world_size: members.world_size as usize,
            contributors,
            board,
            next_send: 0,
            next_recv: 0,
            slots: Slots::new(slot_count),
            slot_bytes,
        }
    }
}

impl Steps for Operation<'_> {
    fn only_sends(&self) -> bool {
        self.recvs == 0
    }

    fn is_done(&self, wire: &mut Wire) -> bool {
        let board = wire.board(self.board);
        board.applied() == self.recvs && board.sent() == self.sends
    }

    fn waits_in(&self, _wire: &mut Wire) -> Option<OperationName> {
        None
    }

    /// Posts what can be posted, moves bytes, applies what has arrived.
    fn step(&mut self, wire: &mut Wire) -> Result<bool, StepError> {
        let posted = self.post_receives(wire)? | self.post_sends(wire)?;
        let moved = wire.poll(|peer| self.members.include(peer)).map_err(StepError::Endpoint)?;
        self.check(wire)?;
        let applied = self.apply(wire);
        Ok(posted || moved || applied)
    }

    /// The peers whose bytes are missing, or who do not take ours; each once.
    fn waiting_on(&self, wire: &mut Wire) -> Vec<u32> {
        let (applied, sent) = (wire.board(self.board).applied(), wire.board(self.board).sent());
        let mut peers = Vec::new();
        let until = self.next_recv.max(applied + 1).min(self.recvs);
        for index in applied..until {
            if !wire.board(self.board).has_arrived(index) {
                peers.push(self.schedule.recv(index).peer);
            }
        }
        if peers.is_empty() {
            peers.extend((sent..self.next_send).map(|index| self.schedule.send(index).peer));
        }
        peers.iter_mut().for_each(|peer| *peer = self.members.in_world(*peer));
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// If it ends early, no transport holds any of its memory afterwards.
    fn end(&mut self, wire: &mut Wire, is_complete: bool) {
        if !is_complete {
            wire.abandon(self.id.communicator);
        }
        wire.free_board(self.board);
    }
}

impl Operation<'_> {
    fn check(&self, wire: &mut Wire) -> Result<(), StepError> {
        let board = wire.board(self.board);
        if let Some(error) = board.failure() {
            let (error, step) = (error.clone(), board.failed_step().unwrap_or(0));
            let step = self.schedule.recv(step.min(self.recvs.saturating_sub(1)));
            let peer = self.members.in_world(step.peer);
            return Err(match error {
                OpError::SignatureMismatch { theirs, .. } => StepError::Mismatch { peer, theirs },
                error => StepError::Message { peer, error },
            });
        }
        let OperationId { communicator, op_seq, signature, .. } = self.id;
        match wire.early_mismatch(communicator, op_seq, signature) {
            Some((peer, theirs)) => Err(StepError::Mismatch { peer, theirs }),
            None => Ok(()),
        }
    }

    fn label(&self) -> OperationLabel {
        let OperationId { communicator, op_seq, collective, .. } = self.id;
        OperationLabel { collective: collective.name(), communicator, op_seq }
    }

    fn message_id(&self, tag: u32) -> MessageId {
        let OperationId { communicator, op_seq, first_tag, .. } = self.id;
        MessageId { communicator, tag: first_tag + tag, op_seq }
    }

    fn post_receives(&mut self, wire: &mut Wire) -> Result<bool, StepError> {
        let before = self.next_recv;
        self.slots.release(wire.board(self.board).sent());
        while self.next_recv < self.recvs {
            let index = self.next_recv;
            if index - wire.board(self.board).applied() >= WINDOW_MAX {
                break;
            }
            let step = self.schedule.recv(index);
            let slot = if step.action.needs_scratch() {
                let Some(slot) = self.slots.next() else { break };
                Some(slot)
            } else {
                None
            };
            let token = Token { board: self.board, receive: true, index };
            let post = RecvPost {
                token: token.encode(),
                id: self.message_id(step.tag),
                signature: self.id.signature,
                slice: self.landing(&step, slot),
            };
            let peer = self.members.in_world(step.peer);
            match wire.endpoint(peer).post_recv(post) {
                Ok(()) => {}
                Err(Rejected::QueueFull(_)) => break,
                Err(Rejected::Dead(_)) => {
                    return Err(StepError::Endpoint(wire.death_of(peer)));
                }
            }
            if let Some(trace) = &mut wire.trace {
                trace.posted(token, peer, self.label(), step.range.len() * self.element_bytes);
            }
            self.next_recv += 1;
            if let Some(slot) = slot {
                self.slots.take(slot);
                self.workspace.slots[index % (2 * WINDOW_MAX)] = slot;
            }
        }
        Ok(self.next_recv > before)
    }

    fn post_sends(&mut self, wire: &mut Wire) -> Result<bool, StepError> {
        let before = self.next_send;
        while self.next_send < self.sends {
            let index = self.next_send;
            let board = wire.board(self.board);
            if index - board.sent() >= WINDOW_MAX {
                break;
            }
            let applied = board.applied();
            let step = self.schedule.send(index);
            if step.after > applied {
                break;
            }
            if step.source == Source::Gathered && index == 0 {
                self.gather_own();
            }
            let token = Token { board: self.board, receive: false, index };
            let post = SendPost {
                token: token.encode(),
                id: self.message_id(step.tag),
                signature: self.id.signature,
                slice: self.outgoing(&step),
            };
            let peer = self.members.in_world(step.peer);
            match wire.endpoint(peer).post_send(post) {
                Ok(()) => {}
                Err(Rejected::QueueFull(_)) => break,
                Err(Rejected::Dead(_)) => {
                    return Err(StepError::Endpoint(wire.death_of(peer)));
                }
            }
            if let Some(trace) = &mut wire.trace {
                trace.posted(token, peer, self.label(), step.range.len() * self.element_bytes);
            }
            if step.source == Source::Scratch {
                self.slots.post_result(index);
            }
            self.next_send += 1;
        }
        Ok(self.next_send > before)
    }

    /// Where a receive lands: in a slot, or in the output.
    fn landing(&self, step: &RecvStep, slot: Option<u32>) -> BufSliceMut {
        let bytes = step.range.len() * self.element_bytes;
        if let Some(slot) = slot {
            let start = slot as usize * self.slot_bytes;
            // SAFETY: a slot is given out again only after its bytes have been reduced, or sent.
            return unsafe { self.workspace.scratch.slice_mut(start..start + bytes) };
        }
        if matches!(step.action, Action::Gather | Action::FoldGathered) {
            let start = step.range.start * self.element_bytes;
            // SAFETY: every input has a place of its own, which is sent only once it is there.
            return unsafe { self.workspace.scratch.slice_mut(start..start + bytes) };
        }
        let start = self.output_offset(step.range.start);
        // SAFETY: the caller lends the output exclusively, and by the schedule's contract the
        // bytes of a range come only after our own last use of it.
        unsafe { self.workspace.output.slice_mut(start..start + bytes) }
    }

    fn outgoing(&self, step: &SendStep) -> BufSlice {
        let size = self.element_bytes;
        let (region, start) = match step.source {
            Source::Input => (&self.workspace.input, step.range.start * size),
            Source::Output => (&self.workspace.output, self.output_offset(step.range.start)),
            Source::Scratch => {
                let slot = self.slots.next_result() as usize;
                (&self.workspace.scratch, slot * self.slot_bytes)
            }
            Source::Gathered => (&self.workspace.scratch, step.range.start * size),
        };
        let length = step.range.len() * size;
        // An empty range may lie anywhere, also outside an output that begins later.
        let range = if length == 0 { 0..0 } else { start..start + length };
        // SAFETY: nobody writes to the range before the send has completed: receives that
        // overwrite it wait for that (`after_sends`) or cannot arrive before the bytes have left.
        unsafe { region.slice(range) }
    }

    fn output_offset(&self, element: usize) -> usize {
        element.saturating_sub(self.operands.output_start) * self.element_bytes
    }
}
