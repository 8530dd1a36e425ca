//! The numbers that plans depend on: built in, derived from a measurement, or read from a file.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Sizes at which one algorithm takes over from another, and how vectors are sliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Two ranks: bytes up to which one crossing of the whole vector beats two of half of it.
    pub pair_one_shot_bytes: usize,
    /// More ranks: bytes sent by each beyond which the p−1 copies of the vector cost more than the
    /// crossing that they save.
    pub one_shot_bytes_sent: usize,
    /// Ranks that share cores: bytes up to which the fewest messages win, though they all pass one
    /// rank.
    pub star_bytes: usize,
    /// Bytes up to which two crossings beat the ring's 2(p−1).
    pub two_shot_bytes: usize,
    /// More than 32 ranks: bytes up to which lg p crossings of the whole vector beat the ring.
    pub recursive_doubling_bytes: usize,
    /// Bytes from which on a chain's pipeline beats a tree's few crossings.
    pub chain_bytes_min: usize,
    /// Bytes of a slice below which the cost of a message outweighs what pipelining saves.
    pub slice_bytes_min: usize,
    /// Bytes of a slice above which it no longer stays in the second-level cache until it is reduced.
    pub slice_bytes_max: usize,
    /// Slices abreast.
    pub window: usize,
    /// TCP sockets to each peer, where nobody says how many.
    pub sockets: usize,
}

/// How many numbers a tuning has.
pub(crate) const NUMBERS: usize = 10;

/// Longest vector that one-shot takes even if forced: it sits in scratch p−1 times.
pub(crate) const ONE_SHOT_BYTES_MAX: usize = 256 << 10;

/// Most sockets to a peer that are tried: what a limit for each connection leaves idle.
pub(crate) const SOCKETS_TRIED: u16 = 4;

/// Most slices abreast: all of them must fit into scratch.
const WINDOW_MAX: usize = 8;

impl Tuning {
    /// What was measured on loopback (benches/RESULTS.md), where cores rather than links limit. More than
    /// two slices abreast would only push the bytes out of the caches before they are used again.
    pub const BUILT_IN: Self = Self {
        pair_one_shot_bytes: 256 << 10,
        one_shot_bytes_sent: 128 << 10,
        star_bytes: 256 << 10,
        two_shot_bytes: 1 << 20,
        recursive_doubling_bytes: 64 << 10,
        chain_bytes_min: 512 << 10,
        slice_bytes_min: 32 << 10,
        slice_bytes_max: 256 << 10,
        window: 2,
        sockets: 1,
    };

    /// What follows from the speed of the links between `ranks` ranks.
    ///
    /// By the usual model: a message of n bytes takes α + nβ, reducing n bytes takes nγ. A size is the
    /// last power of two at which the one algorithm is no slower than the other:
    ///
    /// | algorithm | time |
    /// |---|---|
    /// | one-shot | α + (p−1)n(β + γ) |
    /// | two-shot | 2α + (p−1)/p·n(2β + γ), and a twentieth more on the wire, for p−1 senders meet |
    /// | ring | 2(p−1)α + (p−1)/p·n(2β + γ) |
    /// | recursive doubling | lg p·(α + n(β + γ)) |
    /// | binomial tree | lg p·(α + nβ) |
    /// | chain in slices of s | (p−1)(α + sβ) + nβ |
    ///
    /// Slices are at least twice as long as what is under way during one latency, so that it is
    /// hidden, and as many are abreast as fill a round trip.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes and times of a model: positive and far below 2^52"
    )]
    pub fn derive(speed: Speed, ranks: u32) -> Self {
        let (a, b, g) =
            (speed.latency_ns as f64, speed.wire_ns_per_byte(), speed.reduce_ns_per_byte());
        let under_way = a / b;
        let slice = (2.0 * under_way) as usize;
        let slice_bytes_min = slice.next_power_of_two().clamp(32 << 10, 256 << 10);
        let round_trip = (2.0 * under_way / slice_bytes_min as f64).ceil() as usize;
        let slice_bytes_max = Self::BUILT_IN.slice_bytes_max;
        let few = f64::from(ranks.clamp(3, super::DIRECT_RANKS_MAX));
        let many = f64::from(ranks.max(super::DIRECT_RANKS_MAX + 1));
        let one_shot = |p: f64, n: f64| a + (p - 1.0) * n * (b + g);
        let scattered = |p: f64, n: f64, wire: f64| (p - 1.0) / p * n * (2.0 * b * wire + g);
        let two_shot = |p: f64, n: f64| 2.0 * a + scattered(p, n, 1.05);
        let ring = |p: f64, n: f64| 2.0 * (p - 1.0) * a + scattered(p, n, 1.0);
        let doubling = |p: f64, n: f64| p.log2().ceil() * (a + n * (b + g));
        let tree = |p: f64, n: f64| p.log2().ceil() * (a + n * b);
        let chain = |p: f64, n: f64| (p - 1.0) * (a + slice_bytes_min as f64 * b) + n * b;
        let one_shot_bytes = last(|n| one_shot(few, n) <= two_shot(few, n));
        Self {
            pair_one_shot_bytes: last(|n| one_shot(2.0, n) <= ring(2.0, n)).min(ONE_SHOT_BYTES_MAX),
            one_shot_bytes_sent: (one_shot_bytes as f64 * (few - 1.0)) as usize,
            // Whether ranks share cores says nothing about the links.
            star_bytes: Self::BUILT_IN.star_bytes,
            two_shot_bytes: last(|n| two_shot(few, n) <= ring(few, n)),
            recursive_doubling_bytes: last(|n| doubling(many, n) <= ring(many, n)),
            chain_bytes_min: last(|n| tree(few, n) <= chain(few, n)) * 2,
            slice_bytes_min,
            slice_bytes_max,
            window: (round_trip + 1).clamp(Self::BUILT_IN.window, WINDOW_MAX),
            // The model knows of one.
            sockets: Self::BUILT_IN.sockets,
        }
    }

    /// Whether the library can work with it.
    ///
    /// # Errors
    /// A sentence that names the number and what it may be.
    pub fn check(&self) -> Result<(), String> {
        let slices = 1024..=16 << 20;
        for (name, value, range) in [
            ("pair_one_shot_bytes", self.pair_one_shot_bytes, 0..=ONE_SHOT_BYTES_MAX),
            ("slice_bytes_min", self.slice_bytes_min, slices.clone()),
            ("slice_bytes_max", self.slice_bytes_max, slices),
            ("window", self.window, 1..=WINDOW_MAX),
            ("sockets", self.sockets, 1..=usize::from(SOCKETS_TRIED)),
        ] {
            if !range.contains(&value) {
                let (from, to) = (range.start(), range.end());
                return Err(format!("{name} is {value}; it must be {from} to {to}"));
            }
        }
        if self.slice_bytes_min > self.slice_bytes_max {
            return Err("slice_bytes_min is larger than slice_bytes_max".to_owned());
        }
        Ok(())
    }

    pub(crate) fn to_numbers(self) -> [u64; NUMBERS] {
        [
            self.pair_one_shot_bytes,
            self.one_shot_bytes_sent,
            self.star_bytes,
            self.two_shot_bytes,
            self.recursive_doubling_bytes,
            self.chain_bytes_min,
            self.slice_bytes_min,
            self.slice_bytes_max,
            self.window,
            self.sockets,
        ]
        .map(|number| number as u64)
    }

    pub(crate) fn from_numbers(numbers: [u64; NUMBERS]) -> Self {
        let [
            pair,
            one_shot,
            star,
            two_shot,
            doubling,
            chain,
            slice_min,
            slice_max,
            window,
            sockets,
        ] = numbers.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        Self {
            pair_one_shot_bytes: pair,
            one_shot_bytes_sent: one_shot,
            star_bytes: star,
            two_shot_bytes: two_shot,
            recursive_doubling_bytes: doubling,
            chain_bytes_min: chain,
            slice_bytes_min: slice_min,
            slice_bytes_max: slice_max,
            window,
            sockets,
        }
    }
}

/// The largest power of two up to 1 GiB for which, and for all smaller ones, something holds; 0 if it
/// does not hold for one byte.
fn last(holds: impl Fn(f64) -> bool) -> usize {
    let powers = (0..=30).map(|exponent| 1usize << exponent);
    #[expect(clippy::cast_precision_loss, reason = "powers of two")]
    let held = powers.take_while(|bytes| holds(*bytes as f64));
    held.last().unwrap_or(0)
}

/// How fast the slowest link between the ranks is, and the slowest rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Nanoseconds that a message without bytes takes.
    pub latency_ns: u64,
    /// Nanoseconds that 1 MiB more takes, with as much coming the other way.
    pub wire_ns_per_mib: u64,
    /// Nanoseconds that one rank needs to add 1 MiB of f32 to another.
    pub reduce_ns_per_mib: u64,
}

impl Speed {
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds: far below 2^52")]
    fn wire_ns_per_byte(self) -> f64 {
        self.wire_ns_per_mib.max(1) as f64 / f64::from(1 << 20)
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds: far below 2^52")]
    fn reduce_ns_per_byte(self) -> f64 {
        self.reduce_ns_per_mib as f64 / f64::from(1 << 20)
    }

    /// The slower of each.
    #[must_use]
    pub(crate) fn slower(self, other: Self) -> Self {
        Self {
            latency_ns: self.latency_ns.max(other.latency_ns),
            wire_ns_per_mib: self.wire_ns_per_mib.max(other.wire_ns_per_mib),
            reduce_ns_per_mib: self.reduce_ns_per_mib.max(other.reduce_ns_per_mib),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let microseconds = self.latency_ns as f64 / 1e3;
        let (wire, reduce) = (1.0 / self.wire_ns_per_byte(), 1.0 / self.reduce_ns_per_byte());
        write!(f, "latency {microseconds:.1} us, links {wire:.3} GB/s, reduction {reduce:.1} GB/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(latency_us: u64, gb_per_second: f64) -> Speed {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive time"
        )]
        let wire_ns_per_mib = (f64::from(1 << 20) / gb_per_second) as u64;
        Speed { latency_ns: latency_us * 1000, wire_ns_per_mib, reduce_ns_per_mib: 100_000 }
    }

    #[test]
    fn every_speed_gives_numbers_that_work() {
        for latency in [1, 3, 20, 500, 50_000] {
            for bandwidth in [0.001, 0.1, 1.2, 12.0, 100.0] {
                for ranks in [2, 3, 8, 32, 33, 1000] {
                    let tuning = Tuning::derive(speed(latency, bandwidth), ranks);
                    assert_eq!(tuning.check(), Ok(()), "{latency} us, {bandwidth} GB/s, {ranks}");
                    assert_eq!(Tuning::from_numbers(tuning.to_numbers()), tuning);
                }
            }
        }
        assert_eq!(Tuning::BUILT_IN.check(), Ok(()));
    }

    #[test]
    fn crossovers_grow_with_the_bytes_under_way() {
        // 10 GbE over TCP, 8 ranks, then a link with a hundred times the latency.
        let [slow, far] = [(20, 1.25), (2000, 1.25)]
            .map(|(latency, bandwidth)| Tuning::derive(speed(latency, bandwidth), 8));
        assert!(far.two_shot_bytes > slow.two_shot_bytes);
        assert!(far.one_shot_bytes_sent > slow.one_shot_bytes_sent);
        assert!(far.window > slow.window && far.slice_bytes_min > slow.slice_bytes_min);
        assert!(far.recursive_doubling_bytes > slow.recursive_doubling_bytes);
    }

    #[test]
    fn numbers_that_cannot_work_are_named() {
        let wrong = Tuning { window: 0, ..Tuning::BUILT_IN };
        assert_eq!(wrong.check().unwrap_err(), "window is 0; it must be 1 to 8");
        let wrong = Tuning { slice_bytes_min: 1 << 20, ..Tuning::BUILT_IN };
        assert!(wrong.check().unwrap_err().contains("larger than slice_bytes_max"));
    }
}
