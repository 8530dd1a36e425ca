//! Collectives in which every rank has something for the others.

use paceline_devices::Element;

use super::Communicator;
use crate::call::Lent;
use crate::error::CollectiveError;
use crate::plan::Choice;
use crate::signature::Collective;

impl Communicator {
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
        self.run(Collective::AllGather, None, Lent::apart(Some(input), Some(output)))
    }

    /// As [`all_gather`](Self::all_gather), in place and for any length: each rank's chunk lies where
    /// [`reduce_scatter_in_place`](Self::reduce_scatter_in_place) leaves it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_gather_in_place<T: Element>(&self, data: &mut [T]) -> Result<(), CollectiveError> {
        let own = self.own_chunk(data.len());
        let lent = Lent::in_place(data).with_input_part(own);
        self.run(Collective::AllGather, None, lent)
    }

    /// As [`all_gather`](Self::all_gather), with chunks of any lengths: rank r contributes `counts[r]`
    /// elements. All ranks pass the same counts.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] also where ranks pass different counts.
    pub fn all_gather_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
    ) -> Result<(), CollectiveError> {
        let lent = Lent::apart(Some(input), Some(output)).with_output_counts(Some(counts));
        self.run(Collective::AllGatherV, None, lent)
    }

    /// As [`all_gather_v`](Self::all_gather_v), in place: each rank's chunk lies in `data` already,
    /// behind those of the ranks before it.
    ///
    /// # Errors
    /// As for [`all_gather_v`](Self::all_gather_v).
    pub fn all_gather_v_in_place<T: Element>(
        &self,
        data: &mut [T],
        counts: &[usize],
    ) -> Result<(), CollectiveError> {
        let own = self.own_of(Collective::AllGatherV, "output", counts, data.len())?;
        let lent = Lent::in_place(data).with_input_part(own).with_output_counts(Some(counts));
        self.run(Collective::AllGatherV, None, lent)
    }

    /// Sends a block to every rank and gets one from every rank: block r of `input` goes to rank r,
    /// and block r of `output` is what comes from there. All blocks have the same length, so both
    /// vectors have as many elements and the world size divides that.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_to_all<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        self.run(Collective::AllToAll, None, Lent::apart(Some(input), Some(output)))
    }

    /// As [`all_to_all`](Self::all_to_all), with blocks of any lengths: `input_counts[r]` elements go
    /// to rank r, `output_counts[r]` come from there. What one rank sends must be what the other
    /// expects; where it is not, the one that expects it fails and names both.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_to_all_v<T: Element>(
        &self,
        input: &[T],
        input_counts: &[usize],
        output: &mut [T],
        output_counts: &[usize],
    ) -> Result<(), CollectiveError> {
        let lent = Lent::apart(Some(input), Some(output))
            .with_input_counts(Some(input_counts))
            .with_output_counts(Some(output_counts));
        self.run(Collective::AllToAllV, None, lent)
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
        let lent = Lent::apart(Some(input), Some(output));
        let call = self.call(Collective::Shift, None, lent)?;
        let planned = self.choose(&call);
        let slice_bytes = slice_bytes.unwrap_or(planned.slice_bytes);
        let mut state = self.enter(call.collective)?;
        self.execute(&mut state, &call, Choice { slice_bytes, ..planned })
    }
}
