//! Rank files, in Open MPI's form: `rank 0=HOST slot=1`.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use crate::hosts::{
    HostError, HostProblem, HostSlots, LineHint, Problems, TextFileError, content, words,
};

/// A rank file that cannot be understood, with all lines that are wrong.
pub type RankFileError = TextFileError<RankLineProblem>;

/// Which rank runs on which host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RankFile {
    /// The place of each rank, by rank.
    pub ranks: Vec<RankPlace>,
}

/// The place that a rank file gives a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankPlace {
    /// The host, as the file names it.
    pub host: String,
    /// The number behind `slot=`. Open MPI binds the rank to this core; we bind nothing.
    pub slot: Option<u32>,
}

/// What is wrong with a line of a rank file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RankLineProblem {
    /// Another form.
    #[error("the line is not of the form rank N=HOST")]
    Form,
    /// No number.
    #[error("{rank:?} is not the number of a rank")]
    Rank {
        /// What was given.
        rank: String,
    },
    /// The host.
    #[error(transparent)]
    Host(#[from] HostProblem),
    /// Something else than `slot=`.
    #[error("unknown key {key:?}")]
    Key {
        /// What was given.
        key: String,
    },
    /// Sockets, ranges and lists of cores.
    #[error("slot={slot} is not a plain number")]
    Slot {
        /// What was given.
        slot: String,
    },
    /// The same rank on two lines.
    #[error("rank {rank} is placed twice, first in line {line}")]
    Twice {
        /// The rank.
        rank: u32,
        /// The first line.
        line: usize,
    },
    /// A rank that is left out before one that is not.
    #[error("rank {rank} comes without rank {missing}")]
    Gap {
        /// The rank of the line.
        rank: u32,
        /// The one that is missing.
        missing: u32,
    },
    /// Not one rank.
    #[error("the file places no rank")]
    Empty,
}

impl LineHint for RankLineProblem {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Form | Self::Rank { .. } | Self::Empty | Self::Key { .. } => {
                "each line places a rank, as in rank 0=HOST or rank 0=HOST slot=1".to_owned()
            }
            Self::Slot { .. } => {
                "ranks are not bound to cores: leave slot= out, or give it one number".to_owned()
            }
            Self::Gap { .. } => "ranks are numbered from 0 without gaps".to_owned(),
            Self::Host(problem) => return problem.hint(),
            Self::Twice { .. } => return None,
        })
    }
}

/// Reads the text of a rank file: a line for each rank, in any order; `#` begins a comment.
///
/// # Errors
/// Names the lines that cannot be understood, up to ten, and where in `path` they are.
pub fn parse_rank_file(text: &str, path: &Path) -> Result<RankFile, RankFileError> {
    let mut problems = Problems::new();
    let mut places: BTreeMap<u32, (usize, RankPlace)> = BTreeMap::new();
    let mut last_line = 1;
    for (number, line) in content(text) {
        last_line = number;
        match place(&words(line)) {
            Ok((column, rank, place)) => match places.get(&rank) {
                Some((line, _)) => {
                    problems.add(number, column, RankLineProblem::Twice { rank, line: *line });
                }
                None => {
                    places.insert(rank, (number, place));
                }
            },
            Err((column, problem)) => problems.add(number, column, problem),
        }
    }
    if problems.is_empty() {
        let gap = (0..).zip(&places).find(|(expected, (rank, _))| expected != *rank);
        if let Some((missing, (&rank, (line, _)))) = gap {
            problems.add(*line, 1, RankLineProblem::Gap { rank, missing });
        }
        if places.is_empty() {
            problems.add(last_line, 1, RankLineProblem::Empty);
        }
    }
    let ranks = places.into_values().map(|(_, place)| place).collect();
    problems.unless_any(path, RankFile { ranks })
}

/// The rank of a line, the column of its number and its place; or what is wrong, and where.
fn place(words: &[(usize, String)]) -> Result<(usize, u32, RankPlace), (usize, RankLineProblem)> {
    let at = |index: usize| words.get(index).map_or(1, |(column, _)| *column);
    let form = |index| (at(index), RankLineProblem::Form);
    let [(_, keyword), (column, placed), rest @ ..] = words else { return Err(form(0)) };
    if keyword != "rank" {
        return Err(form(0));
    }
    let (rank, host) = placed.split_once('=').ok_or_else(|| form(1))?;
    let number = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse::<u32>().ok() } else { None }
    };
    let wrong = || (*column, RankLineProblem::Rank { rank: rank.to_owned() });
    let rank = number(rank).ok_or_else(wrong)?;
    let host: HostSlots =
        host.parse().map_err(|error: HostError| (*column, error.problem.into()))?;
    if host.user.is_some() || host.slots.is_some() {
        return Err(form(1));
    }
    let mut place = RankPlace { host: host.host, slot: None };
    for (index, (_, word)) in (2..).zip(rest) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if key != "slot" || place.slot.is_some() {
            return Err((at(index), RankLineProblem::Key { key: key.to_owned() }));
        }
        let wrong = || (at(index), RankLineProblem::Slot { slot: value.to_owned() });
        place.slot = Some(number(value).ok_or_else(wrong)?);
    }
    Ok((*column, rank, place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let file = parse_rank_file(text, Path::new("ranks")).map_err(|error| error.to_string())?;
        let place = |place: &RankPlace| match place.slot {
            Some(slot) => format!("{}/{slot}", place.host),
            None => place.host.clone(),
        };
        Ok(file.ranks.iter().map(place).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_line_places_a_rank() {
        assert_eq!(read("rank 0=a slot=1\nrank 1=b"), Ok("a/1 b".into()));
        let text = "# by hand\r\n\r\nrank 1 = b.lan slot = 0 # second\r\nrank 0=::0:1\r\n";
        assert_eq!(read(text), Ok("::1 b.lan/0".into()));
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = "rank x=a\nrnk 0=a\nrank 0=+n0\nrank 0=a slot=0:1\nrank 0=a slot=1-2\n\
                    rank 0=a cpu=1\nrank 0\nrank 0=\nrank 1=a\nrank 1=b\nrank 2=-x";
        let error = read(text).expect_err("bad");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(
            lines,
            [
                r#"ranks:1:6: "x" is not the number of a rank"#,
                "ranks:2:1: the line is not of the form rank N=HOST",
                r#"ranks:3:6: "+n0" counts hosts of an allocation; name the host itself"#,
                "ranks:4:10: slot=0:1 is not a plain number",
                "ranks:5:10: slot=1-2 is not a plain number",
                r#"ranks:6:10: unknown key "cpu""#,
                "ranks:7:6: the line is not of the form rank N=HOST",
                "ranks:8:6: no host is named",
                "ranks:10:6: rank 1 is placed twice, first in line 9",
                r#"ranks:11:6: the name "-x" starts with a hyphen"#,
            ]
        );
    }

    #[test]
    fn ranks_are_numbered_from_zero() {
        assert_eq!(
            read("rank 0=a\nrank 2=b"),
            Err("ranks:2:1: rank 2 comes without rank 1".into())
        );
        assert_eq!(read("rank 4294967295=a").map_err(|error| error.len() > 9), Err(true));
        assert_eq!(read(""), Err("ranks:1:1: the file places no rank".into()));
        let error = parse_rank_file("rank 1=a", Path::new("f")).expect_err("a gap");
        assert!(error.hint().is_some());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(rank )?[0-3ab=+# \n-]{0,24}( slot=[0-9:]{0,2})?") {
            if let Ok(file) = parse_rank_file(&text, Path::new("f")) {
                prop_assert!(!file.ranks.is_empty());
            }
        }
    }
}
