//! Ranks that work together, and their operations.

mod adasum;
mod compression;
mod entry;
mod exchanges;
mod group;
mod levels;
mod messages;
mod pieces;
mod reductions;
mod rooted;
mod share;
mod shared;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use paceline_devices::Element;
use paceline_rendezvous::OperationCounter;
use paceline_transports::Region;

pub use compression::Compression;

use self::pieces::STAGED_BYTES_MAX;
use crate::call::{Call, Lent, RawCall, check_counts, invalid};
use crate::context::ContextInner;
use crate::counters::OperationCounters;
use crate::drive::{self, Parties, Run};
use crate::engine::{Mail, Workspace};
use crate::error::{CollectiveError, OperationName, SetupError};
use crate::fusion::{FusionBuffer, FusionLimits};
use crate::members::Members;
use crate::meter::Meter;
use crate::node::NodeGroup;
use crate::plan::{Algorithm, Choice, PlanFacts};
use crate::program::Program;
use crate::reduction::{Reducer, Reduction};
use crate::schedule::Partition;
use crate::signature::{Collective, OperationKind};
use crate::timeline::Timeline;
use crate::waiting::PanicReport;
use levels::Stages;
use shared::Shared;

/// A group of ranks that carry out collective operations together.
///
/// All ranks must call the same operations in the same order with equal counts, types and
/// operators; a difference is an error that names both sides. Calls block until the operation is
/// complete on this rank, or its deadline has passed.
///
/// # Thread safety
/// `Send + Sync`: threads may share it, but one operation runs at a time.
///
/// # Failure
/// After an error other than [`CollectiveError::InvalidArgument`] the communicator takes no
/// further operations: the ranks no longer agree on where they are.
#[derive(Debug)]
pub struct Communicator {
    context: Arc<ContextInner>,
    id: u32,
    members: Members,
    facts: PlanFacts,
    /// What heartbeats tell the coordinator.
    counter: Option<OperationCounter>,
    meter: Arc<Meter>,
    timeout: Duration,
    state: Arc<Mutex<State>>,
}

/// What the handles of a communicator share.
#[derive(Debug)]
struct State {
    #[expect(dead_code, reason = "kept for its Drop")]
    number: Number,
    op_seq: u64,
    shared: Shared,
    workspace: Workspace,
    fusion: FusionBuffer,
    mail: Mail,
    poisoned: Option<String>,
}

/// A communicator's number, which is not used again: when it is dropped, the connections forget it.
#[derive(Debug)]
struct Number {
    context: Arc<ContextInner>,
    id: u32,
    meter: Arc<Meter>,
}

impl Drop for Number {
    fn drop(&mut self) {
        self.context.meters.retire(&self.meter);
        self.context.wire().abandon(self.id);
    }
}

impl Communicator {
    /// With a node group, operations run in memory that all members share.
    pub(crate) fn new(
        context: &Arc<ContextInner>,
        id: u32,
        members: Members,
        node: Option<NodeGroup>,
    ) -> Result<Self, SetupError> {
        let facts = PlanFacts {
            world_size: members.world_size,
            shared_memory: node.is_some(),
            ..context.facts.clone()
        };
        let (context, meter) = (Arc::clone(context), context.meters.meter(id));
        let number = Number { context: Arc::clone(&context), id, meter: Arc::clone(&meter) };
        let state = State {
            number,
            op_seq: 0,
            shared: node.map_or(Shared::Nothing, Shared::ByAll),
            workspace: Workspace::new(Region::allocate(0)?),
            fusion: FusionBuffer::default(),
            mail: Mail::default(),
            poisoned: None,
        };
        let counter = context.job.track(context.number, id);
        let (timeout, state) = (context.timeout, Arc::new(Mutex::new(state)));
        Ok(Self { context, id, members, facts, counter, meter, timeout, state })
    }

    /// The same communicator with another deadline for what is called through it, in place of the
    /// context's: `communicator.with_timeout(Duration::from_secs(600)).barrier()?`.
    ///
    /// A handle like this one: operations of both have one order and wait for each other's end, a
    /// failure ends both, and the communicator is given up when the last is dropped. The deadlines of
    /// the ranks need not be equal; whose passes first ends the operation for all. Groups that are
    /// split off have the deadline of the handle that they were split from.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            context: Arc::clone(&self.context),
            id: self.id,
            members: self.members.clone(),
            facts: self.facts.clone(),
            counter: self.counter.clone(),
            meter: Arc::clone(&self.meter),
            timeout,
            state: Arc::clone(&self.state),
        }
    }

    /// This process's number in the group, `0..world_size`.
    pub fn rank(&self) -> u32 {
        self.members.rank
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> u32 {
        self.members.world_size
    }

    /// What a rank of the communicator is called in the world.
    pub(crate) fn in_world(&self, rank: u32) -> u32 {
        self.members.in_world(rank)
    }

    /// Longest time that an operation may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Its number, as reports have it.
    pub(crate) fn number(&self) -> u32 {
        self.id
    }

    /// Where events are recorded, if anywhere.
    pub(crate) fn timeline(&self) -> Option<&Arc<Timeline>> {
        self.context.timeline()
    }

    /// Bytes of memory that this rank holds for operations of this communicator: scratch for messages
    /// that are to be reduced, staging, and its part of the memory in which the ranks of a node work
    /// together.
    ///
    /// Scratch is 4 MiB, or a slice for every rank and each slice abreast where that is larger (256 KiB,
    /// and two, unless the [plan](crate::plan::Tuning) says otherwise), from the first operation that needs
    /// it. Staging is at most 1 MiB for fused tensors and 8 MiB for compressed
    /// ones, and for inputs that a factor is applied to [before](crate::Scale::before) a reduction whose
    /// result this rank does not get, or not all of. Only [Adasum](Self::all_reduce_adasum) stages whole
    /// tensors. What was needed once is kept.
    /// The order of messages between two ranks costs some tens of bytes for each tag and peer.
    pub fn memory_bytes(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = state.workspace.scratch_bytes() + state.fusion.memory_bytes();
        staging + state.mail.memory_bytes() + state.shared.memory_bytes()
    }

    /// What this communicator has completed on this rank.
    pub fn counters(&self) -> Vec<OperationCounters> {
        self.meter.totals().into_counters()
    }

    /// How an operation of `count` elements of type `T` would be carried out.
    pub fn plan<T: Element>(&self, collective: Collective, count: usize) -> Choice {
        self.facts.choose(collective, count * size_of::<T>())
    }

    /// How a [fused operation](Self::all_reduce_fused) on tensors of `counts` elements of type `T`
    /// would be carried out: for each of its operations how many elements it is about, and how.
    pub fn plan_fused<T: Element>(&self, counts: &[usize]) -> Vec<(usize, Choice)> {
        let operations = FusionLimits::TUNED.operations(counts, size_of::<T>());
        let plan = |count| (count, self.plan::<T>(Collective::AllReduce, count));
        operations.into_iter().map(plan).collect()
    }

    /// This rank's chunk of a vector of `count` elements: what it gets by a reduce-scatter and
    /// contributes to an all-gather. The first chunks are one element longer where `count` is no
    /// multiple of the world size.
    pub fn own_chunk(&self, count: usize) -> Range<usize> {
        Partition::new(count, self.world_size() as usize).range(self.rank() as usize)
    }

    /// Returns once all ranks have called it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        self.run(Collective::Barrier, None, Lent::nothing())
    }

    /// Sends on so many channels of each connection alone.
    pub(crate) fn use_channels(&self, count: usize) {
        self.context.wire().use_channels(count);
    }

    /// A barrier whose signature carries what all ranks must agree on.
    pub(crate) fn agree(&self, value: u64) -> Result<(), CollectiveError> {
        let call = self.call(Collective::Agreement, None, Lent::nothing())?;
        self.perform(&call.agreeing_on(value & ((1 << 56) - 1)))
    }

    /// Carries out any collective on any memory: for bindings, and for those who know types and
    /// operators at run time only. The typed methods are the same with a safe face.
    ///
    /// # Safety
    /// Until it returns, the call's buffers must be valid, aligned for their type, the input for
    /// reads and the output for writes; nobody may write to the input or access the output
    /// meanwhile. The two are the same memory, as [`RawCall`] says for each collective, or do not
    /// overlap.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::InvalidArgument`] also where a buffer, the operator or
    /// the root is missing, or counts or types do not fit together.
    pub unsafe fn run_raw(&self, call: &RawCall<'_>) -> Result<(), CollectiveError> {
        let reducer = call.reducer()?;
        // SAFETY: the contract of this function, and the call does not outlive it.
        let mut checked = unsafe { call.check(self.rank(), self.world_size()) }?;
        if let Some(reducer) = &reducer {
            checked.reduce_by(reducer);
        }
        self.perform(&checked)
    }

    /// Runs a typed call that does not reduce.
    #[inline]
    fn run(
        &self,
        collective: Collective,
        root: Option<u32>,
        lent: Lent<'_>,
    ) -> Result<(), CollectiveError> {
        self.perform(&self.call(collective, root, lent)?)
    }

    /// Runs a typed call that reduces.
    #[inline]
    fn run_reduction<T: Element>(
        &self,
        collective: Collective,
        op: impl Into<Reduction<T>>,
        root: Option<u32>,
        lent: Lent<'_>,
    ) -> Result<(), CollectiveError> {
        let reducer = Reducer::typed(&op.into()).map_err(|what| invalid(collective, what))?;
        let mut call = self.call(collective, root, lent)?;
        call.reduce_by(&reducer);
        self.perform(&call)
    }

    #[inline]
    fn call<'a>(
        &self,
        collective: Collective,
        root: Option<u32>,
        lent: Lent<'a>,
    ) -> Result<Call<'a>, CollectiveError> {
        lent.call(collective, root, (self.rank(), self.world_size()))
    }

    fn choose(&self, call: &Call<'_>) -> Choice {
        self.facts.choose(call.collective, call.agreed_bytes())
    }

    fn perform(&self, call: &Call<'_>) -> Result<(), CollectiveError> {
        let mut state = self.enter(call.collective)?;
        self.execute(&mut state, call, self.choose(call))
    }

    /// Runs one operation to its end.
    fn execute(
        &self,
        state: &mut State,
        call: &Call<'_>,
        choice: Choice,
    ) -> Result<(), CollectiveError> {
        self.execute_as(state, call.kind(choice.algorithm), call, choice)
    }

    /// The same under another name.
    fn execute_as(
        &self,
        state: &mut State,
        kind: OperationKind,
        call: &Call<'_>,
        choice: Choice,
    ) -> Result<(), CollectiveError> {
        // In two levels the order of reduction is another one, which pieces would change.
        let has_levels = choice.algorithm == Algorithm::TwoLevel;
        if !has_levels && call.is_staged_in_pieces(STAGED_BYTES_MAX) {
            return self.execute_in_pieces(state, kind, call, choice);
        }
        let operation = self.name(state, kind);
        let started = self.context.timeline().map(|_| Instant::now());
        let outcome = match call.staging_bytes() {
            0 => {
                let prescaled = call.prescaled(&mut []);
                self.carry_out(state, operation, prescaled.as_ref().unwrap_or(call), choice)
            }
            bytes => {
                let mut staging = std::mem::take(&mut state.fusion);
                let outcome = staging.grow(bytes, call.collective.name()).and_then(|staged| {
                    let prescaled = call.prescaled(staged);
                    self.carry_out(state, operation, prescaled.as_ref().unwrap_or(call), choice)
                });
                state.fusion = staging;
                outcome
            }
        };
        self.conclude(state, operation, call, (choice, started), outcome)
    }

    /// Counts an operation that has ended, however it did.
    fn conclude(
        &self,
        state: &mut State,
        operation: OperationName,
        call: &Call<'_>,
        (choice, started): (Choice, Option<Instant>),
        outcome: Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let in_memory =
            matches!(state.shared, Shared::ByAll(_)) && choice.algorithm.node_manner().is_some();
        self.meter.leave(in_memory, outcome.is_ok());
        self.trace(started, operation, outcome.is_ok());
        outcome.map_err(|error| self.fail(state, operation, call.explain(error)))
    }

    fn carry_out(
        &self,
        state: &mut State,
        operation: OperationName,
        call: &Call<'_>,
        choice: Choice,
    ) -> Result<(), CollectiveError> {
        if self.world_size() == 1 {
            call.complete_alone();
            return Ok(());
        }
        let Self { context, members, .. } = self;
        let (panic_report, parties) =
            (PanicReport { context, members, name: operation }, self.parties());
        let outcome = match (&mut state.shared, choice.algorithm.node_manner()) {
            (Shared::OnNodes(levels), _) if choice.algorithm == Algorithm::TwoLevel => {
                let since = Cell::new(self.context.pace.now());
                let workspace = &mut state.workspace;
                Stages::new(self, levels, workspace, (operation, call), &since).carry_out()
            }
            (Shared::ByAll(group), Some(manner)) => {
                let request = call.node_request(&operation.kind, manner);
                // SAFETY: a call lends its buffers for as long as it is borrowed.
                unsafe { drive::run_node(context, parties, operation, group, request, None) }
            }
            _ => self.run_over_wire(state, operation, call, choice),
        };
        std::mem::forget(panic_report);
        outcome
    }

    fn run_over_wire(
        &self,
        state: &mut State,
        operation: OperationName,
        call: &Call<'_>,
        choice: Choice,
    ) -> Result<(), CollectiveError> {
        // Before anything is sent: schedules pass on from the output what everybody gets.
        call.place_own();
        let (rank, world_size) = (self.rank() as usize, self.world_size() as usize);
        let program = Program::new(call, choice, rank, world_size);
        let run = Run {
            context: &self.context,
            parties: self.parties(),
            operation,
            first_tag: 0,
            schedule: program.as_schedule(),
            kernel: call.kernel().cloned(),
            partition: call.partition.clone(),
            operands: call.operands(),
        };
        // SAFETY: a call lends its buffers for as long as it is borrowed, and this returns only after
        // the operation is done or given up.
        unsafe { drive::run(run, state.shared.neighbours(&self.members), &mut state.workspace) }
    }

    /// Who takes part in an operation of this handle, and for how long.
    fn parties(&self) -> Parties<'_> {
        Parties::all(&self.members, self.timeout)
    }

    /// This rank's chunk of a vector in chunks of given lengths.
    fn own_of(
        &self,
        collective: Collective,
        side: &str,
        counts: &[usize],
        elements: usize,
    ) -> Result<Range<usize>, CollectiveError> {
        let (rank, world_size) = (self.rank() as usize, self.world_size() as usize);
        check_counts(side, Some(counts), elements, world_size)
            .map_err(|what| invalid(collective, what))?;
        let start = counts[..rank].iter().sum();
        Ok(start..start + counts[rank])
    }

    /// Equal parts are asked for, because then all ranks notice when they are not.
    fn chunked(
        &self,
        collective: Collective,
        whole: &str,
        whole_count: usize,
        part: &str,
        part_count: usize,
    ) -> Result<(), CollectiveError> {
        let world_size = self.world_size() as usize;
        if part_count.checked_mul(world_size) == Some(whole_count) {
            return Ok(());
        }
        Err(CollectiveError::InvalidArgument {
            collective: collective.name(),
            what: format!(
                "the {whole} has {whole_count} elements, not {world_size} (the world size) times \
                 the {part_count} of the {part}"
            ),
        })
    }
}
