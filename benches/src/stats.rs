//! Comparing two contenders that were measured in interleaved rounds.
//!
//! One round of each contender gives one number, the mean time of an operation in that round.
//! Rounds, not operations, are the unit that is resampled: operations of one round share a
//! process, a page layout and a neighbour on the machine, so they are far from independent, and
//! an interval from thousands of them would be far too narrow.

use crate::metrics::{as_f64, as_u64};
use crate::random::mix64;

/// Fewest rounds that a comparison may rest on.
pub const ROUNDS_MIN: usize = 7;

/// Resamples drawn for an interval: the ends of a 95 % interval then rest on 250 resamples each.
const RESAMPLES: usize = 10_000;

/// Why a comparison cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// One of the contenders was not measured.
    #[error("a comparison needs at least one round of each contender")]
    NoRounds,
    /// A time of zero, a negative one, or one that is not a number.
    #[error("round time {0} is not a positive number")]
    BadTime(f64),
}

/// The ratio of our time to theirs, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median of our round means over median of theirs.
    pub point: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Rounds that the interval rests on: the smaller number of the two contenders.
    pub rounds: usize,
}

/// What a ratio says about a bar that it should not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The ratio is at or below the bar.
    Met,
    /// The ratio is above the bar, but the interval includes the bar: noise may explain it.
    WithinNoise,
    /// The whole interval lies above the bar.
    Missed,
}

impl Verdict {
    /// The word printed in tables and written to JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::WithinNoise => "within noise",
            Self::Missed => "MISSED",
        }
    }
}

impl Ratio {
    /// Compares the mean operation times of our rounds with theirs, in any one unit.
    ///
    /// With as many rounds on both sides, round *i* of ours ran next to round *i* of theirs: the
    /// two are drawn together, so that a slow minute of the machine hits both. Otherwise the two
    /// sides are drawn independently.
    ///
    /// # Errors
    /// When a side has no rounds, or a time is not a positive number.
    pub fn of_rounds(ours: &[f64], theirs: &[f64]) -> Result<Self, CompareError> {
        Self::geometric_mean(&[(ours, theirs)])
    }

    /// The geometric mean of the ratios of several cases, each given by our rounds and theirs. Every
    /// resample draws the rounds of each case anew.
    ///
    /// # Errors
    /// When there is no case, one lacks rounds of a side, or a time is not a positive number.
    pub fn geometric_mean(cases: &[(&[f64], &[f64])]) -> Result<Self, CompareError> {
        if cases.is_empty() || cases.iter().any(|case| case.0.is_empty() || case.1.is_empty()) {
            return Err(CompareError::NoRounds);
        }
        let mut times = cases.iter().flat_map(|(ours, theirs)| ours.iter().chain(*theirs));
        if let Some(&bad) = times.find(|time| !time.is_finite() || **time <= 0.0) {
            return Err(CompareError::BadTime(bad));
        }

        let mean = |ratio: &mut dyn FnMut(&[f64], &[f64]) -> f64| {
            let logarithms: f64 = cases.iter().map(|(ours, theirs)| ratio(ours, theirs).ln()).sum();
            (logarithms / as_f64(as_u64(cases.len()))).exp()
        };
        let mut draw = Draw::default();
        let mut ratios: Vec<f64> =
            (0..RESAMPLES).map(|_| mean(&mut |ours, theirs| draw.ratio(ours, theirs))).collect();
        ratios.sort_by(f64::total_cmp);
        let rounds = cases.iter().map(|(ours, theirs)| ours.len().min(theirs.len())).min();
        Ok(Self {
            point: mean(&mut |ours, theirs| median(ours) / median(theirs)),
            low: ratios[RESAMPLES / 40],
            high: ratios[RESAMPLES - 1 - RESAMPLES / 40],
            rounds: rounds.expect("at least one case"),
        })
    }

    /// Whether the ratio stays at or below `bar`.
    pub fn verdict(&self, bar: f64) -> Verdict {
        if self.point <= bar {
            Verdict::Met
        } else if self.low <= bar {
            Verdict::WithinNoise
        } else {
            Verdict::Missed
        }
    }
}

/// The middle value, or the mean of the two middle values.
///
/// # Panics
/// If `values` is empty.
pub fn median(values: &[f64]) -> f64 {
    median_in_place(&mut values.to_vec())
}

fn median_in_place(values: &mut [f64]) -> f64 {
    assert!(!values.is_empty(), "the median of nothing");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// Draws rounds with replacement.
#[derive(Default)]
struct Draw {
    random: Numbers,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Draw {
    /// The ratio of the medians of one resample.
    fn ratio(&mut self, ours: &[f64], theirs: &[f64]) -> f64 {
        let random = &mut self.random;
        self.ours.clear();
        self.theirs.clear();
        if ours.len() == theirs.len() {
            for _ in ours {
                let round = random.below(ours.len());
                self.ours.push(ours[round]);
                self.theirs.push(theirs[round]);
            }
        } else {
            self.ours.extend(ours.iter().map(|_| ours[random.below(ours.len())]));
            self.theirs.extend(theirs.iter().map(|_| theirs[random.below(theirs.len())]));
        }
        median_in_place(&mut self.ours) / median_in_place(&mut self.theirs)
    }
}

/// The same random numbers in every run, so that the same rounds always give the same interval.
#[derive(Default)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        let number = mix64(self.0);
        self.0 = self.0.wrapping_add(1);
        number
    }

    /// Uniform below `limit`; the bias of the multiplication is below 2⁻⁵⁰ for a handful of rounds.
    fn below(&mut self, limit: usize) -> usize {
        let product = u128::from(self.next()) * (limit as u128);
        usize::try_from(product >> 64).expect("below a limit that is itself a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_lengths() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn constant_rounds_give_an_interval_of_one_point() {
        let ratio = Ratio::of_rounds(&[2.0; 9], &[4.0; 9]).unwrap();
        assert_eq!(ratio, Ratio { point: 0.5, low: 0.5, high: 0.5, rounds: 9 });
    }

    #[test]
    fn the_interval_holds_the_point_and_widens_with_the_spread() {
        let theirs = [10.0, 10.1, 9.9, 10.2, 9.8, 10.0, 10.1, 9.9, 10.0];
        let calm = Ratio::of_rounds(&theirs.map(|time| time * 0.9), &theirs).unwrap();
        let wild: Vec<f64> =
            [0.5, 1.6, 0.7, 1.3, 0.9, 0.8, 1.1, 1.0, 0.6].iter().map(|f| f * 9.0).collect();
        let wild = Ratio::of_rounds(&wild, &theirs).unwrap();
        for ratio in [calm, wild] {
            assert!(ratio.low <= ratio.point && ratio.point <= ratio.high, "{ratio:?}");
        }
        assert!((calm.point - 0.9).abs() < 1e-12);
        assert!(wild.high - wild.low > 5.0 * (calm.high - calm.low));
    }

    #[test]
    fn drift_that_hits_both_alike_cancels_out_of_paired_rounds() {
        // The machine is three times slower in some rounds, for both contenders.
        let drift = [1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0];
        let ratio = Ratio::of_rounds(&drift.map(|d| d * 0.8), &drift).unwrap();
        assert!((ratio.low - 0.8).abs() < 1e-9 && (ratio.high - 0.8).abs() < 1e-9, "{ratio:?}");
        let unpaired = Ratio::of_rounds(&drift.map(|d| d * 0.8)[..8], &drift).unwrap();
        assert!(unpaired.high > 1.5, "{unpaired:?}");
        assert_eq!(unpaired.rounds, 8);
    }

    #[test]
    fn a_bar_is_missed_only_beyond_the_whole_interval() {
        let ratio = Ratio { point: 1.1, low: 0.95, high: 1.3, rounds: 9 };
        assert_eq!(ratio.verdict(1.2), Verdict::Met);
        assert_eq!(ratio.verdict(1.0), Verdict::WithinNoise);
        assert_eq!(ratio.verdict(0.9), Verdict::Missed);
    }

    #[test]
    fn the_same_rounds_always_give_the_same_interval() {
        let ours = [1.0, 1.2, 0.9, 1.5, 1.1, 1.0, 1.3];
        let theirs = [1.1, 1.0, 1.2, 0.9, 1.4, 1.0, 1.1];
        assert_eq!(Ratio::of_rounds(&ours, &theirs), Ratio::of_rounds(&ours, &theirs));
    }

    #[test]
    fn a_geometric_mean_weighs_twice_as_fast_and_twice_as_slow_alike() {
        let (fast, slow, one) = ([1.0; 7], [4.0; 7], [2.0; 9]);
        let mean = Ratio::geometric_mean(&[(&fast, &one), (&slow, &one)]).unwrap();
        assert!((mean.point - 1.0).abs() < 1e-12, "{mean:?}");
        assert!((mean.low - 1.0).abs() < 1e-12 && (mean.high - 1.0).abs() < 1e-12, "{mean:?}");
        assert_eq!(mean.rounds, 7, "the case with the fewest");
        let shaky = [0.5, 1.0, 2.0, 1.0, 1.5, 0.7, 1.0];
        let alone = Ratio::of_rounds(&shaky, &fast).unwrap();
        let among = Ratio::geometric_mean(&[(&shaky, &fast), (&fast, &fast)]).unwrap();
        assert!(among.high - among.low < alone.high - alone.low, "{among:?}, {alone:?}");
        assert_eq!(Ratio::geometric_mean(&[]), Err(CompareError::NoRounds));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Ratio::of_rounds(&[], &[1.0]), Err(CompareError::NoRounds));
        assert_eq!(Ratio::of_rounds(&[0.0], &[1.0]), Err(CompareError::BadTime(0.0)));
        assert!(Ratio::of_rounds(&[1.0], &[f64::NAN]).is_err());
    }
}
