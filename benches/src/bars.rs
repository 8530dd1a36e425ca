//! A latency histogram as bars in a terminal.

use std::fmt::Write as _;

use crate::histogram::LatencyHistogram;
use crate::metrics::as_f64;
use crate::units::format_nanoseconds;

/// Most bars drawn: what a reader takes in at a glance, and what fits below a table.
const BARS_MAX: usize = 16;

/// Bars per decade, finest first: the 1-2-5 habit is as coarse as it gets before plain decades.
const BARS_PER_DECADE: [u32; 7] = [80, 40, 20, 10, 5, 3, 1];

/// Narrowest drawing; below it labels alone would not fit.
const WIDTH_MIN: usize = 40;

/// Which characters bars are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarStyle {
    /// Eighths of a block, for terminals with a UTF-8 locale.
    Unicode,
    /// `#`, for everything else.
    Ascii,
}

struct Bar {
    low: u64,
    high: u64,
    count: u64,
}

/// Draws `histogram` with logarithmic bars, one per line, none wider than `width` columns.
///
/// Each line holds the range, the bar, the count and the share of latencies below the end of the
/// range. Empty bars between full ones are drawn: gaps are what a histogram is for.
pub fn render_bars(histogram: &LatencyHistogram, width: usize, style: BarStyle) -> String {
    let bars = bars_of(histogram);
    let Some(highest) = bars.iter().map(|bar| bar.count).max() else {
        return "(nothing was recorded)\n".to_owned();
    };
    let count_width = highest.to_string().len();
    // "123 us .. 456 us  " before the bar, "  count  100.0 %" after it.
    let fixed = 7 + 4 + 7 + 2 + 2 + count_width + 2 + 7;
    let bar_width = width.max(WIDTH_MIN).saturating_sub(fixed).max(1);

    let mut text = String::new();
    let mut below = 0;
    for bar in &bars {
        below += bar.count;
        let share = 100.0 * as_f64(below) / as_f64(histogram.count());
        let drawn = draw(bar.count, highest, bar_width, style);
        writeln!(
            text,
            "{:>7} .. {:>7}  {drawn:<bar_width$}  {:>count_width$}  {share:>5.1} %",
            format_nanoseconds(as_f64(bar.low)),
            format_nanoseconds(as_f64(bar.high)),
            bar.count,
        )
        .expect("writing to a String cannot fail");
    }
    text
}

/// Counts per bar from the one that holds the minimum to the one that holds the maximum.
fn bars_of(histogram: &LatencyHistogram) -> Vec<Bar> {
    let (Some(min), Some(max)) = (histogram.min(), histogram.max()) else {
        return Vec::new();
    };
    let min = min.max(1);
    let mut edges = Vec::new();
    for per_decade in BARS_PER_DECADE {
        edges = edges_around(min, max.max(min), per_decade);
        if edges.len() <= BARS_MAX + 1 {
            break;
        }
    }
    edges
        .windows(2)
        .enumerate()
        .map(|(index, pair)| {
            // A latency of zero belongs to the first bar although no logarithm reaches it.
            let low = if index == 0 { 0 } else { pair[0] };
            Bar { low: pair[0], high: pair[1], count: histogram.count_between(low, pair[1]) }
        })
        .collect()
}

/// Borders of bars, at least two, the first at or below `min` and the last above `max`.
fn edges_around(min: u64, max: u64, per_decade: u32) -> Vec<u64> {
    let edge = |index: i32| round_to_u64(10_f64.powf(f64::from(index) / f64::from(per_decade)));
    let first = (as_f64(min).log10() * f64::from(per_decade)).floor();
    let mut index = round_to_i32(first);
    while edge(index) > min {
        index -= 1;
    }
    let mut edges = vec![edge(index)];
    while edges.last().is_some_and(|&last| last <= max) {
        index += 1;
        edges.push(edge(index));
    }
    // At a few nanoseconds neighbouring borders round to the same integer.
    edges.dedup();
    edges
}

fn draw(count: u64, highest: u64, width: usize, style: BarStyle) -> String {
    const EIGHTHS: [char; 8] = ['█', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths_full = as_f64(crate::metrics::as_u64(width)) * 8.0;
    let exact = as_f64(count) / as_f64(highest.max(1)) * eighths_full;
    // Whatever was recorded at all shows: a single slow operation is the point of the drawing.
    let eighths = match round_to_u64(exact) {
        0 if count > 0 => 1,
        eighths => eighths,
    };
    let eighths = usize::try_from(eighths).unwrap_or(width * 8);
    match style {
        BarStyle::Ascii => "#".repeat(eighths.div_ceil(8)),
        BarStyle::Unicode => {
            let mut bar = "█".repeat(eighths / 8);
            if eighths % 8 > 0 {
                bar.push(EIGHTHS[eighths % 8]);
            }
            bar
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float-to-int cast saturates, which is what a border beyond 2^64 should do"
)]
fn round_to_u64(value: f64) -> u64 {
    value.round() as u64
}

#[expect(clippy::cast_possible_truncation, reason = "logarithms of 64-bit numbers are small")]
fn round_to_i32(value: f64) -> i32 {
    value as i32
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

    fn typical() -> LatencyHistogram {
        let body = (0..900).map(|i| 11_000 + i * 3);
        let tail = (0..90).map(|i| 15_000 + i * 100);
        histogram_of(body.chain(tail).chain([250_000]))
    }

    #[test]
    fn golden_ascii() {
        let text = render_bars(&typical(), 72, BarStyle::Ascii);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn golden_unicode() {
        let text = render_bars(&typical(), 72, BarStyle::Unicode);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn lines_stay_within_the_width_and_bars_within_their_number() {
        let spread: Vec<u64> = (0..40).map(|i| 1_u64 << i).collect();
        for histogram in [typical(), histogram_of(spread), histogram_of([7]), histogram_of([0, 1])]
        {
            for width in [40, 80, 120, 200] {
                for style in [BarStyle::Ascii, BarStyle::Unicode] {
                    let text = render_bars(&histogram, width, style);
                    assert!((1..=BARS_MAX + 2).contains(&text.lines().count()), "{text}");
                    for line in text.lines() {
                        assert!(line.chars().count() <= width, "{width}: {line:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_latency_is_in_exactly_one_bar() {
        for histogram in [typical(), histogram_of([0, 1, 2, 3, 999_999_937]), histogram_of([5; 9])]
        {
            let total: u64 = bars_of(&histogram).iter().map(|bar| bar.count).sum();
            assert_eq!(total, histogram.count());
        }
    }

    #[test]
    fn one_slow_operation_among_many_is_visible() {
        let text = render_bars(&typical(), 72, BarStyle::Ascii);
        assert!(text.lines().last().is_some_and(|line| line.contains('#')), "{text}");
    }

    #[test]
    fn nothing_recorded() {
        let text = render_bars(&LatencyHistogram::new(), 80, BarStyle::Ascii);
        assert_eq!(text, "(nothing was recorded)\n");
    }
}
