//! Streams that are closed here: they go on until the other end is closed too, so that MPI has no
//! request of theirs left.

use super::calls::{Calls, MpiError};
use super::stream::{InRing, OutRing};
use super::world::World;

/// A closed stream. What still comes is thrown away.
#[derive(Debug)]
pub(super) struct Closing {
    world: &'static World,
    /// `None` once they are leaked.
    rings: Option<(OutRing, InRing)>,
    /// Whether the message that means the end was sent.
    said: bool,
}

impl Closing {
    pub(super) fn new(world: &'static World, out: OutRing, into: InRing) -> Self {
        Self { world, rings: Some((out, into)), said: false }
    }

    /// Goes on. Returns whether everything is over; then the memory may be freed.
    pub(super) fn advance(&mut self, calls: &mut Calls) -> bool {
        match self.try_advance(calls) {
            Ok(over) => over,
            // MPI does not say what becomes of the other requests, so the memory must stay.
            Err(_) => {
                self.leak();
                true
            }
        }
    }

    fn try_advance(&mut self, calls: &mut Calls) -> Result<bool, MpiError> {
        let Some((out, into)) = &mut self.rings else { return Ok(true) };
        out.reap(self.world, calls)?;
        if !self.said && !out.is_full() {
            out.push(self.world, calls, [&[]; 3], 0)?;
            self.said = true;
            out.reap(self.world, calls)?;
        }
        into.discard(self.world, calls)?;
        if !self.said || !out.is_empty() || !into.ended {
            return Ok(false);
        }
        into.cancel(calls)?;
        Ok(true)
    }

    /// Gives up: the memory stays where it is for as long as the process lives.
    pub(super) fn leak(&mut self) {
        std::mem::forget(self.rings.take());
    }
}
