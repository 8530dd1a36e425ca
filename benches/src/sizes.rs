//! The sizes of a sweep: the little language of `--sizes`, and `-b -e -f -i` as in nccl-tests.
//!
//! ```text
//! sizes  = item ("," item)*
//! item   = size | size ".." size [ ("*" FACTOR) | ("+" size) ]
//! size   = DIGITS ["." DIGITS] ["K" | "M" | "G"] ["iB" | "B"]        binary: 1K = 1024
//! ```
//!
//! A range without a factor multiplies by [`DEFAULT_FACTOR`]. Like nccl-tests, a range ends with
//! the last size that does not exceed its end, so `4..100` is 4, 16, 64.

/// The factor of a range that names none. From 4 bytes it meets 64 KiB, 1 MiB and 64 MiB, where
/// protocols change, in 13 rows; a factor of 2 doubles the run time for little more to see.
pub const DEFAULT_FACTOR: u64 = 4;

/// The sweep of a run that names no sizes.
pub const DEFAULT_SIZES: &str = "4..64M";

/// More sizes than anybody waits for: a guard against `4..64M+4`.
const SIZES_MAX: usize = 1000;

/// Why a list of sizes was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSizesError {
    /// A size is not a number with a known suffix.
    #[error("bad size {text:?} in {list:?}: expected a number of bytes such as 4, 64K, 1.5M or 1G")]
    Size {
        /// The word at fault.
        text: String,
        /// The whole argument.
        list: String,
    },
    /// The number does not fit in 64 bits, or a fraction of a byte is left over.
    #[error("size {text:?} in {list:?} is not a whole number of bytes below 2^63")]
    Range {
        /// The word at fault.
        text: String,
        /// The whole argument.
        list: String,
    },
    /// The factor of a range is not an integer of at least 2.
    #[error("bad factor {text:?} in {list:?}: expected an integer of at least 2")]
    Factor {
        /// The word at fault.
        text: String,
        /// The whole argument.
        list: String,
    },
    /// The step of a range is zero.
    #[error("the step of {list:?} is zero: the range would never end")]
    Step {
        /// The whole argument.
        list: String,
    },
    /// A range that multiplies cannot start at zero.
    #[error("the range {list:?} starts at 0, which no factor makes larger")]
    ZeroStart {
        /// The whole argument.
        list: String,
    },
    /// A range whose start lies beyond its end.
    #[error("the range {list:?} starts at {first} bytes, beyond its end at {last} bytes")]
    Backwards {
        /// The whole argument.
        list: String,
        /// Start of the range in bytes.
        first: u64,
        /// End of the range in bytes.
        last: u64,
    },
    /// Nothing between two commas, or nothing at all.
    #[error("{list:?} has an empty item")]
    Empty {
        /// The whole argument.
        list: String,
    },
    /// The sweep is too long to be meant.
    #[error("{list:?} means more than {SIZES_MAX} sizes")]
    TooMany {
        /// The whole argument.
        list: String,
    },
}

impl ParseSizesError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooMany { .. } => "use a factor instead of a step: 4..64M*2".to_owned(),
            Self::ZeroStart { .. } => "start at 1, or list 0 apart: 0,4..64M".to_owned(),
            Self::Backwards { .. } => "swap the two ends".to_owned(),
            _ => "examples: 4..64M   1K..1G*2   4,3K,1M   64K..1M+64K".to_owned(),
        })
    }
}

/// How a range gets from one size to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progression {
    /// Multiply by an integer of at least 2.
    Factor(u64),
    /// Add this many bytes, at least 1.
    Step(u64),
}

/// Parses a whole `--sizes` argument into bytes, in the order written, repeats removed.
pub fn parse_sizes(list: &str) -> Result<Vec<u64>, ParseSizesError> {
    let mut sizes = Vec::new();
    for item in list.split(',').map(str::trim) {
        if item.is_empty() {
            return Err(ParseSizesError::Empty { list: list.to_owned() });
        }
        let expanded = match item.split_once("..") {
            None => vec![parse_size_in(item, list)?],
            Some((first, rest)) => parse_range(first, rest, list)?,
        };
        for size in expanded {
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        if sizes.len() > SIZES_MAX {
            return Err(ParseSizesError::TooMany { list: list.to_owned() });
        }
    }
    Ok(sizes)
}

/// Parses one size such as `64M` into bytes.
pub fn parse_size(text: &str) -> Result<u64, ParseSizesError> {
    parse_size_in(text, text)
}

/// The sweep of `-b first -e last -f factor` or `-i step`; `context` is what errors quote.
pub fn sweep(
    first: u64,
    last: u64,
    progression: Progression,
    context: &str,
) -> Result<Vec<u64>, ParseSizesError> {
    let list = || context.to_owned();
    if first > last {
        return Err(ParseSizesError::Backwards { list: list(), first, last });
    }
    match progression {
        Progression::Factor(factor) if factor < 2 => {
            return Err(ParseSizesError::Factor { text: factor.to_string(), list: list() });
        }
        Progression::Factor(_) if first == 0 => {
            return Err(ParseSizesError::ZeroStart { list: list() });
        }
        Progression::Step(0) => return Err(ParseSizesError::Step { list: list() }),
        Progression::Factor(_) | Progression::Step(_) => {}
    }
    let next = |size: u64| match progression {
        Progression::Factor(factor) => size.checked_mul(factor),
        Progression::Step(step) => size.checked_add(step),
    };
    let mut sizes = Vec::new();
    let mut size = Some(first);
    while let Some(current) = size.filter(|&size| size <= last) {
        if sizes.len() == SIZES_MAX {
            return Err(ParseSizesError::TooMany { list: list() });
        }
        sizes.push(current);
        size = next(current);
    }
    Ok(sizes)
}

fn parse_range(first: &str, rest: &str, list: &str) -> Result<Vec<u64>, ParseSizesError> {
    let first = parse_size_in(first.trim(), list)?;
    let (last, progression) = if let Some((last, factor)) = rest.split_once('*') {
        let factor = factor.trim();
        let value = factor.parse().map_err(|_| ParseSizesError::Factor {
            text: factor.to_owned(),
            list: list.to_owned(),
        })?;
        (last, Progression::Factor(value))
    } else if let Some((last, step)) = rest.split_once('+') {
        (last, Progression::Step(parse_size_in(step.trim(), list)?))
    } else {
        (rest, Progression::Factor(DEFAULT_FACTOR))
    };
    sweep(first, parse_size_in(last.trim(), list)?, progression, list)
}

fn parse_size_in(text: &str, list: &str) -> Result<u64, ParseSizesError> {
    let bad = || ParseSizesError::Size { text: text.to_owned(), list: list.to_owned() };
    let out_of_range = || ParseSizesError::Range { text: text.to_owned(), list: list.to_owned() };

    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let unit: u64 = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || number.ends_with('.') {
        return Err(bad());
    }
    // Whole numbers only from here on: 1.5M is 15 * 1M / 10, and must divide without remainder.
    let scale = u32::try_from(fraction.len())
        .ok()
        .and_then(|places| 10_u64.checked_pow(places))
        .ok_or_else(out_of_range)?;
    let scaled: u64 = format!("{whole}{fraction}").parse().map_err(|_| out_of_range())?;
    let bytes = u128::from(scaled) * u128::from(unit);
    if bytes % u128::from(scale) != 0 {
        return Err(out_of_range());
    }
    u64::try_from(bytes / u128::from(scale))
        .ok()
        .filter(|&bytes| bytes < 1 << 63)
        .ok_or_else(out_of_range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_sweep_meets_the_sizes_of_the_peers() {
        let sizes = parse_sizes(DEFAULT_SIZES).unwrap();
        assert_eq!(sizes.len(), 13);
        for size in [4, 4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20] {
            assert!(sizes.contains(&size), "{size} is missing from {sizes:?}");
        }
    }

    #[test]
    fn suffixes_are_binary_and_case_does_not_matter() {
        for (text, bytes) in [
            ("0", 0),
            ("4", 4),
            ("1K", 1024),
            ("1k", 1024),
            ("3KiB", 3072),
            ("1.5M", 3 << 19),
            ("64MB", 64 << 20),
            ("2g", 2 << 30),
            ("0.5K", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn ranges_lists_and_both_together() {
        assert_eq!(parse_sizes("4..100"), Ok(vec![4, 16, 64]));
        assert_eq!(parse_sizes("1K..8K*2"), Ok(vec![1024, 2048, 4096, 8192]));
        assert_eq!(parse_sizes("64..256 + 64"), Ok(vec![64, 128, 192, 256]));
        assert_eq!(parse_sizes("4, 3K,1M"), Ok(vec![4, 3072, 1 << 20]));
        assert_eq!(parse_sizes("0,4..16,16,5"), Ok(vec![0, 4, 16, 5]));
        assert_eq!(parse_sizes("8..8"), Ok(vec![8]));
    }

    #[test]
    fn a_range_up_to_the_largest_size_ends_without_overflow() {
        let sizes = parse_sizes("4611686018427387904..9223372036854775807*2").unwrap();
        assert_eq!(sizes, [1 << 62]);
    }

    #[test]
    fn every_refusal_quotes_what_was_typed() {
        for text in [
            "",
            "4,,8",
            "x",
            "4..",
            "..4",
            "4Q",
            "4..64M*1",
            "4..64M*x",
            "4..8+0",
            "0..8",
            "8..4",
            "-4",
            "1.2.3K",
            "4.",
            "0.3",
            "99999999999999999999",
            "8589934592G",
            "4..64M+4",
            "4...8",
        ] {
            let error = parse_sizes(text).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{text:?} gave {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let message = |text| parse_sizes(text).unwrap_err().to_string();
        assert_eq!(
            message("4..64M*1"),
            "bad factor \"1\" in \"4..64M*1\": expected an integer of at least 2"
        );
        assert_eq!(
            message("8..4"),
            "the range \"8..4\" starts at 8 bytes, beyond its end at 4 bytes"
        );
        assert_eq!(message("4..64M+4"), "\"4..64M+4\" means more than 1000 sizes");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_is_finite(text in "[0-9.,*+KMGkib -]{0,24}") {
            if let Ok(sizes) = parse_sizes(&text) {
                proptest::prop_assert!(!sizes.is_empty() && sizes.len() <= SIZES_MAX + 1);
            }
        }
    }
}
