//! Collectives that copy from or to one rank.

use paceline_devices::Element;

use super::Communicator;
use crate::call::Lent;
use crate::error::CollectiveError;
use crate::signature::Collective;

impl Communicator {
    /// Copies the root's vector to all ranks.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: u32) -> Result<(), CollectiveError> {
        self.run(Collective::Broadcast, Some(root), Lent::in_place(data))
    }

    /// Copies the root's `input` to the `output` of all ranks, its own included. The other ranks
    /// pass `None`; what they pass else is ignored.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn broadcast_into<T: Element>(
        &self,
        input: Option<&[T]>,
        output: &mut [T],
        root: u32,
    ) -> Result<(), CollectiveError> {
        self.run(Collective::Broadcast, Some(root), Lent::apart(input, Some(output)))
    }

    /// Collects the ranks' blocks at the root, in the order of ranks. All blocks have the same length;
    /// the root's `output` has `world_size` times as many elements. The other ranks need none and
    /// pass `None`; what they pass else is left as it is.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn gather<T: Element>(
        &self,
        input: &[T],
        output: Option<&mut [T]>,
        root: u32,
    ) -> Result<(), CollectiveError> {
        if let Some(output) = output.as_ref().filter(|_| self.rank() == root) {
            self.chunked(Collective::Gather, "output", output.len(), "input", input.len())?;
        }
        self.run(Collective::Gather, Some(root), Lent::apart(Some(input), output))
    }

    /// As [`gather`](Self::gather), with blocks of any lengths. The root says how many elements come
    /// from each rank; the others need only know their own block. One of another length than the root
    /// expects is an error there that names both.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn gather_v<T: Element>(
        &self,
        input: &[T],
        output: Option<(&mut [T], &[usize])>,
        root: u32,
    ) -> Result<(), CollectiveError> {
        let (output, counts) = output.unzip();
        let lent = Lent::apart(Some(input), output).with_output_counts(counts);
        self.run(Collective::GatherV, Some(root), lent)
    }

    /// Gives every rank its block of the root's `input`: rank r gets block r. All blocks have the same
    /// length; `input` has `world_size` times as many elements as `output`. The other ranks have none
    /// and pass `None`; what they pass else is ignored.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn scatter<T: Element>(
        &self,
        input: Option<&[T]>,
        output: &mut [T],
        root: u32,
    ) -> Result<(), CollectiveError> {
        if let Some(input) = input.filter(|_| self.rank() == root) {
            self.chunked(Collective::Scatter, "input", input.len(), "output", output.len())?;
        }
        self.run(Collective::Scatter, Some(root), Lent::apart(input, Some(output)))
    }

    /// As [`scatter`](Self::scatter), with blocks of any lengths. The root says how many elements each
    /// rank gets; the others need only know their own block. Who expects another length than the root
    /// sends gets an error that names both.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn scatter_v<T: Element>(
        &self,
        input: Option<(&[T], &[usize])>,
        output: &mut [T],
        root: u32,
    ) -> Result<(), CollectiveError> {
        let (input, counts) = input.unzip();
        let lent = Lent::apart(input, Some(output)).with_input_counts(counts);
        self.run(Collective::ScatterV, Some(root), lent)
    }
}
