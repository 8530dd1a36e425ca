//! How a setting is spelled outside the environment: as an option of a command and as a key of a
//! configuration file.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::{PortRange, RankList};

/// The option and the key by which a variable can be set, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandOption {
    /// The option without its dashes, which is also the key.
    pub name: &'static str,
    /// One letter that means the same; after one dash.
    pub short: Option<char>,
    /// Other names of the option, without dashes; no keys.
    pub aliases: &'static [&'static str],
    /// What the help shows for the value, such as `SECONDS`.
    pub value_name: &'static str,
    /// What a value looks like.
    pub form: Form,
    /// Who acts on it.
    pub reader: Reader,
}

/// What the value of an option looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text; whoever uses it judges it.
    Text,
    /// A whole number, at least 1.
    Count,
    /// A number of seconds, 0 or more.
    Seconds,
    /// A number of seconds, more than 0.
    PositiveSeconds,
    /// A number of milliseconds, 0 or more.
    Milliseconds,
    /// A whole number, 0 or more.
    Whole,
    /// A port.
    Port,
    /// A port or a range of ports.
    Ports,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `auto` or a whole number from the first to the last.
    AutoOr(u16, u16),
    /// A number of bytes, or of units of 1024, 1024² or 1024³ of them.
    Bytes,
    /// `none`, `all` or the number of a rank.
    Ranks,
    /// Ranks and ranges of them, such as `0,3-5`.
    RankList,
    /// On or off; as an option it takes no value.
    Switch,
}

/// Who acts on an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The launcher alone.
    Launcher,
    /// Every rank, so that the launcher passes it on as a variable.
    Ranks,
}

impl CommandOption {
    /// Whether it has this name, among others, without dashes.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

impl Form {
    /// Whether values are numbers.
    pub fn is_number(self) -> bool {
        !matches!(self, Self::Text | Self::OneOf(_) | Self::Ranks | Self::Switch)
    }

    /// Whether `text` is such a value.
    pub fn accepts(self, text: &str) -> bool {
        let text = text.trim();
        match self {
            Self::Text => true,
            Self::Count => text.parse::<NonZeroU32>().is_ok(),
            Self::Seconds => seconds(text).is_some(),
            Self::PositiveSeconds => seconds(text).is_some_and(|time| !time.is_zero()),
            Self::Milliseconds => milliseconds(text).is_some(),
            Self::Whole => text.parse::<u32>().is_ok(),
            Self::Port => text.parse::<NonZeroU16>().is_ok(),
            Self::Ports => text.parse::<PortRange>().is_ok(),
            Self::OneOf(words) => words.contains(&text),
            Self::AutoOr(first, last) => {
                text == "auto" || text.parse().is_ok_and(|number| (first..=last).contains(&number))
            }
            Self::Bytes => bytes(text).is_some(),
            Self::Ranks => matches!(text, "none" | "all") || text.parse::<u32>().is_ok(),
            Self::RankList => text.parse::<RankList>().is_ok(),
            Self::Switch => switch(text).is_some(),
        }
    }
}

/// A number of seconds, 0 or more.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

/// A number of bytes, or of units of 1024, 1024² or 1024³ of them.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match &*unit.trim().to_ascii_lowercase() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A number of milliseconds, with decimals if need be.
pub(super) fn milliseconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse::<f64>().ok()? / 1e3).ok()
}

/// Whether something is on.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The one of `known` that `name` was probably meant to be.
///
/// At most a third of the letters may differ, at least one.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    let distances = known.into_iter().map(|candidate| (edits(name, candidate), candidate));
    distances
        .filter(|(edits, _)| *edits <= limit)
        .min_by_key(|(edits, _)| *edits)
        .map(|near| near.1)
}

/// Letters to insert, remove, replace or swap with their neighbour to make one text of the other.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    // rows[i][j]: edits between the first i letters of one and the first j of the other.
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = from[i - 1] == to[j - 1];
                let mut best = rows[i - 1][j - 1] + usize::from(!same);
                best = best.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("transprot", "transport", 1),
            ("timeout", "tmeout", 1),
            ("grace", "trace", 1),
            ("np", "hosts", 5),
        ] {
            assert_eq!(edits(from, to), count, "{from} {to}");
            assert_eq!(edits(to, from), count, "{to} {from}");
        }
    }

    #[test]
    fn bytes_and_milliseconds() {
        for (text, count) in [
            ("0", Some(0)),
            ("67108864", Some(64 << 20)),
            ("16M", Some(16 << 20)),
            ("3 KiB", Some(3 << 10)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1T", None),
            ("99999999999G", None),
        ] {
            assert_eq!(bytes(text), count, "{text}");
        }
        assert_eq!(milliseconds("2.5"), Some(Duration::from_micros(2500)));
        assert_eq!((milliseconds("-1"), milliseconds("nan")), (None, None));
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["transport", "timeout", "op-timeout", "np"];
        let near = |name| nearest(name, known);
        assert_eq!(near("transprot"), Some("transport"));
        assert_eq!(near("op_timeout"), Some("op-timeout"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn values_have_a_form() {
        for (form, good, bad) in [
            (Form::Count, &["1", " 4 "][..], &["0", "-1", "many", ""][..]),
            (Form::Seconds, &["0", "1.5"], &["-1", "nan", "soon", "1e400"]),
            (Form::PositiveSeconds, &["0.1"], &["0", "-1", ""]),
            (Form::Milliseconds, &["0", "2.5"], &["-1", "5ms"]),
            (Form::Whole, &["0", "1024"], &["-1", "1.5", ""]),
            (Form::Ports, &["0", "40000-40100"], &["9-1", "x"]),
            (Form::OneOf(&["ompi"]), &["ompi"], &["OMPI", ""]),
            (Form::AutoOr(1, 16), &["auto", "1", "16"], &["0", "17", "-1", "all", ""]),
            (Form::Bytes, &["0", "16M"], &["much", "-1", ""]),
            (Form::Ranks, &["none", "all", "3"], &["some", "-1"]),
            (Form::Switch, &["true", "0"], &["", "maybe"]),
        ] {
            assert!(good.iter().all(|text| form.accepts(text)), "{form:?}");
            assert!(!bad.iter().any(|text| form.accepts(text)), "{form:?}");
        }
    }
}
