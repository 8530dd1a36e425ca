//! The record of a benchmark run: what `--json` writes and what `compare` and `ci/peers` read.
//!
//! Units are in the names: `_us` microseconds, `_gbs` 10⁹ bytes per second, `_bytes` bytes, `_pct`
//! per cent. Optional numbers are `null` where they were not measured or make no sense. A reader
//! accepts fields that it does not know, so that fields may be added under the same version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::LatencyHistogram;
use crate::metrics::as_f64;

/// The version written into every record.
pub const SCHEMA: &str = "paceline.bench/1";

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadReportError {
    /// Not JSON, or fields missing.
    #[error("not a benchmark record")]
    Json(#[source] serde_json::Error),
    /// JSON of another kind or a later version.
    #[error("the record has schema {found:?}; this program reads {SCHEMA:?}")]
    Schema {
        /// What the record says it is.
        found: String,
    },
}

/// One run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Whose collectives were measured; `null` for ours.
    pub peer: Option<Peer>,
    /// The machines that took part, each once.
    #[serde(default)]
    pub machines: Vec<Machine>,
    /// The processes that took part, by rank.
    #[serde(default)]
    pub ranks: Vec<RankFacts>,
    /// What was asked for.
    pub config: Config,
    /// Transports that were wanted and could not be measured.
    #[serde(default)]
    pub skipped: Vec<SkippedTransport>,
    /// One entry for each line of the table.
    pub results: Vec<BenchResult>,
    /// Why there are no more results, if the benchmark failed before the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Report {
    /// Parses a record and checks its version.
    ///
    /// # Errors
    /// When the text is not a record of this version.
    pub fn from_json(text: &str) -> Result<Self, ReadReportError> {
        #[derive(Deserialize)]
        struct Header {
            schema: String,
        }
        let header: Header = serde_json::from_str(text).map_err(ReadReportError::Json)?;
        if header.schema != SCHEMA {
            return Err(ReadReportError::Schema { found: header.schema });
        }
        serde_json::from_str(text).map_err(ReadReportError::Json)
    }

    /// The record as indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self)
            .expect("a report holds no map with keys other than strings");
        text.push('\n');
        text
    }
}

/// Another library, measured with the same loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// e.g. `Open MPI`.
    pub name: String,
    /// e.g. `4.1.4`.
    pub version: String,
}

/// What a machine is. Read by [`crate::machine::read_machine`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// Model name of the processor.
    pub cpu: Option<String>,
    /// Processors that this process may use.
    pub cores: u32,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Main memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Network interfaces that are up.
    pub nics: Vec<Nic>,
    /// Revision that the program was built from.
    pub git_revision: Option<String>,
    /// Environment variables that change results: an allow-list, never the whole environment.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Interface name.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Link speed in 10⁶ bit/s; `null` where the driver does not say (loopback, most virtual ones).
    pub speed_mbps: Option<u32>,
}

/// One process of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankFacts {
    /// Its rank.
    pub rank: u32,
    /// The host name of its machine.
    pub host: String,
    /// Its process id on that machine.
    pub pid: u32,
    /// Where its tensors live, e.g. `cpu`.
    pub device: String,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Number of ranks.
    pub world_size: u32,
    /// Rounds per result.
    pub rounds: u32,
    /// Whether buffers for input and output were apart.
    pub out_of_place: bool,
    /// `every`, `first` or `off`.
    pub check: String,
    /// Operations before the first one that counts.
    pub warmup: u64,
    /// Operations per round where the user fixed them.
    pub iterations: Option<u64>,
    /// Shortest round in seconds where the number of operations was not fixed.
    pub min_time_s: f64,
}

/// A transport that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedTransport {
    /// Its name.
    pub transport: String,
    /// Why.
    pub reason: String,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// e.g. `all_reduce`.
    pub collective: String,
    /// e.g. `tcp`.
    pub transport: String,
    /// Whether the transport's hardware is emulated: such a result scores no claim.
    pub emulated: bool,
    /// What all ranks agreed on, e.g. `ring`.
    pub algorithm: String,
    /// Number of ranks.
    pub world_size: u32,
    /// e.g. `f32`.
    pub dtype: String,
    /// e.g. `sum`; `null` for collectives that do not reduce.
    pub op: Option<String>,
    /// Elements, as nccl-tests counts them for the collective; of a whole model, all its elements.
    pub count: u64,
    /// Size, as nccl-tests defines it for the collective.
    pub bytes: u64,
    /// The model whose gradients were reduced; one operation is then a whole backward pass.
    pub model: Option<String>,
    /// The largest fusion bucket of a model run; `null` where every tensor went alone.
    pub fusion_bytes: Option<u64>,
    /// Whether operations were submitted to a queue and waited for, as opposed to called.
    #[serde(default)]
    pub queued: bool,
    /// Operations timed, over all rounds.
    pub iterations: u64,
    /// Operations between two readings of the clock: 1 from 10 us upwards.
    pub batch: u64,
    /// Each round for itself.
    pub rounds: Vec<Round>,
    /// Times of one operation: in iteration *i*, the slowest rank's.
    pub time_us: Times,
    /// Size / mean time.
    pub algbw_gbs: Option<f64>,
    /// What crossed each rank's link / mean time, as nccl-tests defines it.
    pub busbw_gbs: Option<f64>,
    /// The floor's time as a share of ours, medians; `null` where no valid floor was measured.
    pub floor_pct: Option<f64>,
    /// The floor's time, valid or not; `null` where none was measured.
    #[serde(default)]
    pub floor_us: Option<f64>,
    /// CPU seconds of a rank, helper threads included, per GiB of size (mean over ranks).
    pub cpu_s_per_gib: Option<f64>,
    /// Elements that differed from the exact answer, over all ranks; `null` where unchecked.
    pub wrong: Option<u64>,
    /// Another library's operation of this size, measured between the rounds.
    #[serde(default)]
    pub peer: Option<PeerResult>,
    /// Times of [`Self::time_us`]: HdrHistogram V2, base64, nanoseconds, 3 digits.
    pub histogram: Option<String>,
    /// The same of each rank's own durations, by rank: who is slow?
    #[serde(default)]
    pub rank_histograms: Vec<String>,
}

/// What another library took for the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerResult {
    /// e.g. `Open MPI`.
    pub name: String,
    /// e.g. `4.1.4`.
    pub version: String,
    /// Mean time of an operation in each round, slowest rank, in microseconds.
    pub rounds_us: Vec<f64>,
    /// Median of the rounds.
    pub time_us: f64,
    /// Median of our rounds over median of theirs.
    pub ratio: f64,
    /// Lower end of the 95 % interval of the ratio.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Elements of the first result that differed from the exact answer, over all ranks.
    pub wrong: u64,
}

/// One round of a result, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Mean time of an operation.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// A distribution of times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Exact minimum.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// 99.99th percentile.
    pub p99_99: f64,
    /// Exact maximum.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation.
    pub stddev: f64,
}

impl From<&LatencyHistogram> for Times {
    fn from(histogram: &LatencyHistogram) -> Self {
        let microseconds = |nanoseconds: u64| as_f64(nanoseconds) / 1e3;
        let percentile = |percent| microseconds(histogram.percentile(percent));
        Self {
            min: microseconds(histogram.min().unwrap_or(0)),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p99_9: percentile(99.9),
            p99_99: percentile(99.99),
            max: microseconds(histogram.max().unwrap_or(0)),
            mean: histogram.mean() / 1e3,
            stddev: histogram.stddev() / 1e3,
        }
    }
}

impl From<&LatencyHistogram> for Round {
    fn from(histogram: &LatencyHistogram) -> Self {
        let times = Times::from(histogram);
        Self { mean: times.mean, p50: times.p50, p99: times.p99 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with one ordinary result, for tests here and in `table`.
    pub(crate) fn sample() -> Report {
        let mut histogram = LatencyHistogram::new();
        for nanoseconds in [11_000, 11_400, 12_000, 66_003] {
            histogram.record_nanoseconds(nanoseconds);
        }
        Report {
            schema: SCHEMA.to_owned(),
            peer: None,
            machines: vec![Machine {
                host: "node1".to_owned(),
                cpu: Some("AMD EPYC 7763".to_owned()),
                cores: 2,
                kernel: Some("6.18.1".to_owned()),
                memory_bytes: Some(24 << 30),
                nics: vec![Nic { name: "eth0".to_owned(), mtu: Some(9000), speed_mbps: None }],
                git_revision: Some("a1a1c37".to_owned()),
                variables: BTreeMap::new(),
            }],
            ranks: vec![RankFacts {
                rank: 0,
                host: "node1".to_owned(),
                pid: 4711,
                device: "cpu".to_owned(),
            }],
            config: Config {
                world_size: 2,
                rounds: 1,
                out_of_place: false,
                check: "first".to_owned(),
                warmup: 5,
                iterations: None,
                min_time_s: 0.2,
            },
            skipped: vec![SkippedTransport {
                transport: "rdma".to_owned(),
                reason: "built without the feature rdma".to_owned(),
            }],
            failure: None,
            results: vec![BenchResult {
                collective: "all_reduce".to_owned(),
                transport: "tcp".to_owned(),
                emulated: false,
                algorithm: "ring".to_owned(),
                world_size: 2,
                dtype: "f32".to_owned(),
                op: Some("sum".to_owned()),
                count: 16_384,
                bytes: 65_536,
                model: None,
                fusion_bytes: None,
                queued: false,
                iterations: 4,
                batch: 1,
                rounds: vec![Round::from(&histogram)],
                time_us: Times::from(&histogram),
                algbw_gbs: Some(2.609),
                busbw_gbs: Some(2.609),
                floor_pct: Some(83.0),
                floor_us: Some(9.5),
                cpu_s_per_gib: Some(0.521),
                wrong: Some(0),
                peer: None,
                histogram: Some(histogram.to_base64()),
                rank_histograms: vec![histogram.to_base64()],
            }],
        }
    }

    #[test]
    fn a_record_survives_writing_and_reading() {
        let report = sample();
        assert_eq!(Report::from_json(&report.to_json()).unwrap(), report);
    }

    #[test]
    fn times_are_microseconds_and_the_maximum_is_exact() {
        let times = sample().results[0].time_us;
        assert_eq!((times.min, times.max), (11.0, 66.003));
        assert!((times.mean - 25.10075).abs() < 1e-9);
    }

    /// The issue lists these names: renaming one breaks every reader.
    #[test]
    fn the_names_of_the_schema_are_fixed() {
        let json: serde_json::Value = serde_json::from_str(&sample().to_json()).unwrap();
        let result = &json["results"][0];
        for name in [
            "collective",
            "transport",
            "emulated",
            "algorithm",
            "world_size",
            "dtype",
            "op",
            "count",
            "bytes",
            "model",
            "fusion_bytes",
            "queued",
            "iterations",
            "batch",
            "rounds",
            "time_us",
            "algbw_gbs",
            "busbw_gbs",
            "floor_pct",
            "floor_us",
            "cpu_s_per_gib",
            "wrong",
            "histogram",
            "rank_histograms",
        ] {
            assert!(result.get(name).is_some(), "{name} is missing");
        }
        for name in ["min", "p50", "p90", "p99", "p99_9", "p99_99", "max", "mean", "stddev"] {
            assert!(result["time_us"][name].is_number(), "{name} is missing");
        }
        for name in ["mean", "p50", "p99"] {
            assert!(result["rounds"][0][name].is_number(), "{name} is missing");
        }
        for name in ["schema", "machines", "ranks", "config", "peer", "results"] {
            assert!(json.get(name).is_some(), "{name} is missing");
        }
        assert!(json["peer"].is_null());
    }

    #[test]
    fn other_versions_and_other_files_are_refused() {
        let later = sample().to_json().replace("paceline.bench/1", "paceline.bench/2");
        let error = Report::from_json(&later).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the record has schema \"paceline.bench/2\"; this program reads \"paceline.bench/1\""
        );
        assert!(matches!(Report::from_json("{}"), Err(ReadReportError::Json(_))));
        assert!(matches!(Report::from_json("4 us"), Err(ReadReportError::Json(_))));
    }

    #[test]
    fn unknown_fields_are_no_error() {
        let more = sample().to_json().replacen('{', "{ \"colour\": 3,", 1);
        assert_eq!(Report::from_json(&more).unwrap(), sample());
    }
}
