//! Doing what the [`Director`] decides.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use paceline_rendezvous::Secret;
use paceline_rendezvous::coordinator::{self, Server, ServerConfig};
use paceline_rendezvous::env::{self, ProcessEnvironment};
use paceline_rendezvous::jobs::{JobCard, JobsDirectory};
use rustix::process::Signal;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use super::agents::{Agent, AgentCommand, FromAgent};
use super::director::{Action, Director, Limits};
use super::gathering::Gathering;
use super::input::Input;
use super::metrics::MetricsListener;
use super::outcome::{Outcome, RankOutcome, Unreached, Verdict};
use super::tunnels::Tunnels;
use super::{RunError, copying, terminal};
use crate::hosts::HostSlots;
use crate::output::writer::{Destination, StreamWriter, WriterEvent};
use crate::output::{Stream, files};
use crate::plan::LaunchPlan;
use crate::process::build_id;
use crate::process::descendants::{Family, ProcessName, signal_entry};
use crate::process::wait;
use crate::protocol::PING_INTERVAL;
use crate::protocol::link::{self, LinkError};
use crate::protocol::messages::{AgentConfig, Order, Report};

/// How long an agent that has finished may take to exit.
const AGENT_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an agent that has closed its output may take to be dead.
const AGENT_DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long adopted processes are killed before they are reported as survivors.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nobody may take output, after the job was stopped, before it is given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the coordinator waits for our word on a rank whose connection is gone.
const LOST_GRACE: Duration = Duration::from_millis(500);

/// Between telling the ranks of ^Z and stopping ourselves.
const STOP_DELAY: Duration = Duration::from_millis(20);

enum Event {
    Agent(usize, FromAgent),
    Writer(WriterEvent),
    Signal(i32),
    Input(Vec<u8>),
    Coordinator(coordinator::Event),
}

/// Runs the plan to its end.
pub(super) async fn conduct(
    plan: LaunchPlan,
    command: &AgentCommand,
    secret: Secret,
    metrics: Option<MetricsListener>,
) -> Result<Outcome, RunError> {
    // Before signals are ours: so ^C ends this at once, and ssh with it.
    let copies = match copies(&plan).await? {
        Ok(copies) => copies,
        Err(unreached) => return Ok(never_started(&plan, Verdict::Unreached(unreached))),
    };
    let family = Family::of_this_process(env::RUN_ID.name, plan.run_id.to_string());
    let (events, mut happenings) = mpsc::unbounded_channel();
    let writers = start_writers(&plan, &events)?;
    let signal_events = events.clone();
    terminal::listen(move |number| {
        let _ = signal_events.send(Event::Signal(number));
    })?;
    let input_events = events.clone();
    let input = Input::start(plan.stdin, plan.world_size, move |bytes| {
        let _ = input_events.send(Event::Input(bytes));
    })?;
    let server = start_coordinator(&plan, &secret, &events)?;
    if let Some(metrics) = metrics {
        // It ends with the runtime.
        metrics.serve(server.watcher())?;
    }
    let command_line = plan.command_line();
    let card = JobCard::new(
        plan.run_id,
        server.local_addr(),
        secret.clone(),
        plan.world_size,
        &command_line,
    );
    // Without it `paceline status` does not find the job, which is no reason not to run it.
    let _card = JobsDirectory::of(&ProcessEnvironment).publish(&card);
    drop(card);
    let mut conductor = Conductor {
        director: director(&plan),
        agents: Vec::new(),
        writers,
        input,
        tunnels: Tunnels::to(server.local_addr()),
        server,
        gathering: None,
        stopping: false,
    };
    let started = conductor.start_agents(&plan, command, &copies, &secret, &events);
    drop(secret);
    if started.is_ok() {
        conductor.follow(&mut happenings).await;
    }
    let outcome = conductor.wind_up(&family, &mut happenings).await;
    started.map(|()| outcome)
}

/// Where each node has a copy of this binary, if the user wants that: on this host nobody needs one.
async fn copies(
    plan: &LaunchPlan,
) -> Result<Result<Vec<Option<String>>, Vec<Unreached>>, RunError> {
    let mut copies = vec![None; plan.nodes.len()];
    if !plan.ssh.copy_binary {
        return Ok(Ok(copies));
    }
    let build = build_id::of_this_process().ok_or(RunError::NoBuildId)?;
    let others = || plan.nodes.iter().zip(0..).filter(|(node, _)| !node.is_local);
    let hosts: Vec<HostSlots> = others().map(|(node, _)| node.host.clone()).collect();
    Ok(copying::copy_to_all(&plan.ssh, &hosts, &build).await.map(|paths| {
        for ((_, number), path) in others().zip(paths) {
            copies[number] = Some(path);
        }
        copies
    }))
}

fn never_started(plan: &LaunchPlan, verdict: Verdict) -> Outcome {
    let ranks = (0..plan.world_size).map(|_| RankOutcome::NotStarted).collect();
    let (left_behind, survivors) = (Vec::new(), Vec::new());
    Outcome { verdict, ranks, left_behind, survivors, grace: plan.grace }
}

fn director(plan: &LaunchPlan) -> Director {
    let members = |node: &crate::plan::NodePlan| {
        (node.host.host.clone(), node.config.ranks.iter().map(|rank| rank.rank).collect())
    };
    let nodes: Vec<_> = plan.nodes.iter().map(members).collect();
    let limits =
        Limits { grace: plan.grace, timeout: plan.timeout, start_timeout: plan.start_timeout };
    Director::new(&nodes, limits, Instant::now())
}

fn start_coordinator(
    plan: &LaunchPlan,
    secret: &Secret,
    events: &UnboundedSender<Event>,
) -> Result<Server, RunError> {
    let mut config = ServerConfig::new(plan.run_id, secret.clone(), plan.world_size);
    config.coordinator.join_timeout = Some(plan.start_timeout);
    // We learn by what a rank died a moment after its connection is gone.
    config.coordinator.lost_grace = LOST_GRACE;
    config.coordinator.stall_report = plan.stall_report;
    let events = events.clone();
    let on_event = move |event| {
        let _ = events.send(Event::Coordinator(event));
    };
    Ok(Server::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config, on_event)?)
}

fn start_writers(
    plan: &LaunchPlan,
    events: &UnboundedSender<Event>,
) -> Result<HashMap<Stream, StreamWriter>, RunError> {
    let system = |source| RunError::System { operation: "set up the ranks' output", source };
    let mut writers = HashMap::new();
    for stream in Stream::BOTH {
        let destination = Destination {
            shared: Some(own_descriptor(stream).map_err(system)?),
            files: output_files(plan, stream)?,
            prefix: plan.output.prefix,
        };
        let events = events.clone();
        let on_event = move |event| {
            let _ = events.send(Event::Writer(event));
        };
        let writer = StreamWriter::start(stream, plan.world_size, destination, on_event);
        writers.insert(stream, writer.map_err(system)?);
    }
    Ok(writers)
}

fn own_descriptor(stream: Stream) -> io::Result<OwnedFd> {
    match stream {
        Stream::Stdout => io::stdout().as_fd().try_clone_to_owned(),
        Stream::Stderr => io::stderr().as_fd().try_clone_to_owned(),
    }
}

fn output_files(
    plan: &LaunchPlan,
    stream: Stream,
) -> Result<Vec<(std::path::PathBuf, std::fs::File)>, RunError> {
    let Some(directory) = &plan.output.directory else { return Ok(Vec::new()) };
    files::create_all(directory, plan.world_size, stream)
        .map_err(|(path, source)| RunError::OutputFile { path, source })
}

pub(super) struct Conductor {
    pub(super) director: Director,
    agents: Vec<Agent>,
    writers: HashMap<Stream, StreamWriter>,
    input: Option<Input>,
    server: Server,
    tunnels: Tunnels,
    /// Where there are several hosts, until their agents have all said what they are like.
    pub(super) gathering: Option<Gathering>,
    /// The job does not end by itself.
    pub(super) stopping: bool,
}

impl Conductor {
    fn start_agents(
        &mut self,
        plan: &LaunchPlan,
        command: &AgentCommand,
        copies: &[Option<String>],
        secret: &Secret,
        events: &UnboundedSender<Event>,
    ) -> Result<(), RunError> {
        let rendezvous = self.server.local_addr().to_string();
        let own_path = std::env::current_exe().ok();
        let own_path = own_path.as_deref().and_then(Path::to_str);
        let mut configs = Vec::new();
        for (number, node) in plan.nodes.iter().enumerate() {
            let events = events.clone();
            let on_event = move |event| {
                let _ = events.send(Event::Agent(number, event));
            };
            let mut config = node.config.clone();
            let agent = if node.is_local {
                config.variables.push((env::RENDEZVOUS.name.into(), rendezvous.clone().into()));
                Agent::start(command, None, on_event)?
            } else {
                config.variables.splice(0..0, plan.passed_on.iter().cloned());
                let copy = copies.get(number).and_then(Option::as_deref);
                let ssh = plan.ssh.command(&node.host, own_path, copy);
                Agent::start(&ssh, Some(&node.host.host), on_event)?
            };
            self.agents.push(agent);
            configs.push((node.host.host.clone(), config));
        }
        match <[_; 1]>::try_from(configs) {
            Ok([(_, config)]) if !config.is_remote => {
                let secret = Zeroizing::new(secret.to_hex().as_bytes().to_vec());
                self.tell(0, &[Order::Secret(secret), Order::Start(Box::new(config))]);
            }
            Ok(one) => self.gather(one.into(), plan, secret),
            Err(configs) => self.gather(configs, plan, secret),
        }
        Ok(())
    }

    fn gather(&mut self, hosts: Vec<(String, AgentConfig)>, plan: &LaunchPlan, secret: &Secret) {
        self.gathering =
            Some(Gathering::of(hosts, plan.first_node(), plan.interface.clone(), secret.clone()));
        self.tell_all(&Order::Describe);
    }

    /// Until every agent has reported its end or is gone.
    async fn follow(&mut self, happenings: &mut UnboundedReceiver<Event>) {
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.director.is_over() {
            let event = tokio::select! {
                event = happenings.recv() => event,
                _ = pings.tick() => {
                    self.director.ping();
                    None
                }
                () = link::at(self.director.deadline()) => None,
            };
            if let Some(event) = event {
                self.handle(event).await;
            }
            self.director.tick(Instant::now());
            self.act();
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Agent(node, FromAgent::Report(report)) => self.take_report(node, report),
            Event::Agent(node, FromAgent::Closed(error)) => self.agent_closed(node, error).await,
            Event::Writer(event) => self.take_writer_event(event),
            Event::Signal(number) if terminal::ends_job(number) => {
                self.director.interrupt(number, Instant::now());
            }
            Event::Signal(number) => self.pass_on(number).await,
            Event::Input(bytes) => self.pass_input(&bytes),
            Event::Coordinator(coordinator::Event::Aborted { abort }) => {
                self.director.aborted(abort.culprit, abort.reason);
            }
            Event::Coordinator(coordinator::Event::Joined { rank }) => {
                self.director.rank_joined(rank);
            }
            Event::Coordinator(coordinator::Event::Left { rank }) => self.director.rank_left(rank),
            Event::Coordinator(coordinator::Event::Renewed { .. }) => self.director.renewed(),
            Event::Coordinator(coordinator::Event::Stalled { report }) => say(&report),
            Event::Coordinator(_) => {}
        }
    }

    fn take_report(&mut self, node: usize, report: Report) {
        match report {
            Report::Output { rank, stream, bytes } => {
                if stream == Stream::Stderr {
                    self.director.error_output(rank, &bytes);
                }
                if let Some(writer) = self.writers.get(&stream) {
                    writer.write(rank, bytes);
                }
            }
            Report::Closed { rank, stream } => {
                if let Some(writer) = self.writers.get(&stream) {
                    writer.ended(rank);
                }
            }
            Report::InputTaken { .. } => {
                if let Some(input) = &mut self.input {
                    input.taken();
                }
            }
            Report::Tunnel { connection, piece } => {
                if let Some(orders) = self.agents.get(node).and_then(Agent::orders) {
                    self.tunnels.take(node, connection, piece, orders);
                }
            }
            Report::Facts(facts) => self.take_facts(node, *facts),
            other => {
                if let (Report::Ready { .. }, Some(agent)) = (&other, self.agents.get(node)) {
                    agent.is_up();
                }
                self.director.report(node, other, Instant::now());
            }
        }
    }

    async fn agent_closed(&mut self, node: usize, error: Option<LinkError>) {
        if self.director.has_finished(node) {
            return;
        }
        self.tunnels.node_is_gone(node);
        let Some(agent) = self.agents.get_mut(node) else { return };
        let pid = agent.pid();
        let reason = error.map(|error| error.to_string());
        let ending = match reason {
            // A process closes its files a moment before it can be waited for.
            None => {
                let _ = tokio::time::timeout(AGENT_DEATH_TIMEOUT, agent.exit()).await;
                wait::peek(pid)
            }
            Some(_) => None,
        };
        // An agent that talks nonsense, or not at all, supervises nothing.
        agent.kill();
        let words = agent.last_words().await;
        self.director.agent_lost(node, pid, ending, reason, words, Instant::now());
    }

    fn take_writer_event(&mut self, event: WriterEvent) {
        let now = Instant::now();
        match event {
            WriterEvent::Written { rank, stream, bytes } => {
                self.tell_all(&Order::Grant { rank, stream, bytes });
            }
            WriterEvent::StreamFailed { error } => {
                let verdict = match error.kind() {
                    io::ErrorKind::BrokenPipe => Verdict::OutputClosed,
                    _ => Verdict::OutputFailed { path: None, reason: error.to_string() },
                };
                self.director.stop_because(verdict, now);
            }
            WriterEvent::FileFailed { path, error } => {
                let verdict = Verdict::OutputFailed { path: Some(path), reason: error.to_string() };
                self.director.stop_because(verdict, now);
            }
            WriterEvent::Finished => {}
        }
    }

    pub(super) fn pass_input(&mut self, bytes: &[u8]) {
        if let Some(gathering) = &mut self.gathering {
            gathering.hold_input(bytes);
            return;
        }
        let recipients = self.input.as_mut().map(Input::recipients).unwrap_or_default();
        for rank in recipients {
            self.tell_all(&Order::Input { rank, bytes: bytes.to_vec() });
        }
    }

    async fn pass_on(&self, number: i32) {
        self.tell_all(&Order::Signal(number));
        if number == Signal::TSTP.as_raw() {
            tokio::time::sleep(STOP_DELAY).await;
            terminal::stop_if_asked(number);
        }
    }

    fn tell_all(&self, order: &Order) {
        for agent in &self.agents {
            // Only a plan can be too large for a frame, and that one is not for all.
            let _ = agent.send(order);
        }
    }

    /// Tells one agent.
    pub(super) fn tell(&mut self, node: usize, orders: &[Order]) {
        let Some(agent) = self.agents.get(node) else { return };
        for order in orders {
            if let Err(error) = agent.send(order) {
                let verdict = Verdict::PlanTooLarge { reason: error.to_string() };
                self.director.stop_because(verdict, Instant::now());
            }
        }
    }

    fn act(&mut self) {
        for action in self.director.take_actions() {
            match action {
                Action::Stop => {
                    self.stopping = true;
                    self.tell_all(&Order::Stop);
                }
                Action::Kill => self.tell_all(&Order::Kill),
                Action::KillAgent { node } => self.agents.get(node).map(Agent::kill).unwrap_or(()),
                Action::Ping => self.tell_all(&Order::Ping),
                Action::Say(text) => say(&text),
                Action::AbandonAgents => self.agents.iter().for_each(Agent::kill),
                Action::RankLost { rank, reason } => self.server.rank_lost(rank, &reason),
            }
        }
    }

    /// Ends what is left: agents, orphans, output.
    async fn wind_up(
        mut self,
        family: &Family,
        happenings: &mut UnboundedReceiver<Event>,
    ) -> Outcome {
        for agent in std::mem::take(&mut self.agents) {
            agent.ended(AGENT_EXIT_TIMEOUT).await;
        }
        let survivors = end_orphans(family).await;
        // Without senders the writers write what they have and end.
        let mut running = std::mem::take(&mut self.writers).len();
        while running > 0 {
            let event = if self.stopping {
                tokio::time::timeout(DRAIN_TIMEOUT, happenings.recv()).await.unwrap_or(None)
            } else {
                happenings.recv().await
            };
            match event {
                Some(Event::Writer(WriterEvent::Finished)) => running -= 1,
                Some(Event::Writer(event)) => self.take_writer_event(event),
                Some(Event::Signal(number)) if terminal::ends_job(number) => break,
                Some(_) => {}
                None => break,
            }
        }
        self.server.shutdown();
        self.director.finish(survivors)
    }
}

pub(super) fn say(text: &str) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "paceline: {text}");
}

/// Kills what a dead agent left to us, until nothing is left or it is clear that it cannot be.
async fn end_orphans(family: &Family) -> Vec<ProcessName> {
    let give_up_at = Instant::now() + ORPHAN_TIMEOUT;
    loop {
        let living = family.living();
        for entry in &living {
            signal_entry(entry, Signal::KILL);
        }
        family.bury_dead_children();
        if living.is_empty() || Instant::now() >= give_up_at {
            return living.iter().map(ProcessName::from).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
