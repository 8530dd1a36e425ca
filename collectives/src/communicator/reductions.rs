//! Collectives that combine elements.

use std::ops::Range;

use paceline_devices::Element;
use paceline_transports::copy_slice;

use super::{Communicator, State};
use crate::call::{Lent, invalid};
use crate::error::CollectiveError;
use crate::fusion::{self, FusionBuffer, FusionLimits};
use crate::reduction::{Reducer, Reduction};
use crate::schedule::Partition;
use crate::signature::{Collective, OperationKind};

impl Communicator {
    /// Reduces the ranks' vectors element by element; every rank gets the result, in place.
    ///
    /// The result has the same bits on all ranks and in every run.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce<T: Element>(
        &self,
        data: &mut [T],
        op: impl Into<Reduction<T>>,
    ) -> Result<(), CollectiveError> {
        self.run_reduction(Collective::AllReduce, op, None, Lent::in_place(data))
    }

    /// As [`all_reduce`](Self::all_reduce), but leaves `input` as it is.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_into<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: impl Into<Reduction<T>>,
    ) -> Result<(), CollectiveError> {
        let lent = Lent::apart(Some(input), Some(output));
        self.run_reduction(Collective::AllReduce, op, None, lent)
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
        op: impl Into<Reduction<T>>,
    ) -> Result<(), CollectiveError> {
        let reducer = Reducer::typed(&op.into());
        let reducer = reducer.map_err(|what| invalid(Collective::AllReduce, what))?;
        let mut state = self.enter(Collective::AllReduce)?;
        let mut staging = std::mem::take(&mut state.fusion);
        let outcome = self.run_fused(&mut state, &mut staging, tensors, &reducer);
        state.fusion = staging;
        outcome
    }

    fn run_fused<T: Element>(
        &self,
        state: &mut State,
        staging: &mut FusionBuffer,
        tensors: &mut [&mut [T]],
        reducer: &Reducer,
    ) -> Result<(), CollectiveError> {
        let digest = fusion::digest(tensors.iter().map(|tensor| tensor.len()));
        let run = |state: &mut State, data: &mut [T], partition: Option<Partition>| {
            let mut call = self.call(Collective::AllReduce, None, Lent::in_place(data))?;
            call.reduce_by(reducer);
            let call = call.of_fused(digest, partition);
            self.execute(state, &call, self.choose(&call))
        };
        if tensors.is_empty() {
            // Nothing to reduce, but the others may think otherwise, and are told so.
            return run(state, &mut [], None);
        }
        let mut rest = tensors;
        while !rest.is_empty() {
            let batch = FusionLimits::TUNED.batch(rest.iter().map(|tensor| size_of_val(*tensor)));
            let (tensors, after) = rest.split_at_mut(batch.tensors);
            rest = after;
            let packed = tensors.iter().filter(|tensor| batch.packs(size_of_val(**tensor)));
            let packed_count = packed.map(|tensor| tensor.len()).sum();
            if tensors.iter().any(|tensor| batch.packs(size_of_val(*tensor))) {
                let algorithm = self.plan::<T>(Collective::AllReduce, packed_count).algorithm;
                let parts = self.facts.chunks(algorithm);
                let (staged, partition) =
                    staging.gather(tensors, batch, parts, copy_slice).map_err(|error| {
                        let kind = OperationKind {
                            dtype: Some(T::DTYPE),
                            op: reducer.op,
                            variant: reducer.variant,
                            fused: digest,
                            count: packed_count as u64,
                            algorithm: algorithm as u8,
                            ..OperationKind::bare(Collective::AllReduce)
                        };
                        let operation = self.name(state, kind);
                        self.fail(state, operation, error)
                    })?;
                run(state, staged, Some(partition))?;
                staging.scatter(tensors, batch, parts, copy_slice);
            }
            for tensor in tensors.iter_mut().filter(|tensor| !batch.packs(size_of_val(**tensor))) {
                run(state, tensor, None)?;
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
        op: impl Into<Reduction<T>>,
    ) -> Result<(), CollectiveError> {
        self.chunked(Collective::ReduceScatter, "input", input.len(), "output", output.len())?;
        let lent = Lent::apart(Some(input), Some(output));
        self.run_reduction(Collective::ReduceScatter, op, None, lent)
    }

    /// As [`reduce_scatter`](Self::reduce_scatter), in place and for any length: afterwards the
    /// returned range of `data`, which is [`own_chunk`](Self::own_chunk), holds this rank's chunk of
    /// the result. The rest is as it was.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce_scatter_in_place<T: Element>(
        &self,
        data: &mut [T],
        op: impl Into<Reduction<T>>,
    ) -> Result<Range<usize>, CollectiveError> {
        let own = self.own_chunk(data.len());
        let lent = Lent::in_place(data).with_output_part(own.clone());
        self.run_reduction(Collective::ReduceScatter, op, None, lent)?;
        Ok(own)
    }

    /// As [`reduce_scatter`](Self::reduce_scatter), with chunks of any lengths: rank r gets
    /// `counts[r]` elements. All ranks pass the same counts.
    ///
    /// The order of reduction is that of [`schedule`](crate::schedule), chunk by chunk: each rank's own
    /// elements come last in its chunk.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] also where ranks pass different counts.
    pub fn reduce_scatter_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
        op: impl Into<Reduction<T>>,
    ) -> Result<(), CollectiveError> {
        let lent = Lent::apart(Some(input), Some(output)).with_input_counts(Some(counts));
        self.run_reduction(Collective::ReduceScatterV, op, None, lent)
    }

    /// As [`reduce_scatter_v`](Self::reduce_scatter_v), in place: afterwards the returned range of
    /// `data` holds this rank's chunk of the result. The rest is as it was.
    ///
    /// # Errors
    /// As for [`reduce_scatter_v`](Self::reduce_scatter_v).
    pub fn reduce_scatter_v_in_place<T: Element>(
        &self,
        data: &mut [T],
        counts: &[usize],
        op: impl Into<Reduction<T>>,
    ) -> Result<Range<usize>, CollectiveError> {
        let own = self.own_of(Collective::ReduceScatterV, "input", counts, data.len())?;
        let lent = Lent::in_place(data).with_output_part(own.clone());
        let lent = lent.with_input_counts(Some(counts));
        self.run_reduction(Collective::ReduceScatterV, op, None, lent)?;
        Ok(own)
    }

    /// Reduces the ranks' vectors; the root gets the result, in place. On the other ranks `data` is
    /// as it was.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce<T: Element>(
        &self,
        data: &mut [T],
        op: impl Into<Reduction<T>>,
        root: u32,
    ) -> Result<(), CollectiveError> {
        self.run_reduction(Collective::Reduce, op, Some(root), Lent::in_place(data))
    }

    /// Reduces the ranks' `input`s into the root's `output`. The other ranks need none and pass
    /// `None`; what they pass else is left as it is. Some ranks may call
    /// [`reduce`](Self::reduce) in the same operation: the root, for example.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn reduce_into<T: Element>(
        &self,
        input: &[T],
        output: Option<&mut [T]>,
        op: impl Into<Reduction<T>>,
        root: u32,
    ) -> Result<(), CollectiveError> {
        self.run_reduction(Collective::Reduce, op, Some(root), Lent::apart(Some(input), output))
    }
}
