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
}
