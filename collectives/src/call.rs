//! What one collective call is made of.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use paceline_devices::{Buffer, DType, Element, Memory, ReduceOp};

use crate::engine::Operands;
use crate::error::CollectiveError;
use crate::kernels::{Kernel, Scaler};
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
/// | `Shift` | | | n | n | no |
/// | `Barrier` | | | | | |
///
/// What a collective, or a rank, has no use for is ignored.
#[derive(Clone, Copy, Debug)]
pub struct RawCall {
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
}

/// The buffers of a call, lent by slices for as long as `'a`: what makes a typed call safe.
pub(crate) struct Lent<'a> {
    input: Option<Buffer>,
    output: Option<Buffer>,
    slices: PhantomData<&'a mut [u8]>,
}

impl<'a> Lent<'a> {
    pub(crate) fn in_place<T: Element>(data: &'a mut [T]) -> Self {
        let buffer = Buffer::of_mut(data);
        Self { input: Some(buffer), output: Some(buffer), slices: PhantomData }
    }

    pub(crate) fn apart<T: Element>(input: Option<&'a [T]>, output: Option<&'a mut [T]>) -> Self {
        let (input, output) = (input.map(Buffer::of), output.map(Buffer::of_mut));
        Self { input, output, slices: PhantomData }
    }

    /// The call that they are lent for, by rank `rank` of `world_size`. One that reduces has yet to
    /// be told [how](Call::reduced_by).
    #[inline]
    pub(crate) fn call(
        self,
        collective: Collective,
        root: Option<u32>,
        (rank, world_size): (u32, u32),
    ) -> Result<Call<'a>, CollectiveError> {
        let Self { input, output, .. } = self;
        let (op, scale) = (None, Scale::default());
        let call = RawCall { collective, op, scale, root, input, output };
        // SAFETY: the buffers are those of slices that are borrowed for `'a`, the output mutably.
        let checked = unsafe { call.check_buffers(rank, world_size) };
        checked.map_err(|what| invalid(collective, what))
    }

    pub(crate) fn nothing() -> Self {
        Self { input: None, output: None, slices: PhantomData }
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
    reducer: Option<Reducer>,
    pub(crate) root: Option<u32>,
    /// Empty where the rank contributes nothing.
    input: Buffer,
    /// Empty where the rank gets nothing.
    output: Buffer,
    /// How the whole vector is cut.
    pub(crate) partition: Partition,
    /// The digest of the lengths of fused tensors, or 0.
    fused: u32,
    /// What is agreed on, for an agreement.
    agreed: u64,
    rank: u32,
    lent: PhantomData<&'a mut [u8]>,
}

impl RawCall {
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
        let call = checked.map_err(|what| invalid(self.collective, what))?;
        if !self.collective.reduces() {
            return Ok(call);
        }
        let reducer = match self.op {
            Some(op) => Reducer::new(op, self.scale, call.dtype()),
            None => Err("no operator is given".to_owned()),
        };
        call.reduced_by(reducer)
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
        let input = match collective {
            Collective::Barrier | Collective::Agreement => Buffer::empty(DType::U8),
            Collective::Broadcast if !is_root => {
                Buffer::empty(self.output.map_or(DType::U8, |output| output.dtype))
            }
            _ => self.input.ok_or("no input is given")?,
        };
        let output = match collective {
            Collective::Barrier | Collective::Agreement => Buffer::empty(DType::U8),
            Collective::Reduce if !is_root => Buffer::empty(input.dtype),
            _ => self.output.ok_or("no output is given")?,
        };
        let whole = match collective {
            Collective::AllGather | Collective::Broadcast => output,
            _ => input,
        };
        let world_size = world_size as usize;
        let partition = Partition::new(whole.count, world_size);
        let own = partition.range(rank as usize).len();
        let (wants_input, wants_output) = match collective {
            Collective::AllGather => (own, whole.count),
            Collective::ReduceScatter => (whole.count, own),
            Collective::Broadcast if !is_root => (0, whole.count),
            Collective::Reduce if !is_root => (whole.count, 0),
            _ => (whole.count, whole.count),
        };
        if (input.count, output.count) != (wants_input, wants_output) {
            let (input, output) = (input.count, output.count);
            return Err(format!("the input has {input} elements, the output {output}"));
        }
        if input.dtype != output.dtype {
            return Err(format!("the input is of {}, the output of {}", input.dtype, output.dtype));
        }
        let (reducer, fused, agreed, lent) = (None, 0, 0, PhantomData);
        Ok(Call { collective, reducer, root, input, output, partition, fused, agreed, rank, lent })
    }
}

#[cold]
pub(crate) fn invalid(collective: Collective, what: String) -> CollectiveError {
    CollectiveError::InvalidArgument { collective: collective.name(), what }
}

impl Call<'_> {
    /// The same call with what carries out its reduction, if there is such a thing.
    #[inline]
    pub(crate) fn reduced_by(
        self,
        reducer: Result<Reducer, String>,
    ) -> Result<Self, CollectiveError> {
        match reducer {
            Ok(reducer) => Ok(Self { reducer: Some(reducer), ..self }),
            Err(what) => Err(invalid(self.collective, what)),
        }
    }

    /// The same call as one of a fused operation: with the digest of its tensors' lengths, and how
    /// the vector is cut if it is several tensors.
    pub(crate) fn of_fused(self, fused: u32, partition: Option<Partition>) -> Self {
        let partition = partition.unwrap_or(self.partition);
        Self { fused, partition, ..self }
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

    /// Bytes of the whole vector.
    pub(crate) fn bytes(&self) -> usize {
        self.partition.count() * self.element_bytes()
    }

    /// What all ranks must agree on.
    pub(crate) fn kind(&self, algorithm: Algorithm) -> OperationKind {
        let Self { collective, root, fused, .. } = *self;
        let (op, variant) =
            self.reducer.as_ref().map_or((None, 0), |reducer| (reducer.op, reducer.variant));
        let (dtype, count) = match collective {
            Collective::Barrier | Collective::Agreement => (None, self.agreed),
            _ => (Some(self.dtype()), self.partition.count() as u64),
        };
        let algorithm = algorithm as u8;
        OperationKind { collective, dtype, op, variant, root, fused, count, algorithm }
    }

    /// How the elements are reduced, if they are.
    pub(crate) fn kernel(&self) -> Option<Kernel> {
        self.reducer.as_ref().map(|reducer| reducer.kernel.clone())
    }

    /// The call as the engine carries it out.
    pub(crate) fn operands(&self) -> Operands {
        let Self { input, output, .. } = *self;
        let output_start = match self.collective {
            Collective::ReduceScatter => self.own_chunk().start,
            _ => 0,
        };
        Operands { input, output, output_start }
    }

    /// The call as the members of one node carry it out.
    pub(crate) fn node_request(&self, kind: &OperationKind, manner: Manner) -> NodeRequest {
        let root = self.root.unwrap_or(0);
        NodeRequest {
            kind: match self.collective {
                Collective::ReduceScatter => NodeKind::ReduceScatter,
                Collective::AllGather => NodeKind::AllGather,
                Collective::Broadcast => NodeKind::Broadcast { root },
                Collective::Reduce => NodeKind::Reduce { root },
                Collective::Barrier => NodeKind::Barrier,
                _ => NodeKind::AllReduce,
            },
            manner,
            dtype: self.dtype(),
            kernel: self.kernel(),
            count: self.partition.count(),
            fused: self.partition.is_fused().then(|| self.partition.clone()),
            signature: kind.signature(),
            input: self.input.host_address().cast_const(),
            output: self.output.host_address(),
        }
    }

    /// The bytes that [`Call::prescaled`] needs beside the call's own buffers.
    pub(crate) fn staging_bytes(&self) -> usize {
        let stages = self.prescale().is_some() && self.output.count < self.input.count;
        if stages { self.input.bytes() } else { 0 }
    }

    fn prescale(&self) -> Option<&Scaler> {
        self.reducer.as_ref()?.prescale.as_ref()
    }

    /// The same call with this rank's input multiplied by the factor before the reduction, if there
    /// is one. The input itself is left alone unless the output replaces it: the products go to the
    /// output where it takes them all, else to `staging`, which has room for
    /// [`Call::staging_bytes`].
    pub(crate) fn prescaled<'s>(&'s self, staging: &'s mut [u64]) -> Option<Call<'s>> {
        let scaler = *self.prescale()?;
        let scaled = if self.output.count == self.input.count {
            self.output
        } else {
            let bytes = size_of_val(staging);
            assert!(bytes >= self.input.bytes(), "the staging memory has room for the input");
            let memory = Memory::Host(NonNull::from(staging).cast());
            Buffer { memory, offset: 0, ..self.input }
        };
        let (from, to) = (self.input.host_address().cast_const(), scaled.host_address());
        // SAFETY: input and output are lent, and the same or apart; the staging memory is as long as
        // the input, aligned for every type, and borrowed for as long as the new call.
        unsafe { scaler.scale_into(to, from, self.input.count) };
        Some(Call {
            input: scaled,
            reducer: self.reducer.clone(),
            partition: self.partition.clone(),
            ..*self
        })
    }

    /// Carries out the call in a world of one rank.
    pub(crate) fn complete_alone(&self) {
        let Some(kernel) = self.kernel().filter(|kernel| !kernel.keeps_lone_operands()) else {
            return self.place_input();
        };
        let (from, to) = (self.input.host_address().cast_const(), self.output.host_address());
        // SAFETY: alone, a rank that reduces has an output as long as its input; both are lent, and
        // the same or apart.
        unsafe { kernel.fold_and_finish(to, &[from], self.input.count, 1) };
    }

    /// Puts this rank's input where it belongs in the output, unless it lies there already.
    pub(crate) fn place_input(&self) {
        let to = match self.collective {
            Collective::AllGather => self.output.part(self.own_chunk()),
            _ => self.output,
        };
        let (from, to) = (self.input.host_address().cast_const(), to.host_address());
        if !std::ptr::eq(from, to) {
            // SAFETY: both buffers are lent, and the place has room for the input, as was checked.
            unsafe { std::ptr::copy(from, to, self.input.bytes()) };
        }
    }
}
