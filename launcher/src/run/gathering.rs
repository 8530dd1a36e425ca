//! Starting ranks on several hosts: every agent first says what its host is like, then all are told
//! where they meet.

use std::net::SocketAddr;
use std::time::Instant;

use paceline_rendezvous::env::{self, PortRange};
use paceline_rendezvous::interface::Candidate;
use paceline_rendezvous::{RunId, Secret};
use zeroize::Zeroizing;

use super::conductor::{Conductor, say};
use super::meeting::{self, Meeting, MeetingError};
use super::outcome::Verdict;
use crate::doctor::question::Answer;
use crate::environment;
use crate::networks::{self, Asked, Described, InterfaceRules, NetworkChoice, Survey};
use crate::process::build_id;
use crate::protocol::facts::{self, AgentFacts};
use crate::protocol::messages::{AgentConfig, Order};

/// Agents that have not all said yet what their hosts are like, or that try networks.
#[derive(Debug)]
pub(super) struct Gathering {
    hosts: Vec<Host>,
    plan: Meetings,
    /// Networks that are being tried.
    survey: Option<Survey>,
    /// The first piece of standard input: no other is read before somebody has taken it.
    input: Option<Vec<u8>>,
}

/// What is to be known of a job for its hosts to meet.
#[derive(Debug)]
pub(super) struct Meetings {
    pub(super) run_id: RunId,
    /// The node of rank 0.
    pub(super) first: usize,
    pub(super) wanted: InterfaceRules,
    pub(super) ports: PortRange,
    /// Whether each rank is to have a port for TensorFlow.
    pub(super) tensorflow: bool,
    pub(super) secret: Secret,
}

#[derive(Debug)]
struct Host {
    name: String,
    config: AgentConfig,
    facts: Option<AgentFacts>,
}

/// How hosts get to know where they meet.
enum Ways {
    /// At these addresses, because of that if there was a choice.
    Chosen(Vec<Candidate>, Option<NetworkChoice>),
    /// Networks are tried first.
    Ask(Vec<Asked>),
}

impl Gathering {
    /// Of the hosts named, each with what its ranks are to do.
    pub(super) fn of(hosts: Vec<(String, AgentConfig)>, plan: Meetings) -> Self {
        let host = |(name, config)| Host { name, config, facts: None };
        Self { hosts: hosts.into_iter().map(host).collect(), plan, survey: None, input: None }
    }

    /// When agents that try networks have had time enough.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.survey.as_ref().and_then(Survey::give_up_at)
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

    fn secret(&self) -> Order {
        Order::Secret(Zeroizing::new(self.plan.secret.to_hex().as_bytes().to_vec()))
    }

    /// The addresses to meet at, or that networks must be tried first.
    fn find_network(&mut self, hosts: &[Described]) -> Result<Ways, MeetingError> {
        let usual = meeting::usual(hosts, &self.plan.wanted)?;
        if hosts.len() < 2 {
            return Ok(Ways::Chosen(usual, None));
        }
        let networks = networks::networks(hosts, &usual);
        let is_wanted = !self.plan.wanted.is_auto();
        if let [chosen, others @ ..] = &networks[..]
            && (is_wanted || others.is_empty())
        {
            let choice = networks::unchosen(chosen, others, is_wanted);
            return Ok(Ways::Chosen(usual, Some(choice)));
        }
        let names = self.hosts.iter().map(|host| host.name.clone()).collect();
        let (run_id, ports) = (self.plan.run_id, self.plan.ports);
        let (survey, asked) = Survey::begin(run_id, ports, names, networks, Instant::now());
        self.survey = Some(survey);
        Ok(Ways::Ask(asked))
    }

    /// Where all meet, and where TensorFlow's workers listen if that is asked for.
    fn meet(
        &self,
        hosts: &[Described],
        addresses: Vec<Candidate>,
    ) -> Result<(Meeting, Vec<SocketAddr>), MeetingError> {
        let meeting = meeting::meet(hosts, self.plan.first, addresses)?;
        let numbers = |host: &Host| host.config.ranks.iter().map(|rank| rank.rank).collect();
        let ranks: Vec<Vec<u32>> = self.hosts.iter().map(numbers).collect();
        let workers = if self.plan.tensorflow {
            meeting::workers(hosts, &meeting, &ranks)?
        } else {
            Vec::new()
        };
        Ok((meeting, workers))
    }

    /// What each host is told, now that it is known where they meet.
    fn orders(&self, meeting: &Meeting, workers: &[SocketAddr]) -> Vec<[Order; 2]> {
        let (first, ports) = meeting.frameworks;
        let shared = environment::for_frameworks(first, ports);
        let is_plain = self.plan.wanted.plain().is_some();
        let orders = self.hosts.iter().zip(&meeting.addresses).map(|(host, address)| {
            let mut config = host.config.clone();
            let interface = (env::INTERFACE.name.into(), address.address.to_string().into());
            // What the user has set comes later and counts, but for what ranks could make nothing of.
            config.variables.splice(0..0, shared.iter().cloned());
            let at = if is_plain { 0 } else { config.variables.len() };
            config.variables.insert(at, interface);
            config.tensorflow = workers.to_vec();
            [self.secret(), Order::Start(Box::new(config))]
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
        match gathering.find_network(&described) {
            Ok(Ways::Chosen(addresses, choice)) => self.let_begin(&described, addresses, choice),
            Ok(Ways::Ask(asked)) => {
                let secret = gathering.secret();
                for node in 0..described.len() {
                    self.tell(node, std::slice::from_ref(&secret));
                }
                self.ask(asked);
            }
            Err(error) => self.cannot_meet(&error),
        }
    }

    /// An agent has answered what it was asked about a network.
    pub(super) fn take_answer(&mut self, number: u32, answer: Answer) {
        let survey = self.gathering.as_mut().and_then(|gathering| gathering.survey.as_mut());
        let Some(survey) = survey.filter(|_| !self.stopping) else { return };
        let asked = survey.learn(number, answer, Instant::now());
        self.survey_goes_on(asked);
    }

    /// Networks that take too long to try are tried no longer.
    pub(super) fn survey_tick(&mut self) {
        let survey = self.gathering.as_mut().and_then(|gathering| gathering.survey.as_mut());
        let Some(survey) = survey.filter(|_| !self.stopping) else { return };
        let asked = survey.tick(Instant::now());
        self.survey_goes_on(asked);
    }

    fn survey_goes_on(&mut self, asked: Vec<Asked>) {
        self.ask(asked);
        let Some(gathering) = &self.gathering else { return };
        let result = gathering.survey.as_ref().and_then(Survey::result);
        let (Some((networks, found)), Some(described)) = (result, gathering.described()) else {
            return;
        };
        let (chosen, choice) = networks::choose(networks, found);
        let addresses = networks[chosen].members.clone();
        self.let_begin(&described, addresses, Some(choice));
    }

    fn ask(&mut self, asked: Vec<Asked>) {
        for Asked { node, number, question } in asked {
            self.tell(node, &[Order::Examine { number, question }]);
        }
    }

    fn cannot_meet(&mut self, error: &MeetingError) {
        let verdict = Verdict::NoNetwork { reason: error.to_string() };
        self.director.stop_because(verdict, Instant::now());
    }

    /// All hosts meet at these addresses: all ranks are started.
    fn let_begin(
        &mut self,
        described: &[Described],
        addresses: Vec<Candidate>,
        choice: Option<NetworkChoice>,
    ) {
        let Some(mut gathering) = self.gathering.take() else { return };
        let (meeting, workers) = match gathering.meet(described, addresses) {
            Ok(met) => met,
            Err(error) => return self.cannot_meet(&error),
        };
        let others = gathering.other_builds();
        if !others.is_empty() {
            let hosts = others.join(", ");
            say(&format!("paceline on {hosts} is another build than here, of the same version"));
        }
        if let Some(choice) = choice {
            self.director.network_is_chosen(choice);
        }
        for (node, orders) in gathering.orders(&meeting, &workers).iter().enumerate() {
            self.tell(node, orders);
        }
        if let Some(input) = gathering.input.take() {
            self.pass_input(&input);
        }
    }
}
