//! Options that mean the same wherever they appear, and the variables that they stand for.

use std::collections::HashMap;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use paceline_rendezvous::env::{self, Environment, ProcessEnvironment, Variable};

/// How many ranks, and where.
#[derive(Debug, Args)]
pub(crate) struct RankOptions {
    /// Number of ranks; also spelled -np and --num-proc
    #[arg(short = 'n', long = "np", visible_alias = "num-proc", value_name = "N", value_parser = at_least_one)]
    pub(crate) ranks: Option<NonZeroU32>,

    /// Hosts and their slots, as in localhost:4
    #[arg(short = 'H', long = "hosts", visible_alias = "host", value_name = "HOST[:SLOTS],...")]
    pub(crate) hosts: Option<String>,
}

/// A count that cannot be zero, with words for people.
pub(crate) fn at_least_one(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| "expected a whole number, at least 1".to_owned())
}

/// How ranks reach each other, and how long they wait.
#[derive(Debug, Args)]
pub(crate) struct NetworkOptions {
    /// Network interface to use, by name or by address range
    #[arg(long, visible_alias = "network-interface", value_name = "NAME|CIDR")]
    interface: Option<OsString>,

    /// TCP ports that a rank may listen on
    #[arg(long, value_name = "FIRST-LAST")]
    port_range: Option<OsString>,

    /// Longest time for one collective operation
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    op_timeout: Option<Duration>,

    /// Give up if not all ranks have started and met by then [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    pub(crate) start_timeout: Option<Duration>,
}

impl NetworkOptions {
    /// The variables that say the same as the options given.
    pub(crate) fn variables(&self) -> Vec<(OsString, OsString)> {
        let seconds = |time: Duration| OsString::from(time.as_secs_f64().to_string());
        given([
            (env::INTERFACE, self.interface.clone()),
            (env::PORT_RANGE, self.port_range.clone()),
            (env::TIMEOUT, self.op_timeout.map(seconds)),
            (env::START_TIMEOUT, self.start_timeout.map(seconds)),
        ])
    }
}

/// The variables of those options that have been given.
pub(crate) fn given<const N: usize>(
    options: [(Variable, Option<OsString>); N],
) -> Vec<(OsString, OsString)> {
    let given = |(variable, value): (Variable, Option<OsString>)| {
        value.map(|value| (OsString::from(variable.name), value))
    };
    options.into_iter().filter_map(given).collect()
}

/// The environment of this process, except where an option says something else.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    options: HashMap<OsString, OsString>,
}

impl Overlay {
    /// Options before variables.
    pub(crate) fn new(variables: Vec<(OsString, OsString)>) -> Self {
        Self { options: variables.into_iter().collect() }
    }
}

impl Environment for Overlay {
    fn get(&self, name: &str) -> Option<OsString> {
        let option = self.options.get(std::ffi::OsStr::new(name)).cloned();
        option.or_else(|| ProcessEnvironment.get(name))
    }
}

/// A number of seconds, 0 or more.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number)
        .map_err(|_| "expected a number of seconds, 0 or more".to_owned())
}

/// A number of seconds, more than 0.
pub(crate) fn positive_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("expected more than 0 seconds".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_of_seconds() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(seconds("-1").is_err());
        assert!(seconds("nan").is_err());
        assert!(seconds("ten").is_err());
        assert!(positive_seconds("0").is_err());
    }

    #[test]
    fn options_come_before_variables() {
        let overlay = Overlay::new(vec![("PATH".into(), "/ours".into())]);
        assert_eq!(overlay.get("PATH"), Some("/ours".into()));
        assert_eq!(overlay.get("PACELINE_NO_SUCH_VARIABLE"), None);
    }
}
