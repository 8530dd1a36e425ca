//! Trying the networks that hosts have in common: who is asked what, and when. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use paceline_rendezvous::RunId;
use paceline_rendezvous::env::PortRange;

use super::{Network, addresses_of};
use crate::doctor::question::{Answer, Question};
use crate::probe::{Effort, Way, rounds};

/// How long agents may take to open their doors.
const DOORS_TIMEOUT: Duration = Duration::from_secs(3);

/// How long it may take to find out whether addresses lead anywhere; twice that of one that leads
/// nowhere, because hosts may be busy.
const REACH_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a round of measurements may take.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a way is worth before a job starts: some milliseconds each.
const GLANCE: Effort = Effort { round_trips: 20, burst_bytes: 4 << 20 };

/// What was found of a network.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    ways: Vec<Way>,
    /// The first thing that was wrong.
    pub(crate) problem: Option<String>,
}

impl Found {
    #[cfg(test)]
    pub(super) fn of(ways: Vec<Way>, problem: Option<String>) -> Self {
        Self { ways, problem }
    }

    /// Bandwidth of the slowest way.
    pub(crate) fn gigabytes_per_second(&self) -> Option<f64> {
        self.ways.iter().map(Way::gigabytes_per_second).min_by(f64::total_cmp)
    }

    /// Round trip of the slowest way.
    pub(crate) fn round_trip_us(&self) -> Option<f64> {
        let slowest = self.ways.iter().map(|way| way.p50_ns).max()?;
        Some(Duration::from_nanos(slowest).as_secs_f64() * 1e6)
    }
}

/// A question for the agent of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) node: usize,
    pub(crate) number: u32,
    pub(crate) question: Question,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Agents open doors.
    Doors,
    /// All ways are tried at once.
    Reach,
    /// A round of neighbours is measured on a network.
    Measure {
        network: usize,
        round: usize,
    },
    Done,
}

/// What is asked of whom, and what has come of it.
#[derive(Debug)]
pub(crate) struct Survey {
    run_id: RunId,
    ports: PortRange,
    hosts: Vec<String>,
    networks: Vec<Network>,
    found: Vec<Found>,
    /// Where the doors of each host are, by network.
    doors: Vec<Vec<Option<SocketAddr>>>,
    step: Step,
    give_up_at: Instant,
    /// Pairs to measure, in rounds.
    neighbours: Vec<Vec<(usize, usize)>>,
    /// Questions without an answer: the way that each is about.
    open: HashMap<u32, About>,
    next_number: u32,
}

#[derive(Debug, Clone, Copy)]
struct About {
    network: usize,
    from: usize,
    to: usize,
}

impl Survey {
    /// Of hosts that have several networks in common, with the first questions.
    pub(crate) fn begin(
        run_id: RunId,
        ports: PortRange,
        hosts: Vec<String>,
        networks: Vec<Network>,
        now: Instant,
    ) -> (Self, Vec<Asked>) {
        let mut survey = Self {
            run_id,
            ports,
            found: vec![Found::default(); networks.len()],
            doors: vec![vec![None; networks.len()]; hosts.len()],
            neighbours: neighbours(hosts.len()),
            hosts,
            networks,
            step: Step::Doors,
            give_up_at: now + DOORS_TIMEOUT,
            open: HashMap::new(),
            next_number: 0,
        };
        let count = u32::try_from(survey.hosts.len()).unwrap_or(u32::MAX);
        let nodes = 0..survey.hosts.len();
        let asked = nodes.map(|node| {
            let question = Question::Doors {
                run_id: *survey.run_id.as_bytes(),
                number: u32::try_from(node).unwrap_or(u32::MAX),
                count,
                addresses: addresses_of(&survey.networks, node),
                ports: (*survey.ports.ports().start(), *survey.ports.ports().end()),
            };
            survey.ask(About { network: 0, from: node, to: node }, question)
        });
        let asked = asked.collect();
        (survey, asked)
    }

    /// When what has no answer yet counts as unanswered.
    pub(crate) fn give_up_at(&self) -> Option<Instant> {
        (self.step != Step::Done).then_some(self.give_up_at)
    }

    /// The networks and what was found of them, once that is all.
    pub(crate) fn result(&self) -> Option<(&[Network], &[Found])> {
        (self.step == Step::Done).then_some((&self.networks, &self.found))
    }

    /// Takes an answer in; returns what is asked next.
    pub(crate) fn learn(&mut self, number: u32, answer: Answer, now: Instant) -> Vec<Asked> {
        let Some(about) = self.open.remove(&number) else { return Vec::new() };
        match answer {
            Answer::Doors(doors) => {
                for (network, place) in self.networks.iter().zip(&mut self.doors[about.from]) {
                    let member = &network.members[about.from];
                    let door = doors.iter().find(|door| door.address == member.address);
                    let port = door.and_then(|door| door.port.as_ref().ok());
                    *place = port.map(|port| SocketAddr::new(member.address, *port));
                }
            }
            Answer::Reach(Ok(())) => {}
            Answer::Way(Ok(way)) => self.found[about.network].ways.push(way),
            Answer::Reach(Err(error)) | Answer::Way(Err(error)) => {
                self.blame(about, &error.to_string());
            }
            Answer::Nothing { reason } => self.blame(about, &reason),
            Answer::Host(_) | Answer::Clock { .. } => {}
        }
        if self.open.is_empty() { self.proceed(now) } else { Vec::new() }
    }

    /// Goes on without answers that are overdue.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Asked> {
        if self.step == Step::Done || now < self.give_up_at {
            return Vec::new();
        }
        let overdue: Vec<About> = self.open.drain().map(|(_, about)| about).collect();
        if self.step != Step::Doors {
            overdue.into_iter().for_each(|about| self.blame(about, "no answer in time"));
        }
        self.proceed(now)
    }

    fn blame(&mut self, about: About, reason: &str) {
        let (from, to) = (&self.hosts[about.from], &self.hosts[about.to]);
        let address = self.networks[about.network].members[about.to].address;
        let problem = format!("{from} to {to} ({address}): {reason}");
        self.found[about.network].problem.get_or_insert(problem);
    }

    fn ask(&mut self, about: About, question: Question) -> Asked {
        let number = self.next_number;
        self.next_number += 1;
        self.open.insert(number, about);
        Asked { node: about.from, number, question }
    }

    /// What comes after all that was asked, until there is something to ask or nothing is left.
    fn proceed(&mut self, now: Instant) -> Vec<Asked> {
        loop {
            let (step, timeout) = self.next_step();
            (self.step, self.give_up_at) = (step, now + timeout);
            let asked = match step {
                Step::Doors => Vec::new(),
                Step::Reach => self.reach(),
                Step::Measure { network, round } => self.measure(network, round),
                Step::Done => return Vec::new(),
            };
            if !asked.is_empty() {
                return asked;
            }
        }
    }

    fn next_step(&self) -> (Step, Duration) {
        let is_usable = |network: &usize| self.found[*network].problem.is_none();
        let after = |first: usize| (first..self.networks.len()).find(is_usable);
        let next = match self.step {
            Step::Doors => return (Step::Reach, REACH_TIMEOUT),
            Step::Reach => {
                // One that is left needs no measuring.
                let is_choice = (0..self.networks.len()).filter(is_usable).count() > 1;
                after(0).filter(|_| is_choice).map(|network| (network, 0))
            }
            Step::Measure { network, round } => {
                let has_more = round + 1 < self.neighbours.len();
                if has_more && is_usable(&network) {
                    Some((network, round + 1))
                } else {
                    after(network + 1).map(|network| (network, 0))
                }
            }
            Step::Done => None,
        };
        match next {
            Some((network, round)) => (Step::Measure { network, round }, MEASURE_TIMEOUT),
            None => (Step::Done, Duration::ZERO),
        }
    }

    fn reach(&mut self) -> Vec<Asked> {
        let pairs: Vec<(usize, usize)> = rounds(self.hosts.len())
            .into_iter()
            .flatten()
            .flat_map(|(a, b)| [(a, b), (b, a)])
            .collect();
        let mut asked = Vec::new();
        for network in 0..self.networks.len() {
            for &(from, to) in &pairs {
                let about = About { network, from, to };
                match self.doors[to][network] {
                    Some(address) => {
                        let host = u32::try_from(to).unwrap_or(u32::MAX);
                        asked.push(self.ask(about, Question::Reach { host, address }));
                    }
                    None => self.blame(about, "nobody could listen there"),
                }
            }
        }
        asked
    }

    fn measure(&mut self, network: usize, round: usize) -> Vec<Asked> {
        let pairs = self.neighbours.get(round).cloned().unwrap_or_default();
        let mut asked = Vec::new();
        for (from, to) in pairs {
            let Some(address) = self.doors[to][network] else { continue };
            let host = u32::try_from(to).unwrap_or(u32::MAX);
            let question = Question::Way { host, address, effort: GLANCE };
            asked.push(self.ask(About { network, from, to }, question));
        }
        asked
    }
}

/// Each host and the next one, in rounds in which nobody is in two pairs.
fn neighbours(hosts: usize) -> Vec<Vec<(usize, usize)>> {
    let is_next = |(a, b): &(usize, usize)| b - a == 1 || (*a == 0 && b + 1 == hosts);
    let of_round = |round: Vec<(usize, usize)>| round.into_iter().filter(is_next).collect();
    let rounds = rounds(hosts).into_iter().map(of_round);
    rounds.filter(|round: &Vec<_>| !round.is_empty()).collect()
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
