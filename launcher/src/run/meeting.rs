//! Where the ranks of several hosts meet: the address of each host that the others use. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use paceline_rendezvous::interface::{Candidate, InterfaceChoice};
use thiserror::Error;

use crate::environment;
use crate::networks::{Described, InterfaceRules};
use crate::protocol::facts::{AgentFacts, HostAddress};

/// What the hosts are told of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meeting {
    /// One address of each host.
    pub(super) addresses: Vec<Candidate>,
    /// Where the user's frameworks may let their ranks meet: on the host of rank 0.
    pub(super) frameworks: (IpAddr, [u16; 2]),
}

/// Why hosts cannot meet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum MeetingError {
    /// What the user wants to go over is not there.
    #[error("{host} has no interface that matches {wanted}; it has {has}")]
    Interface { host: String, wanted: String, has: String },
    /// There is no network.
    #[error("{host} has no address but {has}, at which no other host reaches it")]
    Address { host: String, has: String },
    /// All of thousands are taken.
    #[error(
        "too few ports between 20000 and 32000 of {host} are free for the program's own rendezvous"
    )]
    Port { host: String },
}

/// The address of each host that is usual: the one that the user wants, else the one at which ssh came
/// to it or came from it, else the first one that may lead to other hosts.
pub(super) fn usual(
    hosts: &[Described],
    wanted: &InterfaceRules,
) -> Result<Vec<Candidate>, MeetingError> {
    // Usually one, that of the launcher.
    let clients: BTreeSet<IpAddr> =
        hosts.iter().filter_map(|(_, facts)| facts.reached_from).collect();
    hosts.iter().map(|(host, facts)| choose(host, facts, &clients, wanted)).collect()
}

/// Lets the hosts meet at these addresses. `first` is the host of rank 0.
pub(super) fn meet(
    hosts: &[Described],
    first: usize,
    addresses: Vec<Candidate>,
) -> Result<Meeting, MeetingError> {
    let (Some(first), Some((host, facts))) = (addresses.get(first), hosts.get(first)) else {
        return Ok(Meeting { addresses, frameworks: (Ipv4Addr::UNSPECIFIED.into(), [0; 2]) });
    };
    let [torch, jax, ..] = facts.framework_ports[..] else {
        return Err(MeetingError::Port { host: host.clone() });
    };
    let frameworks = (first.address, [torch, jax]);
    Ok(Meeting { addresses, frameworks })
}

fn choose(
    host: &str,
    facts: &AgentFacts,
    clients: &BTreeSet<IpAddr>,
    wanted: &InterfaceRules,
) -> Result<Candidate, MeetingError> {
    let candidates: Vec<Candidate> = facts.addresses.iter().map(HostAddress::candidate).collect();
    let is_own = |address: &IpAddr| candidates.iter().any(|own| own.address == *address);
    let on_the_way = facts.reached_at.filter(is_own);
    let on_the_way = on_the_way.or_else(|| clients.iter().copied().find(is_own));
    let mut choices = wanted.of(host);
    if choices.is_empty() {
        choices.push(&InterfaceChoice::Auto);
    }
    if let Some(chosen) = choices.iter().find_map(|choice| choice.pick(&candidates, on_the_way)) {
        return Ok(chosen.clone());
    }
    let names = candidates.iter().map(|found| format!("{} {}", found.interface, found.address));
    let (host, has) = (host.to_owned(), names.collect::<Vec<_>>().join(", "));
    Err(match &choices[..] {
        [InterfaceChoice::Auto] => MeetingError::Address { host, has },
        choices => {
            let wanted: Vec<String> = choices.iter().map(ToString::to_string).collect();
            MeetingError::Interface { host, wanted: wanted.join(" or "), has }
        }
    })
}

/// Where each rank of a job may let TensorFlow listen, by rank. `ranks` are those of each host.
pub(super) fn workers(
    hosts: &[Described],
    meeting: &Meeting,
    ranks: &[Vec<u32>],
) -> Result<Vec<SocketAddr>, MeetingError> {
    let mut workers = BTreeMap::new();
    let common = environment::FRAMEWORK_PORT_COUNT as usize;
    for (((host, facts), address), ranks) in hosts.iter().zip(&meeting.addresses).zip(ranks) {
        let ports = facts.framework_ports.get(common..).unwrap_or_default();
        if ports.len() < ranks.len() {
            return Err(MeetingError::Port { host: host.clone() });
        }
        let place = |port: &u16| SocketAddr::new(address.address, *port);
        workers.extend(ranks.iter().copied().zip(ports.iter().map(place)));
    }
    Ok(workers.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, reached_at: Option<&str>, addresses: &[(&str, &str)]) -> Described {
        let address = |text: &str| text.parse().expect("an address");
        let facts = AgentFacts {
            version: "1".into(),
            build: None,
            cores: 2,
            framework_ports: vec![20_001, 20_002, 20_003, 20_004],
            reached_at: reached_at.map(address),
            reached_from: reached_at.map(|_| address("10.0.0.1")),
            addresses: addresses
                .iter()
                .map(|(interface, text)| HostAddress {
                    interface: (*interface).into(),
                    address: address(text),
                    prefix: 24,
                    megabits_per_second: None,
                })
                .collect(),
        };
        (name.into(), facts)
    }

    fn chosen(hosts: &[Described], wanted: &str) -> Result<Vec<String>, MeetingError> {
        let addresses = usual(hosts, &wanted.parse().expect("well formed"))?;
        let meeting = meet(hosts, 0, addresses)?;
        Ok(meeting.addresses.iter().map(|found| found.address.to_string()).collect())
    }

    fn cluster() -> [Described; 3] {
        let lo = ("lo", "127.0.0.1");
        [
            host("here", None, &[lo, ("eth1", "192.168.0.1"), ("eth0", "10.0.0.1")]),
            host("a", Some("10.0.0.2"), &[lo, ("eth1", "192.168.0.2"), ("eth0", "10.0.0.2")]),
            // Behind address translation: it does not know the address at which ssh came.
            host("b", Some("203.0.113.9"), &[lo, ("docker0", "172.17.0.1"), ("eth0", "10.0.0.3")]),
        ]
    }

    #[test]
    fn hosts_meet_where_ssh_went() {
        let hosts = cluster();
        assert_eq!(chosen(&hosts, "auto").expect("sound"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let meeting = meet(&hosts, 1, usual(&hosts, &InterfaceRules::default()).expect("sound"))
            .expect("sound");
        let first: IpAddr = "10.0.0.2".parse().expect("an address");
        assert_eq!(meeting.frameworks, (first, [20_001, 20_002]));
    }

    #[test]
    fn each_rank_has_a_port_of_its_host_for_tensorflow() {
        let hosts = &cluster()[..2];
        let addresses = usual(hosts, &InterfaceRules::default()).expect("sound");
        let meeting = meet(hosts, 0, addresses).expect("sound");
        let workers_of = |ranks: &[Vec<u32>]| {
            let workers = workers(hosts, &meeting, ranks)?;
            Ok(workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let expected = "10.0.0.1:20003 10.0.0.2:20003 10.0.0.1:20004".to_owned();
        assert_eq!(workers_of(&[vec![0, 2], vec![1]]), Ok(expected));
        let error = workers_of(&[vec![0], vec![1, 2, 3]]);
        assert_eq!(error, Err(MeetingError::Port { host: "a".into() }));
    }

    #[test]
    fn what_the_user_wants_counts_on_every_host() {
        let hosts = cluster();
        let chosen_of = chosen(&hosts[..2], "eth1").expect("both have it");
        assert_eq!(chosen_of, ["192.168.0.1", "192.168.0.2"]);
        let of_some = chosen(&hosts, "a=eth1,eth7,eth0").expect("each has one");
        assert_eq!(of_some, ["10.0.0.1", "192.168.0.2", "10.0.0.3"]);
        let error = chosen(&hosts, "a=eth7,a=eth8").expect_err("a has neither");
        assert!(error.to_string().starts_with("a has no interface that matches eth7 or eth8;"));
        let error = chosen(&hosts, "192.168.0.0/24").expect_err("b has none");
        assert_eq!(
            error.to_string(),
            "b has no interface that matches 192.168.0.0/24; it has lo 127.0.0.1, \
             docker0 172.17.0.1, eth0 10.0.0.3"
        );
    }

    #[test]
    fn a_host_without_a_network_is_named() {
        let mut hosts = cluster().to_vec();
        hosts.push(host("c", None, &[("lo", "127.0.0.1"), ("docker0", "172.17.0.1")]));
        let error = chosen(&hosts, "auto").expect_err("c is alone");
        assert!(matches!(&error, MeetingError::Address { host, .. } if host == "c"), "{error}");
        hosts[0].1.framework_ports = vec![20_001];
        let error = chosen(&hosts[..1], "auto").expect_err("no port");
        assert!(matches!(error, MeetingError::Port { .. }), "{error}");
    }
}
