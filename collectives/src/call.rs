//! What one collective call is made of.

mod layout;
mod scaled;

use std::marker::PhantomData;
use std::ops::Range;

use paceline_devices::{Buffer, DType, Element, ReduceOp};
use paceline_transports::copy_bytes;

pub(crate) use self::layout::check_counts;
use self::layout::{Layout, Place};
use crate::engine::Operands;
use crate::error::CollectiveError;
use crate::kernels::Kernel;
use crate::node::{Manner, NodeKind, NodeRequest};
use crate::plan::Algorithm;
use crate::reduction::{Reducer, Scale};
use crate::schedule::Partition;
use crate::signature::{Collective, OperationKind};

/// One collective call, all of it run-time values: what bindings to other languages pass to
/// [`Communicator::run_raw`](crate::Communicator::run_raw), and what every typed call becomes.
///
/// A vector of `n` elements falls into one chunk per rank; a rank's own is
/// [`Communicator::own_chunk`](crate::Communicator::own_chunk).
///
/// | collective | `op`, `scale` | `root` | `input` | `output` | in place |
/// |---|---|---|---|---|---|
/// | `AllReduce` | yes | | n | n | output = input |
/// | `ReduceScatter` | yes | | n | own chunk | output = own chunk of the input |
/// | `AllGather` | | | own chunk | n | input = own chunk of the output |
/// | `Broadcast` | | yes | n, on the root | n | output = input |
/// | `Reduce` | yes | yes | n | n, on the root | output = input |
/// | `Gather` | | yes | n / p | n, on the root | input = own chunk of the output |
/// | `Scatter` | | yes | n, on the root | n / p | output = own chunk of the input |
/// | `AllToAll` | | | n | n | no |
/// | `Shift` | | | n | n | no |
/// | `Barrier` | | | | | |
///
/// Where chunks have the lengths that ranks say, these are the counts of the side that has all of them:
///
/// | collective | `input_counts` | `output_counts` | else as |
/// |---|---|---|---|
/// | `AllGatherV` | | on all ranks, the same | `AllGather` |
/// | `ReduceScatterV` | on all ranks, the same | | `ReduceScatter` |
/// | `GatherV` | | on the root | `Gather` |
/// | `ScatterV` | on the root | | `Scatter` |
/// | `AllToAllV` | how much for each rank | how much from each rank | `AllToAll`; sums n and m |
///
/// What a collective, or a rank, has no use for is ignored.
#[derive(Clone, Copy, Debug)]
pub struct RawCall<'a> {
    /// Which collective.
    pub collective: Collective,
    /// How to reduce.
    pub op: Option<ReduceOp>,
    /// The factors before and after a reduction.
    pub scale: Scale,
    /// From or to which rank.
    pub root: Option<u32>,
    /// What this rank contributes. It is read only.
    pub input: Option<Buffer>,
    /// Where the result goes.
    pub output: Option<Buffer>,
    /// How many elements of the input are for each rank.
    pub input_counts: Option<&'a [usize]>,
    /// How many elements of the output are from each rank.
    pub output_counts: Option<&'a [usize]>,
}

impl RawCall<'_> {
    /// A call without anything.
    pub fn new(collective: Collective) -> Self {
        Self {
            collective,
            op: None,
            scale: Scale::default(),
            root: None,
            input: None,
            output: None,
            input_counts: None,
            output_counts: None,
        }
    }
}

/// The buffers of a call, lent by slices for as long as `'a`: what makes a typed call safe.
pub(crate) struct Lent<'a> {
    input: Option<Buffer>,
    output: Option<Buffer>,
    input_counts: Option<&'a [usize]>,
    output_counts: Option<&'a [usize]>,
    slices: PhantomData<&'a mut [u8]>,
}

impl<'a> Lent<'a> {
    pub(crate) fn in_place<T: Element>(data: &'a mut [T]) -> Self {
        let buffer = Some(Buffer::of_mut(data));
        Self { input: buffer, output: buffer, ..Self::nothing() }
    }

    pub(crate) fn apart<T: Element>(input: Option<&'a [T]>, output: Option<&'a mut [T]>) -> Self {
        let (input, output) = (input.map(Buffer::of), output.map(Buffer::of_mut));
        Self { input, output, ..Self::nothing() }
    }

    /// The call that they are lent for, by rank `rank` of `world_size`. One that reduces has yet to
    /// be told [how](Call::reduce_by).
    #[inline]
    pub(crate) fn call(
        self,
        collective: Collective,
        root: Option<u32>,
        (rank, world_size): (u32, u32),
    ) -> Result<Call<'a>, CollectiveError> {
        let Self { input, output, input_counts, output_counts, .. } = self;
        let call = RawCall {
            root,
            input,
            output,
            input_counts,
            output_counts,
            ..RawCall::new(collective)
        };
        // SAFETY: the buffers are those of slices that are borrowed for `'a`, the output mutably.
        let checked = unsafe { call.check_buffers(rank, world_size) };
        checked.map_err(|what| invalid(collective, what))
    }

    pub(crate) fn nothing() -> Self {
        Self {
            input: None,
            output: None,
            input_counts: None,
            output_counts: None,
            slices: PhantomData,
        }
    }

    pub(crate) fn with_input_counts(self, counts: Option<&'a [usize]>) -> Self {
        Self { input_counts: counts, ..self }
    }

    pub(crate) fn with_output_counts(self, counts: Option<&'a [usize]>) -> Self {
        Self { output_counts: counts, ..self }
    }

    pub(crate) fn with_input_part(self, range: Range<usize>) -> Self {
        Self { input: self.input.map(|input| input.part(range)), ..self }
    }

    pub(crate) fn with_output_part(self, range: Range<usize>) -> Self {
        Self { output: self.output.map(|output| output.part(range)), ..self }
    }
}

/// A call that makes sense, with what follows from it. While one exists its buffers are lent: valid
/// and accessed by nobody else, as [`Communicator::run_raw`](crate::Communicator::run_raw) demands.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) collective: Collective,
    /// Present exactly if the collective reduces.
    reducer: Option<&'a Reducer>,
    pub(crate) root: Option<u32>,
    /// Empty where the rank contributes nothing.
    input: Buffer,
    /// Empty where the rank gets nothing.
    output: Buffer,
    /// How the whole vector is cut; the input, where input and output are two vectors.
    pub(crate) partition: Partition,
    /// How the output is cut, where that is another vector than the input.
    received: Option<Partition>,
    /// The digest of the lengths of fused tensors or of the chunks, or 0.
    fused: u32,
    /// Whether elements have another type in memory.
    compressed: bool,
    /// What is agreed on, for an agreement.
    agreed: u64,
    rank: u32,
    lent: PhantomData<&'a mut [u8]>,
}

/// What some of the ranks do for an operation of all: as a call, on memory that the call lends or that
/// is borrowed for as long.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) collective: Collective,
    /// Counted among those who take part.
    pub(crate) root: Option<u32>,
    pub(crate) input: Buffer,
    pub(crate) output: Buffer,
    /// How the stage's vector falls to those who take part.
    pub(crate) partition: Partition,
}

impl RawCall<'_> {
    /// Checks everything that does not depend on what other ranks do.
    ///
    /// # Safety
    /// For as long as `'a` the buffers are lent, as [`Call`] says.
    #[inline]
    pub(crate) unsafe fn check<'a>(
        &self,
        rank: u32,
        world_size: u32,
    ) -> Result<Call<'a>, CollectiveError> {
        // SAFETY: the contract of this function.
        let checked = unsafe { self.check_buffers(rank, world_size) };
        checked.map_err(|what| invalid(self.collective, what))
    }

    /// What carries out the reduction, if the call is one.
    pub(crate) fn reducer(&self) -> Result<Option<Reducer>, CollectiveError> {
        if !self.collective.reduces() {
            return Ok(None);
        }
        let reducer = match (self.op, self.input) {
            (Some(op), Some(input)) => Reducer::new(op, self.scale, input.dtype),
            (None, _) => Err("no operator is given".to_owned()),
            (_, None) => Err("no input is given".to_owned()),
        };
        reducer.map(Some).map_err(|what| invalid(self.collective, what))
    }

    /// Checks all but the operator.
    ///
    /// # Safety
    /// As for [`RawCall::check`].
    #[inline]
    unsafe fn check_buffers<'a>(&self, rank: u32, world_size: u32) -> Result<Call<'a>, String> {
        let collective = self.collective;
        let root = if collective.has_root() { self.root } else { None };
        match root {
            Some(root) if root >= world_size => {
                return Err(format!("root {root} is no rank of a world of {world_size}"));
            }
            None if collective.has_root() => return Err("no root is given".to_owned()),
            _ => {}
        }
        let is_root = root == Some(rank);
        let other = |side: Option<Buffer>| {
            let dtype = side.map_or(DType::U8, |buffer| buffer.dtype);
            Buffer::empty(dtype)
        };
        let input = match collective {
            Collective::Barrier | Collective::Agreement => other(None),
            Collective::Broadcast | Collective::Scatter | Collective::ScatterV if !is_root => {
                other(self.output)
            }
            _ => self.input.ok_or("no input is given")?,
        };
        let output = match collective {
            Collective::Barrier | Collective::Agreement => other(None),
            Collective::Reduce | Collective::Gather | Collective::GatherV if !is_root => {
                other(self.input)
            }
            _ => self.output.ok_or("no output is given")?,
        };
        let place = Place { rank: rank as usize, world_size: world_size as usize, is_root };
        let Layout { partition, received, digest, counts } =
            Layout::new(self, (&input, &output), place)?;
        if (input.count, output.count) != counts {
            let (input, output) = (input.count, output.count);
            return Err(format!("the input has {input} elements, the output {output}"));
        }
        if input.dtype != output.dtype {
            return Err(format!("the input is of {}, the output of {}", input.dtype, output.dtype));
        }
        Ok(Call {
            collective,
            reducer: None,
            root,
            input,
            output,
            partition,
            received,
            fused: digest,
            compressed: false,
            agreed: 0,
            rank,
            lent: PhantomData,
        })
    }
}

#[cold]
pub(crate) fn invalid(collective: Collective, what: String) -> CollectiveError {
    CollectiveError::InvalidArgument { collective: collective.name(), what }
}

impl<'a> Call<'a> {
    /// Says what carries out the reduction.
    #[inline]
    pub(crate) fn reduce_by(&mut self, reducer: &'a Reducer) {
        self.reducer = Some(reducer);
    }

    /// The same call as one of a fused operation: with the digest of its tensors' lengths, and how
    /// the vector is cut if it is several tensors.
    pub(crate) fn of_fused(self, fused: u32, partition: Option<Partition>) -> Self {
        let partition = partition.unwrap_or(self.partition);
        Self { fused, partition, ..self }
    }

    /// The same call for elements that were compressed.
    pub(crate) fn of_compressed(self) -> Self {
        Self { compressed: true, ..self }
    }

    pub(crate) fn agreeing_on(self, agreed: u64) -> Self {
        Self { agreed, ..self }
    }

    fn dtype(&self) -> DType {
        self.input.dtype
    }

    fn own_chunk(&self) -> Range<usize> {
        self.partition.range(self.rank as usize)
    }

    pub(crate) fn element_bytes(&self) -> usize {
        self.dtype().size()
    }

    /// Elements of the whole vector as far as all ranks know it: 0 where each knows its own part.
    fn agreed_count(&self) -> usize {
        if self.collective.shares_counts() { self.partition.count() } else { 0 }
    }

    /// Bytes of the whole vector as far as all ranks know it.
    pub(crate) fn agreed_bytes(&self) -> usize {
        self.agreed_count() * self.element_bytes()
    }

    /// How the output is cut.
    pub(crate) fn received(&self) -> &Partition {
        self.received.as_ref().unwrap_or(&self.partition)
    }

    /// What all ranks must agree on.
    pub(crate) fn kind(&self, algorithm: Algorithm) -> OperationKind {
        let Self { collective, root, fused, .. } = *self;
        let (op, variant) = self.reducer.map_or((None, 0), |reducer| (reducer.op, reducer.variant));
        let (dtype, count) = match collective {
            Collective::Barrier | Collective::Agreement => (None, self.agreed),
            _ => (Some(self.dtype()), self.agreed_count() as u64),
        };
        let algorithm = algorithm as u8;
        let compressed = self.compressed;
        OperationKind { collective, dtype, compressed, op, variant, root, fused, count, algorithm }
    }

    /// How the elements are reduced, if they are.
    pub(crate) fn kernel(&self) -> Option<&'a Kernel> {
        self.reducer.map(|reducer| &reducer.kernel)
    }

    /// The call as the engine carries it out.
    pub(crate) fn operands(&self) -> Operands {
        let Self { input, output, .. } = *self;
        let output_start = match self.collective {
            Collective::ReduceScatter | Collective::ReduceScatterV => self.own_chunk().start,
            _ => 0,
        };
        Operands { input, output, output_start }
    }

    /// The call as the members of one node carry it out.
    pub(crate) fn node_request(&self, kind: &OperationKind, manner: Manner) -> NodeRequest<'_> {
        let root = self.root.unwrap_or(0);
        NodeRequest {
            kind: match self.collective {
                Collective::ReduceScatter | Collective::ReduceScatterV => NodeKind::ReduceScatter,
                Collective::AllGather | Collective::AllGatherV => NodeKind::AllGather,
                Collective::AllToAll => NodeKind::AllToAll,
                Collective::Gather => NodeKind::Gather { root },
                Collective::Scatter => NodeKind::Scatter { root },
                Collective::Broadcast => NodeKind::Broadcast { root },
                Collective::Reduce => NodeKind::Reduce { root },
                Collective::Barrier => NodeKind::Barrier,
                _ => NodeKind::AllReduce,
            },
            manner,
            dtype: self.dtype(),
            kernel: self.kernel(),
            count: self.partition.count(),
            cut: self.partition.is_explicit().then_some(&self.partition),
            signature: kind.signature(),
            input: self.input.host_address().cast_const(),
            output: self.output.host_address(),
        }
    }

    /// Adds to what a rank says of a difference what did not fit into the other's message.
    pub(crate) fn explain(&self, mut error: CollectiveError) -> CollectiveError {
        if let CollectiveError::Mismatch { theirs, .. } = &mut error
            && let Some(details) = self.reducer.and_then(Reducer::details)
        {
            theirs.push_str("; here ");
            theirs.push_str(&details);
        }
        error
    }

    /// Carries out the call in a world of one rank.
    pub(crate) fn complete_alone(&self) {
        let Some(kernel) = self.kernel().filter(|kernel| !kernel.keeps_lone_operands()) else {
            return Self::copy(self.input, self.output);
        };
        let (from, to) = (self.input.host_address().cast_const(), self.output.host_address());
        // SAFETY: alone, a rank that reduces has an output as long as its input; both are lent, and
        // the same or apart.
        unsafe { kernel.fold_and_finish(to, &[from], self.input.count, 1) };
    }

    /// A stage of this call, as rank `rank` of those who take part in it.
    pub(crate) fn stage(&self, stage: Stage, rank: usize) -> Self {
        let Stage { collective, root, input, output, partition } = stage;
        let rank = u32::try_from(rank).expect("ranks are counted in u32");
        Self { collective, root, input, output, partition, received: None, rank, ..*self }
    }

    /// What this rank contributes.
    pub(crate) fn input(&self) -> Buffer {
        self.input
    }

    /// Where this rank's result goes.
    pub(crate) fn output(&self) -> Buffer {
        self.output
    }

    /// Puts what of this rank's input belongs in its own output there, unless it lies there already:
    /// what no message brings.
    pub(crate) fn place_own(&self) {
        let is_root = self.root == Some(self.rank);
        let (from, to) = match self.collective {
            Collective::AllGather | Collective::AllGatherV => {
                (self.input, self.output.part(self.own_chunk()))
            }
            Collective::Gather | Collective::GatherV if is_root => {
                (self.input, self.output.part(self.own_chunk()))
            }
            Collective::Scatter | Collective::ScatterV if is_root => {
                (self.input.part(self.own_chunk()), self.output)
            }
            Collective::AllToAll | Collective::AllToAllV => {
                let to = self.received().range(self.rank as usize);
                (self.input.part(self.own_chunk()), self.output.part(to))
            }
            Collective::Broadcast if is_root => (self.input, self.output),
            _ => return,
        };
        Self::copy(from, to);
    }

    /// Copies elements from one lent buffer to another as long, unless they are the same.
    pub(crate) fn copy(from: Buffer, to: Buffer) {
        let (source, target) = (from.host_address().cast_const(), to.host_address());
        if !std::ptr::eq(source, target) {
            // SAFETY: both are parts of buffers that are lent, apart if not the same, and as long as
            // each other, as was checked when the call was.
            unsafe { copy_bytes(target, source, from.bytes()) };
        }
    }
}
