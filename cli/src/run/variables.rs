//! The variables that ranks get.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use paceline_collectives::ContextOptions;
use paceline_collectives::queue::QueueOptions;
use paceline_rendezvous::env::{self, Environment, ProcessEnvironment};

use super::wanted::UsageError;
use crate::console;
use crate::hosts;
use crate::options::Layers;

/// Finds out before the ranks do which of their variables make no sense.
pub(super) fn check_for_ranks(
    layers: &Layers,
    variables: &[(OsString, OsString)],
) -> Result<(), UsageError> {
    let seen = SeenByRanks(variables, layers);
    let found = ContextOptions::from_environment(&seen).map(drop);
    let found = found.and_then(|()| QueueOptions::from_environment(&seen).map(drop));
    found.map_err(|error| match layers.spelled(error) {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    })
}

/// The environment of this process under the variables that ranks get beside it; the last one counts.
struct SeenByRanks<'a>(&'a [(OsString, OsString)], &'a Layers);

impl Environment for SeenByRanks<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        if name == env::INTERFACE.name && names_several(self.1) {
            return None;
        }
        let set = self.0.iter().rev().find(|(set, _)| set == name);
        set.map(|(_, value)| value.clone()).or_else(|| ProcessEnvironment.get(name))
    }
}

/// Whether several interfaces are wanted, of which the launcher makes one for each host. What makes no
/// sense is none; others say so.
fn names_several(layers: &Layers) -> bool {
    hosts::interface(layers).is_ok_and(|rules| rules.plain().is_none())
}

/// What a file says, then `-x`, then options of ours, which are more specific.
pub(super) fn variables(
    exported_texts: &[OsString],
    layers: &Layers,
) -> Result<Vec<(OsString, OsString)>, UsageError> {
    let all = ProcessEnvironment.all();
    let mut variables = layers.file_for_ranks();
    for text in exported_texts {
        variables.extend(exported(text, &all)?);
    }
    variables.extend(layers.options_for_ranks());
    if names_several(layers) {
        // Ranks understand one choice for themselves; of several the launcher makes one for each host.
        variables.retain(|(name, _)| name != env::INTERFACE.name);
    }
    Ok(variables)
}

/// `NAME=VALUE`, or the value that NAME has here, or those of all names that begin as in `NAME*`;
/// nothing, with a note, where there is none.
fn exported(
    text: &OsString,
    all: &[(OsString, OsString)],
) -> Result<Vec<(OsString, OsString)>, UsageError> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (bytes, None),
    };
    if name.is_empty() {
        return Err(UsageError::NamelessVariable { text: text.display().to_string() });
    }
    let name = OsString::from_vec(name.to_vec());
    let values = match (value, name.as_bytes().strip_suffix(b"*")) {
        (Some(value), _) => vec![(name.clone(), value)],
        (None, Some(beginning)) => {
            let begins = |name: &OsString| name.as_bytes().starts_with(beginning);
            let is_meant = |name: &OsString| begins(name) && !env::identifies_rank(name);
            all.iter().filter(|(name, _)| is_meant(name)).cloned().collect()
        }
        (None, None) => all.iter().filter(|(known, _)| *known == name).cloned().collect(),
    };
    if values.is_empty() {
        console::note(&format!(
            "-x {}: it has no value here; nothing is passed on",
            name.display()
        ));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_variables_take_a_value_or_the_one_they_have() {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let all = [pair("HOME", "/root"), pair("AB", "1"), pair("AC", "2"), pair("RANK", "3")];
        let export = |text: &str| exported(&text.into(), &all).expect("well formed");
        assert_eq!(export("A=b=c"), [pair("A", "b=c")]);
        assert_eq!(export("A="), [pair("A", "")]);
        assert_eq!(export("HOME"), [pair("HOME", "/root")]);
        assert_eq!(export("A*"), [pair("AB", "1"), pair("AC", "2")]);
        assert_eq!(export("A*=5"), [pair("A*", "5")]);
        // Which rank a process is is not passed on because something begins like it.
        assert_eq!(export("R*"), []);
        assert_eq!(export("ABSENT"), []);
        assert!(exported(&"=x".into(), &all).is_err());
    }
}
