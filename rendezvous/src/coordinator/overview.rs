//! What the coordinator knows of the job, put together for an observer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::diagnosis::{self, SILENCE_MIN};
use super::naming;
use super::state::{Coordinator, Member, Presence};
use crate::activity::{Activity, OPERATIONS_TOLD_MAX, OperationTotal, PeerActivity, Underway};
use crate::message::{OperationReport, OperationState};
use crate::status::{JobStatus, OperationStatus, RankPresence, RankStatus, Standing};

/// Contexts of a rank that are kept: the first ones.
const CONTEXTS_MAX: usize = 8;
/// Peers of which is kept what has crossed the connection to them: those heard of last.
const PEERS_KEPT_MAX: usize = 128;
/// Collectives of which totals are kept.
const TOTALS_MAX: usize = 128;
/// Bytes of the names of collectives and transports.
const NAME_BYTES_MAX: usize = 64;
/// Most sentences about stalls.
const STALLS_MAX: usize = 16;

/// What a rank has said of one of its contexts.
#[derive(Debug)]
pub(super) struct Known {
    operations: Vec<Underway>,
    /// When it said so.
    heard: Instant,
    peers: BTreeMap<u32, (PeerActivity, Instant)>,
    totals: Vec<OperationTotal>,
    waited_ms: u64,
}

/// What a rank has said of its contexts, by their numbers.
pub(super) type Activities = BTreeMap<u32, Known>;

/// Takes what is new. Whatever a rank says, a bounded part of it is kept.
pub(super) fn learn(activities: &mut Activities, news: Activity, now: Instant) {
    let Activity { context, mut operations, peers, mut totals, waited_ms } = news;
    if activities.len() >= CONTEXTS_MAX && !activities.contains_key(&context) {
        return;
    }
    operations.truncate(OPERATIONS_TOLD_MAX);
    operations.iter_mut().for_each(|operation| shorten(&mut operation.kind));
    totals.truncate(TOTALS_MAX);
    totals.iter_mut().for_each(|total| shorten(&mut total.kind));
    let before = activities.remove(&context).map(|known| known.peers).unwrap_or_default();
    let mut known = Known { operations, heard: now, peers: before, totals, waited_ms };
    for mut peer in peers {
        shorten(&mut peer.transport);
        if known.peers.len() >= PEERS_KEPT_MAX && !known.peers.contains_key(&peer.peer) {
            let oldest = known.peers.iter().min_by_key(|(_, (_, heard))| *heard);
            let oldest = oldest.map(|(peer, _)| *peer);
            oldest.map(|oldest| known.peers.remove(&oldest));
        }
        known.peers.insert(peer.peer, (peer, now));
    }
    activities.insert(context, known);
}

fn shorten(text: &mut String) {
    text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
}

impl Known {
    fn as_of(&self, context: u32, now: Instant) -> Activity {
        let peers = self.peers.values().map(|(peer, heard)| {
            let idle_ms = peer.idle_ms.map(|idle| idle.saturating_add(age_ms(*heard, now)));
            PeerActivity { idle_ms, ..peer.clone() }
        });
        Activity {
            context,
            operations: Vec::new(),
            peers: peers.collect(),
            totals: self.totals.clone(),
            waited_ms: self.waited_ms,
        }
    }
}

fn age_ms(then: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX)
}

impl Coordinator {
    /// What is known of the job.
    pub fn status(&self, now: Instant) -> JobStatus {
        let rank = |rank| match self.members.get(&rank) {
            Some(member) => member_status(rank, member, now),
            None => RankStatus {
                rank,
                presence: RankPresence::Absent,
                host: None,
                pid: None,
                heard_ms: None,
                progress: Vec::new(),
                operations: Vec::new(),
                contexts: Vec::new(),
            },
        };
        JobStatus {
            world_size: self.config.world_size,
            epoch: self.config.epoch,
            aborted: self.aborted().cloned(),
            stalls: self.stalls(now),
            ranks: (0..self.config.world_size).map(rank).collect(),
        }
    }

    /// Who keeps whom waiting, as of now: for each operation that somebody waits in, one sentence.
    /// Where bytes move, all is well.
    fn stalls(&self, now: Instant) -> Vec<String> {
        let mut told = BTreeSet::new();
        let mut stalls = Vec::new();
        for (&rank, member) in &self.members {
            for report in waiting(member) {
                let place = (report.context, report.communicator, report.op_seq);
                if stalls.len() < STALLS_MAX && told.insert(place) {
                    let stall = diagnosis::stall(&self.config, &self.members, rank, report, now);
                    stalls.extend((!stall.is_slow).then_some(stall.reason));
                }
            }
        }
        // A rank that nobody waits for yet is stopped all the same.
        for (&rank, member) in &self.members {
            let silence = now.saturating_duration_since(member.last_heard);
            let is_silent = member.presence == Presence::Present && silence >= SILENCE_MIN;
            if is_silent && stalls.is_empty() {
                let who = naming::who(rank, Some(member));
                let silence = silence.as_secs_f64();
                stalls.push(format!(
                    "{who} is stopped or unreachable: no heartbeat for {silence:.1} s"
                ));
            }
        }
        stalls.truncate(STALLS_MAX);
        stalls
    }
}

/// Reports of waiting in operations that the rank is still in.
fn waiting(member: &Member) -> impl Iterator<Item = &OperationReport> {
    let is_here = member.presence == Presence::Present;
    let reports = member.progress.values().filter_map(|standing| standing.report.as_ref());
    let waiting = reports.filter(|(report, _)| {
        matches!(report.state, OperationState::Waiting { .. }) && underway(member, report).is_some()
    });
    waiting.map(|(report, _)| report).take_while(move |_| is_here)
}

/// What the rank has said itself of the operation that it has reported, if it is still in it.
fn underway<'a>(member: &'a Member, report: &OperationReport) -> Option<&'a Underway> {
    let known = member.activities.get(&report.context)?;
    let place = (report.communicator, report.op_seq);
    known.operations.iter().find(|operation| (operation.communicator, operation.op_seq) == place)
}

fn member_status(rank: u32, member: &Member, now: Instant) -> RankStatus {
    let presence = match member.presence {
        Presence::Present => RankPresence::Present,
        Presence::Left => RankPresence::Left,
        Presence::Lost => RankPresence::Lost,
    };
    let progress = member.progress.iter().map(|(&(context, communicator), standing)| Standing {
        context,
        communicator,
        entered: standing.entered,
    });
    let operations = member.activities.iter().flat_map(|(&context, known)| {
        known.operations.iter().map(move |underway| {
            operation_status(member, context, underway, age_ms(known.heard, now), now)
        })
    });
    let contexts = member.activities.iter().map(|(&context, known)| known.as_of(context, now));
    RankStatus {
        rank,
        presence,
        host: member.place.as_ref().map(|(host, _)| host.clone()),
        pid: member.place.as_ref().map(|(_, pid)| *pid),
        heard_ms: Some(age_ms(member.last_heard, now)),
        progress: progress.collect(),
        operations: operations.collect(),
        contexts: contexts.collect(),
    }
}

fn operation_status(
    member: &Member,
    context: u32,
    underway: &Underway,
    age_ms_of_news: u64,
    now: Instant,
) -> OperationStatus {
    let standing = member.progress.get(&(context, underway.communicator));
    let report = standing.and_then(|standing| standing.report.as_ref());
    let report = report.filter(|(report, _)| report.op_seq == underway.op_seq);
    let waited_ms = report.map(|(report, heard)| report.since_ms + age_ms(*heard, now));
    let waits_for = report.and_then(|(report, _)| match &report.state {
        OperationState::Waiting { on } | OperationState::TimedOut { on } => Some(on.clone()),
        _ => None,
    });
    let named = OperationReport {
        context,
        communicator: underway.communicator,
        members: None,
        op_seq: underway.op_seq,
        kind: underway.kind.clone(),
        name: report.and_then(|(report, _)| report.name.clone()),
        details: String::new(),
        signature: String::new(),
        bytes: underway.bytes,
        state: OperationState::Waiting { on: Vec::new() },
        since_ms: 0,
        idle_ms: 0,
    };
    let known_ms = underway.for_ms.saturating_add(age_ms_of_news);
    let for_ms = known_ms.max(waited_ms.unwrap_or(0));
    OperationStatus {
        context,
        label: diagnosis::operation(&named),
        underway: Underway { for_ms, ..underway.clone() },
        waits_for,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(peer: u32) -> PeerActivity {
        PeerActivity {
            peer,
            transport: "tcp".to_owned(),
            sent: crate::activity::Moved::default(),
            received: crate::activity::Moved::default(),
            idle_ms: Some(5),
        }
    }

    #[test]
    fn whatever_a_rank_says_a_bounded_part_is_kept() {
        let start = Instant::now();
        let mut activities = Activities::new();
        for context in 0..100 {
            let peers = (0..1000).map(peer).collect();
            let activity = Activity { context, peers, ..Activity::default() };
            learn(&mut activities, activity, start);
        }
        assert_eq!(activities.len(), CONTEXTS_MAX);
        assert!(activities.values().all(|known| known.peers.len() == PEERS_KEPT_MAX));
        // Peers that are not told of again stay, and grow older.
        let later = start + Duration::from_secs(2);
        let activity = Activity { peers: vec![peer(7777)], ..Activity::default() };
        learn(&mut activities, activity, later);
        let known = activities[&0].as_of(0, later);
        let idle = |number| known.peers.iter().find(|peer| peer.peer == number)?.idle_ms;
        assert_eq!((idle(7777), idle(999)), (Some(5), Some(2005)));
    }
}
