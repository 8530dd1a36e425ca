//! Ours against other libraries: which bars we set ourselves, and whether the rounds clear them.
//!
//! Input is one [`Report`] per contender, collective, transport, world size and round; `ci/peers`
//! makes them. A round of ours is compared with the same round of theirs, because the two ran next
//! to each other; see [`crate::stats`].

mod bars;
mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

pub use render::{render_lines, render_summaries};

use crate::schema::Report;
use crate::stats::{CompareError, ROUNDS_MIN, Ratio, median};

/// The version written into every comparison.
pub const SCHEMA: &str = "paceline.peers/2";

const OPEN_MPI: &str = "Open MPI";
const GLOO: &str = "Gloo";
const HOROVOD: &str = "Horovod";

/// The *collective* and *transport* under which the time to start processes is listed.
const START: &str = "start";

/// What is added to the name of what was submitted to our queue.
const QUEUED: &str = ", queue";

/// Why rounds cannot be compared.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// No round of ours was found.
    #[error("there is no round of ours to compare with")]
    NothingOfOurs,
    /// A result that is wrong has no time worth comparing.
    #[error(
        "{wrong} wrong elements: {contender}, {collective} over {transport}, {bytes} bytes, round \
         {round}"
    )]
    Wrong {
        /// Who computed it.
        contender: String,
        /// Which collective.
        collective: String,
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
    #[error("{collective} over {transport}, {bytes} bytes, ours against {peer}: not comparable")]
    Times {
        /// Which collective.
        collective: String,
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

/// A ratio and what it says about its bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Ratio of the medians, ours over theirs; or the geometric mean of such ratios.
    pub ratio: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Rounds compared.
    pub rounds: usize,
    /// The largest ratio that we are content with.
    pub bar: Option<f64>,
    /// What the ratio says about the bar; `null` without a bar or with too few rounds.
    pub verdict: Option<&'static str>,
}

impl Judged {
    fn new(ratio: &Ratio, bar: Option<f64>) -> Self {
        Self {
            ratio: ratio.point,
            low: ratio.low,
            high: ratio.high,
            rounds: ratio.rounds,
            bar,
            verdict: bar
                .filter(|_| ratio.rounds >= ROUNDS_MIN)
                .map(|bar| ratio.verdict(bar).name()),
        }
    }
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Which collective, or the model whose gradients were reduced, with `, queue` behind it where they
    /// were submitted to one; or `start` for the time to start processes.
    pub collective: String,
    /// `tcp`, `shm`, or `start`.
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
    /// Our time against theirs.
    pub time: Judged,
    /// Our CPU seconds per GiB against theirs, where both are known. The bar is on their mean over
    /// the sizes.
    pub cpu: Option<Judged>,
    /// Our round means in microseconds, in the order of the rounds.
    pub ours_rounds_us: Vec<f64>,
    /// Theirs.
    pub theirs_rounds_us: Vec<f64>,
    /// Our CPU seconds per GiB in these rounds; empty where it is not known.
    pub ours_rounds_cpu: Vec<f64>,
    /// Theirs.
    pub theirs_rounds_cpu: Vec<f64>,
}

/// A collective over a transport against Open MPI: geometric means over sizes and worlds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Which collective.
    pub collective: String,
    /// Over which transport.
    pub transport: String,
    /// Sizes and worlds that the means are over.
    pub points: usize,
    /// Our time against theirs.
    pub time: Judged,
    /// Our CPU seconds against theirs, where they are known.
    pub cpu: Option<Judged>,
}

/// What is compared: collective, transport, world size, size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    collective: String,
    transport: String,
    world_size: u32,
    bytes: u64,
}

impl Case {
    fn new(collective: &str, transport: &str, world_size: u32, bytes: u64) -> Self {
        let (collective, transport) = (collective.to_owned(), transport.to_owned());
        Self { collective, transport, world_size, bytes }
    }

    /// Whether the bars about all collectives are for it: from 1 KiB on, and operations without data.
    fn counts(&self) -> bool {
        self.transport != START && (self.bytes == 0 || self.bytes >= bars::POINT_BYTES_MIN)
    }
}

/// Mean time, and CPU seconds per GiB if known, by round.
type Rounds = BTreeMap<u32, (f64, Option<f64>)>;

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
                    collective: result.collective.clone(),
                    transport: result.transport.clone(),
                    bytes: result.bytes,
                    round,
                    wrong,
                });
            }
            if result.model.is_some() && result.fusion_bytes.is_none() {
                // Only fused gradients are compared: that is what the peers do.
                continue;
            }
            let collective = result.model.as_ref().unwrap_or(&result.collective);
            let queued = || format!("{collective}{QUEUED}");
            let names = match (peer, result.queued) {
                (None, false) => vec![collective.clone()],
                (None, true) => vec![queued()],
                // Horovod has nothing but a queue, so that both of ours are compared with it.
                (Some(_), _) => vec![collective.clone(), queued()],
            };
            // What took no CPU time that the kernel noticed has no ratio.
            let cpu = result.cpu_s_per_gib.filter(|cpu| *cpu > 0.0);
            for name in names {
                let case = Case::new(&name, &result.transport, result.world_size, result.bytes);
                self.rounds(case, peer).insert(round, (result.time_us.mean, cpu));
            }
        }
        Ok(())
    }

    /// Adds the time to start `world_size` processes, in microseconds; `peer` is `None` for ours.
    pub fn add_start(&mut self, peer: Option<&str>, world_size: u32, round: u32, time_us: f64) {
        let case = Case::new(START, START, world_size, 0);
        self.rounds(case, peer).insert(round, (time_us, None));
    }

    fn rounds(&mut self, case: Case, peer: Option<&str>) -> &mut Rounds {
        match peer {
            None => self.ours.entry(case).or_default(),
            Some(peer) => self.peers.entry(case).or_default().entry(peer.to_owned()).or_default(),
        }
    }

    /// One line for each size and peer, in the order collective, transport, world size, size, peer.
    /// Rounds that only one side completed are left out.
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
    rounds.values().map(|(time, _)| *time).collect()
}

fn compare(
    case: &Case,
    ours: &Rounds,
    peer: &str,
    theirs: &Rounds,
    is_best: bool,
) -> Result<Option<Line>, PeersError> {
    let both = || ours.iter().filter_map(|(round, mine)| Some((mine, theirs.get(round)?)));
    let (ours_us, theirs_us): (Vec<f64>, Vec<f64>) = both().map(|(a, b)| (a.0, b.0)).unzip();
    if ours_us.is_empty() {
        return Ok(None);
    }
    let (ours_cpu, theirs_cpu): (Vec<f64>, Vec<f64>) =
        both().filter_map(|(a, b)| a.1.zip(b.1)).unzip();
    let judge = |ours: &[f64], theirs: &[f64], bar| {
        let ratio = Ratio::of_rounds(ours, theirs).map_err(|source| PeersError::Times {
            collective: case.collective.clone(),
            transport: case.transport.clone(),
            bytes: case.bytes,
            peer: peer.to_owned(),
            source,
        })?;
        Ok(Judged::new(&ratio, bar))
    };
    let known = !ours_cpu.is_empty();
    Ok(Some(Line {
        collective: case.collective.clone(),
        transport: case.transport.clone(),
        world_size: case.world_size,
        bytes: case.bytes,
        peer: peer.to_owned(),
        ours_us: median(&ours_us),
        theirs_us: median(&theirs_us),
        time: judge(&ours_us, &theirs_us, bars::strictest(case, peer, is_best))?,
        cpu: known.then(|| judge(&ours_cpu, &theirs_cpu, None)).transpose()?,
        ours_rounds_us: ours_us,
        theirs_rounds_us: theirs_us,
        ours_rounds_cpu: ours_cpu,
        theirs_rounds_cpu: theirs_cpu,
    }))
}

/// The geometric means of the lines that compare us with Open MPI, in the order of the lines.
pub fn summaries(lines: &[Line]) -> Vec<Summary> {
    let counts = |line: &&Line| {
        let case = Case::new(&line.collective, &line.transport, line.world_size, line.bytes);
        line.peer == OPEN_MPI && case.counts()
    };
    let mut groups: BTreeMap<(&str, &str), Vec<&Line>> = BTreeMap::new();
    for line in lines.iter().filter(counts) {
        groups.entry((&line.collective, &line.transport)).or_default().push(line);
    }
    let judge = |rounds: Vec<(&[f64], &[f64])>, bar| {
        // Lines were made of comparable times, and only CPU times may be missing.
        Ratio::geometric_mean(&rounds).ok().map(|ratio| Judged::new(&ratio, Some(bar)))
    };
    let summary = |((collective, transport), lines): ((&str, &str), Vec<&Line>)| {
        let times = lines.iter().map(|line| (&*line.ours_rounds_us, &*line.theirs_rounds_us));
        let cpu = lines.iter().map(|line| (&*line.ours_rounds_cpu, &*line.theirs_rounds_cpu));
        Some(Summary {
            collective: collective.to_owned(),
            transport: transport.to_owned(),
            points: lines.len(),
            time: judge(times.collect(), bars::MEAN_LIMIT)?,
            cpu: judge(cpu.filter(|(ours, _)| !ours.is_empty()).collect(), bars::CPU_LIMIT),
        })
    };
    groups.into_iter().filter_map(summary).collect()
}
