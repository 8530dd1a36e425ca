//! Watching the ranks, and ending them.

mod ending;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process_group};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Reporter;
use super::feed;
use super::lease::Lease;
use super::pump::pump;
use super::ranks::{Rank, Recipe};
use super::secret::SecretFile;
use super::signals::OwnSignals;
use super::stacks;
use super::tunnels::Tunnels;
use crate::environment;
use crate::output::Stream;
use crate::process::deaths::Deaths;
use crate::process::descendants::{Family, killable};
use crate::process::memory::OomWatch;
use crate::process::signals;
use crate::process::wait::{Ending, Look, Reaped, Whom, reap_one};
use crate::protocol::PING_INTERVAL;
use crate::protocol::link::{self, FrameReader};
use crate::protocol::messages::{AgentConfig, LeftBehind, LeftRunning, Order, RankExit, Report};
use crate::protocol::window::Window;
use crate::refusal::Refusal;

/// How long SIGKILL may take; a process in uninterruptible sleep may take for ever.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nobody may take output, after the job was stopped by force, before it is given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the life of the ranks stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// SIGTERM has been sent.
    Terminating {
        kill_at: Instant,
    },
    /// SIGKILL is being sent.
    Killing {
        /// When it is next looked for what is left; earlier if no rank is.
        look_at: Instant,
        give_up_at: Instant,
    },
    /// No process is left; their last output is on its way.
    Draining {
        give_up_at: Option<Instant>,
    },
    Finished,
}

pub(super) struct Supervisor {
    reporter: Reporter,
    grace: Duration,
    phase: Phase,
    /// Somebody ordered the end; it did not come by itself.
    stopped: bool,
    ranks: Vec<Rank>,
    deaths: Deaths,
    family: Family,
    pumps: JoinSet<()>,
    all_ended: watch::Sender<bool>,
    /// What had outlived all ranks, once that has been told.
    left_behind: Option<Vec<LeftBehind>>,
    survivors: Vec<LeftRunning>,
    /// Keeps the ranks' way to the secret open.
    secret: Option<SecretFile>,
    /// The ranks' way to the coordinator, where the launcher is on another host.
    tunnels: Option<Tunnels>,
    lease: Lease,
    memory: OomWatch,
}

impl Supervisor {
    pub(super) fn new(reporter: Reporter, grace: Duration, tunnels: Option<Tunnels>) -> Self {
        Self {
            reporter,
            grace,
            phase: Phase::Running,
            stopped: false,
            ranks: Vec::new(),
            deaths: Deaths::default(),
            // Everything below an agent belongs to its job.
            family: Family::default(),
            pumps: JoinSet::new(),
            all_ended: watch::channel(false).0,
            left_behind: None,
            survivors: Vec::new(),
            secret: None,
            tunnels,
            lease: Lease::default(),
            memory: OomWatch::start(),
        }
    }

    /// Starts all ranks; if one cannot be started, says so and ends those that run.
    pub(super) fn start(&mut self, config: &AgentConfig, secret: &[u8], host: &str) {
        if let Err(refusal) = self.try_start(config, secret, host) {
            self.reporter.send(&Report::Refused(refusal));
            self.stop();
        }
    }

    fn try_start(
        &mut self,
        config: &AgentConfig,
        secret: &[u8],
        host: &str,
    ) -> Result<(), Refusal> {
        let system = |operation: &str, error: &dyn std::fmt::Display| Refusal::System {
            operation: operation.to_owned(),
            reason: error.to_string(),
            host: host.to_owned(),
        };
        let secret = SecretFile::create(secret)
            .map_err(|error| system("keep the run's secret in memory", &error))?;
        let variables = environment::known_to_agent_only(&secret.path());
        self.secret = Some(secret);
        let recipe = Recipe::prepare(config, variables, host)?;
        for (local_rank, rank) in config.ranks.iter().enumerate() {
            let cpus = recipe.cpus(local_rank);
            let (mut rank, pipes) = recipe.start(local_rank, rank)?;
            self.reporter.send(&Report::Started { rank: rank.rank, pid: rank.pid, cpus });
            self.deaths.watch(rank.pid);
            let windows = rank.windows.clone();
            let number = rank.rank;
            if let Some(input) = pipes.input {
                let pipe = link::asynchronous(input)
                    .map_err(|error| system("open the ranks' input", &error))?;
                rank.input = Some(feed::start(number, pipe, self.reporter.clone()));
            }
            self.ranks.push(rank);
            for (stream, pipe) in Stream::BOTH.into_iter().zip(pipes.outputs) {
                self.read_from(number, stream, pipe, &windows)
                    .map_err(|error| system("read the ranks' output", &error))?;
            }
        }
        Ok(())
    }

    fn read_from(
        &mut self,
        rank: u32,
        stream: Stream,
        pipe: OwnedFd,
        windows: &HashMap<Stream, Window>,
    ) -> Result<(), link::LinkError> {
        let pipe = link::asynchronous(pipe)?;
        let Some(window) = windows.get(&stream).cloned() else { return Ok(()) };
        let all_ended = self.all_ended.subscribe();
        self.pumps.spawn(pump(rank, stream, pipe, window, self.reporter.clone(), all_ended));
        Ok(())
    }

    /// Follows orders and reports deaths until nothing is left. Returns whether the launcher was there to
    /// the end.
    pub(super) async fn supervise(&mut self, orders: &mut FrameReader) -> bool {
        let Ok(mut events) = OwnSignals::register() else {
            // Without a way to hear of deaths nothing can be promised.
            self.kill_all();
            self.reap();
            return true;
        };
        let mut connected = true;
        let mut intervals = tokio::time::interval(PING_INTERVAL);
        intervals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.reap();
            self.advance(Instant::now());
            if self.phase == Phase::Finished {
                break;
            }
            let next_look = self.next_look(Instant::now());
            tokio::select! {
                frame = orders.next(), if connected => match frame {
                    Ok(Some(frame)) => connected = self.obey(&frame),
                    Ok(None) | Err(_) => connected = false,
                },
                interrupt = events.next() => if let Some(number) = interrupt {
                    self.reporter.send(&Report::Interrupted { signal: number });
                    self.stop();
                },
                _ = self.pumps.join_next(), if !self.pumps.is_empty() => {}
                () = link::at(next_look) => {}
                _ = intervals.tick(), if connected && self.tunnels.is_some() => {
                    connected = !self.lease.has_run_out();
                }
            }
            if !connected {
                self.launcher_is_gone();
            }
        }
        let survivors = std::mem::take(&mut self.survivors);
        self.reporter.send(&Report::Finished { survivors });
        connected
    }

    fn obey(&mut self, frame: &crate::protocol::codec::Frame) -> bool {
        self.lease.heard();
        match Order::decode(frame) {
            Ok(Order::Stop) => self.stop(),
            Ok(Order::Kill) => self.kill(),
            Ok(Order::Ping) => self.reporter.send(&Report::Alive),
            Ok(Order::TellStacks) => {
                for rank in self.ranks.iter().filter(|rank| !rank.ended) {
                    stacks::look_at(rank.rank, rank.pid, self.reporter.clone());
                }
            }
            Ok(Order::Signal(number)) => {
                if let Some(signal) = signals::from_number(number) {
                    self.lease.passed_on(signal);
                    self.signal_ranks(signal);
                }
            }
            Ok(Order::Input { rank, bytes }) => self.feed(rank, bytes),
            Ok(Order::Grant { rank, stream, bytes }) => {
                if let Phase::Draining { give_up_at: Some(at) } = &mut self.phase {
                    *at = Instant::now() + DRAIN_TIMEOUT;
                }
                let rank = self.ranks.iter().find(|candidate| candidate.rank == rank);
                if let Some(window) = rank.and_then(|rank| rank.windows.get(&stream)) {
                    window.grant(bytes);
                }
            }
            Ok(Order::Tunnel { connection, piece }) => {
                if let Some(tunnels) = &self.tunnels {
                    tunnels.take(connection, piece);
                }
            }
            // A second start makes no sense; a launcher that speaks gibberish is as good as gone.
            Ok(
                Order::Start(_) | Order::Secret(_) | Order::Describe { .. } | Order::Examine { .. },
            )
            | Err(_) => return false,
        }
        true
    }

    fn feed(&mut self, rank: u32, bytes: Vec<u8>) {
        let Some(rank) = self.ranks.iter_mut().find(|candidate| candidate.rank == rank) else {
            return;
        };
        if bytes.is_empty() {
            rank.input = None;
        } else if let Some(input) = &rank.input {
            // The feeder lives until its way in is dropped.
            let _ = input.send(bytes);
        }
    }

    /// Invariant A-1.
    fn launcher_is_gone(&mut self) {
        for window in self.ranks.iter().flat_map(|rank| rank.windows.values()) {
            window.close();
        }
        // With it went the coordinator.
        self.tunnels = None;
        self.stop();
    }

    fn reap(&mut self) {
        for rank in self.deaths.take() {
            if let Look::Ended(reaped) = reap_one(Whom::Child(rank)) {
                self.note_end(&reaped);
            }
        }
        while let Look::Ended(reaped) = reap_one(Whom::Any) {
            self.note_end(&reaped);
        }
    }

    fn note_end(&mut self, reaped: &Reaped) {
        // Orphans that we adopted are reaped too, but nobody asks about them.
        let by_pid = |rank: &&mut Rank| rank.pid == reaped.pid && !rank.ended;
        let Some(rank) = self.ranks.iter_mut().find(by_pid) else { return };
        rank.ended = true;
        let is_unexplained = reaped.ending == Ending::Signal(9) && !self.stopped;
        let out_of_memory = if is_unexplained { self.memory.explain() } else { None };
        self.reporter.send(&Report::Exited(RankExit {
            rank: rank.rank,
            pid: rank.pid,
            ending: reaped.ending,
            ran: rank.started.elapsed(),
            usage: reaped.usage,
            out_of_memory,
        }));
    }

    fn stop(&mut self) {
        self.stopped = true;
        if self.phase == Phase::Running {
            self.terminate();
        }
    }

    fn kill(&mut self) {
        self.stopped = true;
        if matches!(self.phase, Phase::Running | Phase::Terminating { .. }) {
            self.begin_to_kill(Instant::now());
        }
    }

    fn terminate(&mut self) {
        self.phase = Phase::Terminating { kill_at: Instant::now() + self.grace };
        // A stopped process would not act on SIGTERM.
        self.signal_ranks(Signal::CONT);
        self.signal_ranks(Signal::TERM);
    }

    /// Signals the process group of every rank that has not been reaped.
    fn signal_ranks(&self, signal: Signal) {
        for rank in self.ranks.iter().filter(|rank| !rank.ended) {
            if let Some(group) = killable(rank.pid) {
                // The only failure is that all of the group is dead already.
                let _ = kill_process_group(group, signal);
            }
        }
    }
}
