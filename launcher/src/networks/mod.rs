//! Which network the ranks of several hosts use: those that all hosts have, which of them lead from
//! host to host, which is fastest. Pure: agents look and try.
//!
//! A *network* here is one address of each host. Where there is only one, nothing is tried and nothing
//! takes time. Else agents open doors at these addresses and knock at each other's ([`Survey`]): first all
//! at once, whether they lead there, then, where several networks do, neighbour to neighbour, how fast they
//! are. What cannot be found out never stops a job: the network that ssh uses is then taken, as it is where
//! there is nothing to choose.

mod rules;
mod survey;

use std::collections::BTreeMap;
use std::net::IpAddr;

use paceline_rendezvous::interface::{Candidate, Subnet};
use serde::{Deserialize, Serialize};

use crate::protocol::facts::{AgentFacts, HostAddress};

pub use rules::{InterfaceRules, ParseInterfaceRulesError};
pub(crate) use survey::{Asked, Found, Survey};

/// How much faster than another network one must be for its word to count.
const FASTER: f64 = 1.25;

/// How much faster its links must be by their drivers' word to be worth a warning.
const FASTER_BY_NAME: u32 = 2;

/// Hosts that a warning names one by one.
const NAMED_MAX: usize = 4;

/// A host and what its agent says.
pub(crate) type Described = (String, AgentFacts);

/// One address of each host, in the order of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Its subnet, its interface or both: `10.0.0.0/24 (eth0)`.
    pub(crate) name: String,
    pub(crate) members: Vec<Candidate>,
    /// Speed of its slowest link, as drivers tell it, where they all do.
    pub(crate) megabits: Option<u32>,
}

/// Which network was chosen for a job, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkChoice {
    /// The network: its subnet, its interface or both.
    pub network: String,
    /// Why: a clause.
    pub why: String,
    /// Every network that all hosts have, where there are several.
    pub networks: Vec<NetworkReport>,
    /// What to think about, one sentence each.
    pub warnings: Vec<String>,
}

/// A network that could be chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Its subnet, its interface or both.
    pub name: String,
    /// Bandwidth of the slowest way that was measured, in GB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gigabytes_per_second: Option<f64>,
    /// Half of the round trips of the slowest way took no longer, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<f64>,
    /// Why it is of no use, with the way that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl NetworkReport {
    fn of(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, gigabytes_per_second: None, round_trip_us: None, problem: None }
    }
}

/// The networks that all hosts have. The first one is `usual`, which has an address of each host.
///
/// Others are subnets in which every host has an address, and interfaces of one name. A network over
/// the interfaces of an earlier one is left out: the wires are the same.
pub(crate) fn networks(hosts: &[Described], usual: &[Candidate]) -> Vec<Network> {
    let mut networks = vec![network(hosts, usual.to_vec())];
    let Some((_, first)) = hosts.first() else { return networks };
    for address in first.addresses.iter().filter(|address| leads_elsewhere(address)) {
        let subnet = Subnet::of(address.address, address.prefix);
        let is_in = |other: &HostAddress| subnet.contains(other.address);
        let is_named = |other: &HostAddress| {
            other.interface == address.interface
                && other.address.is_ipv4() == address.address.is_ipv4()
        };
        for members in [members(hosts, &is_in), members(hosts, &is_named)].into_iter().flatten() {
            let is_known = |known: &Network| {
                let mut pairs = known.members.iter().zip(&members);
                pairs.all(|(known, member)| known.interface == member.interface)
            };
            if !networks.iter().any(is_known) {
                networks.push(network(hosts, members));
            }
        }
    }
    networks
}

/// What to think about where several hosts are to meet at one and the same address.
pub(crate) fn shared_addresses(hosts: &[Described], members: &[Candidate]) -> Vec<String> {
    let mut by_address: BTreeMap<IpAddr, Vec<&str>> = BTreeMap::new();
    for ((host, _), member) in hosts.iter().zip(members) {
        by_address.entry(member.address).or_default().push(host);
    }
    let shared = by_address.into_iter().filter(|(_, hosts)| hosts.len() > 1);
    let warning = |(address, hosts): (IpAddr, Vec<&str>)| {
        let others = hosts.len().saturating_sub(NAMED_MAX);
        let rest = if others > 0 { format!(" and {others} more") } else { String::new() };
        let hosts = hosts[..hosts.len() - others].join(", ") + &rest;
        if address.is_loopback() {
            format!("{hosts} are to meet at {address}, which leads each of them to itself")
        } else {
            format!(
                "{hosts} have the same address, {address}: if they are one host, name it once, or its \
                 local ranks are counted several times"
            )
        }
    };
    shared.map(warning).collect()
}

/// The first address of each host that is meant and may lead to other hosts, if all have one.
fn members(hosts: &[Described], is_meant: &dyn Fn(&HostAddress) -> bool) -> Option<Vec<Candidate>> {
    let of_host = |(_, facts): &Described| {
        let meant = |address: &&HostAddress| leads_elsewhere(address) && is_meant(address);
        facts.addresses.iter().find(meant).map(HostAddress::candidate)
    };
    hosts.iter().map(of_host).collect()
}

fn leads_elsewhere(address: &HostAddress) -> bool {
    address.candidate().may_lead_elsewhere()
}

fn network(hosts: &[Described], members: Vec<Candidate>) -> Network {
    let address_of = |((_, facts), member): (&Described, &Candidate)| {
        facts.addresses.iter().find(|found| found.address == member.address).cloned()
    };
    let found: Vec<Option<HostAddress>> = hosts.iter().zip(&members).map(address_of).collect();
    let speeds: Option<Vec<u32>> =
        found.iter().map(|found| found.as_ref()?.megabits_per_second).collect();
    let subnet = found.first().and_then(|found| {
        let found = found.as_ref()?;
        Some(Subnet::of(found.address, found.prefix))
    });
    let subnet =
        subnet.filter(|subnet| members.iter().all(|member| subnet.contains(member.address)));
    let name = members.first().map(|first| first.interface.clone());
    let name = name.filter(|name| members.iter().all(|member| member.interface == *name));
    let name = match (subnet, name) {
        (Some(subnet), Some(name)) => format!("{subnet} ({name})"),
        (Some(subnet), None) => subnet.to_string(),
        (None, Some(name)) => name,
        (None, None) => "the network that ssh uses".to_owned(),
    };
    Network { name, members, megabits: speeds.and_then(|speeds| speeds.into_iter().min()) }
}

/// What to say where there is nothing to choose: `chosen` is what the user wants, or the only one.
pub(crate) fn unchosen(chosen: &Network, others: &[Network], is_wanted: bool) -> NetworkChoice {
    let why = if is_wanted { "as --interface says" } else { "the only one that all hosts have" };
    let is_faster = |other: &&Network| match (other.megabits, chosen.megabits) {
        (Some(theirs), Some(ours)) => theirs >= ours.saturating_mul(FASTER_BY_NAME),
        _ => false,
    };
    let interfaces = |network: &Network| -> Vec<String> {
        network.members.iter().map(|member| member.interface.clone()).collect()
    };
    let faster = others
        .iter()
        .filter(|other| interfaces(other) != interfaces(chosen))
        .filter(is_faster)
        .max_by_key(|other| other.megabits);
    let warning = faster.map(|other| {
        format!(
            "{} is used, with links of {}; all hosts also have {}, with links of {} by their drivers' \
             word: `paceline doctor` measures both",
            chosen.name,
            speed(chosen.megabits),
            other.name,
            speed(other.megabits),
        )
    });
    NetworkChoice {
        network: chosen.name.clone(),
        why: why.to_owned(),
        networks: Vec::new(),
        warnings: warning.into_iter().collect(),
    }
}

fn speed(megabits: Option<u32>) -> String {
    match megabits {
        Some(megabits) if megabits % 1000 == 0 => format!("{} Gb/s", megabits / 1000),
        Some(megabits) => format!("{megabits} Mb/s"),
        None => "unknown speed".to_owned(),
    }
}

/// Which network is best by what was found of each, and why.
pub(crate) fn choose(networks: &[Network], found: &[Found]) -> (usize, NetworkChoice) {
    let bandwidth = |index: usize| found.get(index).and_then(Found::gigabytes_per_second);
    let is_usable = |index: &usize| found.get(*index).is_some_and(|found| found.problem.is_none());
    let usable: Vec<usize> = (0..networks.len()).filter(is_usable).collect();
    let fastest = usable.iter().copied().max_by(|a, b| {
        let speed = |index: usize| bandwidth(index).unwrap_or(0.0);
        // The earlier one where they are alike.
        speed(*a).total_cmp(&speed(*b)).then(b.cmp(a))
    });
    let (chosen, why) = match (&usable[..], fastest) {
        ([], _) | (_, None) => {
            (0, "ssh's way: no network was seen to lead to all hosts".to_owned())
        }
        ([only], _) => (*only, "the only one that leads to all hosts".to_owned()),
        ([first, ..], Some(fastest)) => {
            let ratio = match (bandwidth(*first), bandwidth(fastest)) {
                (Some(usual), Some(best)) if usual > 0.0 => best / usual,
                _ => f64::INFINITY,
            };
            if *first == fastest || ratio < FASTER {
                let way = if *first == 0 { "ssh's way" } else { "the first of them" };
                (*first, format!("{way}, and no other is {FASTER} times as fast"))
            } else if ratio.is_finite() {
                (fastest, format!("{ratio:.1} times as fast as {}", networks[*first].name))
            } else {
                (fastest, "the fastest".to_owned())
            }
        }
    };
    let report = |(network, found): (&Network, &Found)| NetworkReport {
        gigabytes_per_second: found.gigabytes_per_second(),
        round_trip_us: found.round_trip_us(),
        problem: found.problem.clone(),
        ..NetworkReport::of(&network.name)
    };
    let reports = networks.iter().zip(found).map(report).collect();
    let warning = usable.is_empty().then(|| {
        "ranks may not reach each other: `paceline doctor` tries every way and says what to do"
            .into()
    });
    let choice = NetworkChoice {
        network: networks[chosen].name.clone(),
        why,
        networks: reports,
        warnings: warning.into_iter().collect(),
    };
    (chosen, choice)
}

/// The addresses of a host at which it is to be reached, by network; each once.
pub(crate) fn addresses_of(networks: &[Network], node: usize) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for network in networks {
        if let Some(member) = network.members.get(node)
            && !addresses.contains(&member.address)
        {
            addresses.push(member.address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
