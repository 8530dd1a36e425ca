//! All-reduce of elements that are shorter on the wire than in memory.

use paceline_devices::{DType, bf16, f16};

use super::{Communicator, State};
use crate::call::{Lent, invalid};
use crate::error::CollectiveError;
use crate::fusion::{self, Batch, FusionBuffer, FusionLimits};
use crate::kernels::{Half, narrow, widen};
use crate::reduction::{CompressedReducer, Reduction};
use crate::schedule::Partition;
use crate::signature::{Collective, OperationKind};

/// Halves that are staged at once: the staging memory stays small however long the vector is, and
/// what is long enough to be cut is long enough for the cuts not to matter.
const STAGED_MAX: usize = 4 << 20;

/// What elements of type `f32` are on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// What they are in memory.
    #[default]
    None,
    /// IEEE 754 binary16: 11 significant bits, up to 65504, beyond which is infinity.
    Fp16,
    /// The upper half of the `f32`: 8 significant bits, the same range.
    Bf16,
}

impl Compression {
    /// The type on the wire, if that is another than in memory.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            Self::None => None,
            Self::Fp16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
        }
    }

    /// What has the type of this code on the wire.
    pub(crate) fn of(wire: Option<u8>) -> Option<Self> {
        let all = [Self::None, Self::Fp16, Self::Bf16];
        all.into_iter().find(|compression| compression.dtype().map(|dtype| dtype as u8) == wire)
    }
}

impl Communicator {
    /// As [`all_reduce`](Self::all_reduce), with elements that are rounded to halves, reduced as
    /// halves and widened again: half the bytes cross the wire. All ranks must choose the same.
    ///
    /// The factors of `op` are applied to the `f32`, before they are rounded and after they are
    /// widened; so a factor before can keep sums within the range of the halves. The result has the
    /// same bits on all ranks and in every run.
    ///
    /// The halves are staged in memory of at most 8 MiB, which is kept for the next call: longer
    /// vectors are reduced piece by piece.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::InvalidArgument`] also for an operator of the user's
    /// where elements are compressed.
    pub fn all_reduce_compressed(
        &self,
        data: &mut [f32],
        op: impl Into<Reduction<f32>>,
        compression: Compression,
    ) -> Result<(), CollectiveError> {
        match compression {
            Compression::None => self.all_reduce(data, op),
            Compression::Fp16 => self.all_reduce_as::<f16>(&mut [data], false, &op.into()),
            Compression::Bf16 => self.all_reduce_as::<bf16>(&mut [data], false, &op.into()),
        }
    }

    /// As one [`all_reduce_compressed`](Self::all_reduce_compressed) for each tensor, with the same bits,
    /// at the price of fewer: short tensors are packed as in
    /// [`all_reduce_fused`](Self::all_reduce_fused).
    ///
    /// # Errors
    /// As for [`all_reduce_compressed`](Self::all_reduce_compressed).
    pub fn all_reduce_compressed_fused(
        &self,
        tensors: &mut [&mut [f32]],
        op: impl Into<Reduction<f32>>,
        compression: Compression,
    ) -> Result<(), CollectiveError> {
        match compression {
            Compression::None => self.all_reduce_fused(tensors, op),
            Compression::Fp16 => self.all_reduce_as::<f16>(tensors, true, &op.into()),
            Compression::Bf16 => self.all_reduce_as::<bf16>(tensors, true, &op.into()),
        }
    }

    fn all_reduce_as<H: Half>(
        &self,
        tensors: &mut [&mut [f32]],
        are_fused: bool,
        reduction: &Reduction<f32>,
    ) -> Result<(), CollectiveError> {
        let collective = Collective::AllReduce;
        let reducer = CompressedReducer::new(reduction, H::DTYPE);
        let reducer = reducer.map_err(|what| invalid(collective, what))?;
        let mut state = self.enter(collective)?;
        let mut staging = std::mem::take(&mut state.fusion);
        let lengths = tensors.iter().map(|tensor| tensor.len());
        let digest = if are_fused { fusion::digest(lengths) } else { 0 };
        let mut run =
            Compressed { communicator: self, state: &mut state, reducer: &reducer, digest };
        let outcome = run.all::<H>(&mut staging, tensors);
        state.fusion = staging;
        outcome
    }
}

/// One call, of one or more tensors.
struct Compressed<'a> {
    communicator: &'a Communicator,
    state: &'a mut State,
    reducer: &'a CompressedReducer,
    /// Of the lengths of fused tensors, or 0.
    digest: u32,
}

impl Compressed<'_> {
    fn all<H: Half>(
        &mut self,
        staging: &mut FusionBuffer,
        tensors: &mut [&mut [f32]],
    ) -> Result<(), CollectiveError> {
        if tensors.is_empty() {
            // The others may think otherwise, and are told.
            return self.run::<H>(&mut [], None, 0);
        }
        let bytes = |tensor: &&mut [f32]| tensor.len() * size_of::<H>();
        let mut rest = tensors;
        while !rest.is_empty() {
            let batch = FusionLimits::TUNED.batch(rest.iter().map(bytes));
            let (tensors, after) = rest.split_at_mut(batch.tensors);
            rest = after;
            if tensors.iter().any(|tensor| batch.packs(bytes(tensor))) {
                self.packed::<H>(staging, tensors, batch)?;
            }
            for tensor in tensors.iter_mut().filter(|tensor| !batch.packs(bytes(tensor))) {
                self.alone::<H>(staging, tensor)?;
            }
        }
        Ok(())
    }

    fn packed<H: Half>(
        &mut self,
        staging: &mut FusionBuffer,
        tensors: &mut [&mut [f32]],
        batch: Batch,
    ) -> Result<(), CollectiveError> {
        let halves = |tensor: &&mut [f32]| tensor.len() * size_of::<H>();
        let packed = tensors.iter().filter(|tensor| batch.packs(halves(tensor)));
        let count = packed.map(|tensor| tensor.len()).sum();
        let plan = self.communicator.plan::<H>(Collective::AllReduce, count);
        let parts = self.communicator.facts.chunks(plan.algorithm);
        let CompressedReducer { before, after, .. } = *self.reducer;
        let shorten = |halves: &mut [H], data: &[f32]| narrow(halves, data, before);
        match staging.gather(tensors, batch, parts, shorten) {
            Ok((halves, partition)) => {
                let count = halves.len();
                self.run(halves, Some(partition), count)?;
            }
            Err(error) => return Err(self.out_of_memory::<H>(error)),
        }
        let lengthen = |data: &mut [f32], halves: &[H]| widen(data, halves, after);
        staging.scatter(tensors, batch, parts, lengthen);
        Ok(())
    }

    /// Piece by piece, if it is long.
    fn alone<H: Half>(
        &mut self,
        staging: &mut FusionBuffer,
        data: &mut [f32],
    ) -> Result<(), CollectiveError> {
        let bytes = data.len().min(STAGED_MAX) * size_of::<H>();
        if let Err(error) = staging.grow(bytes, Collective::AllReduce.name()) {
            return Err(self.out_of_memory::<H>(error));
        }
        let whole = data.len();
        if whole == 0 {
            return self.run::<H>(&mut [], None, 0);
        }
        for piece in data.chunks_mut(STAGED_MAX) {
            let halves = staging.elements::<H>(piece.len());
            narrow(halves, piece, self.reducer.before);
            self.run(halves, None, whole)?;
            widen(piece, halves, self.reducer.after);
        }
        Ok(())
    }

    /// Reduces halves that are a piece of `whole` elements: it carries the length of the whole, so that
    /// ranks with others notice at once.
    fn run<H: Half>(
        &mut self,
        halves: &mut [H],
        partition: Option<Partition>,
        whole: usize,
    ) -> Result<(), CollectiveError> {
        let Self { communicator, reducer, digest, .. } = *self;
        let mut call = communicator.call(Collective::AllReduce, None, Lent::in_place(halves))?;
        call.reduce_by(&reducer.halves);
        let call = call.of_fused(digest, partition).of_compressed();
        let choice = communicator.choose(&call);
        let kind = OperationKind { count: whole as u64, ..call.kind(choice.algorithm) };
        communicator.execute_as(self.state, kind, &call, choice)
    }

    fn out_of_memory<H: Half>(&mut self, error: CollectiveError) -> CollectiveError {
        let kind = OperationKind {
            dtype: Some(H::DTYPE),
            compressed: true,
            op: self.reducer.halves.op,
            variant: self.reducer.halves.variant,
            fused: self.digest,
            ..OperationKind::bare(Collective::AllReduce)
        };
        let operation = self.communicator.name(self.state, kind);
        self.communicator.fail(self.state, operation, error)
    }
}
