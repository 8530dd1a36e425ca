//! What stands before each line of a rank: `--output-prefix TEMPLATE`.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

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
    pub(crate) host: String,
}

/// The prefixes of all ranks.
pub(crate) struct Prefixes {
    template: PrefixTemplate,
    places: Vec<Place>,
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
        Self { template, places, clock: time_of_day }
    }

    #[cfg(test)]
    pub(crate) fn at(self, clock: fn() -> u64) -> Self {
        Self { clock, ..self }
    }

    /// Appends the prefix of a line of `rank`.
    pub(crate) fn put(&self, rank: u32, out: &mut Vec<u8>) {
        let place = usize::try_from(rank).ok().and_then(|index| self.places.get(index));
        for part in &self.template.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field(Field::Rank) => out.extend_from_slice(rank.to_string().as_bytes()),
                Part::Field(Field::LocalRank) => {
                    let local = place.map(|place| place.local_rank.to_string());
                    out.extend_from_slice(local.unwrap_or_default().as_bytes());
                }
                Part::Field(Field::Host) => {
                    let host = place.map(|place| place.host.as_bytes());
                    out.extend_from_slice(host.unwrap_or_default());
                }
                Part::Field(Field::Time) => {
                    out.extend_from_slice(clock_face((self.clock)()).as_bytes())
                }
            }
        }
    }
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

    fn prefix(template: &str, rank: u32) -> String {
        let place = |local_rank| Place { local_rank, host: format!("n{local_rank}") };
        let template = template.parse().expect("well formed");
        let places = vec![place(0), place(7)];
        let prefixes = Prefixes::new(template, places).at(|| 47_045_006);
        let mut out = Vec::new();
        prefixes.put(rank, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn fields_are_replaced() {
        assert_eq!(prefix("[{rank}] ", 1), "[1] ");
        assert_eq!(prefix("{time} {host}/{local_rank}:{rank}|", 1), "13:04:05.006 n7/7:1|");
        assert_eq!(prefix("{{{rank}}} }}{{", 0), "{0} }{");
        assert_eq!(prefix("é: ", 0), "é: ");
        assert_eq!("[{rank}] ".parse(), Ok(PrefixTemplate::default()));
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
