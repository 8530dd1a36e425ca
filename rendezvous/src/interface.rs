//! Which of a host's addresses the data goes over: a name or a network, and what it means on a host.
//! Pure; whoever listens knows what the host has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Interfaces that never lead to another host of a job.
const VIRTUAL_PREFIXES: [&str; 5] = ["docker", "virbr", "veth", "br-", "cni"];

/// How to choose the address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum InterfaceChoice {
    /// Loopback if all ranks are on one node; else the address that reaches the coordinator, else
    /// the first address of an interface that is neither loopback nor virtual.
    #[default]
    Auto,
    /// The first address of the interface of this name.
    Name(String),
    /// The first address in this network.
    Cidr {
        /// Any address in the network.
        network: IpAddr,
        /// Leading bits that count.
        prefix: u8,
    },
}

/// Text that is neither an interface name nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an interface name nor a network such as 10.0.0.0/24 or fd00::/64")]
pub struct ParseInterfaceError(String);

impl FromStr for InterfaceChoice {
    type Err = ParseInterfaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseInterfaceError(text.to_owned());
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Cidr { network: address, prefix: bits(address) });
        }
        if let Some((network, prefix)) = text.split_once('/') {
            let network: IpAddr = network.parse().map_err(|_| wrong())?;
            let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
            return if prefix <= bits(network) {
                Ok(Self::Cidr { network, prefix })
            } else {
                Err(wrong())
            };
        }
        // Linux: at most 15 bytes, no slash, no white space.
        let valid = (1..=15).contains(&text.len()) && !text.contains(char::is_whitespace);
        if valid { Ok(Self::Name(text.to_owned())) } else { Err(wrong()) }
    }
}

impl fmt::Display for InterfaceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Name(name) => f.write_str(name),
            Self::Cidr { network, prefix } => write!(f, "{network}/{prefix}"),
        }
    }
}

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Any address in it.
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// That in which an address is, with so many leading bits; more than it has are all of them.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix: prefix.min(bits(address)) }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        contains(self.address, self.prefix, address)
    }
}

/// `10.0.0.0/24`, with the bits behind the prefix zero.
impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: IpAddr = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        write!(f, "{first}/{}", self.prefix)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let masked = |value: u128, width: u8| if prefix == 0 { 0 } else { value >> (width - prefix) };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            masked(network.to_bits().into(), 32) == masked(address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            masked(network.to_bits(), 128) == masked(address.to_bits(), 128)
        }
        _ => false,
    }
}

/// Whether an interface of this name only connects containers or virtual machines of its own host.
pub fn is_virtual(name: &str) -> bool {
    VIRTUAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// One address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
}

impl Candidate {
    /// Whether it may lead to other hosts: it is neither loopback nor link-local nor of an interface that
    /// only connects containers or virtual machines of its own host.
    pub fn may_lead_elsewhere(&self) -> bool {
        !self.address.is_loopback() && !is_link_local(self.address) && !is_virtual(&self.interface)
    }
}

impl InterfaceChoice {
    /// The address of a host to listen on, among all that it has. `towards`: its address on a connection
    /// that is known to reach the others' hosts.
    pub fn pick<'a>(
        &self,
        candidates: &'a [Candidate],
        towards: Option<IpAddr>,
    ) -> Option<&'a Candidate> {
        let first =
            |wanted: &dyn Fn(&Candidate) -> bool| candidates.iter().find(|found| wanted(found));
        match self {
            Self::Auto => {
                let on_the_way = towards.filter(|address| !address.is_loopback());
                let on_the_way =
                    on_the_way.and_then(|address| first(&|found| found.address == address));
                on_the_way.or_else(|| first(&Candidate::may_lead_elsewhere))
            }
            Self::Name(name) => first(&|found: &Candidate| {
                found.interface == *name && !is_link_local(found.address)
            }),
            Self::Cidr { network, prefix } => {
                first(&|found: &Candidate| contains(*network, *prefix, found.address))
            }
        }
    }
}

/// Link-local IPv6 addresses mean nothing without a scope, which a published address has not.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<Candidate> {
        [
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("eth0", "10.1.2.3"),
            ("eth1", "192.168.7.9"),
            ("lo", "::1"),
            ("eth1", "fe80::1"),
            ("eth1", "fd00:7::9"),
        ]
        .map(|(interface, address)| Candidate {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
        })
        .to_vec()
    }

    fn pick(choice: &str, towards: Option<&str>) -> Option<String> {
        let choice: InterfaceChoice = choice.parse().unwrap();
        choice
            .pick(&host(), towards.map(|address| address.parse().unwrap()))
            .map(|found| found.address.to_string())
    }

    #[test]
    fn interfaces_are_chosen_by_name_network_and_route() {
        assert_eq!(pick("auto", None).unwrap(), "10.1.2.3");
        assert_eq!(pick("auto", Some("192.168.7.9")).unwrap(), "192.168.7.9");
        assert_eq!(pick("auto", Some("127.0.0.1")).unwrap(), "10.1.2.3");
        assert_eq!(pick("eth1", None).unwrap(), "192.168.7.9");
        assert_eq!(pick("192.168.0.0/16", None).unwrap(), "192.168.7.9");
        assert_eq!(pick("fd00:7::/32", None).unwrap(), "fd00:7::9");
        assert_eq!(pick("0.0.0.0/0", None).unwrap(), "127.0.0.1");
        assert_eq!(pick("172.17.0.1", None).unwrap(), "172.17.0.1");
        assert_eq!(pick("ib0", None), None);
        assert_eq!(pick("10.2.0.0/16", None), None);
    }

    #[test]
    fn subnets_are_written_by_their_first_address() {
        for (address, prefix, text, inside, outside) in [
            ("10.1.2.3", 24, "10.1.2.0/24", "10.1.2.255", "10.1.3.0"),
            ("10.1.2.3", 0, "0.0.0.0/0", "192.168.0.1", "::1"),
            ("10.1.2.3", 40, "10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
            ("fd00:7::9", 64, "fd00:7::/64", "fd00:7::1", "fd00:8::1"),
            ("fd00:7::9", 0, "::/0", "::1", "10.0.0.1"),
        ] {
            let subnet = Subnet::of(address.parse().unwrap(), prefix);
            assert_eq!(subnet.to_string(), text);
            assert!(subnet.contains(inside.parse().unwrap()), "{text}");
            assert!(!subnet.contains(outside.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn bad_choices_are_refused() {
        for text in
            ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "a name", "x/8", "0123456789abcdef"]
        {
            assert!(text.parse::<InterfaceChoice>().is_err(), "{text}");
        }
    }
}
