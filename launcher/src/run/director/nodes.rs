//! What is asked of single nodes: where ranks are, who has finished, and whether the agents answer.
//!
//! A stopped agent, or one that is out of reach, says nothing and does nothing. That alone ends no
//! job: somebody may look at it with a debugger. But the user is told, and when the job is to end
//! nobody waits for it.

use super::super::events::JobEvent;
use super::Director;
use crate::protocol::PING_INTERVAL;

/// An agent that has left so many questions unanswered is taken to be stopped or out of reach.
/// Counting them, rather than time, holds nothing against an agent while we were stopped ourselves.
const SILENT_AFTER: u32 = 5;

/// A host has fallen silent, or answers again.
#[derive(Debug)]
pub(super) struct Turn {
    /// What to tell the user.
    pub(super) said: String,
    pub(super) event: JobEvent,
}

/// One host, as far as its agent goes.
#[derive(Debug)]
pub(super) struct NodeRecord {
    pub(super) host: String,
    pub(super) finished: bool,
    /// The agent's process id on its host, once it has said anything.
    pub(super) agent: Option<i32>,
    unanswered: u32,
}

impl Director {
    /// Whether every agent has reported its end, or will not any more.
    pub(in crate::run) fn is_over(&self) -> bool {
        self.not_finished == 0
    }

    /// The node that a rank runs on.
    pub(in crate::run) fn node_of(&self, rank: u32) -> Option<usize> {
        Some(self.ranks.get(usize::try_from(rank).ok()?)?.node)
    }

    /// Whether the node has reported its end.
    pub(in crate::run) fn has_finished(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.finished)
    }

    /// Whether the node's agent has come up.
    pub(in crate::run) fn is_up(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(NodeRecord::is_up)
    }

    /// The node's agent is not even started any more.
    pub(in crate::run) fn never_started(&mut self, node: usize) {
        self.finished(node);
    }

    pub(super) fn finished(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node)
            && !std::mem::replace(&mut node.finished, true)
        {
            self.not_finished -= 1;
        }
    }
}

impl NodeRecord {
    pub(super) fn new(host: String) -> Self {
        Self { host, finished: false, agent: None, unanswered: 0 }
    }

    /// The agent is about to be asked whether it is there. Returns what to tell, once.
    pub(super) fn ask(&mut self) -> Option<Turn> {
        if self.finished || self.agent.is_none() {
            return None;
        }
        let was_silent = self.is_silent();
        self.unanswered = self.unanswered.saturating_add(1);
        (self.is_silent() && !was_silent).then(|| {
            let silence = (PING_INTERVAL * (SILENT_AFTER - 1)).as_secs();
            let name = self.name();
            let said =
                format!("{name} has not answered for {silence} s: it is stopped, or out of reach");
            Turn { said, event: JobEvent::HostSilent { host: self.host.clone() } }
        })
    }

    /// It has said something. Returns what to tell.
    pub(super) fn answered(&mut self) -> Option<Turn> {
        let was_silent = self.is_silent();
        self.unanswered = 0;
        was_silent.then(|| {
            let said = format!("{} answers again", self.name());
            Turn { said, event: JobEvent::HostAnswers { host: self.host.clone() } }
        })
    }

    pub(super) fn is_silent(&self) -> bool {
        self.unanswered >= SILENT_AFTER
    }

    /// Whether ranks may run there.
    pub(super) fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    fn name(&self) -> String {
        let pid = self.agent.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        format!("the agent on {}{pid}", self.host)
    }
}
