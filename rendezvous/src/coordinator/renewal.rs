//! How the ranks of a job get from one epoch into the next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::diagnosis;
use super::groups::GroupEndings;
use super::stalls::Stalls;
use super::state::{Coordinator, Presence};
use crate::message::{Abort, ToRank};

/// Ranks that have given up their epoch and wait for the others.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    ranks: BTreeSet<u32>,
    /// When the first of them came, and for how long it waits: that ends the wait of all.
    since: Option<(Instant, Duration)>,
}

impl Gathering {
    pub(super) fn contains(&self, rank: u32) -> bool {
        self.ranks.contains(&rank)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let (since, timeout) = self.since?;
        since.checked_add(timeout)
    }

    fn end(&mut self) -> impl Iterator<Item = u32> + use<> {
        self.since = None;
        std::mem::take(&mut self.ranks).into_iter()
    }
}

impl Coordinator {
    /// A rank asks for the epoch after `epoch`.
    pub(super) fn gather(
        &mut self,
        rank: u32,
        epoch: u32,
        timeout: Duration,
        now: Instant,
    ) -> Vec<(u32, ToRank)> {
        let present = self.config.epoch;
        if epoch != present {
            let reason = format!("rank {rank} gives up epoch {epoch}, but the job is in {present}");
            return vec![(rank, ToRank::NoEpoch { abort: self.word(Some(rank), &reason) })];
        }
        self.gathering.since.get_or_insert((now, timeout));
        self.gathering.ranks.insert(rank);
        self.look_at_gathering(now)
    }

    /// Begins the next epoch if all have come, or gives up if that cannot be, or not in time.
    pub(super) fn look_at_gathering(&mut self, now: Instant) -> Vec<(u32, ToRank)> {
        let Some((_, timeout)) = self.gathering.since else { return Vec::new() };
        let gone = self.members.iter().find(|(_, member)| member.presence != Presence::Present);
        let abort = match gone {
            // Who knows how it was lost may be about to say so.
            Some(_) if self.pending.is_some() => return Vec::new(),
            Some((&gone, member)) => {
                let left = member.presence == Presence::Left;
                self.word(Some(gone), &self.farewell_of(gone, left))
            }
            None if u32::try_from(self.gathering.ranks.len()) == Ok(self.config.world_size) => {
                return self.begin_epoch();
            }
            None if self.gathering.due().is_none_or(|due| due <= now) => {
                self.not_all_came(timeout, now)
            }
            None => return Vec::new(),
        };
        let told = |rank| (rank, ToRank::NoEpoch { abort: abort.clone() });
        self.gathering.end().map(told).collect()
    }

    /// Why there is no next epoch with a rank that is gone.
    fn farewell_of(&self, gone: u32, left: bool) -> String {
        let known = self.aborted.as_ref().filter(|abort| abort.culprit == Some(gone) && !left);
        match known {
            Some(abort) => format!("rank {gone} is gone: {}", abort.reason),
            None if left => format!("rank {gone} has left the job"),
            None => format!("rank {gone} was lost"),
        }
    }

    fn not_all_came(&self, timeout: Duration, now: Instant) -> Abort {
        let ranks = 0..self.config.world_size;
        let missing: Vec<u32> = ranks.filter(|rank| !self.gathering.contains(*rank)).collect();
        let (who, timeout) = (diagnosis::ranks(&missing), timeout.as_secs_f64());
        let next = u64::from(self.config.epoch) + 1;
        let details = diagnosis::whereabouts(&self.members, &missing, now);
        let reason = format!("{who} did not come to epoch {next} within {timeout:.1} s: {details}");
        Abort { timed_out: true, ..self.word(missing.first().copied(), &reason) }
    }

    fn begin_epoch(&mut self) -> Vec<(u32, ToRank)> {
        let Some(epoch) = self.config.epoch.checked_add(1) else { return Vec::new() };
        self.forget_values(&context_keys(self.config.epoch));
        self.config.epoch = epoch;
        self.aborted = None;
        self.pending = None;
        self.groups = GroupEndings::default();
        self.stalls = Stalls::default();
        for member in self.members.values_mut() {
            member.progress.clear();
            member.activities.clear();
        }
        self.gathering.end().map(|rank| (rank, ToRank::NewEpoch { epoch })).collect()
    }
}

/// What the keys begin with under which the contexts of an epoch leave what they need to come
/// together.
pub fn context_keys(epoch: u32) -> String {
    format!("context/{epoch}/")
}
