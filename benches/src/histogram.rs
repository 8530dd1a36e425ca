//! Latencies of operations: an HDR histogram that keeps the extremes and the moments exact.
//!
//! HdrHistogram buckets are up to 0.1 % wide, which is fine for percentiles and wrong for a
//! maximum, a minimum or a standard deviation; those are kept beside it. Everything merges, over
//! rounds and over ranks, without loss.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

use crate::metrics::as_f64;

/// Significant decimal digits of a recorded value.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Longest latency that is recorded: 2^62 ns, about 146 years.
const NANOSECONDS_MAX: u64 = 1 << 62;

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    buckets: hdrhistogram::Histogram<u64>,
    moments: Moments,
}

/// Why a serialised histogram could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not base64.
    #[error("the histogram is not valid base64")]
    Base64(#[source] base64::DecodeError),
    /// Not a V2 histogram.
    #[error("the histogram is not in HdrHistogram's V2 format")]
    Format(#[source] hdrhistogram::serialization::DeserializeError),
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyHistogram {
    /// An empty histogram. Memory grows with the recorded range: 16 KiB for each doubling of the
    /// largest value above 2 us, so about 300 KiB for one second.
    pub fn new() -> Self {
        Self {
            buckets: hdrhistogram::Histogram::new(SIGNIFICANT_DIGITS)
                .expect("three digits are within the library's range of 0 to 5"),
            moments: Moments::default(),
        }
    }

    /// Records one latency. May allocate: record after the timed loop, not inside it.
    pub fn record(&mut self, latency: Duration) {
        self.record_nanoseconds(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Records one latency given in nanoseconds.
    pub fn record_nanoseconds(&mut self, nanoseconds: u64) {
        let nanoseconds = nanoseconds.min(NANOSECONDS_MAX);
        self.buckets
            .record(nanoseconds)
            .expect("an auto-resizing histogram takes every value up to 2^62");
        self.moments.add(nanoseconds);
    }

    /// Adds everything that `other` has recorded.
    pub fn merge(&mut self, other: &Self) {
        self.buckets
            .add(&other.buckets)
            .expect("both have three digits and resize, so the addition cannot overflow");
        self.moments.merge(&other.moments);
    }

    /// Latencies recorded.
    pub const fn count(&self) -> u64 {
        self.moments.count
    }

    /// The exact minimum; `None` while empty.
    pub fn min(&self) -> Option<u64> {
        (self.moments.count > 0).then_some(self.moments.min)
    }

    /// The exact maximum; `None` while empty.
    pub fn max(&self) -> Option<u64> {
        (self.moments.count > 0).then_some(self.moments.max)
    }

    /// The exact arithmetic mean in nanoseconds; 0 while empty.
    pub const fn mean(&self) -> f64 {
        self.moments.mean
    }

    /// The standard deviation of what was recorded (divided by *n*), in nanoseconds.
    pub fn stddev(&self) -> f64 {
        match self.moments.count {
            0 => 0.0,
            count => (self.moments.squares / as_f64(count)).sqrt(),
        }
    }

    /// The value below or at which `percent` of the latencies lie, in nanoseconds, to three
    /// digits and never outside the exact extremes; 0 while empty.
    pub fn percentile(&self, percent: f64) -> u64 {
        if self.moments.count == 0 {
            return 0;
        }
        self.buckets
            .value_at_quantile((percent / 100.0).clamp(0.0, 1.0))
            .clamp(self.moments.min, self.moments.max)
    }

    /// Latencies with `low <= latency < high`, to the width of a bucket.
    pub fn count_between(&self, low: u64, high: u64) -> u64 {
        self.buckets
            .iter_recorded()
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
            .filter(|(value, _)| {
                (low..high).contains(&(*value).clamp(self.moments.min, self.moments.max))
            })
            .map(|(_, count)| count)
            .sum()
    }

    /// HdrHistogram's V2 format in base64, as its other implementations read it.
    pub fn to_base64(&self) -> String {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.buckets, &mut bytes)
            .expect("writing to a vector fails only for lack of memory");
        BASE64.encode(bytes)
    }

    /// Reads what [`Self::to_base64`] wrote. The format carries buckets only, so the extremes and
    /// moments of the result are those of the buckets, right to 0.1 %.
    ///
    /// # Errors
    /// When the text is not base64, or not a V2 histogram.
    pub fn from_base64(text: &str) -> Result<Self, DecodeError> {
        let bytes = BASE64.decode(text).map_err(DecodeError::Base64)?;
        let decoded: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(DecodeError::Format)?;
        let mut result = Self::new();
        for bucket in decoded.iter_recorded() {
            let value = decoded.median_equivalent(bucket.value_iterated_to()).min(NANOSECONDS_MAX);
            let count = bucket.count_at_value();
            result
                .buckets
                .record_n(value, count)
                .expect("an auto-resizing histogram takes every value up to 2^62");
            result.moments.merge(&Moments::repeated(value, count));
        }
        Ok(result)
    }
}

/// Count, mean and sum of squared deviations, kept so that neither large values nor long runs lose
/// digits (Welford's recurrence, and Chan's rule for joining two of them).
#[derive(Clone, Debug, PartialEq)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
    min: u64,
    max: u64,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, mean: 0.0, squares: 0.0, min: u64::MAX, max: 0 }
    }
}

impl Moments {
    fn repeated(value: u64, count: u64) -> Self {
        match count {
            0 => Self::default(),
            count => Self { count, mean: as_f64(value), squares: 0.0, min: value, max: value },
        }
    }

    fn add(&mut self, value: u64) {
        self.count += 1;
        let deviation = as_f64(value) - self.mean;
        self.mean += deviation / as_f64(self.count);
        self.squares += deviation * (as_f64(value) - self.mean);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let count = self.count + other.count;
        let (ours, theirs) = (as_f64(self.count), as_f64(other.count));
        let deviation = other.mean - self.mean;
        self.mean += deviation * theirs / as_f64(count);
        self.squares += other.squares + deviation * deviation * ours * theirs / as_f64(count);
        self.count = count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram_of(values: impl IntoIterator<Item = u64>) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::new();
        for value in values {
            histogram.record_nanoseconds(value);
        }
        histogram
    }

    #[test]
    fn percentiles_are_right_to_three_digits_and_extremes_exactly() {
        let histogram = histogram_of(1..=100_000);
        for (percent, exact) in [(50.0, 50_000), (90.0, 90_000), (99.9, 99_900)] {
            let error = histogram.percentile(percent).abs_diff(exact);
            assert!(error <= exact / 1000, "p{percent} is off by {error}");
        }
        assert_eq!(histogram.percentile(100.0), 100_000);
        assert_eq!(histogram.max(), Some(100_000));
        assert_eq!(histogram.min(), Some(1));
        assert_eq!(histogram.count(), 100_000);
        assert!((histogram.mean() - 50_000.5).abs() < 1e-6);
        let exact = ((100_000_f64.powi(2) - 1.0) / 12.0).sqrt();
        assert!((histogram.stddev() - exact).abs() < 1e-3);
    }

    #[test]
    fn a_maximum_between_bucket_borders_survives() {
        let histogram = histogram_of([1_000_003, 999_999_937]);
        assert_eq!(histogram.max(), Some(999_999_937));
        assert_eq!(histogram.percentile(100.0), 999_999_937);
        assert_eq!(histogram.percentile(0.0).max(1_000_003), histogram.percentile(0.0));
    }

    #[test]
    fn merging_equals_recording_everything_in_one() {
        let values: Vec<u64> =
            (0..5_000_u64).map(|i| 1_000 + i * i % 7_919 * (1 + i % 13)).collect();
        let whole = histogram_of(values.iter().copied());
        let mut merged = LatencyHistogram::new();
        for part in values.chunks(777) {
            merged.merge(&histogram_of(part.iter().copied()));
        }
        assert_eq!(merged.count(), whole.count());
        assert_eq!((merged.min(), merged.max()), (whole.min(), whole.max()));
        assert!((merged.mean() / whole.mean() - 1.0).abs() < 1e-12);
        assert!((merged.stddev() / whole.stddev() - 1.0).abs() < 1e-9);
        for percent in [1.0, 50.0, 99.0, 99.99] {
            assert_eq!(merged.percentile(percent), whole.percentile(percent));
        }
    }

    #[test]
    fn a_small_spread_around_a_large_value_keeps_its_digits() {
        let histogram = histogram_of((0..1000).map(|i| 1_000_000_000_000 + i % 2));
        assert!((histogram.stddev() - 0.5).abs() < 1e-3, "{}", histogram.stddev());
    }

    #[test]
    fn base64_round_trips_and_has_the_v2_signature() {
        let histogram = histogram_of([380, 11_400, 66_000, 66_010, 14_500_000, 79_200_000]);
        let text = histogram.to_base64();
        // 0x1c849313 is the cookie of V2 with 8-byte words; in base64 it always starts like this.
        assert!(text.starts_with("HISTE"), "{text}");
        let read = LatencyHistogram::from_base64(&text).unwrap();
        assert_eq!(read.count(), 6);
        for percent in [10.0, 50.0, 75.0] {
            let (a, b) = (histogram.percentile(percent), read.percentile(percent));
            assert!(a.abs_diff(b) <= a / 1000, "p{percent}: {a} and {b}");
        }
        assert!((read.mean() / histogram.mean() - 1.0).abs() < 1e-3);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(matches!(LatencyHistogram::from_base64("%%%"), Err(DecodeError::Base64(_))));
        assert!(matches!(LatencyHistogram::from_base64("AAAA"), Err(DecodeError::Format(_))));
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        let histogram = LatencyHistogram::new();
        assert_eq!(histogram.percentile(50.0), 0);
        assert_eq!((histogram.min(), histogram.max()), (None, None));
        assert_eq!(histogram.stddev(), 0.0);
        assert_eq!(LatencyHistogram::from_base64(&histogram.to_base64()).unwrap().count(), 0);
    }

    #[test]
    fn counts_between_borders_add_up() {
        let histogram = histogram_of((1..=1000).map(|i| i * 100));
        let borders = [0, 5_000, 10_000, 50_000, u64::MAX];
        let total: u64 = borders.windows(2).map(|w| histogram.count_between(w[0], w[1])).sum();
        assert_eq!(total, 1000);
    }
}
