//! Network interfaces.

use std::net::IpAddr;
use std::path::Path;

use paceline_rendezvous::interface::{Candidate, is_virtual};

use super::super::examination::Interface;
use crate::machine::files::{names, words};

/// Those that may lead to other hosts, in the order of their names.
pub(super) fn interfaces(root: &Path) -> Vec<Interface> {
    let addresses = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses: Vec<Candidate> = addresses
        .into_iter()
        .map(|found| Candidate { address: found.ip(), interface: found.name })
        .collect();
    below(root, &addresses)
}

fn below(root: &Path, addresses: &[Candidate]) -> Vec<Interface> {
    let directory = root.join("sys/class/net");
    let mut all: Vec<Interface> = names(&directory)
        .into_iter()
        .filter(|name| !is_virtual(name))
        .filter_map(|name| {
            let read = |file: &str| words(&directory.join(&name).join(file));
            // 1 is Ethernet, 32 InfiniBand; loopback, tunnels and the like have other numbers.
            let kind = read("type")?;
            if !matches!(kind.as_str(), "1" | "32") {
                return None;
            }
            let is_own = |found: &&Candidate| found.interface == name && found.may_lead_elsewhere();
            let addresses: Vec<IpAddr> =
                addresses.iter().filter(is_own).map(|found| found.address).collect();
            let state = read("operstate").unwrap_or_else(|| "unknown".to_owned());
            let speed = read("speed").and_then(|text| text.parse().ok());
            let mtu = read("mtu").and_then(|text| text.parse().ok());
            Some(Interface {
                state,
                // Drivers that do not know say -1, an error, or 0.
                megabits_per_second: speed.filter(|speed| *speed > 0),
                mtu,
                addresses,
                name,
            })
        })
        // Devices of traffic control and the like have no address and are not used.
        .filter(|interface| {
            interface.state != "down"
                || !interface.addresses.is_empty()
                || is_hardware(&directory, &interface.name)
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Whether there is a device behind it, rather than only the kernel.
fn is_hardware(directory: &Path, name: &str) -> bool {
    directory.join(name).join("device").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::made_of;

    #[test]
    fn what_leads_nowhere_is_left_out() {
        let mut files = Vec::new();
        for (name, kind, state, mtu, speed) in [
            ("lo", "772", "unknown", "65536", ""),
            ("eth1", "1", "up", "9000", "25000"),
            ("eth0", "1", "up", "1500", "-1"),
            ("eth2", "1", "down", "1500", "0"),
            ("ifb0", "1", "down", "1500", ""),
            ("docker0", "1", "up", "1500", "10000"),
            ("ib0", "32", "up", "2044", "100000"),
        ] {
            for (file, text) in
                [("type", kind), ("operstate", state), ("mtu", mtu), ("speed", speed)]
            {
                files.push((format!("sys/class/net/{name}/{file}"), text));
            }
        }
        files.push(("sys/class/net/eth2/device/vendor".to_owned(), "0x15b3"));
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let root = made_of(&files);
        let addresses = [
            ("lo", "127.0.0.1"),
            ("eth0", "10.0.0.1"),
            ("eth0", "fe80::1"),
            ("eth0", "fd00::1"),
            ("docker0", "172.17.0.1"),
        ]
        .map(|(interface, address)| Candidate {
            interface: interface.into(),
            address: address.parse().expect("an address"),
        });
        let found = below(root.path(), &addresses);
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1", "eth2", "ib0"]);
        assert_eq!(found[0].addresses, [addresses[1].address, addresses[3].address]);
        assert_eq!((found[0].megabits_per_second, found[0].mtu), (None, Some(1500)));
        assert_eq!((found[1].megabits_per_second, found[1].mtu), (Some(25_000), Some(9000)));
        assert!(found[1].is_up() && !found[2].is_up());
    }
}
