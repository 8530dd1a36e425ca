//! Calls with a factor before the reduction.

use std::ops::Range;
use std::ptr::NonNull;

use paceline_devices::{Buffer, Memory};

use super::Call;
use crate::kernels::Scaler;
use crate::reduction::Reducer;
use crate::schedule::Partition;
use crate::signature::Collective;

/// Memory that is borrowed for as long as the call that uses it.
fn memory_of(staging: &mut [u64]) -> Memory {
    Memory::Host(NonNull::from(staging).cast())
}

/// What is at the places `range` of a chunk, as far as it has so many.
fn within(chunk: Range<usize>, range: &Range<usize>) -> Range<usize> {
    let place = |at: usize| (chunk.start + at).min(chunk.end);
    place(range.start)..place(range.end)
}

impl Call<'_> {
    /// The bytes that [`Call::prescaled`] needs beside the call's own buffers.
    pub(crate) fn staging_bytes(&self) -> usize {
        let stages = self.prescale().is_some() && self.output.count < self.input.count;
        if stages { self.input.bytes() } else { 0 }
    }

    fn prescale(&self) -> Option<&Scaler> {
        self.reducer?.prescale.as_ref()
    }

    /// What reduces pieces.
    ///
    /// # Panics
    /// If the call does not reduce.
    pub(crate) fn reducer_of_prescaled(&self) -> Reducer {
        self.reducer.expect("who scales reduces").of_prescaled()
    }

    /// Whether all ranks have to scale and reduce the vector piece by piece, so that what is staged is
    /// no more than `bytes`. They all know.
    pub(crate) fn is_staged_in_pieces(&self, bytes: usize) -> bool {
        self.prescale().is_some()
            && self.collective != Collective::AllReduce
            && self.agreed_bytes() > bytes
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
            assert!(size_of_val(staging) >= self.input.bytes(), "there is room for the input");
            Buffer { memory: memory_of(staging), offset: 0, ..self.input }
        };
        Self::scale(&scaler, self.input, scaled);
        Some(Call {
            input: scaled,
            partition: self.partition.clone(),
            received: self.received.clone(),
            ..*self
        })
    }

    /// Copies with a factor, between buffers that a call lends or staging memory that is borrowed:
    /// equally long, the same or apart.
    fn scale(scaler: &Scaler, from: Buffer, to: Buffer) {
        assert!(from.count == to.count, "both are equally long");
        let (source, target) = (from.host_address().cast_const(), to.host_address());
        // SAFETY: the buffers are valid and nobody else accesses them, as every caller says; they are
        // of one length, and elements are aligned in them.
        unsafe { scaler.scale_into(target, source, from.count) };
    }

    /// The part of a reduction that is about `range` of each chunk, with the input multiplied by the
    /// factor before. It lies chunk by chunk in `staging`; there every element keeps its owner, hence
    /// its order of reduction. `reducer` is that of the call [without the factor](Reducer::of_prescaled).
    pub(crate) fn piece<'s>(
        &'s self,
        range: &Range<usize>,
        reducer: &'s Reducer,
        staging: &'s mut [u64],
    ) -> Call<'s> {
        let part = |chunk: usize| within(self.partition.range(chunk), range);
        let lengths: Vec<usize> =
            (0..self.partition.parts()).map(|chunk| part(chunk).len()).collect();
        let partition = Partition::explicit(&lengths);
        let count = partition.count();
        let bytes = count * self.element_bytes();
        assert!(size_of_val(staging) >= bytes, "there is room for the piece");
        let staged = Buffer { memory: memory_of(staging), offset: 0, count, ..self.input };
        if let Some(scaler) = self.prescale() {
            for chunk in 0..self.partition.parts() {
                let to = staged.part(partition.range(chunk));
                Self::scale(scaler, self.input.part(part(chunk)), to);
            }
        }
        let output = match self.collective {
            Collective::Reduce if self.output.count == 0 => self.output,
            Collective::Reduce => staged,
            _ => {
                let own = part(self.rank as usize);
                let start = self.own_chunk().start;
                self.output.part(own.start - start..own.end - start)
            }
        };
        let (input, reducer) = (staged, Some(reducer));
        Call { input, output, partition, received: None, reducer, ..*self }
    }

    /// Puts the results of a [piece](Call::piece) where they belong, if they do not lie there.
    pub(crate) fn place_piece(&self, piece: &Call<'_>, range: &Range<usize>) {
        if self.collective != Collective::Reduce || self.output.count == 0 {
            return;
        }
        for chunk in 0..self.partition.parts() {
            let to = self.output.part(within(self.partition.range(chunk), range));
            Self::copy(piece.output.part(piece.partition.range(chunk)), to);
        }
    }
}
