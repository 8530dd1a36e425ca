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
