//! The addresses of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use paceline_rendezvous::interface::{Candidate, InterfaceChoice};

use crate::EstablishError;

/// Picks the address to listen on. `one_node`: all ranks are on this node; `towards`: this host's
/// address on a connection that is known to reach the others' hosts.
///
/// # Errors
/// [`EstablishError::Interface`] lists what there is.
pub(super) fn resolve(
    choice: &InterfaceChoice,
    one_node: bool,
    towards: Option<IpAddr>,
) -> Result<IpAddr, EstablishError> {
    if *choice == InterfaceChoice::Auto && one_node {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let candidates = candidates()
        .map_err(|source| EstablishError::Os { what: "list the network interfaces", source })?;
    let chosen = choice.pick(&candidates, towards).map(|found| found.address);
    chosen.ok_or_else(|| EstablishError::Interface {
        wanted: choice.to_string(),
        available: candidates
            .iter()
            .map(|found| format!("{} {}", found.interface, found.address))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Whether this host has what the choice names, for whoever listens nowhere.
///
/// # Errors
/// [`EstablishError::Interface`] lists what there is.
pub fn check_interface(choice: &InterfaceChoice) -> Result<(), EstablishError> {
    // What the host has, and where it leads, is found out by those who listen.
    if *choice == InterfaceChoice::Auto { Ok(()) } else { resolve(choice, false, None).map(drop) }
}

fn candidates() -> io::Result<Vec<Candidate>> {
    let mut found: Vec<Candidate> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|found| Candidate { address: found.ip(), interface: found.name })
        .collect();
    // IPv4 first where an interface has both: every peer of a mixed cluster has it.
    found.sort_by_key(|candidate| candidate.address.is_ipv6());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_interface_is_an_error_that_lists_what_there_is() {
        let choice = InterfaceChoice::Name("no-such0".to_owned());
        let error = resolve(&choice, false, None).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(check_interface(&choice).unwrap_err().to_string(), error.to_string());
        for text in ["auto", "lo", "127.0.0.0/8"] {
            check_interface(&text.parse().unwrap()).unwrap();
        }
    }
}
