//! Starting ranks on several hosts: every agent first says what its host is like, then all are told
//! where they meet.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use paceline_rendezvous::Secret;
use paceline_rendezvous::env;
use paceline_rendezvous::interface::Candidate;
use zeroize::Zeroizing;

use super::conductor::Conductor;
use super::meeting::{self, Meeting, MeetingError};
use super::outcome::Verdict;
use crate::doctor::question::Answer;
use crate::environment;
use crate::networks::{self, Asked, Described, NetworkChoice, Survey};
use crate::plan::{LaunchPlan, NodePlan};
use crate::process::build_id;
use crate::protocol::facts::{self, AgentFacts};
use crate::protocol::messages::Order;

/// Agents that have not all said yet what their hosts are like, or that try networks.
#[derive(Debug)]
pub(super) struct Gathering {
    /// By the number of the node, until all are there.
    facts: Vec<Option<AgentFacts>>,
    /// How many are not.
    missing: usize,
    /// All hosts as their agents describe them, once all have.
    described: Vec<Described>,
    secret: Secret,
    /// Networks that are being tried.
    survey: Option<Survey>,
    /// The first piece of standard input: no other is read before somebody has taken it.
    input: Option<Vec<u8>>,
}

/// How hosts get to know where they meet.
enum Ways {
    /// At these addresses, because of that if there was a choice.
    Chosen(Vec<Candidate>, Option<NetworkChoice>),
    /// Networks are tried first.
    Ask(Vec<Asked>),
}

impl Gathering {
    /// Of so many hosts.
    pub(super) fn of(hosts: usize, secret: Secret) -> Self {
        let (facts, missing, described) = (vec![None; hosts], hosts, Vec::new());
        Self { facts, missing, described, secret, survey: None, input: None }
    }

    /// When agents that try networks have had time enough.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.survey.as_ref().and_then(Survey::give_up_at)
    }

    /// Keeps it until there are ranks.
    pub(super) fn hold_input(&mut self, bytes: &[u8]) {
        self.input = Some(bytes.to_vec());
    }

    /// Takes what an agent says of its host; returns whether this was the last one to do so.
    fn learn(&mut self, node: usize, facts: AgentFacts, nodes: &[NodePlan]) -> bool {
        // Who says it again, when all are being told what to do, says nothing new.
        let Some(place) = self.facts.get_mut(node) else { return false };
        if place.replace(facts).is_none() {
            self.missing -= 1;
        }
        if self.missing > 0 {
            return false;
        }
        let facts = std::mem::take(&mut self.facts).into_iter().flatten();
        self.described = nodes.iter().map(|node| node.host.host.clone()).zip(facts).collect();
        true
    }

    fn secret(&self) -> Order {
        Order::Secret(Zeroizing::new(self.secret.to_hex().as_bytes().to_vec()))
    }

    /// The addresses to meet at, or that networks must be tried first.
    fn find_network(&mut self, plan: &LaunchPlan) -> Result<Ways, MeetingError> {
        let usual = meeting::usual(&self.described, &plan.interface)?;
        if self.described.len() < 2 {
            return Ok(Ways::Chosen(usual, None));
        }
        let networks = networks::networks(&self.described, &usual);
        let is_wanted = !plan.interface.is_auto();
        if let [chosen, others @ ..] = &networks[..]
            && (is_wanted || others.is_empty())
        {
            let choice = networks::unchosen(chosen, others, is_wanted);
            return Ok(Ways::Chosen(usual, Some(choice)));
        }
        let names = self.described.iter().map(|(host, _)| host.clone()).collect();
        let (run_id, ports) = (plan.run_id, plan.port_range);
        let (survey, asked) = Survey::begin(run_id, ports, names, networks, Instant::now());
        self.survey = Some(survey);
        Ok(Ways::Ask(asked))
    }

    /// Where all meet, and where TensorFlow's workers listen if that is asked for.
    fn meet(
        &self,
        plan: &LaunchPlan,
        addresses: Vec<Candidate>,
    ) -> Result<(Meeting, Vec<SocketAddr>), MeetingError> {
        let meeting = meeting::meet(&self.described, plan.first_node(), addresses)?;
        let workers = if plan.tensorflow {
            let numbers = |node: &NodePlan| node.ranks.iter().map(|(rank, _)| *rank).collect();
            let ranks: Vec<Vec<u32>> = plan.nodes.iter().map(numbers).collect();
            meeting::workers(&self.described, &meeting, &ranks)?
        } else {
            Vec::new()
        };
        Ok((meeting, workers))
    }

    /// Hosts that run another build of the same version.
    fn other_builds(&self) -> Vec<&str> {
        let own = build_id::of_this_process();
        let differs =
            |(_, facts): &&Described| own.is_some() && facts.build.is_some() && facts.build != own;
        self.described.iter().filter(differs).map(|(host, _)| host.as_str()).collect()
    }
}

impl Conductor {
    /// An agent has said what its host is like. The last one lets all begin.
    pub(super) fn take_facts(&mut self, node: usize, facts: AgentFacts) {
        // After a stop nothing more is started.
        let Some(gathering) = self.gathering.as_mut().filter(|_| !self.stopping) else { return };
        if facts.version != facts::VERSION {
            let host = self.plan.nodes.get(node).map(|node| node.host.host.clone());
            let (host, theirs) = (host.unwrap_or_default(), facts.version);
            self.director.stop_because(Verdict::OtherVersion { host, theirs }, Instant::now());
            return;
        }
        if !gathering.learn(node, facts, &self.plan.nodes) {
            return;
        }
        match gathering.find_network(&self.plan) {
            Ok(Ways::Chosen(addresses, choice)) => self.let_begin(addresses, choice),
            Ok(Ways::Ask(asked)) => {
                let secret = gathering.secret();
                for node in 0..self.plan.nodes.len() {
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
        let survey = self.gathering.as_ref().and_then(|gathering| gathering.survey.as_ref());
        let Some((networks, found)) = survey.and_then(Survey::result) else { return };
        let (chosen, choice) = networks::choose(networks, found);
        let addresses = networks[chosen].members.clone();
        self.let_begin(addresses, Some(choice));
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
    fn let_begin(&mut self, addresses: Vec<Candidate>, choice: Option<NetworkChoice>) {
        let Some(gathering) = self.gathering.take() else { return };
        let shared = networks::shared_addresses(&gathering.described, &addresses);
        let (meeting, workers) = match gathering.meet(&self.plan, addresses) {
            Ok(met) => met,
            Err(error) => return self.cannot_meet(&error),
        };
        let others = gathering.other_builds();
        if !others.is_empty() {
            let hosts = others.join(", ");
            self.say(&format!(
                "paceline on {hosts} is another build than here, of the same version"
            ));
        }
        if let Some(mut choice) = choice {
            choice.warnings.extend(shared);
            self.director.network_is_chosen(choice);
        }
        for (node, own) in meeting.addresses.iter().enumerate() {
            let start = self.start_order(node, own, meeting.frameworks, &workers);
            self.tell(node, &[gathering.secret(), start]);
        }
        if let Some(input) = gathering.input {
            self.pass_input(&input);
        }
    }

    /// What a host is told, now that it is known where they meet.
    fn start_order(
        &self,
        node: usize,
        own: &Candidate,
        (first, ports): (IpAddr, [u16; 2]),
        workers: &[SocketAddr],
    ) -> Order {
        let mut config = self.config(node);
        let interface = (env::INTERFACE.name.into(), own.address.to_string().into());
        // What the user has set comes later and counts, but for what ranks could make nothing of.
        config.variables.splice(0..0, environment::for_frameworks(first, ports));
        let is_plain = self.plan.interface.plain().is_some();
        let at = if is_plain { 0 } else { config.variables.len() };
        config.variables.insert(at, interface);
        config.tensorflow = workers.to_vec();
        Order::Start(Box::new(config))
    }
}
