//! All-reduce of elements that are shorter on the wire than in memory.

use paceline_devices::{bf16, f16};

use super::{Communicator, State};
use crate::call::{Lent, invalid};
use crate::error::CollectiveError;
use crate::fusion::{self, FusionBuffer};
use crate::kernels::{Half, narrow, widen};
use crate::reduction::{CompressedReducer, Reduction};
use crate::signature::Collective;

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
        self.all_reduce_by(data, op.into(), compression)
    }

    fn all_reduce_by(
        &self,
        data: &mut [f32],
        op: Reduction<f32>,
        compression: Compression,
    ) -> Result<(), CollectiveError> {
        match compression {
            Compression::None => self.all_reduce(data, op),
            Compression::Fp16 => self.all_reduce_as::<f16>(data, &op),
            Compression::Bf16 => self.all_reduce_as::<bf16>(data, &op),
        }
    }

    fn all_reduce_as<H: Half>(
        &self,
        data: &mut [f32],
        reduction: &Reduction<f32>,
    ) -> Result<(), CollectiveError> {
        let collective = Collective::AllReduce;
        let reducer = CompressedReducer::new(reduction, H::DTYPE);
        let reducer = reducer.map_err(|what| invalid(collective, what))?;
        let mut state = self.enter(collective)?;
        let mut staging = std::mem::take(&mut state.fusion);
        let outcome = self.run_compressed::<H>(&mut state, &mut staging, data, &reducer);
        state.fusion = staging;
        outcome
    }

    fn run_compressed<H: Half>(
        &self,
        state: &mut State,
        staging: &mut FusionBuffer,
        data: &mut [f32],
        reducer: &CompressedReducer,
    ) -> Result<(), CollectiveError> {
        let collective = Collective::AllReduce;
        // The pieces carry the length of the whole, so that ranks with others notice at once.
        let digest = fusion::digest([data.len()].into_iter());
        let run = |state: &mut State, halves: &mut [H]| {
            let mut call = self.call(collective, None, Lent::in_place(halves))?;
            call.reduce_by(&reducer.halves);
            let call = call.of_fused(digest, None);
            self.execute(state, &call, self.choose(&call))
        };
        let bytes = data.len().min(STAGED_MAX) * size_of::<H>();
        if let Err(error) = staging.grow(bytes, collective.name()) {
            let mut nothing = self.call(collective, None, Lent::in_place::<H>(&mut []))?;
            nothing.reduce_by(&reducer.halves);
            let kind = nothing.of_fused(digest, None);
            let operation = self.name(state, kind.kind(self.choose(&kind).algorithm));
            return Err(self.fail(state, operation, error));
        }
        if data.is_empty() {
            return run(state, &mut []);
        }
        for piece in data.chunks_mut(STAGED_MAX) {
            let halves = staging.elements::<H>(piece.len());
            narrow(halves, piece, reducer.before);
            run(state, halves)?;
            widen(piece, halves, reducer.after);
        }
        Ok(())
    }
}
