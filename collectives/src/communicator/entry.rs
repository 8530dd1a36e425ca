//! How an operation begins and, if it must, how it ends its communicator.

use std::sync::MutexGuard;
use std::time::Instant;

use super::{Communicator, State};
use crate::error::{CollectiveError, OperationName};
use crate::members::Label;
use crate::plan::Algorithm;
use crate::signature::{Collective, OperationKind};
use crate::timeline::{Track, What};
use crate::waiting::report_failure;

impl Communicator {
    /// Numbers an operation that is entered.
    pub(super) fn name(&self, state: &mut State, kind: OperationKind) -> OperationName {
        let op_seq = state.op_seq;
        state.op_seq += 1;
        if let Some(counter) = &self.counter {
            counter.enter(op_seq);
        }
        self.meter.enter(&kind, op_seq);
        OperationName { kind, communicator: self.id, op_seq }
    }

    /// Records an operation that is over, if that is wanted.
    #[inline]
    pub(super) fn trace(
        &self,
        started: Option<Instant>,
        operation: OperationName,
        is_complete: bool,
    ) {
        if let (Some(started), Some(timeline)) = (started, self.context.timeline()) {
            let what = What::Operation {
                label: operation.label(),
                bytes: operation.kind.bytes(),
                algorithm: Algorithm::from_code(operation.kind.algorithm)
                    .map_or("", Algorithm::name),
                failed: !is_complete,
            };
            timeline.record(Track::Communicator(self.id), started, what);
        }
    }

    /// Ends the communicator after an operation has failed on this rank, at whatever point: here it
    /// takes no further operations, and the other ranks, who may be waiting in this one, are told.
    pub(super) fn fail(
        &self,
        state: &mut State,
        operation: OperationName,
        error: CollectiveError,
    ) -> CollectiveError {
        self.meter.leave(false, false);
        if error.is_fatal() {
            state.poisoned = Some(error.to_string());
            // First the cause, then the end of what they share: who sees this asks for that.
            report_failure(&self.context, &self.members, operation, &error);
            state.shared.abort();
        }
        error
    }

    /// Says what the next operations are about, for reports.
    pub(crate) fn set_label(&self, label: Option<Label>) {
        self.members.set_label(label);
    }

    /// Ends the communicator because this rank cannot do what the others are about to.
    pub(crate) fn give_up(&self, error: CollectiveError) -> CollectiveError {
        let collective = Collective::Barrier;
        let mut state = match self.enter(collective) {
            Ok(state) => state,
            Err(failed_before) => return failed_before,
        };
        let operation = self.name(&mut state, OperationKind::bare(collective));
        self.fail(&mut state, operation, error)
    }

    pub(super) fn enter(
        &self,
        collective: Collective,
    ) -> Result<MutexGuard<'_, State>, CollectiveError> {
        self.enter_as(collective.name())
    }

    /// Waits for its turn on this communicator, to do what is called so.
    pub(super) fn enter_as(
        &self,
        called: &'static str,
    ) -> Result<MutexGuard<'_, State>, CollectiveError> {
        let state = self.state.lock().unwrap_or_else(|panicked| {
            let mut state = panicked.into_inner();
            state.poisoned.get_or_insert_with(|| "an operation panicked".to_owned());
            state
        });
        let job = &self.context.job;
        let first = match (&state.poisoned, job.later_epoch()) {
            (None, None) => return Ok(state),
            (Some(first), _) => first.clone(),
            (None, Some(later)) => {
                format!("epoch {} is over: the job is in epoch {later}", job.rank_info().epoch)
            }
        };
        Err(CollectiveError::Poisoned { collective: called, first })
    }
}
