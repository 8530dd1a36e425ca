//! What a rank says to its coordinator and hears from it, wherever that is.

use std::time::Duration;

use super::Rendezvous;
use crate::control::ControlError;
use crate::coordinator::LocalLink;
use crate::heartbeat::OperationCounter;
use crate::message::{Abort, OperationReport};

impl Rendezvous {
    /// Gives a rank whose job lives in this process its place at the coordinator there.
    #[must_use]
    pub fn with_local(self, link: LocalLink) -> Self {
        Self { local: Some(link), ..self }
    }

    /// Whether there is a coordinator, which hears of failures and tells the other ranks.
    pub const fn is_coordinated(&self) -> bool {
        self.control.is_some() || self.local.is_some()
    }

    /// Tells the coordinator what this rank is doing in `epoch`; never blocks.
    pub fn report(&self, epoch: u32, report: &OperationReport) {
        if let Some(control) = &self.control {
            // If the coordinator is gone, the next look for an abort says so.
            let _ = control.report(epoch, report);
        } else if let Some(local) = &self.local {
            local.report(epoch, report);
        }
    }

    /// Counts the operations of a communicator of `epoch` for the others to know, where there are
    /// others.
    pub fn track(&self, epoch: u32, context: u32, communicator: u32) -> Option<OperationCounter> {
        match (&self.control, &self.local) {
            (Some(control), _) => Some(control.track(epoch, context, communicator)),
            (None, Some(local)) => Some(local.track(epoch, context, communicator)),
            (None, None) => None,
        }
    }

    /// Why operations of a communicator of `epoch` must end, if they must.
    pub fn poll_abort_of(&self, epoch: u32, context: u32, communicator: u32) -> Option<Abort> {
        match (&self.control, &self.local) {
            (Some(control), _) => control.poll_abort_of(epoch, context, communicator),
            (None, Some(local)) => local.poll_abort_of(epoch, context, communicator),
            (None, None) => None,
        }
    }

    /// Gives up `epoch` and waits for the other ranks to do so, at most for `timeout`. Returns the
    /// number of the epoch that has begun then.
    ///
    /// # Errors
    /// Those of [`ControlClient::next_epoch`](crate::ControlClient::next_epoch).
    pub fn next_epoch(&self, epoch: u32, timeout: Duration) -> Result<u32, ControlError> {
        if let Some(control) = &self.control {
            return control.next_epoch(epoch, timeout);
        }
        if let Some(local) = &self.local {
            return local
                .next_epoch(epoch, timeout)
                .map_err(|abort| ControlError::NoEpoch { abort });
        }
        match epoch.checked_add(1) {
            Some(next) if self.rank_info.world_size == 1 => Ok(next),
            _ => {
                let reason = "the ranks have no coordinator".to_owned();
                let abort = Abort { epoch, culprit: None, timed_out: false, reason };
                Err(ControlError::NoEpoch { abort })
            }
        }
    }
}
