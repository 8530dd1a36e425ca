//! Starting agents, not too many at a time.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::RunError;
use super::agents::{Agent, AgentCommand, Source};
use super::conductor::{Conductor, Event};
use crate::protocol::messages::Order;

/// Agents that are being started at a time: each takes a process here, and cryptography at both ends.
/// Open MPI's default, too, is to have no more than 128 under way (`plm_rsh_num_concurrent`).
const AT_ONCE: usize = 64;

/// An agent that is to be started.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) node: usize,
    pub(super) command: AgentCommand,
    /// The host, if it is another one.
    pub(super) other_host: Option<String>,
    /// What it is told first.
    pub(super) order: Option<Order>,
}

/// Agents that are still to be started.
#[derive(Debug)]
pub(super) struct Starting {
    source: Source,
    waiting: VecDeque<Start>,
    /// Agents that have been started and have not said anything yet.
    under_way: usize,
    events: UnboundedSender<Event>,
}

impl Starting {
    pub(super) fn of(
        source: Source,
        waiting: VecDeque<Start>,
        events: UnboundedSender<Event>,
    ) -> Self {
        Self { source, waiting, under_way: 0, events }
    }
}

impl Conductor {
    /// Starts as many agents as may be under way; says which could not be started, and why.
    pub(super) fn start_more(&mut self) -> Result<(), (usize, RunError)> {
        while self.starting.under_way < AT_ONCE {
            let Some(Start { node, command, other_host, order }) =
                self.starting.waiting.pop_front()
            else {
                return Ok(());
            };
            let events = self.starting.events.clone();
            let on_event = move |event| {
                let _ = events.send(Event::Agent(node, event));
            };
            let agent = match &self.starting.source {
                Source::Command(_) => Agent::start(&command, other_host.as_deref(), on_event),
                #[cfg(feature = "testing")]
                Source::Stage(path) => crate::stage::enter(path, other_host.as_deref(), on_event),
            };
            let agent = agent.map_err(|error| (node, error))?;
            self.starting.under_way += 1;
            self.agents.insert(node, agent);
            self.tell(node, order.as_slice());
        }
        Ok(())
    }

    /// One of those under way has come up, or will not.
    pub(super) fn one_is_started(&mut self) {
        self.starting.under_way = self.starting.under_way.saturating_sub(1);
        // Some run already: what fails now ends the job in good order.
        if let Err((node, error)) = self.start_more() {
            let words = vec![error.to_string()];
            self.director.agent_lost(node, 0, None, None, words, Instant::now());
        }
    }

    /// The job is to end: nothing more is started.
    pub(super) fn start_no_more(&mut self) {
        for start in std::mem::take(&mut self.starting.waiting) {
            self.director.never_started(start.node);
        }
    }
}
