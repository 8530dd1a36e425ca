//! Operations that have lasted for so long that somebody should know, long before their deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::diagnosis;
use super::state::Coordinator;
use crate::message::{OperationReport, message_place};

/// Communicators of which it is remembered what was told.
const PLACES_MAX: usize = 1024;

/// Numbers of context and communicator, and for a message between two ranks, one of them.
type Place = (u32, u32, Option<u32>);

/// What has been told, and what is to be told.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// The number of the operation that was told of last.
    told: BTreeMap<Place, u64>,
    fresh: Vec<String>,
}

impl Stalls {
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// Whether an operation has not been told of before.
    fn is_new(&mut self, place: Place, op_seq: u64) -> bool {
        if self.told.len() >= PLACES_MAX && !self.told.contains_key(&place) {
            self.told.pop_first();
        }
        self.told.insert(place, op_seq) != Some(op_seq)
    }
}

impl Coordinator {
    /// A rank has just said that it waits in an operation.
    pub(super) fn look_for_stall(&mut self, rank: u32, report: &OperationReport, now: Instant) {
        let Some(after) = self.config.stall_report else { return };
        if Duration::from_millis(report.since_ms) < after || self.aborted.is_some() {
            return;
        }
        let one_of_two = message_place(report.op_seq).is_some().then_some(rank);
        let place = (report.context, report.communicator, one_of_two);
        if diagnosis::stall(&self.config, &self.members, rank, report, now).is_slow {
            return;
        }
        if self.stalls.is_new(place, report.op_seq) {
            let text = diagnosis::warning(&self.config, &self.members, rank, report, now);
            self.stalls.fresh.push(text);
        }
    }
}
