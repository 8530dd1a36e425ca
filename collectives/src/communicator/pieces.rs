//! Reductions whose input is staged, piece by piece: the staging memory stays small however long the
//! vector is.

use std::time::Instant;

use super::{Communicator, State};
use crate::call::Call;
use crate::error::CollectiveError;
use crate::fusion::FusionBuffer;
use crate::plan::Choice;
use crate::signature::OperationKind;

/// Bytes that are staged at once. What is long enough to be cut is long enough for the cuts not to
/// matter.
pub(super) const STAGED_BYTES_MAX: usize = 8 << 20;

impl Communicator {
    /// One operation for each piece, all of them called what the whole is called, so that a difference
    /// shows in the first. The algorithm is that of the whole, too.
    #[cold]
    pub(super) fn execute_in_pieces(
        &self,
        state: &mut State,
        kind: OperationKind,
        call: &Call<'_>,
        choice: Choice,
    ) -> Result<(), CollectiveError> {
        let mut staging = std::mem::take(&mut state.fusion);
        let outcome = self.run_pieces(state, &mut staging, kind, call, choice);
        state.fusion = staging;
        outcome
    }

    fn run_pieces(
        &self,
        state: &mut State,
        staging: &mut FusionBuffer,
        kind: OperationKind,
        call: &Call<'_>,
        choice: Choice,
    ) -> Result<(), CollectiveError> {
        let longest = call.partition.longest();
        let element_bytes = call.element_bytes();
        let of_chunk = STAGED_BYTES_MAX / call.partition.parts() / element_bytes;
        let of_chunk = of_chunk.clamp(1, longest.max(1));
        let bytes = of_chunk * call.partition.parts() * element_bytes;
        if let Err(error) = staging.grow(bytes, call.collective.name()) {
            let operation = self.name(state, kind);
            return Err(self.fail(state, operation, error));
        }
        let reducer = call.reducer_of_prescaled();
        for start in (0..longest).step_by(of_chunk) {
            let range = start..(start + of_chunk).min(longest);
            let piece = call.piece(&range, &reducer, staging.words());
            let operation = self.name(state, kind);
            let started = self.context.timeline().map(|_| Instant::now());
            let outcome = self.carry_out(state, operation, &piece, choice);
            self.conclude(state, operation, call, (choice, started), outcome)?;
            call.place_piece(&piece, &range);
        }
        Ok(())
    }
}
