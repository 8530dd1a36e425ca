//! The ends of groups of ranks, which leave the epoch as it is.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::message::{Abort, OperationReport, ToRank};

/// Groups that have ended and are remembered, so that none ends twice: those with the highest
/// numbers. Also how many may be about to end.
const GROUPS_MAX: usize = 1024;

/// Numbers of context and communicator.
type Key = (u32, u32);

/// A group that is over, or about to be.
#[derive(Debug)]
pub(super) struct Ending {
    key: Key,
    members: Vec<u32>,
    abort: Abort,
}

impl Ending {
    /// The end of the group that `report` is about; `None` if it is about all ranks.
    pub(super) fn of(report: &OperationReport, abort: Abort) -> Option<Self> {
        let members = report.members.clone()?;
        Some(Self { key: (report.context, report.communicator), members, abort })
    }

    /// Tells only some of the members.
    pub(super) fn keep_members(&mut self, keep: impl Fn(u32) -> bool) {
        self.members.retain(|rank| keep(*rank));
    }
}

/// The groups that have failed.
#[derive(Debug, Default)]
pub(super) struct GroupEndings {
    ended: BTreeSet<Key>,
    pending: Vec<(Instant, Ending)>,
}

impl GroupEndings {
    /// Ends a group now, unless it has ended before. Returns what its members are told.
    pub(super) fn end(&mut self, ending: Ending) -> Vec<(u32, ToRank)> {
        let Ending { key, members, abort } = ending;
        self.pending.retain(|(_, pending)| pending.key != key);
        if !self.ended.insert(key) {
            return Vec::new();
        }
        if self.ended.len() > GROUPS_MAX {
            self.ended.pop_first();
        }
        let (context, communicator) = key;
        let told =
            |rank| (rank, ToRank::GroupAbort { context, communicator, abort: abort.clone() });
        members.into_iter().map(told).collect()
    }

    /// Ends a group at `due`, unless it ends before.
    pub(super) fn end_at(&mut self, due: Instant, ending: Ending) {
        let is_known = |(_, pending): &(Instant, Ending)| pending.key == ending.key;
        if self.pending.len() < GROUPS_MAX && !self.pending.iter().any(is_known) {
            self.pending.push((due, ending));
        }
    }

    /// Ends what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<(u32, ToRank)> {
        let mut told = Vec::new();
        while let Some(at) = self.pending.iter().position(|(due, _)| *due <= now) {
            let (_, ending) = self.pending.swap_remove(at);
            told.extend(self.end(ending));
        }
        told
    }

    /// When [`GroupEndings::tick`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|(due, _)| *due).min()
    }
}
