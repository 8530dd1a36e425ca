//! Hosts and their slots: `HOST[:SLOTS]`, `user@HOST`, `[IPv6]:SLOTS`, separated by commas.

use std::num::NonZeroU32;
use std::str::FromStr;

use thiserror::Error;

/// One host of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSlots {
    /// Who to log in as, where it is not the present user.
    pub user: Option<String>,
    /// Name or address, without brackets.
    pub host: String,
    /// Ranks that it may run; `None` where the user gave no number.
    pub slots: Option<NonZeroU32>,
}

/// A host that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nothing where a name should be.
    #[error("{text:?} names no host")]
    Empty {
        /// What was given.
        text: String,
    },
    /// The number after the colon.
    #[error("{slots:?} is not a number of slots, in {text:?}")]
    Slots {
        /// What was given.
        text: String,
        /// The part that is wrong.
        slots: String,
    },
    /// A bracket without its partner.
    #[error("{text:?} has an unbalanced bracket: an IPv6 address is written [ADDRESS]:SLOTS")]
    Bracket {
        /// What was given.
        text: String,
    },
    /// The same host twice.
    #[error("host {host} is named twice")]
    Twice {
        /// The host.
        host: String,
    },
}

impl HostSlots {
    /// Parses a comma-separated list.
    ///
    /// # Errors
    /// Names the first entry that cannot be understood, or a host that is named twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, HostError> {
        let mut hosts: Vec<Self> = Vec::new();
        for entry in text.split(',') {
            let host: Self = entry.trim().parse()?;
            if hosts.iter().any(|known| known.host == host.host && known.user == host.user) {
                return Err(HostError::Twice { host: host.host });
            }
            hosts.push(host);
        }
        Ok(hosts)
    }

    /// Whether the name means this machine, whose own name is given.
    pub fn is_local(&self, own_name: &str) -> bool {
        let short = own_name.split('.').next().unwrap_or(own_name);
        let host = self.host.as_str();
        matches!(host, "localhost" | "::1")
            || is_loopback(host)
            || host == own_name
            || host == short
    }
}

fn is_loopback(host: &str) -> bool {
    host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for HostSlots {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (user, rest) = match text.split_once('@') {
            Some((user, rest)) if !user.is_empty() && !user.contains([':', '[']) => {
                (Some(user.to_owned()), rest)
            }
            Some(_) => return Err(HostError::Empty { text: text.to_owned() }),
            None => (None, text),
        };
        let (host, slots) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let Some((host, after)) = bracketed.split_once(']') else {
                    return Err(HostError::Bracket { text: text.to_owned() });
                };
                match (after, after.strip_prefix(':')) {
                    ("", _) => (host, None),
                    (_, Some(slots)) => (host, Some(slots)),
                    _ => return Err(HostError::Bracket { text: text.to_owned() }),
                }
            }
            None => match rest.split_once(':') {
                // More than one colon: an address without brackets, hence without slots.
                Some((_, after)) if after.contains(':') => (rest, None),
                Some((host, slots)) => (host, Some(slots)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(HostError::Empty { text: text.to_owned() });
        }
        let slots = match slots {
            None => None,
            Some(slots) => Some(slots.parse().map_err(|_| HostError::Slots {
                text: text.to_owned(),
                slots: slots.to_owned(),
            })?),
        };
        Ok(Self { user, host: host.to_owned(), slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Option<String>, String, Option<u32>), HostError> {
        let host: HostSlots = text.parse()?;
        Ok((host.user, host.host, host.slots.map(NonZeroU32::get)))
    }

    #[test]
    fn every_form_is_understood() {
        assert_eq!(parse("a"), Ok((None, "a".into(), None)));
        assert_eq!(parse("a:4"), Ok((None, "a".into(), Some(4))));
        assert_eq!(parse("me@a.example:4"), Ok((Some("me".into()), "a.example".into(), Some(4))));
        assert_eq!(parse("[::1]:2"), Ok((None, "::1".into(), Some(2))));
        assert_eq!(parse("[fe80::1]"), Ok((None, "fe80::1".into(), None)));
        assert_eq!(parse("fe80::1"), Ok((None, "fe80::1".into(), None)));
    }

    #[test]
    fn nonsense_is_named() {
        assert!(matches!(parse("a:0"), Err(HostError::Slots { .. })));
        assert!(matches!(parse("a:x"), Err(HostError::Slots { .. })));
        assert!(matches!(parse("a:"), Err(HostError::Slots { .. })));
        assert!(matches!(parse(":4"), Err(HostError::Empty { .. })));
        assert!(matches!(parse("@a"), Err(HostError::Empty { .. })));
        assert!(matches!(parse("[::1"), Err(HostError::Bracket { .. })));
        assert!(matches!(parse("[::1]4"), Err(HostError::Bracket { .. })));
        assert!(matches!(HostSlots::parse_list("a:1,a:2"), Err(HostError::Twice { .. })));
        assert!(matches!(HostSlots::parse_list("a,,b"), Err(HostError::Empty { .. })));
    }

    #[test]
    fn local_names() {
        let local = |text: &str| {
            text.parse::<HostSlots>().expect("well formed").is_local("node1.example.org")
        };
        for name in ["localhost:2", "127.0.0.1", "127.0.0.2:2", "::1", "[::1]:3", "node1"] {
            assert!(local(name), "{name}");
        }
        assert!(local("node1.example.org:2"));
        assert!(!local("node2"));
        assert!(!local("10.0.0.1:2"));
    }
}
