//! The launcher's decisions: who failed first, when everybody is stopped, when it is over.
//!
//! A pure state machine: events and the time go in, orders come out. [`super::conductor`] carries
//! them out.

mod action;
mod ending;
mod examination;
mod nodes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) use self::action::Action;
use self::examination::Examination;
use self::nodes::{NodeRecord, Turn};
use super::events::JobEvent;
use super::outcome::{LateHost, Survivor, Unreached, Verdict};
use crate::networks::NetworkChoice;
use crate::output::tail::Tail;
use crate::protocol::messages::{LeftBehind, RankExit, Report};

/// After the first failure is seen, others may still be on their way that happened before it (on
/// another host) or that name its cause. So long the verdict waits.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// Beyond the grace, an agent needs this long at most to kill, drain and report.
const AGENT_OVERTIME: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// A rank has failed; the verdict comes at this time.
    Settling {
        until: Instant,
    },
    /// Agents have been told to stop and are given up at this time.
    Stopping {
        abandon_at: Instant,
    },
    /// Agents have been told to kill.
    Killing {
        abandon_at: Instant,
    },
    Abandoned,
}

#[derive(Debug, Default)]
struct RankRecord {
    node: usize,
    started: bool,
    /// It is connected to the coordinator, which can therefore tell it things.
    connected: bool,
    exit: Option<RankExit>,
    /// It ended after we had ordered its end.
    after_stop: bool,
    errors: Tail,
}

/// Limits of time of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) grace: Duration,
    pub(super) timeout: Option<Duration>,
    pub(super) start_timeout: Duration,
    /// Whether ranks are looked at before they are stopped because time has run out.
    pub(super) examine: bool,
}

#[derive(Debug)]
pub(super) struct Director {
    limits: Limits,
    began: Instant,
    phase: Phase,
    verdict: Option<Verdict>,
    ranks: Vec<RankRecord>,
    nodes: Vec<NodeRecord>,
    /// Ranks that have not been started, and nodes that have not finished: counted, since both are
    /// asked for after every event, of which there are some for each rank.
    not_started: usize,
    not_finished: usize,
    /// Ranks that failed before any stop, in the order in which they did.
    failures: Vec<u32>,
    /// The rank that the coordinator holds responsible, and what it told the others.
    aborted: Option<(Option<u32>, String)>,
    /// Hosts on which no agent came up, before any stop, by their number.
    unreached: BTreeMap<usize, Unreached>,
    left_behind: Vec<LeftBehind>,
    survivors: Vec<Survivor>,
    examination: Examination,
    actions: Vec<Action>,
    /// What has happened since it was last asked for.
    events: Vec<JobEvent>,
}

impl Director {
    /// A job whose ranks `0..` run on the nodes named, so many on each.
    pub(super) fn new(nodes: &[(String, Vec<u32>)], limits: Limits, now: Instant) -> Self {
        let mut node_of: BTreeMap<u32, usize> = BTreeMap::new();
        for (node, (_, members)) in nodes.iter().enumerate() {
            node_of.extend(members.iter().map(|rank| (*rank, node)));
        }
        // In the order of ranks, which need not be that of nodes.
        let ranks = node_of.into_values().map(|node| RankRecord { node, ..RankRecord::default() });
        let ranks: Vec<RankRecord> = ranks.collect();
        let record = |(host, _): &(String, _)| NodeRecord::new(host.clone());
        Self {
            limits,
            began: now,
            phase: Phase::Running,
            verdict: None,
            not_started: ranks.len(),
            not_finished: nodes.len(),
            ranks,
            nodes: nodes.iter().map(record).collect(),
            failures: Vec::new(),
            aborted: None,
            unreached: BTreeMap::new(),
            left_behind: Vec::new(),
            survivors: Vec::new(),
            examination: Examination::default(),
            actions: Vec::new(),
            events: Vec::new(),
        }
    }

    /// What is to be done now; empties the list.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What has happened; empties the list.
    pub(super) fn take_events(&mut self) -> Vec<JobEvent> {
        std::mem::take(&mut self.events)
    }

    /// When [`Director::tick`] must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => {
                let start = (!self.all_started()).then(|| self.began + self.limits.start_timeout);
                let end = self.limits.timeout.map(|timeout| self.began + timeout);
                start.into_iter().chain(end).min()
            }
            Phase::Settling { until } => Some(self.settled_at(until)),
            Phase::Stopping { abandon_at } | Phase::Killing { abandon_at } => Some(abandon_at),
            Phase::Abandoned => None,
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Running => self.check_timeouts(now),
            Phase::Settling { until } if now >= self.settled_at(until) => {
                self.conclude_failure(now)
            }
            Phase::Stopping { abandon_at } | Phase::Killing { abandon_at } if now >= abandon_at => {
                self.abandon();
            }
            _ => {}
        }
    }

    /// When the verdict comes: not before the ranks have been looked at.
    fn settled_at(&self, until: Instant) -> Instant {
        self.examination.holds_until().map_or(until, |hold| until.max(hold))
    }

    fn check_timeouts(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        if let Some(limit) = self.limits.timeout.filter(|limit| since >= *limit) {
            self.time_is_up(Verdict::TimedOut { limit }, now);
        } else if since >= self.limits.start_timeout && !self.all_started() {
            let late = |rank: &RankRecord| (!rank.started).then_some(rank.node);
            let mut nodes: Vec<usize> = self.ranks.iter().filter_map(late).collect();
            nodes.dedup();
            let host = |node: usize| {
                let node = self.nodes.get(node)?;
                Some(LateHost { host: node.host.clone(), has_agent: node.is_up() })
            };
            let hosts: Vec<LateHost> = nodes.into_iter().filter_map(host).collect();
            // Those that have an agent wait for those that have none.
            let all_have = hosts.iter().all(|host| host.has_agent);
            let hosts = hosts.into_iter().filter(|host| all_have || !host.has_agent).collect();
            let limit = self.limits.start_timeout;
            self.time_is_up(Verdict::StartTimedOut { limit, hosts }, now);
        }
    }

    fn all_started(&self) -> bool {
        self.not_started == 0
    }

    /// It is known where the ranks of several hosts meet.
    pub(super) fn network_is_chosen(&mut self, choice: NetworkChoice) {
        self.events.push(JobEvent::NetworkChosen(choice));
    }

    /// An agent has something to say. `Output` is only looked at, for the failure report.
    pub(super) fn report(&mut self, node: usize, report: Report, now: Instant) {
        let turn = self.nodes.get_mut(node).and_then(NodeRecord::answered);
        self.tell_of(turn);
        match report {
            Report::Ready { pid, .. } => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.agent = Some(pid);
                    self.events.push(JobEvent::AgentUp { host: node.host.clone(), pid });
                }
            }
            Report::Started { rank, pid, cpus } => {
                if let Some(record) = self.record(rank) {
                    let is_first = !std::mem::replace(&mut record.started, true);
                    self.not_started -= usize::from(is_first);
                    let host = self.host_of(node);
                    self.events.push(JobEvent::RankStarted { rank, host, pid, cpus });
                }
            }
            Report::Exited(exit) => self.rank_ended(exit, now),
            Report::Stacks { rank, lines } => self.examination.learn(rank, lines),
            Report::Refused(refusal) => self.stop_because(Verdict::Refused(refusal), now),
            Report::Interrupted { signal } => {
                let host = self.host_of(node);
                self.stop_because(Verdict::AgentInterrupted { host, signal }, now);
            }
            Report::LeftBehind(processes) => {
                let host = self.host_of(node);
                let told = processes.iter().map(|left| JobEvent::left_behind(left, host.clone()));
                self.events.extend(told);
                self.left_behind.extend(processes);
            }
            Report::Finished { survivors } => {
                let host = self.host_of(node);
                survivors.into_iter().for_each(|left| self.survived(left, host.clone()));
                self.finished(node);
            }
            Report::Alive
            | Report::Facts(_)
            | Report::Examined { .. }
            | Report::Tunnel { .. }
            | Report::Output { .. }
            | Report::Closed { .. }
            | Report::InputTaken { .. } => {}
        }
    }

    /// Remembers the end of what a rank writes to standard error.
    pub(super) fn error_output(&mut self, rank: u32, bytes: &[u8]) {
        if let Some(record) = self.record(rank) {
            record.errors.push(bytes);
        }
    }

    fn rank_ended(&mut self, exit: RankExit, now: Instant) {
        let stopping = !matches!(self.phase, Phase::Running | Phase::Settling { .. });
        let Some(record) = self.record(exit.rank) else { return };
        record.exit = Some(exit.clone());
        record.after_stop = stopping;
        let node = record.node;
        self.examination.gone(exit.rank);
        self.events.push(JobEvent::rank_exited(&exit, self.host_of(node)));
        // Success is a loss too for those who still wait for it.
        let reason = exit.ending.to_string();
        self.actions.push(Action::RankLost { rank: exit.rank, reason });
        if exit.ending.is_success() {
            return;
        }
        if !stopping {
            self.failures.push(exit.rank);
        }
        if self.phase == Phase::Running {
            self.phase = Phase::Settling { until: now + SETTLE_TIME };
        }
    }

    /// A rank uses the library: it has joined the others at the coordinator.
    pub(super) fn rank_joined(&mut self, rank: u32) {
        if let Some(record) = self.record(rank) {
            record.connected = true;
        }
    }

    /// A rank has said goodbye to the coordinator.
    pub(super) fn rank_left(&mut self, rank: u32) {
        if let Some(record) = self.record(rank) {
            record.connected = false;
        }
    }

    /// The coordinator has told the ranks to give up, why, and because of which rank.
    pub(super) fn aborted(&mut self, culprit: Option<u32>, reason: String) {
        self.aborted.get_or_insert((culprit, reason));
    }

    /// The ranks go on in a new epoch: what ended the old one explains nothing any more.
    pub(super) fn renewed(&mut self) {
        self.aborted = None;
        if self.phase == Phase::Running {
            self.examination = Examination::default();
        }
    }

    /// The coordinator has something to say of an operation in which ranks wait for long.
    pub(super) fn stalled(&mut self, text: String) {
        self.events.push(JobEvent::Stalled { text: text.clone() });
        self.actions.push(Action::Say(text));
    }

    /// A signal that asks us to stop.
    pub(super) fn interrupt(&mut self, signal: i32, now: Instant) {
        match self.phase {
            Phase::Running | Phase::Settling { .. } => {
                self.stop_because(Verdict::Interrupted { signal }, now);
            }
            // The user is impatient, once, twice.
            Phase::Stopping { abandon_at } => {
                let abandon_at = abandon_at.min(now + AGENT_OVERTIME);
                self.phase = Phase::Killing { abandon_at };
                self.actions.push(Action::Kill);
            }
            Phase::Killing { .. } => self.abandon(),
            Phase::Abandoned => {}
        }
    }

    /// The job cannot go on, for a reason that is not a rank's.
    pub(super) fn stop_because(&mut self, verdict: Verdict, now: Instant) {
        if matches!(self.phase, Phase::Running | Phase::Settling { .. }) {
            let reason = self.verdict.get_or_insert(verdict).reason();
            self.events.push(JobEvent::Stopping { reason });
            self.phase = Phase::Stopping { abandon_at: now + self.limits.grace + AGENT_OVERTIME };
            self.actions.push(Action::Stop);
            let not_up = (0..).zip(&self.nodes).filter(|(_, node)| !node.finished && !node.is_up());
            self.actions.extend(not_up.map(|(node, _)| Action::KillAgent { node }));
        }
    }

    /// It is time to ask the agents whether they are there: every
    /// [`PING_INTERVAL`](crate::protocol::PING_INTERVAL).
    pub(super) fn ping(&mut self) {
        let turns: Vec<Turn> = self.nodes.iter_mut().filter_map(NodeRecord::ask).collect();
        self.tell_of(turns);
        self.actions.push(Action::Ping);
        let is_stopping = matches!(self.phase, Phase::Stopping { .. } | Phase::Killing { .. });
        let mut left = self.nodes.iter().filter(|node| !node.finished).peekable();
        if is_stopping && left.peek().is_some() && left.all(NodeRecord::is_silent) {
            // They did not hear of it, or cannot do anything about it.
            self.abandon();
        }
    }

    fn abandon(&mut self) {
        self.phase = Phase::Abandoned;
        self.actions.push(Action::AbandonAgents);
    }

    fn tell_of(&mut self, turns: impl IntoIterator<Item = Turn>) {
        for Turn { said, event } in turns {
            self.actions.push(Action::Say(said));
            self.events.push(event);
        }
    }

    fn host_of(&self, node: usize) -> String {
        self.nodes.get(node).map(|node| node.host.clone()).unwrap_or_default()
    }

    fn record(&mut self, rank: u32) -> Option<&mut RankRecord> {
        usize::try_from(rank).ok().and_then(|index| self.ranks.get_mut(index))
    }
}

#[cfg(test)]
mod tests;
