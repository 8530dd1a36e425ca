//! What stands before each line of a rank: `--output-prefix TEMPLATE`.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use crate::run::rank_ranges;

/// What may stand in braces.
const FIELDS: [(&str, Field); 4] = [
    ("rank", Field::Rank),
    ("local_rank", Field::LocalRank),
    ("host", Field::Host),
    ("time", Field::Time),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Rank,
    LocalRank,
    Host,
    /// When the launcher had the line.
    Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A text with fields: `{rank}`, `{local_rank}`, `{host}`, `{time}`. `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixTemplate {
    parts: Vec<Part>,
}

/// Why a text is no [`PrefixTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Nothing is known by this name.
    #[error("the prefix {template:?} has an unknown field {{{field}}}")]
    UnknownField {
        /// The whole text.
        template: String,
        /// What stands in braces.
        field: String,
    },
    /// A brace without the other.
    #[error("the prefix {template:?} has a {brace} of its own")]
    LoneBrace {
        /// The whole text.
        template: String,
        /// The brace.
        brace: char,
    },
    /// Prefixes are part of a line.
    #[error("the prefix {template:?} has the end of a line in it")]
    LineEnd {
        /// The whole text.
        template: String,
    },
}

impl PrefixError {
    /// What the user may do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownField { .. } => {
                let names = FIELDS.map(|(name, _)| format!("{{{name}}}"));
                format!("the fields are {}", names.join(", "))
            }
            Self::LoneBrace { brace, .. } => format!("a brace itself is written {brace}{brace}"),
            Self::LineEnd { .. } => "a prefix is one line or less".to_owned(),
        }
    }
}

impl PrefixTemplate {
    /// Whether it says whose a line is, so that it can say of one line that it is several ranks'.
    pub(crate) fn names_ranks(&self) -> bool {
        self.parts.contains(&Part::Field(Field::Rank))
    }
}

impl Default for PrefixTemplate {
    /// `[{rank}] `
    fn default() -> Self {
        let text = |text: &str| Part::Text(text.to_owned());
        Self { parts: vec![text("["), Part::Field(Field::Rank), text("] ")] }
    }
}

impl FromStr for PrefixTemplate {
    type Err = PrefixError;

    fn from_str(template: &str) -> Result<Self, PrefixError> {
        let whole = || template.to_owned();
        if template.contains(['\n', '\r']) {
            return Err(PrefixError::LineEnd { template: whole() });
        }
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = if rest[at..].starts_with('{') { '{' } else { '}' };
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                text.push(brace);
                rest = after;
                continue;
            }
            let named = if brace == '{' { rest.split_once('}') } else { None };
            let Some((name, after)) = named else {
                return Err(PrefixError::LoneBrace { template: whole(), brace });
            };
            let Some((_, field)) = FIELDS.into_iter().find(|(known, _)| *known == name) else {
                let field = name.to_owned();
                return Err(PrefixError::UnknownField { template: whole(), field });
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Field(field));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts })
    }
}

/// Where a rank is, as far as prefixes say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) local_rank: u32,
    pub(crate) host: Arc<str>,
}

/// Hosts that are named where a line is shown for several ranks; of more, it says how many.
const HOSTS_NAMED_MAX: usize = 3;

/// The prefixes of all ranks.
pub(crate) struct Prefixes {
    template: PrefixTemplate,
    places: Vec<Place>,
    /// Those of each rank, where they are always the same.
    fixed: Vec<Vec<u8>>,
    /// The time of day in milliseconds.
    clock: fn() -> u64,
}

impl fmt::Debug for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefixes").field("template", &self.template).finish_non_exhaustive()
    }
}

impl Prefixes {
    /// `places` are those of the ranks, in order.
    pub(crate) fn new(template: PrefixTemplate, places: Vec<Place>) -> Self {
        let is_fixed = !template.parts.contains(&Part::Field(Field::Time));
        let fixed_count = if is_fixed { places.len() } else { 0 };
        let mut new = Self { template, places, fixed: Vec::new(), clock: time_of_day };
        new.fixed = (0..).take(fixed_count).map(|rank| new.of(&[rank], Duration::ZERO)).collect();
        new
    }

    #[cfg(test)]
    pub(crate) fn at(self, clock: fn() -> u64) -> Self {
        Self { clock, ..self }
    }

    /// Appends the prefix of a line of these ranks, in ascending order, that has waited for so long.
    pub(crate) fn put(&self, ranks: &[u32], age: Duration, out: &mut Vec<u8>) {
        let fixed = match ranks {
            [rank] => usize::try_from(*rank).ok().and_then(|rank| self.fixed.get(rank)),
            _ => None,
        };
        match fixed {
            Some(prefix) => out.extend_from_slice(prefix),
            None => out.extend_from_slice(&self.of(ranks, age)),
        }
    }

    fn of(&self, ranks: &[u32], age: Duration) -> Vec<u8> {
        let places = || {
            let index = |rank: &u32| usize::try_from(*rank).ok();
            ranks.iter().filter_map(index).filter_map(|index| self.places.get(index))
        };
        let mut text = String::new();
        for part in &self.template.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field(Field::Rank) => text.push_str(&list(ranks)),
                Part::Field(Field::LocalRank) => {
                    let locals: BTreeSet<u32> = places().map(|place| place.local_rank).collect();
                    text.push_str(&list(&Vec::from_iter(locals)));
                }
                Part::Field(Field::Host) => text.push_str(&hosts(places())),
                Part::Field(Field::Time) => {
                    let age = u64::try_from(age.as_millis()).unwrap_or(0);
                    let now = (self.clock)();
                    text.push_str(&clock_face(
                        if now < age { now + DAY_MILLIS } else { now } - age,
                    ));
                }
            }
        }
        text.into_bytes()
    }
}

const DAY_MILLIS: u64 = 86_400_000;

/// `0-3,7`, as `--show-ranks` takes it. The numbers ascend.
fn list(numbers: &[u32]) -> String {
    rank_ranges(numbers).replace(", ", ",")
}

/// `n1,n2`, or `16 hosts`.
fn hosts<'a>(places: impl Iterator<Item = &'a Place>) -> String {
    let (mut names, mut seen) = (Vec::new(), HashSet::new());
    for Place { host, .. } in places {
        if seen.insert(host) {
            names.push(&**host);
        }
    }
    if names.len() > HOSTS_NAMED_MAX {
        return format!("{} hosts", names.len());
    }
    names.join(",")
}

/// `HH:MM:SS.mmm`.
fn clock_face(millis: u64) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

/// Milliseconds since midnight where the launcher is.
fn time_of_day() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::from(now.subsec_millis());
    let Ok(seconds) = libc::time_t::try_from(now.as_secs()) else { return millis };
    // SAFETY: all-zero bytes are a valid `tm`: integers, and a pointer that may be null.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the types that localtime_r reads and writes.
    let known = unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    if known.is_null() {
        return now.as_secs() % 86_400 * 1000 + millis;
    }
    let part = |number: libc::c_int| u64::try_from(number).unwrap_or(0);
    (part(local.tm_hour) * 3600 + part(local.tm_min) * 60 + part(local.tm_sec)) * 1000 + millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(template: &str, ranks: &[u32]) -> String {
        // Two ranks on each host.
        let place =
            |rank: u32| Place { local_rank: rank % 2 + 6, host: format!("n{}", rank / 2).into() };
        let template = template.parse().expect("well formed");
        let prefixes = Prefixes::new(template, (0..10).map(place).collect()).at(|| 47_045_006);
        let mut out = Vec::new();
        prefixes.put(ranks, Duration::from_millis(7), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn fields_are_replaced() {
        assert_eq!(prefix("[{rank}] ", &[1]), "[1] ");
        assert_eq!(prefix("{host}/{local_rank}:{rank}|", &[3]), "n1/7:3|");
        assert_eq!(prefix("{time} {rank}|", &[1]), "13:04:04.999 1|");
        assert_eq!(prefix("{{{rank}}} }}{{", &[0]), "{0} }{");
        assert_eq!(prefix("é: ", &[0]), "é: ");
        assert_eq!("[{rank}] ".parse(), Ok(PrefixTemplate::default()));
    }

    #[test]
    fn several_ranks_are_listed() {
        let template = "{host}/{local_rank}:{rank} ";
        assert_eq!(prefix(template, &[0, 1, 2, 5]), "n0,n1,n2/6-7:0-2,5 ");
        assert_eq!(prefix(template, &[0, 2, 4, 6]), "4 hosts/6:0,2,4,6 ");
    }

    #[test]
    fn mistakes_are_named_with_what_there_is() {
        let error = |text: &str| text.parse::<PrefixTemplate>().expect_err("malformed");
        let unknown = error("[{rnk}] ");
        assert_eq!(unknown.to_string(), "the prefix \"[{rnk}] \" has an unknown field {rnk}");
        assert_eq!(unknown.hint(), "the fields are {rank}, {local_rank}, {host}, {time}");
        assert!(matches!(error("{"), PrefixError::LoneBrace { brace: '{', .. }));
        assert!(matches!(error("{rank"), PrefixError::LoneBrace { brace: '{', .. }));
        assert!(matches!(error("a} "), PrefixError::LoneBrace { brace: '}', .. }));
        assert!(matches!(error("a\nb"), PrefixError::LineEnd { .. }));
        assert!(matches!(error("{}"), PrefixError::UnknownField { .. }));
    }

    #[test]
    fn the_time_of_day_is_below_a_day() {
        // A leap second may be added to it.
        assert!(time_of_day() < 86_401_000);
    }
}
