//! A choice of ranks.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// Some ranks, as in `0,3-5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankList {
    ranges: Vec<RangeInclusive<u32>>,
}

/// A text is no list of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of ranks such as 0,3-5")]
pub struct ParseRankListError;

impl RankList {
    /// Whether `rank` is one of them.
    pub fn contains(&self, rank: u32) -> bool {
        self.ranges.iter().any(|range| range.contains(&rank))
    }

    /// The highest of them.
    pub fn last(&self) -> u32 {
        self.ranges.iter().map(|range| *range.end()).max().unwrap_or(0)
    }
}

impl FromStr for RankList {
    type Err = ParseRankListError;

    fn from_str(text: &str) -> Result<Self, ParseRankListError> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| ParseRankListError);
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = number(first)?..=number(last)?;
            if range.is_empty() { Err(ParseRankListError) } else { Ok(range) }
        };
        Ok(Self { ranges: text.split(',').map(range).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        let list: RankList = "0, 3-5".parse().unwrap();
        let chosen: Vec<u32> = (0..8).filter(|rank| list.contains(*rank)).collect();
        assert_eq!((chosen, list.last()), (vec![0, 3, 4, 5], 5));
        for text in ["", "a", "1,", "5-3", "-1", "1-", "4294967296"] {
            assert_eq!(text.parse::<RankList>(), Err(ParseRankListError), "{text:?}");
        }
    }
}
