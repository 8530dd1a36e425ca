//! Looking at the ranks before they are stopped because time has run out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Action, Director, Phase};
use crate::agent::STACKS_TIMEOUT;
use crate::run::outcome::{RankStacks, Verdict};

/// Beyond what debuggers may take: the way there and back, and everything else.
const OVERTIME: Duration = Duration::from_secs(3);

/// What ranks were doing.
#[derive(Debug, Default)]
pub(super) struct Examination {
    /// How long the ranks' end waits for it.
    until: Option<Instant>,
    /// Ranks that nothing is known of yet.
    missing: BTreeSet<u32>,
    seen: BTreeMap<u32, Vec<String>>,
}

impl Examination {
    /// Until when others have to wait.
    pub(super) fn holds_until(&self) -> Option<Instant> {
        self.until.filter(|_| !self.missing.is_empty())
    }

    /// Nobody will say any more what this rank was doing.
    pub(super) fn gone(&mut self, rank: u32) {
        self.missing.remove(&rank);
    }

    pub(super) fn learn(&mut self, rank: u32, lines: Vec<String>) {
        if self.missing.remove(&rank) {
            self.seen.insert(rank, lines);
        }
    }
}

impl Director {
    /// Time has run out for the job. The ranks are looked at first, if that is wanted.
    pub(super) fn time_is_up(&mut self, verdict: Verdict, now: Instant) {
        if self.examine(now) {
            self.verdict = Some(verdict);
            self.phase = Phase::Settling { until: now };
        } else {
            self.stop_because(verdict, now);
        }
    }

    /// Has every rank looked at that runs, once. Returns whether that takes a while.
    pub(in crate::run) fn examine(&mut self, now: Instant) -> bool {
        let examination = &mut self.examination;
        if !self.limits.examine || examination.until.is_some() || self.phase != Phase::Running {
            return false;
        }
        let running =
            (0..).zip(&self.ranks).filter(|(_, rank)| rank.started && rank.exit.is_none());
        examination.missing = running.map(|(number, _)| number).collect();
        examination.until = Some(now + STACKS_TIMEOUT + OVERTIME);
        let is_worth_it = !examination.missing.is_empty();
        if is_worth_it {
            self.actions.push(Action::Examine);
        }
        is_worth_it
    }

    /// What was seen, by rank.
    pub(super) fn stacks(&mut self) -> Vec<RankStacks> {
        let seen = std::mem::take(&mut self.examination.seen);
        let host = |rank: u32| {
            let record = usize::try_from(rank).ok().and_then(|index| self.ranks.get(index));
            record.map(|record| self.host_of(record.node)).unwrap_or_default()
        };
        seen.into_iter().map(|(rank, lines)| RankStacks { rank, host: host(rank), lines }).collect()
    }
}
