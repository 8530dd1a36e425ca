//! Why the benchmark failed, said once for all ranks that failed for the same reason.
//!
//! Ranks fail together: of a lost peer, a missing interface or too little memory, each would say
//! the same. So ranks leave their errors in the store, rank 0 says what there is, grouped, and the
//! others are silent if rank 0 tells them in time that they can be. Where the store is of no use
//! any more because the whole job was aborted, one rank speaks for all that were not to blame.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use paceline_collectives::{CollectiveError, Job, SetupError};
use paceline_rendezvous::{Store, StoreError};
use serde::{Deserialize, Serialize};

use super::session::BenchError;
use crate::console;

/// How long after rank 0 the others may fail for the same reason.
const GATHER_TIME: Duration = Duration::from_secs(1);

/// How long the others wait for rank 0 to speak for them, which may fail after them.
const TOLD_TIME: Duration = Duration::from_secs(2);

/// Why one rank failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Complaint {
    text: String,
    hint: Option<String>,
}

/// Says why this rank failed, unless another says it for this one too.
pub(super) fn tell(error: &BenchError, job: &Job) {
    let info = job.rank_info();
    let own = Complaint { text: console::chain(error), hint: error.hint() };
    if info.world_size == 1 {
        say(&own);
        return;
    }
    let board = Board {
        store: job.rendezvous().store.as_ref(),
        epoch: info.epoch,
        rank: info.rank,
        world_size: info.world_size,
    };
    let groups = match board.rank {
        0 => gathered(&board, own),
        rank => match board.hand_in(&own, error) {
            Verdict::Silent => return,
            Verdict::Speak => vec![(vec![rank], own)],
        },
    };
    for (ranks, complaint) in groups {
        let text = format!("{}: {}", names(&ranks, info.world_size), complaint.text);
        say(&Complaint { text, ..complaint });
    }
}

fn say(complaint: &Complaint) {
    console::note(&complaint.text);
    if let Some(hint) = &complaint.hint {
        console::note(&format!("hint: {hint}"));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Speak,
    Silent,
}

/// Where the ranks leave what went wrong.
struct Board<'a> {
    store: &'a dyn Store,
    epoch: u32,
    rank: u32,
    world_size: u32,
}

impl Board<'_> {
    fn key(&self, rank: u32) -> String {
        format!("bench/{}/failure/{rank}", self.epoch)
    }

    fn told_key(&self) -> String {
        format!("bench/{}/failures-told", self.epoch)
    }

    /// Leaves a complaint to rank 0.
    fn hand_in(&self, own: &Complaint, error: &BenchError) -> Verdict {
        if let Some(culprit) = abort_culprit(error) {
            return self.after_abort(culprit);
        }
        let text = serde_json::to_vec(own).expect("a complaint is plain data");
        let told = self
            .store
            .set(&self.key(self.rank), &text)
            .and_then(|()| self.store.get(&self.told_key(), Instant::now() + TOLD_TIME));
        match told {
            Ok(ranks) => match serde_json::from_slice::<Vec<u32>>(&ranks) {
                Ok(ranks) if ranks.contains(&self.rank) => Verdict::Silent,
                _ => Verdict::Speak,
            },
            Err(StoreError::Aborted { abort, .. }) => self.after_abort(abort.culprit),
            Err(_) => Verdict::Speak,
        }
    }

    /// All ranks know of an abort, so one is enough to speak: the first that is not to blame.
    fn after_abort(&self, culprit: Option<u32>) -> Verdict {
        let speaker = if culprit == Some(0) { 1 } else { 0 };
        if self.rank == speaker || culprit == Some(self.rank) {
            Verdict::Speak
        } else {
            Verdict::Silent
        }
    }

    /// What the other ranks left within the time, by rank.
    fn others(&self) -> BTreeMap<u32, Complaint> {
        let deadline = Instant::now() + GATHER_TIME;
        let complaint = |rank| {
            let text = self.store.get(&self.key(rank), deadline).ok()?;
            serde_json::from_slice(&text).ok().map(|complaint| (rank, complaint))
        };
        (1..self.world_size).filter_map(complaint).collect()
    }
}

/// Rank 0's part: everybody's complaints, equal ones together, in the order of their first ranks.
fn gathered(board: &Board<'_>, own: Complaint) -> Vec<(Vec<u32>, Complaint)> {
    let mut all = board.others();
    let told: Vec<u32> = all.keys().copied().collect();
    all.insert(0, own);
    let text = serde_json::to_vec(&told).expect("numbers are plain data");
    // Whoever does not hear of it speaks for itself.
    let _ = board.store.set(&board.told_key(), &text);
    grouped(all)
}

/// Equal complaints together. What says "on rank N" of the rank itself counts as equal.
fn grouped(all: BTreeMap<u32, Complaint>) -> Vec<(Vec<u32>, Complaint)> {
    let mut groups: Vec<(Vec<u32>, Complaint)> = Vec::new();
    for (rank, complaint) in all {
        let complaint = Complaint { text: without_own_rank(&complaint.text, rank), ..complaint };
        match groups.iter_mut().find(|(_, known)| *known == complaint) {
            Some((ranks, _)) => ranks.push(rank),
            None => groups.push((vec![rank], complaint)),
        }
    }
    groups
}

/// The text without the " on rank N" that names the rank that says it.
fn without_own_rank(text: &str, rank: u32) -> String {
    let own = format!(" on rank {rank}");
    let ends_there =
        |at: &usize| !text[at + own.len()..].starts_with(|next: char| next.is_ascii_digit());
    match text.match_indices(&own).map(|(at, _)| at).find(ends_there) {
        Some(at) => format!("{}{}", &text[..at], &text[at + own.len()..]),
        None => text.to_owned(),
    }
}

/// `all ranks`, `rank 3` or `ranks 0-2, 5`. The numbers ascend.
fn names(ranks: &[u32], world_size: u32) -> String {
    match ranks {
        [rank] => format!("rank {rank}"),
        ranks if u32::try_from(ranks.len()) == Ok(world_size) => "all ranks".to_owned(),
        ranks => format!("ranks {}", paceline_launcher::rank_ranges(ranks)),
    }
}

/// Whom the job was aborted because of; `None` if this error is not about an abort.
fn abort_culprit(error: &BenchError) -> Option<Option<u32>> {
    if let Some(CollectiveError::Aborted { culprit, .. }) = error.collective() {
        return Some(*culprit);
    }
    match error {
        BenchError::Setup(SetupError::Store(error))
        | BenchError::Publish(error)
        | BenchError::Absent { source: error, .. } => match error {
            StoreError::Aborted { abort, .. } => Some(abort.culprit),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn complaint(text: &str) -> Complaint {
        Complaint { text: text.to_owned(), hint: None }
    }

    #[test]
    fn equal_complaints_are_one() {
        let all = ["timed out on rank 0: x", "no memory", "timed out on rank 2: x", "no memory"];
        let all = (0..).zip(all.map(complaint)).collect();
        let groups = grouped(all);
        let expected =
            [(vec![0, 2], complaint("timed out: x")), (vec![1, 3], complaint("no memory"))];
        assert_eq!(groups, expected);
        assert_eq!(names(&groups[0].0, 4), "ranks 0, 2");
        assert_eq!(names(&[0, 1, 2], 3), "all ranks");
        assert_eq!(names(&[2], 3), "rank 2");
    }

    #[test]
    fn only_the_speakers_own_rank_is_left_out() {
        assert_eq!(without_own_rank("a on rank 12, but on rank 1: b", 1), "a on rank 12, but: b");
        assert_eq!(without_own_rank("a on rank 12", 1), "a on rank 12");
        assert_eq!(without_own_rank("lost rank 1", 1), "lost rank 1");
    }

    /// Each rank's verdict or, for rank 0, groups, when all fail with these texts.
    fn fail_together(texts: &[&str]) -> (Vec<(Vec<u32>, Complaint)>, Vec<Verdict>) {
        let world_size = u32::try_from(texts.len()).unwrap();
        let jobs = Job::in_process(world_size).unwrap();
        thread::scope(|scope| {
            let hand_in = |rank: u32, job: &Job, text: &str| {
                let store = job.rendezvous().store.as_ref();
                let board = Board { store, epoch: 0, rank, world_size };
                board.hand_in(&complaint(text), &BenchError::NoTransport)
            };
            let others: Vec<_> = (1..)
                .zip(jobs.iter().zip(texts).skip(1))
                .map(|(rank, (job, text))| scope.spawn(move || hand_in(rank, job, text)))
                .collect();
            let store = jobs[0].rendezvous().store.as_ref();
            let board = Board { store, epoch: 0, rank: 0, world_size };
            let groups = gathered(&board, complaint(texts[0]));
            (groups, others.into_iter().map(|thread| thread.join().unwrap()).collect())
        })
    }

    #[test]
    fn rank_0_speaks_for_all_that_have_failed() {
        let (groups, others) = fail_together(&["a", "b", "a"]);
        assert_eq!(groups, [(vec![0, 2], complaint("a")), (vec![1], complaint("b"))]);
        assert_eq!(others, [Verdict::Silent, Verdict::Silent]);
    }

    #[test]
    fn a_rank_that_nobody_speaks_for_speaks_itself() {
        let jobs = Job::in_process(2).unwrap();
        let store = jobs[1].rendezvous().store.as_ref();
        store.set("bench/0/failures-told", b"[2, 3]").unwrap();
        let board = Board { store, epoch: 0, rank: 1, world_size: 4 };
        let verdict = board.hand_in(&complaint("a"), &BenchError::NoTransport);
        assert_eq!(verdict, Verdict::Speak);
    }

    #[test]
    fn one_rank_speaks_of_an_abort() {
        let jobs = Job::in_process(1).unwrap();
        let store = jobs[0].rendezvous().store.as_ref();
        let verdict =
            |rank, culprit| Board { store, epoch: 0, rank, world_size: 4 }.after_abort(culprit);
        let speakers = |culprit| {
            (0..4).filter(|rank| verdict(*rank, culprit) == Verdict::Speak).collect::<Vec<u32>>()
        };
        assert_eq!(speakers(None), [0]);
        assert_eq!(speakers(Some(0)), [0, 1]);
        assert_eq!(speakers(Some(2)), [0, 2]);
    }
}
