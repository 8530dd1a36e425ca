//! Ours against other libraries: which bars we set ourselves, and whether the rounds clear them.
//!
//! Input is one [`Report`] per contender, transport, world size and round; `ci/peers` makes them.
//! A round of ours is compared with the same round of theirs, because the two ran next to each
//! other; see [`crate::stats`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::schema::Report;
use crate::stats::{CompareError, ROUNDS_MIN, Ratio, median};
use crate::units::{format_bytes, format_microseconds};

/// The version written into every comparison.
pub const SCHEMA: &str = "paceline.peers/1";

const OPEN_MPI: &str = "Open MPI";
const GLOO: &str = "Gloo";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Whom a bar is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    Peer(&'static str),
    /// Whichever peer is faster at that size.
    Best,
}

/// The largest ratio of our time to theirs that we are content with.
struct Bar {
    transport: &'static str,
    world_size: u32,
    against: Against,
    /// Sizes in bytes, both ends included.
    sizes: (u64, u64),
    limit: f64,
}

const fn bar(
    transport: &'static str,
    world_size: u32,
    against: Against,
    sizes: (u64, u64),
    limit: f64,
) -> Bar {
    Bar { transport, world_size, against, sizes, limit }
}

/// All-reduce of f32 sums. Bars for four ranks mean four ranks on two cores.
const BARS: [Bar; 16] = [
    bar("tcp", 2, Against::Peer(OPEN_MPI), (0, 64 * KIB), 1.0),
    bar("tcp", 2, Against::Peer(OPEN_MPI), (MIB, MIB), 1.15),
    bar("tcp", 2, Against::Peer(OPEN_MPI), (4 * MIB, 4 * MIB), 0.8),
    bar("tcp", 2, Against::Peer(OPEN_MPI), (16 * MIB, 64 * MIB), 0.65),
    bar("tcp", 2, Against::Peer(GLOO), (0, 64 * KIB), 0.2),
    bar("tcp", 2, Against::Peer(GLOO), (4 * MIB, 64 * MIB), 0.7),
    bar("shm", 2, Against::Peer(OPEN_MPI), (0, 4 * KIB), 1.3),
    bar("shm", 2, Against::Peer(OPEN_MPI), (64 * KIB, MIB), 0.9),
    bar("shm", 2, Against::Peer(OPEN_MPI), (4 * MIB, 4 * MIB), 0.55),
    bar("shm", 2, Against::Peer(OPEN_MPI), (16 * MIB, 16 * MIB), 0.65),
    bar("shm", 2, Against::Peer(OPEN_MPI), (64 * MIB, 64 * MIB), 0.45),
    bar("tcp", 4, Against::Best, (0, u64::MAX), 1.0),
    bar("shm", 4, Against::Best, (0, u64::MAX), 1.0),
    bar("tcp", 4, Against::Peer(OPEN_MPI), (16 * MIB, u64::MAX), 0.6),
    bar("shm", 4, Against::Peer(OPEN_MPI), (16 * MIB, u64::MAX), 0.6),
    // Starting four processes that do nothing: `paceline run` against `mpirun`.
    bar(START, 4, Against::Peer(OPEN_MPI), (0, 0), 1.0),
];

/// The *transport* under which the time to start processes is listed.
const START: &str = "start";

/// Why rounds cannot be compared.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// No round of ours was found.
    #[error("there is no round of ours to compare with")]
    NothingOfOurs,
    /// A result that is wrong has no time worth comparing.
    #[error("{wrong} wrong elements: {contender} over {transport}, {bytes} bytes, round {round}")]
    Wrong {
        /// Who computed it.
        contender: String,
        /// Over which transport.
        transport: String,
        /// Size of the operation.
        bytes: u64,
        /// In which round.
        round: u32,
        /// How many elements.
        wrong: u64,
    },
    /// A record holds times that no operation can have.
    #[error("{transport}, {bytes} bytes, ours against {peer}: times cannot be compared")]
    Times {
        /// Over which transport.
        transport: String,
        /// Size of the operation.
        bytes: u64,
        /// The other contender.
        peer: String,
        /// What is wrong with them.
        #[source]
        source: CompareError,
    },
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// `tcp`, `shm`, or `start` for the time to start processes.
    pub transport: String,
    /// Number of ranks.
    pub world_size: u32,
    /// Size of the operation.
    pub bytes: u64,
    /// With whom we are compared.
    pub peer: String,
    /// Median of our round means in microseconds.
    pub ours_us: f64,
    /// Median of theirs.
    pub theirs_us: f64,
    /// Ratio of the medians.
    pub ratio: f64,
    /// Lower end of the 95 % interval of the ratio.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Rounds compared.
    pub rounds: usize,
    /// The strictest bar for this line.
    pub bar: Option<f64>,
    /// What the ratio says about it; `null` without a bar or with too few rounds.
    pub verdict: Option<&'static str>,
    /// Our round means in microseconds, in the order of the rounds.
    pub ours_rounds_us: Vec<f64>,
    /// Theirs.
    pub theirs_rounds_us: Vec<f64>,
}

/// What is compared: transport, world size, size.
type Case = (String, u32, u64);

/// Mean time by round.
type Rounds = BTreeMap<u32, f64>;

/// Gathers rounds, then compares.
#[derive(Debug, Default)]
pub struct Comparison {
    ours: BTreeMap<Case, Rounds>,
    peers: BTreeMap<Case, BTreeMap<String, Rounds>>,
}

impl Comparison {
    /// Adds what one contender measured in one round.
    ///
    /// # Errors
    /// When a result is wrong.
    pub fn add(&mut self, report: &Report, round: u32) -> Result<(), PeersError> {
        let peer = report.peer.as_ref().map(|peer| peer.name.as_str());
        for result in &report.results {
            if let Some(wrong) = result.wrong.filter(|&wrong| wrong > 0) {
                return Err(PeersError::Wrong {
                    contender: peer.unwrap_or("ours").to_owned(),
                    transport: result.transport.clone(),
                    bytes: result.bytes,
                    round,
                    wrong,
                });
            }
            let case = (result.transport.clone(), result.world_size, result.bytes);
            self.rounds(case, peer).insert(round, result.time_us.mean);
        }
        Ok(())
    }

    /// Adds the time to start `world_size` processes, in microseconds; `peer` is `None` for ours.
    pub fn add_start(&mut self, peer: Option<&str>, world_size: u32, round: u32, time_us: f64) {
        self.rounds((START.to_owned(), world_size, 0), peer).insert(round, time_us);
    }

    fn rounds(&mut self, case: Case, peer: Option<&str>) -> &mut Rounds {
        match peer {
            None => self.ours.entry(case).or_default(),
            Some(peer) => self.peers.entry(case).or_default().entry(peer.to_owned()).or_default(),
        }
    }

    /// One line for each size and peer, in the order transport, world size, size, peer. Rounds
    /// that only one side completed are left out.
    ///
    /// # Errors
    /// When there is nothing of ours, or a time is not a positive number.
    pub fn lines(&self) -> Result<Vec<Line>, PeersError> {
        if self.ours.is_empty() {
            return Err(PeersError::NothingOfOurs);
        }
        let mut lines = Vec::new();
        for (case, ours) in &self.ours {
            let Some(peers) = self.peers.get(case) else { continue };
            let best = peers
                .iter()
                .map(|(name, rounds)| (name, median(&times(rounds))))
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .map(|(name, _)| name);
            for (peer, theirs) in peers {
                lines.extend(compare(case, ours, peer, theirs, best == Some(peer))?);
            }
        }
        Ok(lines)
    }
}

fn times(rounds: &Rounds) -> Vec<f64> {
    rounds.values().copied().collect()
}

fn compare(
    case: &Case,
    ours: &Rounds,
    peer: &str,
    theirs: &Rounds,
    is_best: bool,
) -> Result<Option<Line>, PeersError> {
    let (transport, world_size, bytes) = case;
    let (ours, theirs): (Vec<f64>, Vec<f64>) =
        ours.iter().filter_map(|(round, time)| Some((*time, *theirs.get(round)?))).unzip();
    if ours.is_empty() {
        return Ok(None);
    }
    let ratio = Ratio::of_rounds(&ours, &theirs).map_err(|source| PeersError::Times {
        transport: transport.clone(),
        bytes: *bytes,
        peer: peer.to_owned(),
        source,
    })?;
    let bar = strictest_bar(transport, *world_size, *bytes, peer, is_best);
    Ok(Some(Line {
        transport: transport.clone(),
        world_size: *world_size,
        bytes: *bytes,
        peer: peer.to_owned(),
        ours_us: median(&ours),
        theirs_us: median(&theirs),
        ratio: ratio.point,
        low: ratio.low,
        high: ratio.high,
        rounds: ratio.rounds,
        bar,
        verdict: bar.filter(|_| ratio.rounds >= ROUNDS_MIN).map(|bar| ratio.verdict(bar).name()),
        ours_rounds_us: ours,
        theirs_rounds_us: theirs,
    }))
}

fn strictest_bar(
    transport: &str,
    world_size: u32,
    bytes: u64,
    peer: &str,
    is_best: bool,
) -> Option<f64> {
    BARS.iter()
        .filter(|bar| {
            bar.transport == transport
                && bar.world_size == world_size
                && (bar.sizes.0..=bar.sizes.1).contains(&bytes)
                && match bar.against {
                    Against::Peer(name) => name == peer,
                    Against::Best => is_best,
                }
        })
        .map(|bar| bar.limit)
        .min_by(f64::total_cmp)
}

/// The comparison as a table for people.
pub fn render_lines(lines: &[Line]) -> String {
    let mut text = String::from(
        "transport ranks     size  peer        ours  theirs  ratio  95 % interval   bar  verdict\n",
    );
    let mut group = None;
    for line in lines {
        if group.replace((&line.transport, line.world_size))
            != Some((&line.transport, line.world_size))
            && !text.ends_with("verdict\n")
        {
            text.push('\n');
        }
        let size = if line.transport == START { "-".to_owned() } else { format_bytes(line.bytes) };
        let bar = line.bar.map_or_else(|| "-".to_owned(), |bar| format!("{bar:.2}"));
        let verdict = match (line.bar, line.verdict) {
            (Some(_), Some(verdict)) => verdict.to_owned(),
            (Some(_), None) => format!("needs {ROUNDS_MIN} rounds"),
            (None, _) => String::new(),
        };
        let row = format!(
            "{:<9} {:>5} {size:>8}  {:<8} {:>7} {:>7} {:>6.2}  {:>5.2} .. {:>5.2} {bar:>5}  {verdict}",
            line.transport,
            line.world_size,
            line.peer,
            format_microseconds(line.ours_us),
            format_microseconds(line.theirs_us),
            line.ratio,
            line.low,
            line.high,
        );
        writeln!(text, "{}", row.trim_end()).expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Peer;
    use crate::schema::tests::sample;

    fn record(peer: Option<&str>, transport: &str, world: u32, bytes: u64, mean: f64) -> Report {
        let mut report = sample();
        report.peer = peer.map(|name| Peer { name: name.to_owned(), version: "1".to_owned() });
        let result = &mut report.results[0];
        result.transport = transport.to_owned();
        result.world_size = world;
        result.bytes = bytes;
        result.time_us.mean = mean;
        report
    }

    fn rounds_of(
        comparison: &mut Comparison,
        peer: Option<&str>,
        case: (&str, u32, u64),
        mean: f64,
    ) {
        for round in 1..=9 {
            // One per cent up and down, the same for everybody.
            let time = mean * if round % 2 == 0 { 1.01 } else { 0.99 };
            comparison.add(&record(peer, case.0, case.1, case.2, time), round).unwrap();
        }
    }

    #[test]
    fn golden_comparison() {
        let mut comparison = Comparison::default();
        for (case, ours, mpi, gloo) in [
            (("tcp", 2, 4), 9.0, 11.4, 300.0),
            (("tcp", 2, MIB), 450.0, 384.0, 1534.0),
            (("tcp", 4, 64 * MIB), 120_000.0, 247_000.0, 126_000.0),
        ] {
            rounds_of(&mut comparison, None, case, ours);
            rounds_of(&mut comparison, Some(OPEN_MPI), case, mpi);
            rounds_of(&mut comparison, Some(GLOO), case, gloo);
        }
        rounds_of(&mut comparison, None, ("shm", 2, 64 * KIB), 20.0);
        rounds_of(&mut comparison, Some(OPEN_MPI), ("shm", 2, 64 * KIB), 26.9);
        for round in 1..=9 {
            comparison.add_start(None, 4, round, 120_000.0);
            comparison.add_start(Some(OPEN_MPI), 4, round, 150_000.0);
        }
        insta::assert_snapshot!(render_lines(&comparison.lines().unwrap()));
    }

    #[test]
    fn the_better_peer_is_chosen_by_size() {
        let mut comparison = Comparison::default();
        let case = ("tcp", 4, 4 * MIB);
        rounds_of(&mut comparison, None, case, 9.0);
        rounds_of(&mut comparison, Some(OPEN_MPI), case, 10.0);
        rounds_of(&mut comparison, Some(GLOO), case, 8.0);
        let bars: Vec<_> =
            comparison.lines().unwrap().into_iter().map(|line| (line.peer, line.verdict)).collect();
        assert_eq!(bars, [(GLOO.to_owned(), Some("MISSED")), (OPEN_MPI.to_owned(), None)]);
    }

    #[test]
    fn only_rounds_that_both_completed_count() {
        let mut comparison = Comparison::default();
        for round in [1, 2, 3, 4, 5] {
            comparison.add(&record(None, "tcp", 2, 4, 10.0), round).unwrap();
        }
        for round in [4, 5, 6] {
            comparison.add(&record(Some(OPEN_MPI), "tcp", 2, 4, 5.0), round).unwrap();
        }
        let line = &comparison.lines().unwrap()[0];
        assert_eq!((line.rounds, line.ratio, line.bar), (2, 2.0, Some(1.0)));
        assert_eq!(line.verdict, None, "two rounds are no verdict");
    }

    #[test]
    fn wrong_results_and_missing_rounds_are_errors() {
        let mut comparison = Comparison::default();
        assert_eq!(comparison.lines(), Err(PeersError::NothingOfOurs));
        let mut bad = record(Some(GLOO), "tcp", 2, 4, 10.0);
        bad.results[0].wrong = Some(3);
        assert!(matches!(comparison.add(&bad, 1), Err(PeersError::Wrong { wrong: 3, .. })));
        rounds_of(&mut comparison, None, ("tcp", 2, 4), 0.0);
        rounds_of(&mut comparison, Some(GLOO), ("tcp", 2, 4), 1.0);
        assert!(matches!(comparison.lines(), Err(PeersError::Times { .. })));
    }

    #[test]
    fn every_size_of_the_issue_has_its_bar() {
        for (transport, world_size, bytes, peer, limit) in [
            ("tcp", 2, 4 * KIB, OPEN_MPI, Some(1.0)),
            ("tcp", 2, 256 * KIB, OPEN_MPI, None),
            ("tcp", 2, 64 * MIB, OPEN_MPI, Some(0.65)),
            ("tcp", 2, MIB, GLOO, None),
            ("tcp", 2, 64 * MIB, GLOO, Some(0.7)),
            ("shm", 2, 4 * KIB, OPEN_MPI, Some(1.3)),
            ("shm", 2, MIB, OPEN_MPI, Some(0.9)),
            ("shm", 2, 64 * MIB, OPEN_MPI, Some(0.45)),
            ("tcp", 4, MIB, OPEN_MPI, Some(1.0)),
            ("shm", 4, 16 * MIB, OPEN_MPI, Some(0.6)),
            ("start", 4, 0, OPEN_MPI, Some(1.0)),
        ] {
            let found = strictest_bar(transport, world_size, bytes, peer, true);
            assert_eq!(found, limit, "{transport}, {world_size} ranks, {bytes} bytes, {peer}");
        }
    }
}
