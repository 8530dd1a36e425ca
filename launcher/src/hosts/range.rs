//! Names that stand for several: `node[01-16]`, `rack[1-2]n[01-04]`, `node[1,3,5-7]`.

use thiserror::Error;

use super::HOSTS_MAX;

/// Longest number: what has no more digits fits into 64 bits, sums included.
const DIGITS_MAX: usize = 18;

/// A range of names that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// A bracket without its partner.
    #[error("the brackets of {text:?} are not in pairs")]
    Bracket {
        /// What was given.
        text: String,
    },
    /// What stands between commas is no number and no range of numbers.
    #[error("{item:?} is neither a number nor a range such as 01-16")]
    Item {
        /// What was given.
        item: String,
    },
    /// The end comes before the beginning.
    #[error("the range {item} descends")]
    Descending {
        /// The range.
        item: String,
    },
    /// One end has leading zeros that do not fit the other.
    #[error("the ends of the range {item} have different numbers of leading zeros")]
    Padding {
        /// The range.
        item: String,
    },
    /// More names than any job has hosts.
    #[error("{text:?} stands for more than {HOSTS_MAX} hosts")]
    TooMany {
        /// What was given.
        text: String,
    },
}

/// Consecutive numbers, each with at least so many digits.
struct Numbers {
    first: u64,
    last: u64,
    width: usize,
}

/// A part of a name: text as it is, or one of several numbers.
enum Part<'a> {
    Text(&'a str),
    Numbers(Vec<Numbers>),
}

/// The names that a pattern stands for, the last range changing fastest; leading zeros are kept.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, RangeError> {
    let parts = parts(pattern)?;
    let too_many = || RangeError::TooMany { text: pattern.to_owned() };
    let count = parts.iter().try_fold(1_u64, |product, part| product.checked_mul(part.count()?));
    if count.is_none_or(|count| usize::try_from(count).is_ok_and(|count| count > HOSTS_MAX)) {
        return Err(too_many());
    }
    let mut names = vec![String::new()];
    for part in &parts {
        match part {
            Part::Text(text) => names.iter_mut().for_each(|name| name.push_str(text)),
            Part::Numbers(ranges) => {
                let numbers = || ranges.iter().flat_map(Numbers::texts);
                let longer = |name: String| numbers().map(move |number| format!("{name}{number}"));
                names = names.into_iter().flat_map(longer).collect();
            }
        }
    }
    Ok(names)
}

fn parts(pattern: &str) -> Result<Vec<Part<'_>>, RangeError> {
    let unpaired = || RangeError::Bracket { text: pattern.to_owned() };
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        let (inside, after) = after.split_once(']').ok_or_else(unpaired)?;
        if before.contains(']') || inside.contains('[') {
            return Err(unpaired());
        }
        parts.push(Part::Text(before));
        parts.push(Part::Numbers(inside.split(',').map(numbers).collect::<Result<_, _>>()?));
        rest = after;
    }
    if rest.contains(']') {
        return Err(unpaired());
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn numbers(item: &str) -> Result<Numbers, RangeError> {
    let item = item.trim();
    let wrong = || RangeError::Item { item: item.to_owned() };
    let number = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && text.len() <= DIGITS_MAX { text.parse::<u64>().ok() } else { None }
    };
    let (start, end) = item.split_once('-').unwrap_or((item, item));
    let (first, last) = (number(start).ok_or_else(wrong)?, number(end).ok_or_else(wrong)?);
    if last < first {
        return Err(RangeError::Descending { item: item.to_owned() });
    }
    let is_padded = |text: &str| text.len() > 1 && text.starts_with('0');
    // 01-16 and 08-100 say how long a number is at least; 1-016 and 001-16 say it in two ways.
    let agrees = if is_padded(start) { end.len() >= start.len() } else { !is_padded(end) };
    if !agrees || (is_padded(end) && start.len() != end.len()) {
        return Err(RangeError::Padding { item: item.to_owned() });
    }
    Ok(Numbers { first, last, width: if is_padded(start) { start.len() } else { 1 } })
}

impl Numbers {
    fn texts(&self) -> impl Iterator<Item = String> {
        let width = self.width;
        (self.first..=self.last).map(move |number| format!("{number:0width$}"))
    }
}

impl Part<'_> {
    /// How many texts it stands for; `None` if that is too large a number.
    fn count(&self) -> Option<u64> {
        match self {
            Self::Text(_) => Some(1),
            Self::Numbers(ranges) => {
                let count = |range: &Numbers| range.last - range.first + 1;
                ranges.iter().try_fold(0_u64, |sum, range| sum.checked_add(count(range)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(pattern: &str) -> String {
        expand(pattern).expect("well formed").join(" ")
    }

    #[test]
    fn ranges_are_written_out_with_their_zeros() {
        assert_eq!(names("plain"), "plain");
        assert_eq!(names("node[08-11]"), "node08 node09 node10 node11");
        assert_eq!(names("node[9-11].lan"), "node9.lan node10.lan node11.lan");
        assert_eq!(names("n[098-101]"), "n098 n099 n100 n101");
        assert_eq!(names("n[98-101]"), "n98 n99 n100 n101");
        assert_eq!(names("n[08-101]").split(' ').count(), 94);
        assert_eq!(names("node[1,3,5-7]"), "node1 node3 node5 node6 node7");
        assert_eq!(names("r[1-2]n[01-02]"), "r1n01 r1n02 r2n01 r2n02");
        assert_eq!(names("10.0.0.[1-2]"), "10.0.0.1 10.0.0.2");
        assert_eq!(names("n[00-01]"), "n00 n01");
        assert_eq!(names("n[0-1]"), "n0 n1");
        assert_eq!(expand("n[1-65536]").map(|names| names.len()), Ok(HOSTS_MAX));
    }

    #[test]
    fn bad_ranges_say_what_is_wrong() {
        let error = |pattern: &str| expand(pattern).expect_err(pattern);
        for pattern in ["n[1", "n1]", "n[1]2]", "n[[1]]", "]n[1]"] {
            assert_eq!(error(pattern), RangeError::Bracket { text: pattern.into() });
        }
        for item in ["", "a", "1-", "-1", "1-2-3", "+1", "1-x", "1111111111111111111"] {
            assert_eq!(error(&format!("n[{item}]")), RangeError::Item { item: item.into() });
        }
        assert_eq!(error("n[1,,2]"), RangeError::Item { item: String::new() });
        assert_eq!(error("n[4-1]"), RangeError::Descending { item: "4-1".into() });
        for item in ["1-016", "001-16", "01-016", "0-01"] {
            assert_eq!(error(&format!("n[{item}]")), RangeError::Padding { item: item.into() });
        }
        for text in ["n[1-65537]", "n[1-300]m[1-300]", "n[0-999999999999999999]"] {
            assert_eq!(error(text), RangeError::TooMany { text: text.into() });
        }
        let many = "[0-999999999999999999]".repeat(9);
        assert!(matches!(error(&many), RangeError::TooMany { .. }));
    }

    proptest! {
        #[test]
        fn a_range_has_as_many_names_as_numbers(
            first in 0_u64..1000, more in 0_u64..200, second in 0_u64..50, width in 1_usize..5
        ) {
            let last = first + more;
            // Two widths on purpose only where both ends have them.
            let width = if last.to_string().len() > width { 1 } else { width };
            let pattern = format!("a[{first:0width$}-{last:0width$}]b[0-{second}]");
            let names = expand(&pattern).expect("well formed");
            prop_assert_eq!(names.len() as u64, (more + 1) * (second + 1));
            prop_assert_eq!(&names[0], &format!("a{first:0width$}b0"));
            prop_assert_eq!(names.last(), Some(&format!("a{last:0width$}b{second}")));
            let distinct: std::collections::HashSet<_> = names.iter().collect();
            prop_assert_eq!(distinct.len(), names.len());
        }

        #[test]
        fn nothing_panics(pattern in r"[a0-9\[\],-]{0,24}") {
            if let Ok(names) = expand(&pattern) {
                prop_assert!((1..=HOSTS_MAX).contains(&names.len()));
            }
        }
    }
}
