//! Who tries to reach whom and when, and what is to be said of it: pure.

use std::net::IpAddr;

use super::diagnosis::{Check, PairDiagnosis, WayDiagnosis, WayOutcome};
use super::examination::{Examination, Interface};
use crate::probe::{ProbeError, Way};

/// Round trip above which VMware's documentation of Bitfusion 4.0 advises against remote GPUs.
const REMOTE_GPU_NS: u64 = 50_000;

/// Where that is said.
const REMOTE_GPU_SOURCE: &str = "VMware Bitfusion 4.0: at most 50 us";

/// The addresses of a host at which others may reach it, each with its interface.
pub(super) fn addresses(found: &Examination) -> impl Iterator<Item = (IpAddr, &Interface)> {
    let interfaces = found.interfaces.found.iter().filter(|interface| interface.is_up());
    interfaces
        .flat_map(|interface| interface.addresses.iter().map(move |address| (*address, interface)))
}

/// The way to an address of `theirs`, as tried from a host with the interfaces `own`.
pub(super) fn way(
    own: &Examination,
    theirs: &Interface,
    address: IpAddr,
    outcome: Result<Way, ProbeError>,
) -> WayDiagnosis {
    let local = outcome.as_ref().ok().and_then(|way| {
        addresses(own).find(|(address, _)| *address == way.local_address).map(|found| found.1)
    });
    let mtus = [local.and_then(|interface| interface.mtu), theirs.mtu];
    WayDiagnosis {
        address,
        interface: theirs.name.clone(),
        local_interface: local.map(|interface| interface.name.clone()),
        interface_mtu: mtus.into_iter().flatten().min(),
        outcome: match outcome {
            Ok(way) => WayOutcome::Way(way),
            Err(error) => WayOutcome::Error(error),
        },
    }
}

/// What is to be said of the ways from one host to another.
pub(super) fn judge(from: &str, to: &str, ways: &[WayDiagnosis]) -> Vec<Check> {
    let name = format!("{from} to {to}");
    if ways.is_empty() {
        return vec![Check::failed(
            name,
            format!("{to} has no address at which other hosts may reach it"),
            format!("give an interface of {to} an address; see the list of them above"),
        )];
    }
    let mut checks: Vec<Check> = Vec::new();
    let good = ways.iter().filter(|way| matches!(way.outcome, WayOutcome::Way(_))).count();
    for way in ways {
        match &way.outcome {
            WayOutcome::Way(found) => checks.extend(judge_way(&name, way, found)),
            WayOutcome::Error(error) => {
                let text = format!("{} ({}): {error}", way.address, way.interface);
                let remedy = remedy(from, to, error);
                checks.push(match good {
                    0 => Check::failed(name.clone(), text, remedy),
                    _ => Check::warning(name.clone(), text, remedy),
                });
            }
        }
    }
    if checks.is_empty() {
        let addresses: Vec<String> = ways.iter().map(|way| way.address.to_string()).collect();
        checks.push(Check::ok(name, addresses.join(", ")));
    }
    checks
}

fn judge_way(name: &str, way: &WayDiagnosis, found: &Way) -> Vec<Check> {
    let mut checks = Vec::new();
    if let (Some(mtu), Some(interface_mtu)) = (found.mtu, way.interface_mtu)
        && mtu < interface_mtu
    {
        checks.push(Check::warning(
            name,
            format!(
                "{}: packets of {mtu} B pass, both interfaces allow {interface_mtu}",
                way.address
            ),
            "give everything on the way the same MTU: switches, bonds, VLANs, tunnels",
        ));
    }
    if found.burst_bytes == 0 {
        checks.push(Check::warning(
            name,
            format!("{}: nothing of 16 MiB was acknowledged within 8 s", way.address),
            "look for lost packets: ip -s link, ethtool -S, duplex and cable",
        ));
    }
    checks
}

fn remedy(from: &str, to: &str, error: &ProbeError) -> String {
    match error {
        ProbeError::Refused => format!(
            "let {from} connect to the ports of {to} that ranks listen on; --port-range limits which \
             those are"
        ),
        ProbeError::Unreachable { .. } => format!(
            "see whether a firewall drops what {from} sends to {to}, whether there is a route, and \
             whether the link is up: ping from {from}; or choose another network with --interface"
        ),
        ProbeError::Stranger { .. } => format!(
            "the address is not of {to} alone: take it off, or choose another network with --interface"
        ),
        ProbeError::BlackHole { .. } => "some device on the way takes smaller packets only and nobody \
             is told so: give everything the same MTU and let ICMP pass, or try net.ipv4.tcp_mtu_probing=1"
            .to_owned(),
        ProbeError::Broken { .. } => {
            format!("try again; if it stays so, look for lost packets between {from} and {to}")
        }
    }
}

/// What the round trips mean for GPUs that are used over the network. Never a failure: most jobs use
/// their own.
pub(super) fn remote_gpus(pairs: &[PairDiagnosis]) -> Option<Check> {
    let best = |pair: &PairDiagnosis| {
        let times = pair.ways.iter().filter_map(|way| match &way.outcome {
            WayOutcome::Way(way) => Some(way.p50_ns),
            WayOutcome::Error(_) => None,
        });
        times.min()
    };
    let (worst, pair) =
        pairs.iter().filter_map(|pair| Some((best(pair)?, pair))).max_by_key(|(time, _)| *time)?;
    let text = format!(
        "round trips of {}.{} us from {} to {} ({REMOTE_GPU_SOURCE})",
        worst / 1000,
        worst / 100 % 10,
        pair.from,
        pair.to
    );
    Some(if worst > REMOTE_GPU_NS {
        Check::warning(
            "remote GPUs",
            text,
            "nothing, if each host uses its own GPUs; else a faster network: RDMA, fewer switches, \
             no power saving of processors",
        )
    } else {
        Check::ok("remote GPUs", text)
    })
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;
