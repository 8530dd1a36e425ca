//! What an agent says of its host and of itself.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use paceline_rendezvous::env::{Environment, ProcessEnvironment};
use paceline_rendezvous::interface::Candidate;
use serde::{Deserialize, Serialize};

use crate::environment;
use crate::process::build_id;

/// The version of this package: launcher and agents must be of the same.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Set by sshd: address and port of the client, address and port of the server.
const SSH_CONNECTION: &str = "SSH_CONNECTION";

/// A host, and the agent that runs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentFacts {
    pub(crate) version: String,
    /// Which build of that version; `None` if it cannot be told.
    pub(crate) build: Option<String>,
    /// Cores that the agent may use.
    pub(crate) cores: u32,
    /// Ports on which nothing listens, for the user's frameworks.
    pub(crate) framework_ports: Vec<u16>,
    /// The address at which ssh reached this host.
    pub(crate) reached_at: Option<IpAddr>,
    /// The address of the launcher, as this host sees it.
    pub(crate) reached_from: Option<IpAddr>,
    /// In the order of the kernel's list.
    pub(crate) addresses: Vec<HostAddress>,
}

/// One address of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostAddress {
    pub(crate) interface: String,
    pub(crate) address: IpAddr,
    /// Leading bits that it has in common with all of its subnet.
    pub(crate) prefix: u8,
    /// What the driver says; virtual devices may say nothing, or anything.
    pub(crate) megabits_per_second: Option<u32>,
}

impl AgentFacts {
    /// Those of this process and its host, with so many ports if there are as many.
    pub(crate) fn gather(ports: u32) -> Self {
        let (reached_from, reached_at) = ssh_connection();
        let cores = std::thread::available_parallelism().ok();
        Self {
            version: VERSION.to_owned(),
            build: build_id::of_this_process(),
            cores: cores.and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1),
            framework_ports: environment::free_framework_ports(std::process::id(), ports),
            reached_at,
            reached_from,
            addresses: addresses(),
        }
    }
}

/// The addresses of both ends of the connection over which this process was started, if ssh did.
fn ssh_connection() -> (Option<IpAddr>, Option<IpAddr>) {
    let connection = ProcessEnvironment.get(SSH_CONNECTION).unwrap_or_default();
    let words: Vec<&str> = connection.to_str().unwrap_or_default().split(' ').collect();
    let address = |index: usize| words.get(index)?.parse().ok();
    (address(0), address(2))
}

fn addresses() -> Vec<HostAddress> {
    // Without the list the other hosts may still know one: that at which ssh came here.
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<HostAddress> = found
        .into_iter()
        .map(|found| HostAddress {
            address: found.ip(),
            prefix: prefix(&found),
            megabits_per_second: speed(&found.name),
            interface: found.name,
        })
        .collect();
    // Where an interface has both: every host of a mixed cluster has IPv4.
    addresses.sort_by_key(|found| found.address.is_ipv6());
    addresses
}

fn prefix(interface: &if_addrs::Interface) -> u8 {
    match &interface.addr {
        if_addrs::IfAddr::V4(address) => address.prefixlen,
        if_addrs::IfAddr::V6(address) => address.prefixlen,
    }
}

impl HostAddress {
    /// What may be chosen.
    pub(crate) fn candidate(&self) -> Candidate {
        Candidate { interface: self.interface.clone(), address: self.address }
    }
}

fn speed(interface: &str) -> Option<u32> {
    let path = Path::new("/sys/class/net").join(interface).join("speed");
    // -1, or an error, where there is no such thing.
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|speed| *speed > 0)
}
