//! `--interface`: for all hosts, for some, or several to look for.

use std::fmt;
use std::str::FromStr;

use paceline_rendezvous::interface::{InterfaceChoice, ParseInterfaceError};
use thiserror::Error;

/// Which addresses the hosts of a job are to use.
///
/// As text, entries between commas: `eth1` or `10.0.0.0/24` for every host, the first of them that a
/// host has; `a=eth1` for one host, before those for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceRules {
    of_hosts: Vec<(String, InterfaceChoice)>,
    of_all: Vec<InterfaceChoice>,
}

/// Text that is no [`InterfaceRules`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseInterfaceRulesError {
    /// An entry.
    #[error(transparent)]
    Choice(#[from] ParseInterfaceError),
    /// An entry for a host without a name.
    #[error("{entry:?} names no host before the =")]
    Nameless {
        /// The entry.
        entry: String,
    },
}

impl FromStr for InterfaceRules {
    type Err = ParseInterfaceRulesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rules = Self::default();
        for entry in text.split(',').map(str::trim) {
            match entry.split_once('=') {
                Some(("", _)) => {
                    return Err(ParseInterfaceRulesError::Nameless { entry: entry.to_owned() });
                }
                Some((host, choice)) => rules.of_hosts.push((host.to_owned(), choice.parse()?)),
                None => match entry.parse()? {
                    // What nothing says, too.
                    InterfaceChoice::Auto => {}
                    choice => rules.of_all.push(choice),
                },
            }
        }
        Ok(rules)
    }
}

impl InterfaceRules {
    /// Whether nothing is wanted of any host.
    pub fn is_auto(&self) -> bool {
        self.of_hosts.is_empty() && self.of_all.is_empty()
    }

    /// The one choice for all hosts, if it is that: ranks understand it without a launcher.
    pub fn plain(&self) -> Option<InterfaceChoice> {
        match (&self.of_hosts[..], &self.of_all[..]) {
            ([], []) => Some(InterfaceChoice::Auto),
            ([], [only]) => Some(only.clone()),
            _ => None,
        }
    }

    /// What is wanted of a host, the first of it that it has; nothing for any address.
    pub(crate) fn of(&self, host: &str) -> Vec<&InterfaceChoice> {
        let own = self.of_hosts.iter().filter(|(name, _)| name == host).map(|(_, choice)| choice);
        let own: Vec<&InterfaceChoice> = own.collect();
        if own.is_empty() { self.of_all.iter().collect() } else { own }
    }

    /// The hosts that have entries of their own.
    pub(crate) fn named_hosts(&self) -> impl Iterator<Item = &str> {
        self.of_hosts.iter().map(|(host, _)| host.as_str())
    }
}

/// As it is read again.
impl fmt::Display for InterfaceRules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_auto() {
            return formatter.write_str("auto");
        }
        let of_hosts = self.of_hosts.iter().map(|(host, choice)| format!("{host}={choice}"));
        let all: Vec<String> =
            of_hosts.chain(self.of_all.iter().map(ToString::to_string)).collect();
        formatter.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &str, host: &str) -> Vec<String> {
        let rules: InterfaceRules = rules.parse().expect("well formed");
        rules.of(host).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_has_its_own_entries_or_those_for_all() {
        let rules = "a=eth1, eth0, 10.0.0.0/24,b=10.1.0.0/16,b=ib0";
        assert_eq!(of(rules, "a"), ["eth1"]);
        assert_eq!(of(rules, "b"), ["10.1.0.0/16", "ib0"]);
        assert_eq!(of(rules, "c"), ["eth0", "10.0.0.0/24"]);
        assert_eq!(of("a=auto,eth0", "a"), ["auto"]);
        assert!(of("auto", "a").is_empty());
    }

    #[test]
    fn one_choice_for_all_is_plain() {
        let plain = |text: &str| text.parse::<InterfaceRules>().expect("well formed").plain();
        assert_eq!(plain("auto"), Some(InterfaceChoice::Auto));
        assert_eq!(plain("eth0"), Some(InterfaceChoice::Name("eth0".into())));
        assert_eq!(plain("eth0,eth1"), None);
        assert_eq!(plain("a=eth0"), None);
    }

    #[test]
    fn what_is_written_is_read_again_and_nonsense_is_refused() {
        for text in ["auto", "eth0", "a=eth1,b=fd00::/64,eth0,eth2"] {
            assert_eq!(text.parse::<InterfaceRules>().expect("well formed").to_string(), text);
        }
        for text in ["", "a=", "=eth0", "eth0,,", "10.0.0.0/40", "a b"] {
            assert!(text.parse::<InterfaceRules>().is_err(), "{text}");
        }
    }
}
