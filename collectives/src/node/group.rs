use std::time::Duration;

use paceline_transports::shm::{Arena, Counter};
use paceline_transports::{SharedWriter, Signature};

use super::error::NodeError;
use super::one_shot::OneShot;
use super::plan::{PIECE_BYTES, Plan, Tuning};
use super::request::NodeRequest;
use super::rounds::Rounds;
use crate::kernels::Kernel;

/// Steps without progress after which sleepers are woken. The fence that finds out whether somebody
/// sleeps waits until the announcement has left the store buffer, which takes a crossing between
/// cores; most often the peers are awake and come within that time.
const WAKE_DELAY: u32 = 16;

/// What a step achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The operation has ended: results are in place and inputs are no longer needed.
    Done,
    /// Something moved; call again at once.
    Moved,
    /// Nothing can move before another member does something.
    Waiting,
}

/// What a member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// That a member enters the operation.
    Entry {
        /// Who.
        member: usize,
    },
    /// That a member's counter reaches a value.
    Count {
        /// Who.
        member: usize,
        /// Which.
        counter: Counter,
        /// The value.
        at_least: u64,
    },
}

/// What is in the middle of being done by the ranks of one communicator on one node.
///
/// # Thread safety
/// `Send`; one thread at a time drives it.
#[derive(Debug)]
pub struct NodeGroup {
    pub(super) arena: Arena,
    /// For what other members read.
    pub(super) writer: SharedWriter,
    pub(super) tuning: Tuning,
    /// Number of the next operation.
    next_op_seq: u64,
    unfinished: Option<u64>,
    /// Whether the others were told in which call this member waits.
    said_waiting: bool,
    /// Rounds of all operations so far; the same on all members.
    pub(super) rounds_before: u64,
    /// Bytes of the input ring that are behind us in this lap; the same on all members.
    pub(super) input_cursor: usize,
    /// The same for the result ring.
    pub(super) result_cursor: usize,
    /// Bytes of the input ring before the cursor that the operation before this one showed in one
    /// shot: peers may still be reading them. The same on all members.
    pub(super) shown_before: usize,
    /// Room for the operands of a fold.
    pub(super) operands: Vec<*const u8>,
    /// A piece of memory of our own.
    pub(super) scratch: Box<[u64; PIECE_BYTES / size_of::<u64>()]>,
}

// SAFETY: the pointers in `operands` are only valid, and only used, within one call of a step.
unsafe impl Send for NodeGroup {}

impl NodeGroup {
    /// A group over an arena that all its members have just joined.
    pub fn new(arena: Arena) -> Self {
        let tuning = Tuning::new(arena.members());
        Self::with_tuning(arena, tuning)
    }

    /// The same with other choices than those that measurement led to.
    pub fn with_tuning(arena: Arena, tuning: Tuning) -> Self {
        let operands = Vec::with_capacity(arena.members());
        Self {
            arena,
            writer: SharedWriter::with_way(tuning.shared_stores),
            tuning,
            next_op_seq: 0,
            unfinished: None,
            said_waiting: false,
            rounds_before: 0,
            input_cursor: 0,
            result_cursor: 0,
            shown_before: 0,
            operands,
            scratch: Box::new([0; PIECE_BYTES / size_of::<u64>()]),
        }
    }

    /// Members of the group.
    pub fn members(&self) -> usize {
        self.arena.members()
    }

    /// Which one the caller is.
    pub fn member(&self) -> usize {
        self.arena.member()
    }

    /// Bytes of a member's part of the memory that the group shares.
    pub fn memory_bytes(&self) -> usize {
        self.arena.layout().bytes().div_ceil(self.members())
    }

    /// Enters an operation. It ends by calls of [`NodeOp::step`].
    ///
    /// # Safety
    /// Until a step returns [`Progress::Done`] or an error, or the operation is dropped: the
    /// request's buffers are valid for what its documentation says they hold, aligned for its type,
    /// nobody else writes to the input or accesses the output.
    ///
    /// # Errors
    /// [`NodeError::Unfinished`] after an operation that did not end.
    ///
    /// # Panics
    /// If the request's manner does not [allow](super::Manner::allows) its size, or it reduces and has
    /// no kernel for its type.
    #[inline]
    pub unsafe fn start<'a>(&mut self, request: NodeRequest<'a>) -> Result<NodeOp<'a>, NodeError> {
        if let Some(op_seq) = self.unfinished {
            return Err(NodeError::Unfinished { op_seq });
        }
        let kernel = request.kernel.filter(|_| request.reduces());
        let fits = kernel.map(Kernel::dtype) == request.reduces().then_some(request.dtype);
        assert!(fits, "a request that reduces has a kernel for its type");
        let op_seq = self.next_op_seq;
        self.next_op_seq += 1;
        self.unfinished = Some(op_seq);
        let call = Call { request, kernel, op_seq };
        let state = match Plan::new(&call.request, self.arena.layout(), &self.tuning) {
            Plan::OneShot { bytes, inline } => {
                State::OneShot(OneShot::enter(self, &call, bytes, inline))
            }
            Plan::Rounds { block } => State::Rounds(Rounds::enter(self, &call, block)),
        };
        Ok(NodeOp { call, state, entered: 0, wait: None, wake_in: Some(WAKE_DELAY) })
    }

    /// Gives up: every other member's current or next step ends with [`NodeError::Aborted`].
    pub fn abort(&self) {
        self.arena.abort();
    }

    /// The member that gave up first, if one did.
    pub fn aborted(&self) -> Option<u32> {
        self.arena.aborted()
    }

    /// Tells members that do something else than the group's operation in which of the caller's
    /// operations this one waits. To be called by members that have waited for long: `call` is the
    /// caller's number, which also counts the operations that the group has no part in.
    pub fn publish_waiting(&mut self, call: u64) {
        self.arena.publish(Counter::Waiting, call + 1);
        self.said_waiting = true;
    }

    /// Takes back what [`NodeGroup::publish_waiting`] said, if it did.
    fn stop_waiting(&mut self) {
        if std::mem::take(&mut self.said_waiting) {
            self.arena.publish(Counter::Waiting, 0);
        }
    }

    /// For a caller whose operation `call` is none of the group's: a member that waits here in its
    /// operation `call`, and what it called.
    pub fn waits_elsewhere(&self, call: u64) -> Option<(u32, Signature)> {
        let waits =
            |member: &u32| self.arena.published(*member as usize, Counter::Waiting) == call + 1;
        let members = u32::try_from(self.members()).expect("members are counted in u32");
        let member = (0..members).filter(|member| *member as usize != self.member()).find(waits)?;
        let theirs = self.arena.announced(member as usize, self.next_op_seq)?;
        // Its call may have had another part here, which ended between the two looks: it takes back
        // what it said before it announces anything new.
        waits(&member).then_some((member, theirs))
    }

    /// Whether what is waited for has come.
    fn is_over(&self, wait: Wait, op_seq: u64) -> bool {
        match wait {
            Wait::Entry { member } => self.arena.announced(member, op_seq).is_some(),
            Wait::Count { member, counter, at_least } => {
                self.arena.published(member, counter) >= at_least
            }
        }
    }
}

/// An operation under way: the request and what goes with it.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) request: NodeRequest<'a>,
    /// Present exactly if the request reduces.
    pub(super) kernel: Option<&'a Kernel>,
    pub(super) op_seq: u64,
}

#[derive(Debug)]
enum State {
    OneShot(OneShot),
    Rounds(Rounds),
}

/// One operation under way on one member.
#[derive(Debug)]
pub struct NodeOp<'a> {
    call: Call<'a>,
    state: State,
    /// Members, counted from the one after ours, that are known to be in the same operation.
    entered: usize,
    wait: Option<Wait>,
    /// Steps until sleepers are woken for what has been published; `None` if that is done.
    wake_in: Option<u32>,
}

// SAFETY: the request's buffers are lent for the whole operation by the contract of
// `NodeGroup::start`, to whatever thread drives it.
unsafe impl Send for NodeOp<'_> {}

impl NodeOp<'_> {
    /// The number of the operation in its group.
    pub fn op_seq(&self) -> u64 {
        self.call.op_seq
    }

    /// Moves on without blocking. `group` is the one that started the operation.
    ///
    /// # Errors
    /// [`NodeError::SignatureMismatch`] and [`NodeError::Aborted`]; the group is of no use
    /// afterwards.
    #[inline]
    pub fn step(&mut self, group: &mut NodeGroup) -> Result<Progress, NodeError> {
        let progress = self.advance(group)?;
        match progress {
            Progress::Done => {
                group.unfinished = None;
                group.stop_waiting();
                self.wake(group);
            }
            Progress::Moved => {
                self.wake_in = Some(0);
                self.wake(group);
            }
            Progress::Waiting => {
                match self.wake_in {
                    Some(0) => self.wake(group),
                    Some(steps) => self.wake_in = Some(steps - 1),
                    None => {}
                }
                self.check_abort(group)?;
            }
        }
        Ok(progress)
    }

    /// Wakes who sleeps, unless that has been done since something was published. Steps do it in time;
    /// to be called by who sleeps elsewhere.
    #[inline]
    pub(crate) fn wake(&mut self, group: &NodeGroup) {
        if self.wake_in.take().is_some() {
            group.arena.wake_sleepers();
        }
    }

    #[inline]
    fn advance(&mut self, group: &mut NodeGroup) -> Result<Progress, NodeError> {
        if let Some(wait) = self.wait {
            if !group.is_over(wait, self.call.op_seq) {
                return Ok(Progress::Waiting);
            }
            self.wait = None;
        }
        if !self.all_entered(group)? {
            return Ok(Progress::Waiting);
        }
        let outcome = match &mut self.state {
            State::OneShot(one_shot) => {
                one_shot.finish(group, &self.call);
                Ok(Progress::Done)
            }
            State::Rounds(rounds) => rounds.step(group, &self.call),
        };
        outcome.or_else(|wait| {
            self.wait = Some(wait);
            Ok(Progress::Waiting)
        })
    }

    /// Whether every member has entered this operation.
    #[inline]
    fn all_entered(&mut self, group: &NodeGroup) -> Result<bool, NodeError> {
        let members = group.members();
        while self.entered + 1 < members {
            let member = (group.member() + 1 + self.entered) % members;
            let Some(theirs) = group.arena.announced(member, self.call.op_seq) else {
                self.wait = Some(Wait::Entry { member });
                return Ok(false);
            };
            if theirs != self.call.request.signature {
                return Err(self.mismatch(group, member, theirs));
            }
            self.entered += 1;
        }
        Ok(true)
    }

    #[cold]
    fn mismatch(&self, group: &NodeGroup, member: usize, theirs: Signature) -> NodeError {
        group.abort();
        NodeError::SignatureMismatch {
            member: u32::try_from(member).expect("members are counted in u32"),
            op_seq: self.call.op_seq,
            ours: self.call.request.signature,
            theirs,
        }
    }

    fn check_abort(&self, group: &NodeGroup) -> Result<(), NodeError> {
        match group.arena.aborted() {
            None => Ok(()),
            Some(member) => Err(self.aborted_by(group, member)),
        }
    }

    #[cold]
    fn aborted_by(&self, group: &NodeGroup, aborter: u32) -> NodeError {
        // Who gave up because of a difference had announced its operation: both sides shall name
        // the difference.
        for member in (0..group.members()).filter(|member| *member != group.member()) {
            let theirs = group.arena.announced(member, self.call.op_seq);
            if let Some(theirs) = theirs.filter(|theirs| *theirs != self.call.request.signature) {
                return self.mismatch(group, member, theirs);
            }
        }
        NodeError::Aborted { member: aborter, op_seq: self.call.op_seq }
    }

    /// The members that the operation waits for, if the last step returned
    /// [`Progress::Waiting`]: one of them.
    pub fn waits_for(&self) -> Option<u32> {
        let (Wait::Entry { member } | Wait::Count { member, .. }) = self.wait?;
        u32::try_from(member).ok()
    }

    /// Sleeps until there may be something to do again, at most for `timeout`. For use after a step
    /// returned [`Progress::Waiting`].
    pub fn park(&mut self, group: &NodeGroup, timeout: Duration) {
        self.wake(group);
        let Some(wait) = self.wait else { return };
        let ready = || group.is_over(wait, self.call.op_seq) || group.arena.aborted().is_some();
        group.arena.sleep(timeout, ready);
    }
}
