//! Doing what the [`Director`] decides.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant};

use paceline_rendezvous::Secret;
use paceline_rendezvous::coordinator::{self, Server};
use paceline_rendezvous::env::{self, ProcessEnvironment};
use paceline_rendezvous::jobs::{JobCard, JobsDirectory};
use rustix::process::Signal;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use super::agents::{Agent, FromAgent, Source};
use super::director::{Action, Director};
use super::events::OnEvent;
use super::gathering::Gathering;
use super::input::Input;
use super::metrics::MetricsListener;
use super::outcome::{Outcome, Verdict};
use super::starting::Starting;
use super::tunnels::Tunnels;
use super::{RunError, copying, setup, terminal};
use crate::output::Stream;
use crate::output::writer::{StreamWriter, WriterEvent};
use crate::plan::LaunchPlan;
use crate::process::descendants::Family;
use crate::process::wait;
use crate::protocol::PING_INTERVAL;
use crate::protocol::link::{self, LinkError};
use crate::protocol::messages::{AgentConfig, Order, Report};

/// How long an agent that has closed its output may take to be dead.
const AGENT_DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// Between telling the ranks of ^Z and stopping ourselves.
const STOP_DELAY: Duration = Duration::from_millis(20);

/// Whatever the launcher wakes up for.
pub(super) enum Event {
    Agent(usize, FromAgent),
    Writer(WriterEvent),
    Signal(i32),
    Input(Vec<u8>),
    Coordinator(coordinator::Event),
}

/// Runs the plan to its end.
pub(super) async fn conduct(
    plan: LaunchPlan,
    source: Source,
    secret: Secret,
    metrics: Option<MetricsListener>,
    on_event: &mut OnEvent<'_>,
) -> Result<Outcome, RunError> {
    // Before signals are ours: so ^C ends this at once, and ssh with it.
    let copies = match copying::copies(&plan).await? {
        Ok(copies) => copies,
        Err(verdict) => return Ok(copying::never_started(&plan, verdict, on_event).await),
    };
    let family = Family::of_this_process(env::RUN_ID.name, plan.run_id.to_string());
    let (events, mut happenings) = mpsc::unbounded_channel();
    let writers = setup::start_writers(&plan, &events)?;
    let signal_events = events.clone();
    terminal::listen(move |number| {
        let _ = signal_events.send(Event::Signal(number));
    })?;
    let input_events = events.clone();
    let input = Input::start(plan.stdin, plan.world_size, move |bytes| {
        let _ = input_events.send(Event::Input(bytes));
    })?;
    let server = setup::start_coordinator(&plan, &secret, &events)?;
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
        director: setup::director(&plan),
        agents: BTreeMap::new(),
        starting: Starting::of(plan.nodes.len(), source, copies, events),
        writers,
        input,
        tunnels: Tunnels::to(server.local_addr()),
        server,
        gathering: None,
        stopping: false,
        plan,
    };
    let started = conductor.start_agents(secret);
    if started.is_ok() {
        conductor.follow(&mut happenings, on_event).await;
    }
    let outcome = conductor.wind_up(&family, &mut happenings, on_event).await;
    started.map(|()| outcome)
}

pub(super) struct Conductor {
    pub(super) plan: LaunchPlan,
    pub(super) director: Director,
    /// Those that have been started, by the number of the node.
    pub(super) agents: BTreeMap<usize, Agent>,
    pub(super) starting: Starting,
    pub(super) writers: HashMap<Stream, StreamWriter>,
    input: Option<Input>,
    pub(super) server: Server,
    tunnels: Tunnels,
    /// Where there are several hosts, until their agents have all said what they are like.
    pub(super) gathering: Option<Gathering>,
    /// The job does not end by itself.
    pub(super) stopping: bool,
}

impl Conductor {
    fn start_agents(&mut self, secret: Secret) -> Result<(), RunError> {
        let is_alone =
            self.plan.nodes.len() == 1 && self.plan.nodes.iter().all(|node| node.is_local);
        // Even alone it must first say which ports TensorFlow may have.
        let is_alone = is_alone && !self.plan.tensorflow;
        if !is_alone {
            self.gathering = Some(Gathering::of(self.plan.nodes.len(), secret.clone()));
        }
        self.start_more().map_err(|(_, error)| error)?;
        if is_alone {
            let secret = Zeroizing::new(secret.to_hex().as_bytes().to_vec());
            let config = self.config(0);
            self.tell(0, &[Order::Secret(secret), Order::Start(Box::new(config))]);
        }
        Ok(())
    }

    /// What the agent of a node is told, but for what follows from where the hosts meet.
    pub(super) fn config(&self, node: usize) -> AgentConfig {
        let Some(node) = self.plan.nodes.get(node) else { return self.plan.common.clone() };
        let mut config = self.plan.config(node);
        if node.is_local {
            let rendezvous = self.server.local_addr().to_string();
            config.variables.push((env::RENDEZVOUS.name.into(), rendezvous.into()));
        } else {
            config.variables.splice(0..0, self.plan.passed_on.iter().cloned());
        }
        config
    }

    /// Until every agent has reported its end or is gone.
    async fn follow(
        &mut self,
        happenings: &mut UnboundedReceiver<Event>,
        on_event: &mut OnEvent<'_>,
    ) {
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
                () = link::at(self.gathering.as_ref().and_then(Gathering::give_up_at)) => {
                    self.survey_tick();
                    None
                }
            };
            if let Some(event) = event {
                self.handle(event).await;
            }
            self.director.tick(Instant::now());
            self.tell_events(on_event);
            self.act();
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Agent(node, FromAgent::Report(report)) => self.take_report(node, report),
            Event::Agent(_, FromAgent::Said(line)) => self.say(&line),
            Event::Agent(node, FromAgent::Closed(error)) => self.agent_closed(node, error).await,
            Event::Writer(event) => self.take_writer_event(event),
            Event::Signal(number) if terminal::ends_job(number) => {
                self.director.interrupt(number, Instant::now());
            }
            Event::Signal(number) => self.pass_on(number).await,
            Event::Input(bytes) => self.pass_input(&bytes),
            Event::Coordinator(coordinator::Event::Aborted { abort }) => {
                if abort.timed_out {
                    self.director.examine(Instant::now());
                }
                self.director.aborted(abort.culprit, abort.reason);
            }
            Event::Coordinator(coordinator::Event::Joined { rank }) => {
                self.director.rank_joined(rank);
            }
            Event::Coordinator(coordinator::Event::Left { rank }) => self.director.rank_left(rank),
            Event::Coordinator(coordinator::Event::Renewed { .. }) => self.director.renewed(),
            Event::Coordinator(coordinator::Event::Stalled { report }) => {
                self.director.stalled(report)
            }
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
                if let Some(orders) = self.agents.get(&node).and_then(Agent::orders) {
                    self.tunnels.take(node, connection, piece, orders);
                }
            }
            Report::Facts(facts) => self.take_facts(node, *facts),
            Report::Examined { number, answer } => self.take_answer(number, answer),
            other => {
                match (&other, self.agents.get_mut(&node)) {
                    (Report::Ready { .. }, Some(agent)) => {
                        agent.is_up();
                        self.one_is_started();
                    }
                    // It has nothing more to do than to end.
                    (Report::Finished { .. }, Some(agent)) => agent.close(),
                    _ => {}
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
        let was_up = self.director.is_up(node);
        let Some(agent) = self.agents.get_mut(&node) else { return };
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
        let pid = (!agent.is_reached_by_ssh()).then_some(pid);
        self.director.agent_lost(node, pid, ending, reason, words, Instant::now());
        if !was_up {
            self.one_is_started();
        }
    }

    pub(super) fn take_writer_event(&mut self, event: WriterEvent) {
        let now = Instant::now();
        match event {
            WriterEvent::Written { rank, stream, bytes } => {
                self.tell_host_of(rank, Order::Grant { rank, stream, bytes });
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
            self.tell_host_of(rank, Order::Input { rank, bytes: bytes.to_vec() });
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
        for agent in self.agents.values() {
            // Only a plan can be too large for a frame, and that one is not for all.
            let _ = agent.send(order);
        }
    }

    /// Tells the agent of a rank, and nobody else: with a word to each about each, what all hosts hear
    /// would grow with the square of their number.
    fn tell_host_of(&mut self, rank: u32, order: Order) {
        if let Some(node) = self.director.node_of(rank) {
            self.tell(node, &[order]);
        }
    }

    /// Tells one agent.
    pub(super) fn tell(&mut self, node: usize, orders: &[Order]) {
        let Some(agent) = self.agents.get(&node) else { return };
        for order in orders {
            if let Err(error) = agent.send(order) {
                let verdict = Verdict::PlanTooLarge { reason: error.to_string() };
                self.director.stop_because(verdict, Instant::now());
            }
        }
    }

    /// Tells the user, as soon as standard error takes it; nobody here waits for that.
    pub(super) fn say(&self, text: &str) {
        if let Some(writer) = self.writers.get(&Stream::Stderr) {
            writer.say(text);
        }
    }

    fn act(&mut self) {
        for action in self.director.take_actions() {
            match action {
                Action::Stop => {
                    self.stopping = true;
                    self.start_no_more();
                    self.tell_all(&Order::Stop);
                }
                Action::Kill => self.tell_all(&Order::Kill),
                Action::KillAgent { node } => {
                    self.agents.get(&node).map(Agent::kill).unwrap_or_default();
                }
                Action::Examine => self.tell_all(&Order::TellStacks),
                Action::Ping => self.tell_all(&Order::Ping),
                Action::Say(text) => self.say(&text),
                Action::AbandonAgents => self.agents.values().for_each(Agent::kill),
                Action::RankLost { rank, reason } => self.server.rank_lost(rank, &reason),
            }
        }
    }
}
