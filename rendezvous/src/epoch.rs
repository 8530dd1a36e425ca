//! What a rank has been told about the ends of its epochs.

use std::collections::BTreeMap;

use crate::message::{Abort, ToRank};

/// Failed groups that are remembered: who still uses one of many will also hear it from its peers.
const GROUPS_MAX: usize = 1024;

/// What a rank has been told about its epoch, and about groups in it.
#[derive(Debug)]
pub(crate) struct EpochNews {
    epoch: u32,
    abort: Option<Abort>,
    /// Groups that are over, by numbers of context and communicator: the latest.
    groups: BTreeMap<(u32, u32), Abort>,
    /// Why the epoch that was asked for last did not begin.
    refusal: Option<Abort>,
}

impl EpochNews {
    pub(crate) const fn new(epoch: u32) -> Self {
        Self { epoch, abort: None, groups: BTreeMap::new(), refusal: None }
    }

    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The coordinator has said something. Returns whether a new epoch has begun.
    pub(crate) fn hear(&mut self, message: &ToRank) -> bool {
        match message {
            ToRank::NewEpoch { epoch } => {
                *self = Self::new(*epoch);
                return true;
            }
            ToRank::NoEpoch { abort } => self.refusal = Some(abort.clone()),
            ToRank::Abort { abort } => self.end(abort.clone()),
            ToRank::GroupAbort { context, communicator, abort } => {
                if self.groups.len() >= GROUPS_MAX {
                    self.groups.pop_first();
                }
                self.groups.entry((*context, *communicator)).or_insert_with(|| abort.clone());
            }
            _ => {}
        }
        false
    }

    /// The epoch is over. The first word counts; there is at most one in an epoch anyway.
    pub(crate) fn end(&mut self, abort: Abort) {
        self.abort.get_or_insert(abort);
    }

    pub(crate) const fn abort(&self) -> Option<&Abort> {
        self.abort.as_ref()
    }

    /// Why the operations of a communicator of `epoch` are over, if they are.
    pub(crate) fn abort_of(&self, epoch: u32, context: u32, communicator: u32) -> Option<Abort> {
        if epoch != self.epoch {
            let reason = format!("epoch {epoch} is over: the job is in epoch {}", self.epoch);
            return Some(Abort { epoch, culprit: None, timed_out: false, reason });
        }
        self.abort.as_ref().or_else(|| self.groups.get(&(context, communicator))).cloned()
    }

    /// The next epoch is asked for.
    pub(crate) fn ask(&mut self) {
        self.refusal = None;
    }

    /// What came of asking for the epoch after `epoch`, once it is known.
    pub(crate) fn answer(&mut self, epoch: u32) -> Option<Result<u32, Abort>> {
        match self.refusal.take() {
            Some(abort) => Some(Err(abort)),
            None => (self.epoch != epoch).then_some(Ok(self.epoch)),
        }
    }
}
