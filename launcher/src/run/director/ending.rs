//! What the job failed of, and what became of it.

use std::time::{Duration, Instant};

use super::super::outcome::{Outcome, RankFailure, RankOutcome, Survivor, Unreached, Verdict};
use super::{Action, Director, Phase};
use crate::process::wait::Ending;
use crate::protocol::messages::LeftRunning;
use crate::run::events::JobEvent;

/// Lines of standard error in the report of a failure.
const LAST_LINES: usize = 20;

/// Where one host cannot be reached, others often cannot either: so long they are waited for, to be
/// told of in one go.
pub(super) const UNREACHED_TIME: Duration = Duration::from_millis(500);

impl Director {
    /// The agent of a node is gone; nothing more will come from it. `words` are what was said instead,
    /// if it never came up. `pid` is its process where that is one of ours; elsewhere ssh is, and the
    /// ending is ssh's.
    pub(in crate::run) fn agent_lost(
        &mut self,
        node: usize,
        pid: Option<i32>,
        ending: Option<Ending>,
        reason: Option<String>,
        words: Vec<String>,
        now: Instant,
    ) {
        let Some(record) = self.nodes.get(node).filter(|record| !record.finished) else { return };
        let (host, is_up) = (record.host.clone(), record.is_up());
        let (by_ssh, pid) = (pid.is_none(), pid.or(record.agent).unwrap_or(0));
        self.finished(node);
        if !is_up {
            self.not_reached(node, Unreached { host, ending, words, reason }, now);
            return;
        }
        for rank in (0..).zip(&self.ranks).filter(|(_, rank)| rank.node == node).map(|(n, _)| n) {
            let reason = format!("was lost with the agent on {host}");
            self.actions.push(Action::RankLost { rank, reason });
        }
        self.stop_because(Verdict::AgentLost { host, pid, by_ssh, ending, reason }, now);
    }

    fn not_reached(&mut self, node: usize, unreached: Unreached, now: Instant) {
        if matches!(self.phase, Phase::Running | Phase::Settling { .. }) {
            self.unreached.insert(node, unreached);
        }
        if self.phase == Phase::Running {
            self.phase = Phase::Settling { until: now + UNREACHED_TIME };
        }
    }

    pub(super) fn conclude_failure(&mut self, now: Instant) {
        // Where time has run out, the verdict was known before the ranks were looked at.
        let known = self.verdict.take();
        if let Some(verdict) = known.or_else(|| self.failure()) {
            self.stop_because(verdict, now);
        }
    }

    /// What the job failed of, if it did.
    fn failure(&mut self) -> Option<Verdict> {
        if !self.unreached.is_empty() {
            let unreached = std::mem::take(&mut self.unreached);
            return Some(Verdict::Unreached(unreached.into_values().collect()));
        }
        self.first_failure().map(Verdict::RankFailed)
    }

    /// The rank that the coordinator blames, if it has failed itself, else the one that ended first.
    fn first_failure(&self) -> Option<RankFailure> {
        let culprit = self.aborted.as_ref().and_then(|(culprit, _)| *culprit);
        let blamed = culprit.filter(|culprit| self.failures.contains(culprit));
        let rank = blamed.or_else(|| self.failures.first().copied())?;
        let record = self.ranks.get(usize::try_from(rank).ok()?)?;
        // What the coordinator told the others is no cause for a rank that did not hear it.
        let told =
            self.aborted.as_ref().filter(|(culprit, _)| *culprit != Some(rank) && record.connected);
        Some(RankFailure {
            exit: record.exit.clone()?,
            host: self.nodes.get(record.node)?.host.clone(),
            last_lines: Vec::new(),
            cause: told.map(|(_, reason)| reason.clone()),
        })
    }

    /// SIGKILL has not ended a process. Whoever is told of twice, by its agent and by whoever inherited it,
    /// is one.
    pub(in crate::run) fn survived(&mut self, left: LeftRunning, host: String) {
        let LeftRunning { rank, process, state } = left;
        if self.survivors.iter().any(|known| known.process == process) {
            return;
        }
        let (pid, name) = (process.pid, process.name.clone());
        self.events.push(JobEvent::Survived { host: host.clone(), rank, pid, name });
        self.survivors.push(Survivor { host, rank, process, state });
    }

    /// The end.
    pub(in crate::run) fn finish(mut self) -> Outcome {
        let mut verdict = match self.verdict.take() {
            Some(verdict) => verdict,
            None => self.failure().unwrap_or(Verdict::Success),
        };
        let first = match &mut verdict {
            Verdict::RankFailed(failure) => {
                // Only now: its last words may come after its death.
                if let Some(record) = self.record(failure.exit.rank) {
                    failure.last_lines = record.errors.lines(LAST_LINES);
                }
                Some(failure.exit.rank)
            }
            _ => None,
        };
        let stacks = self.stacks();
        let ranks = self.ranks.iter().zip(0..).map(|(record, rank)| match record.exit.clone() {
            None if record.started => RankOutcome::Unknown,
            None => RankOutcome::NotStarted,
            Some(exit) if record.after_stop => RankOutcome::Stopped(exit),
            Some(exit) if exit.ending.is_success() || first == Some(rank) => {
                RankOutcome::Ended(exit)
            }
            Some(exit) => RankOutcome::FailedAfter(exit),
        });
        Outcome {
            ranks: ranks.collect(),
            verdict,
            left_behind: self.left_behind,
            survivors: self.survivors,
            stacks,
            grace: self.limits.grace,
        }
    }
}
