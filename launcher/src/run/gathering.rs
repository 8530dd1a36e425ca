//! Starting ranks on several hosts: every agent first says what its host is like, then all are told
//! where they meet.

use std::net::SocketAddr;
use std::time::Instant;

use paceline_rendezvous::Secret;
use paceline_rendezvous::env;
use paceline_rendezvous::interface::InterfaceChoice;
use zeroize::Zeroizing;

use super::conductor::{Conductor, say};
use super::meeting::{self, Described, Meeting, MeetingError};
use super::outcome::Verdict;
use crate::environment;
use crate::process::build_id;
use crate::protocol::facts::{self, AgentFacts};
use crate::protocol::messages::{AgentConfig, Order};

/// Agents that have not all said yet what their hosts are like.
#[derive(Debug)]
pub(super) struct Gathering {
    hosts: Vec<Host>,
    /// The node of rank 0.
    first: usize,
    wanted: InterfaceChoice,
    /// Whether each rank is to have a port for TensorFlow.
    tensorflow: bool,
    secret: Secret,
    /// The first piece of standard input: no other is read before somebody has taken it.
    input: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Host {
    name: String,
    config: AgentConfig,
    facts: Option<AgentFacts>,
}

impl Gathering {
    /// Of the hosts named, each with what its ranks are to do.
    pub(super) fn of(
        hosts: Vec<(String, AgentConfig)>,
        first: usize,
        wanted: InterfaceChoice,
        tensorflow: bool,
        secret: Secret,
    ) -> Self {
        let host = |(name, config)| Host { name, config, facts: None };
        let hosts = hosts.into_iter().map(host).collect();
        Self { hosts, first, wanted, tensorflow, secret, input: None }
    }

    /// Keeps it until there are ranks.
    pub(super) fn hold_input(&mut self, bytes: &[u8]) {
        self.input = Some(bytes.to_vec());
    }

    /// Takes what an agent says of its host; returns why that ends the job, if it does.
    fn learn(&mut self, node: usize, facts: AgentFacts) -> Option<Verdict> {
        let host = self.hosts.get_mut(node)?;
        if facts.version != facts::VERSION {
            let (host, theirs) = (host.name.clone(), facts.version);
            return Some(Verdict::OtherVersion { host, theirs });
        }
        host.facts = Some(facts);
        None
    }

    /// All hosts as their agents describe them, once all have.
    fn described(&self) -> Option<Vec<Described>> {
        let described = |host: &Host| Some((host.name.clone(), host.facts.clone()?));
        self.hosts.iter().map(described).collect()
    }

    /// Where all meet, and where TensorFlow's workers listen if that is asked for.
    fn meet(&self, hosts: &[Described]) -> Result<(Meeting, Vec<SocketAddr>), MeetingError> {
        let meeting = meeting::meet(hosts, self.first, &self.wanted)?;
        let numbers = |host: &Host| host.config.ranks.iter().map(|rank| rank.rank).collect();
        let ranks: Vec<Vec<u32>> = self.hosts.iter().map(numbers).collect();
        let workers =
            if self.tensorflow { meeting::workers(hosts, &meeting, &ranks)? } else { Vec::new() };
        Ok((meeting, workers))
    }

    /// What each host is told, now that it is known where they meet.
    fn orders(&self, meeting: &Meeting, workers: &[SocketAddr]) -> Vec<[Order; 2]> {
        let secret = self.secret.to_hex();
        let (first, ports) = meeting.frameworks;
        let shared = environment::for_frameworks(first, ports);
        let orders = self.hosts.iter().zip(&meeting.addresses).map(|(host, address)| {
            let mut config = host.config.clone();
            let interface = (env::INTERFACE.name.into(), address.address.to_string().into());
            // What the user has set comes later and counts.
            let ours = shared.iter().cloned().chain([interface]);
            config.variables.splice(0..0, ours);
            config.tensorflow = workers.to_vec();
            let secret = Zeroizing::new(secret.as_bytes().to_vec());
            [Order::Secret(secret), Order::Start(Box::new(config))]
        });
        orders.collect()
    }

    /// Hosts that run another build of the same version.
    fn other_builds(&self) -> Vec<String> {
        let own = build_id::of_this_process();
        let differs = |host: &&Host| {
            let theirs = host.facts.as_ref().and_then(|facts| facts.build.as_ref());
            own.is_some() && theirs.is_some() && theirs != own.as_ref()
        };
        self.hosts.iter().filter(differs).map(|host| host.name.clone()).collect()
    }
}

impl Conductor {
    /// An agent has said what its host is like. The last one lets all begin.
    pub(super) fn take_facts(&mut self, node: usize, facts: AgentFacts) {
        // After a stop nothing more is started.
        let Some(gathering) = self.gathering.as_mut().filter(|_| !self.stopping) else { return };
        if let Some(verdict) = gathering.learn(node, facts) {
            self.director.stop_because(verdict, Instant::now());
            return;
        }
        let Some(described) = gathering.described() else { return };
        let (meeting, workers) = match gathering.meet(&described) {
            Ok(met) => met,
            Err(error) => {
                let verdict = Verdict::NoNetwork { reason: error.to_string() };
                self.director.stop_because(verdict, Instant::now());
                return;
            }
        };
        let others = gathering.other_builds();
        if !others.is_empty() {
            let hosts = others.join(", ");
            say(&format!("paceline on {hosts} is another build than here, of the same version"));
        }
        let (orders, input) = (gathering.orders(&meeting, &workers), gathering.input.take());
        self.gathering = None;
        for (node, orders) in orders.iter().enumerate() {
            self.tell(node, orders);
        }
        if let Some(input) = input {
            self.pass_input(&input);
        }
    }
}
