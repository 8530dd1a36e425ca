//! Starting agents, not too many at a time.

use std::error::Error as _;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::RunError;
use super::agents::{Agent, Source};
use super::conductor::{Conductor, Event};
use crate::environment;
use crate::plan::LaunchPlan;
use crate::process::descriptors::{self, Found};
use crate::protocol::messages::Order;

/// Agents that are being started at a time: each takes a process here, and cryptography at both ends.
/// Open MPI's default, too, is to have no more than 128 under way (`plm_rsh_num_concurrent`).
const AT_ONCE: usize = 64;

/// Agents that are still to be started.
#[derive(Debug)]
pub(super) struct Starting {
    source: Source,
    /// What agents get.
    descriptors: Found,
    /// Where each node has a copy of this binary, if it was copied there.
    copies: Vec<Option<String>>,
    /// Numbers of the nodes.
    waiting: Range<usize>,
    /// Agents that have been started and have not said anything yet.
    under_way: usize,
    events: UnboundedSender<Event>,
}

impl Starting {
    /// Those of so many nodes. From now on this process may have the descriptors that they take.
    pub(super) fn of(
        nodes: usize,
        source: Source,
        copies: Vec<Option<String>>,
        events: UnboundedSender<Event>,
    ) -> Self {
        let descriptors = descriptors::raise_limit();
        Self { source, descriptors, copies, waiting: 0..nodes, under_way: 0, events }
    }

    fn start(&self, number: usize, plan: &LaunchPlan) -> Result<Option<Agent>, RunError> {
        let Some(node) = plan.nodes.get(number) else { return Ok(None) };
        let events = self.events.clone();
        let on_event = move |event| {
            let _ = events.send(Event::Agent(number, event));
        };
        let descriptors = Some(&self.descriptors);
        let other_host = (!node.is_local).then_some(node.host.host.as_str());
        let agent = match &self.source {
            Source::Command(command) if node.is_local => {
                Agent::start(command, None, descriptors, on_event)
            }
            Source::Command(_) => {
                let own_path = std::env::current_exe().ok();
                let own_path = own_path.as_deref().and_then(Path::to_str);
                let copy = self.copies.get(number).and_then(Option::as_deref);
                let command = plan.ssh.command(&node.host, own_path, copy);
                Agent::start(&command, other_host, descriptors, on_event)
            }
            #[cfg(feature = "testing")]
            Source::Stage(path) => crate::stage::enter(path, other_host, on_event),
        };
        agent.map(Some)
    }
}

impl Conductor {
    /// Starts as many agents as may be under way; says which could not be started, and why.
    pub(super) fn start_more(&mut self) -> Result<(), (usize, RunError)> {
        while self.starting.under_way < AT_ONCE {
            let Some(node) = self.starting.waiting.next() else { return Ok(()) };
            let agent = self.starting.start(node, &self.plan).map_err(|error| (node, error))?;
            let Some(agent) = agent else { return Ok(()) };
            self.starting.under_way += 1;
            self.agents.insert(node, agent);
            if self.gathering.is_some() {
                let ports = self.ports_of(node);
                self.tell(node, &[Order::Describe { ports }]);
            }
        }
        Ok(())
    }

    /// How many ports for the ranks' frameworks an agent is asked for.
    fn ports_of(&self, node: usize) -> u32 {
        let node = self.plan.nodes.get(node).filter(|_| self.plan.tensorflow);
        let workers = node.map_or(0, |node| u32::try_from(node.ranks.len()).unwrap_or(u32::MAX));
        environment::FRAMEWORK_PORT_COUNT.saturating_add(workers)
    }

    /// One of those under way has come up, or will not.
    pub(super) fn one_is_started(&mut self) {
        self.starting.under_way = self.starting.under_way.saturating_sub(1);
        // Some run already: what fails now ends the job in good order.
        if let Err((node, error)) = self.start_more() {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let words = vec![format!("{error}{cause}")];
            self.director.agent_lost(node, None, None, None, words, Instant::now());
        }
    }

    /// The job is to end: nothing more is started.
    pub(super) fn start_no_more(&mut self) {
        for node in std::mem::take(&mut self.starting.waiting) {
            self.director.never_started(node);
        }
    }
}
