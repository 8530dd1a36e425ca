//! From the last rank's end, or the order to stop, to the end of everything.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{DRAIN_TIMEOUT, KILL_TIMEOUT, Phase, Supervisor};
use crate::agent::ranks::Rank;
use crate::environment;
use crate::process::descendants::{ProcessName, signal_entry};
use crate::process::table::ProcessEntry;
use crate::protocol::messages::{LeftBehind, LeftRunning, Report};

/// How often processes are looked for while some are being ended: a grandchild that another
/// process reaps does not wake us.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Supervisor {
    pub(super) fn advance(&mut self, now: Instant) {
        let ranks_ended = self.ranks.iter().all(|rank| rank.ended);
        match self.phase {
            Phase::Running if ranks_ended => {
                self.phase = Phase::Terminating { kill_at: now + self.grace };
                self.advance(now);
            }
            Phase::Terminating { kill_at } => {
                if ranks_ended && self.nobody_is_left() {
                    self.drain(now);
                } else if now >= kill_at {
                    self.begin_to_kill(now);
                }
            }
            Phase::Killing { look_at, give_up_at } if ranks_ended || now >= look_at => {
                let living = self.kill_all();
                if living.is_empty() || now >= give_up_at {
                    let survivor = |entry| LeftRunning::of(self.rank_behind(entry), entry);
                    self.survivors = living.iter().map(survivor).collect();
                    self.drain(now);
                } else {
                    self.phase = Phase::Killing { look_at: now + POLL_INTERVAL, give_up_at };
                }
            }
            Phase::Draining { give_up_at } => {
                if self.pumps.is_empty() || give_up_at.is_some_and(|at| now >= at) {
                    self.phase = Phase::Finished;
                }
            }
            Phase::Running | Phase::Killing { .. } | Phase::Finished => {}
        }
    }

    /// Kills the ranks. What they have started is looked for when they are dead, or have had a moment to
    /// die: usually nothing is left then, and to look means to read the table of all processes, which
    /// takes milliseconds, and on a host with many agents each of them would.
    pub(super) fn begin_to_kill(&mut self, now: Instant) {
        let (look_at, give_up_at) = (now + POLL_INTERVAL, now + KILL_TIMEOUT);
        self.phase = Phase::Killing { look_at, give_up_at };
        self.signal_ranks(Signal::KILL);
    }

    /// Whether the ranks' own children are gone too; asks those that are not to end, once.
    fn nobody_is_left(&mut self) -> bool {
        let living = self.family.living();
        if living.is_empty() {
            return true;
        }
        if self.left_behind.is_none() {
            let told = living.iter().map(|entry| LeftBehind {
                rank: environment::rank_of(entry),
                process: ProcessName::from(entry),
            });
            let told: Vec<LeftBehind> = told.collect();
            self.reporter.send(&Report::LeftBehind(told.clone()));
            self.left_behind = Some(told);
            for entry in &living {
                signal_entry(entry, Signal::TERM);
                signal_entry(entry, Signal::CONT);
            }
        }
        false
    }

    /// The rank that a process is, or had started, as far as that is known already.
    fn rank_behind(&self, entry: &ProcessEntry) -> Option<u32> {
        let is_rank = |rank: &&Rank| rank.pid == entry.pid && !rank.ended;
        let told = || {
            let left = self.left_behind.iter().flatten();
            left.into_iter().find(|left| left.process.pid == entry.pid)?.rank
        };
        self.ranks.iter().find(is_rank).map(|rank| rank.rank).or_else(told)
    }

    /// Kills everything that is left, and says what was.
    pub(super) fn kill_all(&self) -> Vec<ProcessEntry> {
        self.signal_ranks(Signal::KILL);
        let living = self.family.living();
        for entry in &living {
            signal_entry(entry, Signal::KILL);
        }
        living
    }

    fn drain(&mut self, now: Instant) {
        let give_up_at = self.stopped.then(|| now + DRAIN_TIMEOUT);
        self.phase = Phase::Draining { give_up_at };
        self.all_ended.send_replace(true);
        self.advance(now);
    }

    /// When something is to be done although nothing happens.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Running | Phase::Finished => None,
            Phase::Draining { give_up_at } => give_up_at,
            Phase::Terminating { kill_at } => {
                let ranks_ended = self.ranks.iter().all(|rank| rank.ended);
                Some(if ranks_ended { kill_at.min(now + POLL_INTERVAL) } else { kill_at })
            }
            Phase::Killing { look_at, .. } => Some(look_at),
        }
    }
}
