//! Which names mean this machine.

use std::net::IpAddr;

/// What counts as this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LocalRule {
    /// `localhost`, its own name with or without the domain, every loopback address, and the
    /// addresses of its interfaces.
    #[default]
    Own,
    /// `localhost` and its own name. What is given as an address is dialled, whosever it is: so one
    /// machine can stand for several hosts, as 127.0.0.2 and 127.0.0.3.
    NamesOnly,
}

impl LocalRule {
    /// Whether `host`, a name or an address, means the machine with these names and addresses.
    pub fn covers(self, host: &str, own_name: &str, own_addresses: &[IpAddr]) -> bool {
        // A zone says through which interface an address is reached, not whose it is.
        let address = host.split('%').next().unwrap_or(host).parse::<IpAddr>();
        if let Ok(address) = address.map(|address| address.to_canonical()) {
            let is_own = |own: &IpAddr| own.to_canonical() == address;
            return self == Self::Own
                && (address.is_loopback() || own_addresses.iter().any(is_own));
        }
        let short = own_name.split('.').next().unwrap_or(own_name);
        ["localhost", own_name, short].iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::HostSlots;

    fn addresses() -> Vec<IpAddr> {
        ["10.0.0.7", "fe80::7"].iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn own_names_and_addresses_are_local() {
        let local = |text: &str| {
            let host: HostSlots = text.parse().expect("well formed");
            host.is_local("node1.example.org", &addresses())
        };
        for name in [
            "localhost:2",
            "LOCALHOST",
            "127.0.0.1",
            "127.0.0.2:2",
            "::1",
            "[::1]:3",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.7]:1",
            "10.0.0.7:4",
            "[fe80::7%eth0]:4",
            "node1",
            "Node1",
            "node1.example.org:2",
        ] {
            assert!(local(name), "{name}");
        }
        for name in ["node2", "10.0.0.1:2", "fe80::1", "node1.example.com", "node1.example"] {
            assert!(!local(name), "{name}");
        }
    }

    #[test]
    fn addresses_can_stand_for_hosts_of_their_own() {
        let local = |host| LocalRule::NamesOnly.covers(host, "node1", &addresses());
        assert!(local("localhost") && local("node1"));
        assert!(!local("127.0.0.1") && !local("::1") && !local("10.0.0.7"));
    }
}
