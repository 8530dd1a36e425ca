//! One group of ranks and its collective operations.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use paceline_devices::{Element, ReduceOp};
use paceline_rendezvous::OperationCounter;
use paceline_transports::Region;

use crate::call::{AnySchedule, Memory, Place};
use crate::context::ContextInner;
use crate::drive::{self, Run};
use crate::engine::Workspace;
use crate::error::{CollectiveError, OperationName, SetupError};
use crate::fusion::{self, FusionBuffer, FusionLimits};
use crate::kernels::Kernel;
use crate::node::NodeGroup;
use crate::plan::{Algorithm, Choice, PlanFacts};
use crate::schedule::{Barrier, Broadcast, Partition, Phases, Shift, Tree};
use crate::signature::{Collective, OperationKind};
use crate::waiting::{PanicReport, report_failure};

/// Staging memory of a communicator at the start; it grows if a schedule cannot do with it.
const SCRATCH_BYTES: usize = 4 << 20;

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
    facts: PlanFacts,
    /// What heartbeats tell the coordinator.
    counter: Option<OperationCounter>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    op_seq: u64,
    node: Option<NodeGroup>,
    workspace: Workspace,
    fusion: FusionBuffer,
    poisoned: Option<String>,
}

impl Communicator {
    /// With a node group, operations run in memory that all ranks share.
    pub(crate) fn new(
        context: &Arc<ContextInner>,
        id: u32,
        node: Option<NodeGroup>,
    ) -> Result<Self, SetupError> {
        let alone = context.world_size() == 1;
        let scratch = Region::allocate(if alone { 0 } else { SCRATCH_BYTES })?;
        let facts = PlanFacts { shared_memory: node.is_some(), ..context.facts.clone() };
        let state = State {
            op_seq: 0,
            node,
            workspace: Workspace::new(scratch),
            fusion: FusionBuffer::default(),
            poisoned: None,
        };
        let counter = context.job.track(context.number, id);
        Ok(Self { context: Arc::clone(context), id, facts, counter, state: Mutex::new(state) })
    }

    /// This process's number in the group, `0..world_size`.
    pub fn rank(&self) -> u32 {
        self.context.rank()
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> u32 {
        self.context.world_size()
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

    /// Reduces the ranks' vectors element by element; every rank gets the result, in place.
    ///
    /// The result has the same bits on all ranks and in every run.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce<T: Element>(
        &self,
        data: &mut [T],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let count = data.len();
        let memory = Memory::in_place(data);
        self.run_all_reduce::<T>(memory, count, op)
    }

    /// As [`all_reduce`](Self::all_reduce), but leaves `input` as it is.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_into<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        same_length(Collective::AllReduce, input.len(), output.len())?;
        let count = input.len();
        let memory = Memory::apart(input, output, 0);
        self.run_all_reduce::<T>(memory, count, op)
    }

    /// All-reduces several tensors as one operation: the same bits as one
    /// [`all_reduce`](Self::all_reduce) each, at the price of one (worlds of more than 32 ranks:
    /// as long as both are long enough for the ring).
    ///
    /// Long tensors are reduced where they are; the short ones between them pass through a staging
    /// buffer, some megabytes at a time, which is kept for the next call.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_fused<T: Element>(
        &self,
        tensors: &mut [&mut [T]],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let mut state = self.enter(Collective::AllReduce)?;
        let mut staging = std::mem::take(&mut state.fusion);
        let outcome = self.run_fused(&mut state, &mut staging, tensors, op);
        state.fusion = staging;
        outcome
    }

    fn run_fused<T: Element>(
        &self,
        state: &mut State,
        staging: &mut FusionBuffer,
        tensors: &mut [&mut [T]],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let kernel = kernel::<T>(Collective::AllReduce, op)?;
        let digest = fusion::digest(tensors.iter().map(|tensor| tensor.len()));
        let world_size = self.world_size() as usize;
        let kind = |count| OperationKind {
            fused: digest,
            ..self.kind::<T>(Collective::AllReduce, count, Some(op), None)
        };
        let run = |state: &mut State, data: &mut [T], partition: Partition| {
            let (kind, memory) = (kind(data.len()), Memory::in_place(data));
            self.run_partitioned(state, kind, memory, Some(kernel), partition, Place::all_reduce)
        };
        if tensors.is_empty() {
            // Nothing to reduce, but the others may think otherwise, and are told so.
            return run(state, &mut [], self.partition(0));
        }
        let mut rest = tensors;
        while !rest.is_empty() {
            let batch = FusionLimits::TUNED.batch(rest.iter().map(|tensor| size_of_val(*tensor)));
            let (tensors, after) = rest.split_at_mut(batch.tensors);
            rest = after;
            let packed = tensors.iter().filter(|tensor| batch.packs(size_of_val(**tensor)));
            if packed.clone().next().is_some() {
                let partition = Partition::fused(packed.map(|tensor| tensor.len()), world_size);
                let staged = staging.gather(tensors, batch, world_size).map_err(|error| {
                    let operation = self.name(state, kind(partition.count()));
                    self.fail(state, operation, error)
                })?;
                run(state, staged, partition)?;
                staging.scatter(tensors, batch, world_size);
            }
            for tensor in tensors.iter_mut().filter(|tensor| !batch.packs(size_of_val(**tensor))) {
                run(state, tensor, self.partition(tensor.len()))?;
            }
        }
        Ok(())
    }

    /// Reduces the ranks' vectors; rank r gets chunk r. `input` has `world_size` times as many
    /// elements as `output`.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce_scatter<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        self.chunked(Collective::ReduceScatter, "input", input.len(), "output", output.len())?;
        let start = output.len() * self.rank() as usize;
        let memory = Memory::apart(input, output, start);
        self.run_reduce_scatter::<T>(memory, input.len(), op)
    }

    /// As [`reduce_scatter`](Self::reduce_scatter), in place and for any length: afterwards the
    /// returned range of `data` holds this rank's chunk, the rest is unspecified. The first chunks
    /// are one element longer where the length is no multiple of the world size.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce_scatter_in_place<T: Element>(
        &self,
        data: &mut [T],
        op: ReduceOp,
    ) -> Result<Range<usize>, CollectiveError> {
        let count = data.len();
        self.run_reduce_scatter::<T>(Memory::in_place(data), count, op)?;
        Ok(self.partition(count).range(self.rank() as usize))
    }

    /// Collects the ranks' chunks; every rank gets all of them, in the order of ranks. `output` has
    /// `world_size` times as many elements as `input`.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_gather<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        self.chunked(Collective::AllGather, "output", output.len(), "input", input.len())?;
        let start = input.len() * self.rank() as usize;
        output[start..start + input.len()].copy_from_slice(input);
        self.all_gather_in_place(output)
    }

    /// As [`all_gather`](Self::all_gather), in place and for any length: each rank's chunk lies where
    /// [`reduce_scatter_in_place`](Self::reduce_scatter_in_place) leaves it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_gather_in_place<T: Element>(&self, data: &mut [T]) -> Result<(), CollectiveError> {
        let count = data.len();
        let kind = self.kind::<T>(Collective::AllGather, count, None, None);
        let memory = Memory::in_place(data);
        self.run(kind, memory, None, |place| place.either(Phases::AllGather))
    }

    /// Copies the root's vector to all ranks.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: u32) -> Result<(), CollectiveError> {
        self.check_root(Collective::Broadcast, root)?;
        let count = data.len();
        let kind = self.kind::<T>(Collective::Broadcast, count, None, Some(root));
        self.run(kind, Memory::in_place(data), None, |place| {
            let tree = match place.choice.algorithm {
                Algorithm::Chain => Tree::Chain,
                _ => Tree::Binomial,
            };
            let (root, slice) = (root as usize, place.slice);
            let (rank, world_size) = (place.rank, place.world_size);
            AnySchedule::Broadcast(Broadcast::new(rank, root, world_size, count, slice, tree))
        })
    }

    /// Reduces the ranks' vectors; the root gets the result, in place. On the other ranks the
    /// contents of `data` are unspecified afterwards.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce<T: Element>(
        &self,
        data: &mut [T],
        op: ReduceOp,
        root: u32,
    ) -> Result<(), CollectiveError> {
        self.check_root(Collective::Reduce, root)?;
        let kernel = kernel::<T>(Collective::Reduce, op)?;
        let count = data.len();
        let kind = self.kind::<T>(Collective::Reduce, count, Some(op), Some(root));
        let memory = Memory::in_place(data);
        self.run(kind, memory, Some(kernel), |place| {
            place.either(Phases::Reduce { root: root as usize })
        })
    }

    /// Sends `input` to the next rank (the last sends to the first) and fills `output` with what the
    /// rank before sent. `slice_bytes` forces the size of the messages.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn shift<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        slice_bytes: Option<usize>,
    ) -> Result<(), CollectiveError> {
        same_length(Collective::Shift, input.len(), output.len())?;
        let count = input.len();
        let kind = self.kind::<T>(Collective::Shift, count, None, None);
        self.run(kind, Memory::apart(input, output, 0), None, |place| {
            let slice = slice_bytes.map_or(place.slice, |bytes| (bytes / size_of::<T>()).max(1));
            AnySchedule::Shift(Shift::new(place.rank, place.world_size, count, slice))
        })
    }

    /// Returns once all ranks have called it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        self.dissemination(Collective::Barrier, 0)
    }

    /// A barrier whose signature carries what all ranks must agree on.
    pub(crate) fn agree(&self, value: u64) -> Result<(), CollectiveError> {
        self.dissemination(Collective::Agreement, value & ((1 << 56) - 1))
    }

    fn dissemination(&self, collective: Collective, count: u64) -> Result<(), CollectiveError> {
        let kind = OperationKind {
            collective,
            dtype: None,
            op: None,
            root: None,
            fused: 0,
            count,
            algorithm: self.facts.choose(collective, 0).algorithm as u8,
        };
        self.run(kind, Memory::in_place::<u8>(&mut []), None, |place| {
            AnySchedule::Barrier(Barrier::new(place.rank, place.world_size))
        })
    }

    fn run_all_reduce<T: Element>(
        &self,
        memory: Memory,
        count: usize,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let kernel = kernel::<T>(Collective::AllReduce, op)?;
        let kind = self.kind::<T>(Collective::AllReduce, count, Some(op), None);
        self.run(kind, memory, Some(kernel), Place::all_reduce)
    }

    fn run_reduce_scatter<T: Element>(
        &self,
        memory: Memory,
        count: usize,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let kernel = kernel::<T>(Collective::ReduceScatter, op)?;
        let kind = self.kind::<T>(Collective::ReduceScatter, count, Some(op), None);
        self.run(kind, memory, Some(kernel), |place| place.either(Phases::ReduceScatter))
    }

    fn kind<T: Element>(
        &self,
        collective: Collective,
        count: usize,
        op: Option<ReduceOp>,
        root: Option<u32>,
    ) -> OperationKind {
        let algorithm = self.plan::<T>(collective, count).algorithm as u8;
        OperationKind {
            collective,
            dtype: Some(T::DTYPE),
            op,
            root,
            fused: 0,
            count: count as u64,
            algorithm,
        }
    }

    /// Runs one operation on a vector cut the usual way.
    fn run(
        &self,
        kind: OperationKind,
        memory: Memory,
        kernel: Option<Kernel>,
        build: impl FnOnce(Place) -> AnySchedule,
    ) -> Result<(), CollectiveError> {
        let mut state = self.enter(kind.collective)?;
        let count = if kind.dtype.is_some() { memory.buffers.input_count } else { 0 };
        let partition = self.partition(count);
        self.run_partitioned(&mut state, kind, memory, kernel, partition, build)
    }

    /// Runs one operation to its end.
    fn run_partitioned(
        &self,
        state: &mut State,
        kind: OperationKind,
        memory: Memory,
        kernel: Option<Kernel>,
        partition: Partition,
        build: impl FnOnce(Place) -> AnySchedule,
    ) -> Result<(), CollectiveError> {
        let operation = self.name(state, kind);
        let (rank, world_size) = (self.rank() as usize, self.world_size() as usize);
        if world_size == 1 {
            memory.copy_input_to_output();
            return Ok(());
        }
        let algorithm = Algorithm::from_code(kind.algorithm);
        let panic_report = PanicReport { context: &self.context, name: operation };
        let outcome = match &mut state.node {
            Some(group) if algorithm.is_some_and(Algorithm::is_node_local) => {
                let request = memory.node_request(&kind, partition, rank);
                // SAFETY: the buffers are those of slices that the caller of the collective lends
                // us until it returns.
                unsafe { drive::run_node(&self.context, operation, group, request) }
            }
            node => {
                let bytes = usize::try_from(kind.bytes()).unwrap_or(usize::MAX);
                let choice = self.facts.choose(kind.collective, bytes);
                let slice = choice.slice_elements(memory.buffers.element_bytes);
                let place = Place { rank, world_size, partition: partition.clone(), choice, slice };
                let schedule = build(place);
                let run = Run {
                    context: &self.context,
                    operation,
                    node: node.as_ref(),
                    schedule: schedule.as_dyn(),
                    kernel,
                    partition,
                    buffers: memory.buffers,
                };
                // SAFETY: as above, and it returns only after the operation is done or given up.
                unsafe { drive::run(run, &mut state.workspace) }
            }
        };
        std::mem::forget(panic_report);
        outcome.map_err(|error| self.fail(state, operation, error))
    }

    /// Numbers an operation that is entered.
    fn name(&self, state: &mut State, kind: OperationKind) -> OperationName {
        let op_seq = state.op_seq;
        state.op_seq += 1;
        if let Some(counter) = &self.counter {
            counter.enter(op_seq);
        }
        OperationName { kind, communicator: self.id, op_seq }
    }

    /// Ends the communicator after an operation has failed on this rank, at whatever point: here it
    /// takes no further operations, and the other ranks, who may be waiting in this one, are told.
    fn fail(
        &self,
        state: &mut State,
        operation: OperationName,
        error: CollectiveError,
    ) -> CollectiveError {
        if error.is_fatal() {
            state.poisoned = Some(error.to_string());
            // First the cause, then the end of what they share: who sees this asks for that.
            report_failure(&self.context, operation, &error);
            if let Some(node) = &state.node {
                node.abort();
            }
        }
        error
    }

    fn enter(&self, collective: Collective) -> Result<MutexGuard<'_, State>, CollectiveError> {
        let state = self.state.lock().unwrap_or_else(|panicked| {
            let mut state = panicked.into_inner();
            state.poisoned.get_or_insert_with(|| "an operation panicked".to_owned());
            state
        });
        match &state.poisoned {
            None => Ok(state),
            Some(first) => Err(CollectiveError::Poisoned {
                collective: collective.name(),
                first: first.clone(),
            }),
        }
    }

    fn partition(&self, count: usize) -> Partition {
        Partition::new(count, self.world_size() as usize)
    }

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

    fn check_root(&self, collective: Collective, root: u32) -> Result<(), CollectiveError> {
        if root < self.world_size() {
            return Ok(());
        }
        Err(CollectiveError::InvalidArgument {
            collective: collective.name(),
            what: format!("root {root} is no rank of a world of {}", self.world_size()),
        })
    }
}

fn same_length(collective: Collective, input: usize, output: usize) -> Result<(), CollectiveError> {
    if input == output {
        return Ok(());
    }
    Err(CollectiveError::InvalidArgument {
        collective: collective.name(),
        what: format!("the input has {input} elements, the output {output}"),
    })
}

fn kernel<T: Element>(collective: Collective, op: ReduceOp) -> Result<Kernel, CollectiveError> {
    Kernel::new(T::DTYPE, op).ok_or_else(|| CollectiveError::InvalidArgument {
        collective: collective.name(),
        what: format!("{op} is not defined for {}; reduce by sum and divide as you need", T::DTYPE),
    })
}

#[cfg(test)]
mod tests;
