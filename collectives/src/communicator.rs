//! One group of ranks and its collective operations.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use paceline_devices::{Element, ReduceOp};
use paceline_transports::Region;

use crate::context::ContextInner;
use crate::drive::{self, Run};
use crate::engine::{Buffers, Workspace};
use crate::error::{CollectiveError, OperationName, SetupError};
use crate::kernels::Kernel;
use crate::plan::{Algorithm, Choice};
use crate::schedule::{
    Barrier, Broadcast, HalvingDoubling, OneShot, Partition, RecursiveDoubling, Ring, RingPhases,
    Schedule, Tree, TwoShot,
};
use crate::signature::{Collective, OperationKind};

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
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    op_seq: u64,
    workspace: Workspace,
    poisoned: Option<String>,
}

impl Communicator {
    pub(crate) fn new(context: &Arc<ContextInner>, id: u32) -> Result<Self, SetupError> {
        let alone = context.world_size() == 1;
        let scratch = Region::allocate(if alone { 0 } else { SCRATCH_BYTES })?;
        let state = State { op_seq: 0, workspace: Workspace::new(scratch), poisoned: None };
        Ok(Self { context: Arc::clone(context), id, state: Mutex::new(state) })
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
        self.context.facts.choose(collective, count * size_of::<T>())
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
        if self.plan::<T>(Collective::ReduceScatter, input.len()).algorithm == Algorithm::Ring {
            // The ring leaves partial sums where it passes, so it needs a copy to work on.
            let mut copy = input.to_vec();
            let own = self.reduce_scatter_in_place(&mut copy, op)?;
            output.copy_from_slice(&copy[own]);
            return Ok(());
        }
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
        self.run(kind, memory, None, |choice, rank, world_size| {
            let slice = choice.slice_elements(size_of::<T>());
            let phases = RingPhases::AllGather;
            match choice.algorithm {
                Algorithm::TwoShot => AnySchedule::TwoShot(TwoShot::new(
                    rank,
                    world_size,
                    count,
                    phases,
                    None,
                    slice,
                    choice.window,
                )),
                _ => AnySchedule::Ring(Ring::new(
                    rank,
                    world_size,
                    count,
                    phases,
                    slice,
                    choice.window,
                )),
            }
        })
    }

    /// Copies the root's vector to all ranks.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: u32) -> Result<(), CollectiveError> {
        self.check_root(Collective::Broadcast, root)?;
        let count = data.len();
        let kind = self.kind::<T>(Collective::Broadcast, count, None, Some(root));
        self.run(kind, Memory::in_place(data), None, |choice, rank, world_size| {
            let tree = match choice.algorithm {
                Algorithm::Chain => Tree::Chain,
                _ => Tree::Binomial,
            };
            let slice = choice.slice_elements(size_of::<T>());
            let root = root as usize;
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
        self.run(kind, memory, Some(kernel), |choice, rank, world_size| {
            let slice = choice.slice_elements(size_of::<T>());
            let (phases, window, root) = (RingPhases::AllReduce, choice.window, root as usize);
            match choice.algorithm {
                Algorithm::TwoShot => AnySchedule::TwoShot(TwoShot::new(
                    rank,
                    world_size,
                    count,
                    phases,
                    Some(root),
                    slice,
                    window,
                )),
                // Large worlds: everybody gets the result, which costs the root's link no more.
                _ => AnySchedule::Ring(Ring::new(rank, world_size, count, phases, slice, window)),
            }
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
    pub(crate) fn agree(&self, value: u64, _timeout: Duration) -> Result<(), CollectiveError> {
        self.dissemination(Collective::Agreement, value & ((1 << 56) - 1))
    }

    fn dissemination(&self, collective: Collective, count: u64) -> Result<(), CollectiveError> {
        let kind = OperationKind {
            collective,
            dtype: None,
            op: None,
            root: None,
            count,
            algorithm: Algorithm::Dissemination as u8,
        };
        self.run(kind, Memory::in_place::<u8>(&mut []), None, |_, rank, world_size| {
            AnySchedule::Barrier(Barrier::new(rank, world_size))
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
        self.run(kind, memory, Some(kernel), |choice, rank, world_size| {
            let slice = choice.slice_elements(size_of::<T>());
            let (phases, window) = (RingPhases::AllReduce, choice.window);
            match choice.algorithm {
                Algorithm::OneShot => AnySchedule::OneShot(OneShot::new(rank, world_size, count)),
                Algorithm::TwoShot => AnySchedule::TwoShot(TwoShot::new(
                    rank, world_size, count, phases, None, slice, window,
                )),
                Algorithm::RecursiveDoubling => AnySchedule::RecursiveDoubling(
                    RecursiveDoubling::new(rank, world_size, count, slice),
                ),
                Algorithm::HalvingDoubling => AnySchedule::HalvingDoubling(HalvingDoubling::new(
                    rank, world_size, count, slice,
                )),
                _ => AnySchedule::Ring(Ring::new(rank, world_size, count, phases, slice, window)),
            }
        })
    }

    fn run_reduce_scatter<T: Element>(
        &self,
        memory: Memory,
        count: usize,
        op: ReduceOp,
    ) -> Result<(), CollectiveError> {
        let kernel = kernel::<T>(Collective::ReduceScatter, op)?;
        let kind = self.kind::<T>(Collective::ReduceScatter, count, Some(op), None);
        self.run(kind, memory, Some(kernel), |choice, rank, world_size| {
            let slice = choice.slice_elements(size_of::<T>());
            let (phases, window) = (RingPhases::ReduceScatter, choice.window);
            match choice.algorithm {
                Algorithm::TwoShot => AnySchedule::TwoShot(TwoShot::new(
                    rank, world_size, count, phases, None, slice, window,
                )),
                _ => AnySchedule::Ring(Ring::new(rank, world_size, count, phases, slice, window)),
            }
        })
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
            count: count as u64,
            algorithm,
        }
    }

    /// Runs one operation to its end.
    fn run(
        &self,
        kind: OperationKind,
        memory: Memory,
        kernel: Option<Kernel>,
        build: impl FnOnce(Choice, usize, usize) -> AnySchedule,
    ) -> Result<(), CollectiveError> {
        let mut state = self.enter(kind.collective)?;
        let operation = OperationName { kind, op_seq: state.op_seq };
        state.op_seq += 1;
        let (rank, world_size) = (self.rank() as usize, self.world_size() as usize);
        if world_size == 1 {
            memory.copy_input_to_output();
            return Ok(());
        }
        let bytes = usize::try_from(kind.bytes()).unwrap_or(usize::MAX);
        let choice = self.context.facts.choose(kind.collective, bytes);
        let schedule = build(choice, rank, world_size);
        let count = usize::try_from(kind.count).unwrap_or(usize::MAX);
        let run = Run {
            context: &self.context,
            communicator: self.id,
            operation,
            schedule: schedule.as_dyn(),
            kernel,
            partition: Partition::new(if kind.dtype.is_some() { count } else { 0 }, world_size),
            buffers: memory.buffers,
        };
        // SAFETY: the buffers are those of slices that the caller of the collective lends us until
        // it returns, and it returns only after the operation is done or given up.
        let outcome = unsafe { drive::run(run, &mut state.workspace) };
        if let Err(error) = &outcome
            && error.is_fatal()
        {
            state.poisoned = Some(error.to_string());
        }
        outcome
    }

    fn enter(&self, collective: Collective) -> Result<MutexGuard<'_, State>, CollectiveError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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

/// The buffers of a call, as bytes.
struct Memory {
    buffers: Buffers,
}

impl Memory {
    fn in_place<T: Element>(data: &mut [T]) -> Self {
        let start = NonNull::from(&mut *data).cast();
        Self {
            buffers: Buffers {
                input: start,
                input_count: data.len(),
                output: start,
                output_start: 0,
                output_count: data.len(),
                element_bytes: size_of::<T>(),
            },
        }
    }

    fn apart<T: Element>(input: &[T], output: &mut [T], output_start: usize) -> Self {
        Self {
            buffers: Buffers {
                // Never written through: the schedules store to the output only.
                input: NonNull::from(input).cast(),
                input_count: input.len(),
                output: NonNull::from(&mut *output).cast(),
                output_start,
                output_count: output.len(),
                element_bytes: size_of::<T>(),
            },
        }
    }

    /// A world of one: the result is the input.
    fn copy_input_to_output(&self) {
        let Buffers { input, output, output_count, element_bytes, .. } = self.buffers;
        // SAFETY: in a world of one both hold the same number of elements, the input is valid for
        // reads, the output for writes, and `copy` allows them to be the same.
        unsafe {
            std::ptr::copy(input.as_ptr(), output.as_ptr(), output_count * element_bytes);
        }
    }
}

/// Any of the schedules, by value: making one allocates nothing.
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one call")]
enum AnySchedule {
    Ring(Ring),
    OneShot(OneShot),
    TwoShot(TwoShot),
    RecursiveDoubling(RecursiveDoubling),
    HalvingDoubling(HalvingDoubling),
    Broadcast(Broadcast),
    Barrier(Barrier),
}

impl AnySchedule {
    fn as_dyn(&self) -> &dyn Schedule {
        match self {
            Self::Ring(schedule) => schedule,
            Self::OneShot(schedule) => schedule,
            Self::TwoShot(schedule) => schedule,
            Self::RecursiveDoubling(schedule) => schedule,
            Self::HalvingDoubling(schedule) => schedule,
            Self::Broadcast(schedule) => schedule,
            Self::Barrier(schedule) => schedule,
        }
    }
}
