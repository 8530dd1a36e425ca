//! Hostfiles, in the forms of Horovod (`HOST slots=N`), Open MPI (also `max_slots=N`, `user@HOST`,
//! `^HOST`) and MPICH (`HOST:N`); what `-H` knows may stand there as well.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::Path;

use paceline_rendezvous::env::nearest;
use thiserror::Error;

use super::entry::{self, HostSlots};
use super::error::{HostConflict, HostProblem};
use super::lines::{LineHint, Problems, TextFileError, content, words};
use super::list::{Merger, first_slots};

/// A hostfile that cannot be understood, with all lines that are wrong.
pub type HostFileError = TextFileError<HostLineProblem>;

/// What may stand behind a host.
const KEYS: [&str; 2] = ["slots", "max_slots"];

/// What is wrong with a line of a hostfile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostLineProblem {
    /// The host.
    #[error(transparent)]
    Host(HostProblem),
    /// Something that is not `KEY=VALUE`.
    #[error("{word:?} is not of the form KEY=VALUE")]
    Word {
        /// What was given.
        word: String,
    },
    /// A key that we do not know.
    #[error("unknown key {key:?}")]
    Key {
        /// What was given.
        key: String,
    },
    /// A key twice, or `slots=` beside `HOST:SLOTS`.
    #[error("{key} is given twice")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// More slots than there may be.
    #[error("slots={slots} exceeds max_slots={max}")]
    Maximum {
        /// Slots.
        slots: NonZeroU32,
        /// The most that there may be.
        max: NonZeroU32,
    },
    /// `^HOST` with slots, a user or devices.
    #[error("a host that is excluded is only named, as in ^HOST")]
    Excluded,
    /// `^HOST` for a host that the file does not have.
    #[error("host {host} is excluded, but is not in the file")]
    NothingToExclude {
        /// The host.
        host: String,
    },
    /// Two lines about one host that do not go together.
    #[error("{0}, line {line}", line = .0.first_place)]
    Conflict(HostConflict),
    /// Not one host, or none that is not excluded.
    #[error("the file has no hosts")]
    Empty,
}

impl From<HostProblem> for HostLineProblem {
    fn from(problem: HostProblem) -> Self {
        match problem {
            HostProblem::Conflict(conflict) => Self::Conflict(conflict),
            other => Self::Host(other),
        }
    }
}

impl LineHint for HostLineProblem {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Host(problem) => problem.hint(),
            Self::Conflict(conflict) => HostProblem::Conflict(conflict.clone()).hint(),
            Self::Key { key } => Some(match nearest(key, KEYS) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys are {}", KEYS.join(", ")),
            }),
            Self::Word { .. } | Self::Empty => {
                Some("each line is a host, as in HOST slots=4 or HOST:4".into())
            }
            Self::NothingToExclude { .. } => Some("correct the name, or remove the line".into()),
            Self::Twice { .. } | Self::Maximum { .. } | Self::Excluded => None,
        }
    }
}

/// Reads the text of a hostfile.
///
/// A line is a host as in a list of hosts, ranges and devices included, with `slots=N` or
/// `max_slots=N` behind it; `#` begins a comment. `max_slots` must not be below `slots`, stands for
/// it where that is missing, and means nothing else, as no more ranks are started than there are
/// slots. A host on several lines has the slots of all of them, one where a line has no number.
/// `^HOST` takes a host out, wherever the line is.
///
/// # Errors
/// Names the lines that cannot be understood, up to ten, and where in `path` they are.
pub fn parse_hostfile(text: &str, path: &Path) -> Result<Vec<HostSlots>, HostFileError> {
    let mut problems = Problems::new();
    let mut merger = Merger::default();
    let mut excluded: Vec<(usize, String)> = Vec::new();
    let mut last_line = 1;
    for (number, line) in content(text) {
        last_line = number;
        let words = words(line);
        let Some(((column, first), rest)) = words.split_first() else { continue };
        if let Some(name) = first.strip_prefix('^') {
            match exclusion(name, rest) {
                Ok(hosts) => excluded.extend(hosts.into_iter().map(|host| (number, host))),
                Err(problem) => problems.add(number, *column, problem),
            }
            continue;
        }
        match hosts(first, rest) {
            Ok(hosts) => {
                let added = hosts.into_iter().try_for_each(|host| merger.add(host, number));
                if let Err(problem) = added {
                    problems.add(number, *column, problem);
                }
            }
            Err((at, problem)) => problems.add(number, at.unwrap_or(*column), problem),
        }
    }
    let mut hosts = merger.hosts();
    if problems.is_empty() {
        let known: HashSet<String> = hosts.iter().map(|host| host.host.clone()).collect();
        for (line, host) in &excluded {
            if !known.contains(host) {
                problems.add(*line, 1, HostLineProblem::NothingToExclude { host: host.clone() });
            }
        }
        let excluded: HashSet<String> = excluded.into_iter().map(|(_, host)| host).collect();
        hosts.retain(|host| !excluded.contains(&host.host));
        if hosts.is_empty() && problems.is_empty() {
            problems.add(last_line, 1, HostLineProblem::Empty);
        }
    }
    problems.unless_any(path, hosts)
}

/// The hosts of `^HOST`.
fn exclusion(name: &str, rest: &[(usize, String)]) -> Result<Vec<String>, HostLineProblem> {
    let hosts = entry::parse(name)?;
    let is_plain = |host: &HostSlots| host.user.is_none() && host.slots.is_none();
    if !rest.is_empty() || !hosts.iter().all(is_plain) {
        return Err(HostLineProblem::Excluded);
    }
    Ok(hosts.into_iter().map(|host| host.host).collect())
}

/// The hosts of a line, or what is wrong, and where unless it is the host.
fn hosts(
    first: &str,
    rest: &[(usize, String)],
) -> Result<Vec<HostSlots>, (Option<usize>, HostLineProblem)> {
    let hosts = entry::parse(first).map_err(|problem| (None, problem.into()))?;
    let (mut slots, mut max) = (hosts.first().and_then(|host| host.slots), None);
    for (column, word) in rest {
        let here = |problem| (Some(*column), problem);
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| here(HostLineProblem::Word { word: word.clone() }))?;
        let (place, key) = match key {
            "slots" => (&mut slots, KEYS[0]),
            "max_slots" | "max-slots" => (&mut max, KEYS[1]),
            _ => return Err(here(HostLineProblem::Key { key: key.to_owned() })),
        };
        if place.is_some() {
            return Err(here(HostLineProblem::Twice { key }));
        }
        *place = Some(entry::parse_slots(value).map_err(|problem| here(problem.into()))?);
    }
    if let (Some(slots), Some(max)) = (slots, max)
        && slots > max
    {
        return Err((None, HostLineProblem::Maximum { slots, max }));
    }
    let with_slots = |host: HostSlots| match slots.or(max) {
        Some(slots) => first_slots(&host, slots),
        None => host,
    };
    Ok(hosts.into_iter().map(with_slots).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let hosts = parse_hostfile(text, Path::new("hosts")).map_err(|error| error.to_string())?;
        Ok(hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_forms_of_three_launchers_are_understood() {
        assert_eq!(read("h1 slots=2\nh2 slots=4\n"), Ok("h1:2 h2:4".into()));
        let open_mpi =
            "# cluster\r\n\r\nme@h1 slots=2 max_slots=4\r\nh2 slots = 4\r\n h3\t# one\r\n";
        assert_eq!(read(open_mpi), Ok("me@h1:2 h2:4 h3".into()));
        assert_eq!(read("h1:2\nh2:4"), Ok("h1:2 h2:4".into()));
        assert_eq!(read("h1 max-slots=4"), Ok("h1:4".into()));
        assert_eq!(
            read("n[01-02] slots=2\n[fe80::1]:2\nfe80::2"),
            Ok("n01:2 n02:2 [fe80::1]:2 [fe80::2]".into())
        );
        assert_eq!(read("n[1-2]:@0+1"), Ok("n1:@0+1 n2:@0+1".into()));
    }

    #[test]
    fn a_host_on_several_lines_has_the_slots_of_all() {
        assert_eq!(read("a\nb slots=3\na\na:2"), Ok("a:4 b:3".into()));
        let conflict = "hosts:3:1: you@a has another user than me@a:2, line 1";
        assert_eq!(read("me@a slots=2\nb\nyou@a"), Err(conflict.into()));
        let devices = "hosts:2:1: a:@0 does not add up with the devices of a:@0+1, line 1";
        assert_eq!(read("a:@0+1\na:@0"), Err(devices.into()));
    }

    #[test]
    fn excluded_hosts_are_left_out_wherever_the_line_is() {
        assert_eq!(read("^b\na\nb slots=2\nc"), Ok("a c".into()));
        assert_eq!(read("n[1-9]\n^n[2-8]"), Ok("n1 n9".into()));
        let absent = "hosts:2:1: host b is excluded, but is not in the file";
        assert_eq!(read("a\n^b"), Err(absent.into()));
        for text in ["a\n^a slots=1", "a\n^a:1", "a\n^me@a"] {
            let error = read(text).expect_err(text);
            assert!(error.contains("hosts:2:1: a host that is excluded is only named"), "{error}");
        }
        assert_eq!(read("a\n\n^a\n"), Err("hosts:3:1: the file has no hosts".into()));
        assert_eq!(read("# nothing"), Err("hosts:1:1: the file has no hosts".into()));
    }

    #[test]
    fn every_bad_line_is_named_with_its_column() {
        let text = "a slots=x\nb\n b sockets=2\n+n0\nc slots=4 max_slots=2\nd:2 slots=2\ne 4\n^f g";
        let error = read(text).expect_err("bad");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(
            lines,
            [
                r#"hosts:1:3: "x" is not a number of slots"#,
                r#"hosts:3:4: unknown key "sockets""#,
                r#"hosts:4:1: "+n0" counts hosts of an allocation; name the host itself"#,
                "hosts:5:1: slots=4 exceeds max_slots=2",
                "hosts:6:5: slots is given twice",
                r#"hosts:7:3: "4" is not of the form KEY=VALUE"#,
                "hosts:8:1: a host that is excluded is only named, as in ^HOST",
            ]
        );
        // What was wrong once does not spoil what is read next.
        assert_eq!(read("a slots=2"), Ok("a:2".into()));
    }

    #[test]
    fn hints_follow_the_first_problem_that_has_one() {
        let hint = |text| parse_hostfile(text, Path::new("f")).expect_err(text).hint();
        assert_eq!(hint("a slot=2"), Some("did you mean slots?".into()));
        assert_eq!(hint("a sockets=2"), Some("the keys are slots, max_slots".into()));
        assert_eq!(hint("a slots=2 max_slots=1"), None);
        assert!(hint("a slots=2 slots=1\nb:").is_some());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[ab1:@=^#+, \\[\\]\n\u{e4}-]{0,40}(slots=[0-9]{0,3})?\r?\n?") {
            if let Ok(hosts) = parse_hostfile(&text, Path::new("f")) {
                prop_assert!(!hosts.is_empty());
                // What was understood can be written as a file, and is the same.
                let lines: Vec<String> = hosts.iter().map(ToString::to_string).collect();
                prop_assert_eq!(parse_hostfile(&lines.join("\n"), Path::new("f")), Ok(hosts));
            }
        }
    }
}
