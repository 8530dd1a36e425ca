//! Whose fault a stall is, from what the ranks have reported.

use std::time::{Duration, Instant};

pub(super) use super::naming::{absent, operation, ranks};
use super::naming::{in_full, who};
use super::state::{CoordinatorConfig, Member, Members, Presence};
use crate::message::{OperationReport, OperationState, message_place};

/// A stall explained.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) culprit: Option<u32>,
    pub(super) reason: String,
    /// Nobody is to blame, and bytes move: this is no stall, or not yet.
    pub(super) is_slow: bool,
}

impl Stall {
    fn of(culprit: Option<u32>, reason: String) -> Self {
        Self { culprit, reason, is_slow: false }
    }
}

/// What is said of an operation in which bytes move.
const SLOW: &str = "it is slow, but bytes move";

/// Most ranks of which it is told what each of them does.
const DESCRIBED_MAX: usize = 16;

/// A rank that has been silent for so long is taken to be stopped or out of reach: three heartbeats.
pub(super) const SILENCE_MIN: Duration = Duration::from_secs(3);

/// A shorter silence says nothing: it is not much longer than the time between two heartbeats.
const QUIET_MIN: Duration = Duration::from_millis(1500);

/// Where nothing has moved for so long on any rank that waits, nothing is taken to move any more: ranks
/// that share a core may have to wait for a few slices of the scheduler.
const STANDSTILL_MIN: Duration = Duration::from_secs(2);

/// Age up to which a report says what a rank does now: ranks that wait repeat theirs every second.
const REPORT_AGE_MAX: Duration = Duration::from_secs(4);

/// Why a rank keeps the others waiting, the surest sign first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// It is not there.
    Gone,
    /// It is connected, but nothing has been heard from it.
    Silent,
    /// It lives and has not called the operation.
    NotEntered,
    /// It has called the operation and said nothing since, for as long as the others wait: that may be
    /// less than tells for sure that it is stopped, where the deadline is short.
    Quiet,
}

/// Explains why the operation that `reporter` gave up, by `report`, does not end.
///
/// How far the others are is known from their reports, which come from ranks that wait, and from
/// their heartbeats, which all ranks send unless they are stopped. Numbers of operations are compared
/// within one communicator only.
pub(super) fn stall(
    config: &CoordinatorConfig,
    members: &Members,
    reporter: u32,
    report: &OperationReport,
    now: Instant,
) -> Stall {
    if message_place(report.op_seq).is_some() {
        return message_stall(members, report, now);
    }
    let (label, tail) = (operation(report), who_waits(members, report, now));
    let faulty = faulty(config, members, report, now).filter(|(_, rank)| *rank != reporter);
    if let Some((fault, culprit)) = first_culprit(members, report, faulty) {
        let member = members.get(&culprit);
        let what = describe(fault, member, report, now);
        let who = who(culprit, member);
        return Stall::of(Some(culprit), format!("{label}: {who} {what}; {tail}"));
    }
    if let Some((rank, other)) = difference(members, report) {
        let (ours, theirs) = (in_full(report), in_full(other));
        let reason = format!("{ours} on rank {reporter} meets {theirs} on rank {rank}; {tail}");
        return Stall::of(Some(rank), reason);
    }
    let standstill = standstill(members, report, now);
    let is_slow = moves(members, report);
    Stall { is_slow, ..Stall::of(None, format!("{label}: {standstill}; {tail}")) }
}

/// The ranks that keep an operation waiting.
fn faulty<'a>(
    config: &CoordinatorConfig,
    members: &'a Members,
    report: &'a OperationReport,
    now: Instant,
) -> impl Iterator<Item = (Fault, u32)> + 'a {
    let group = report.members.as_deref();
    let ranks = 0..config.world_size;
    ranks
        .filter(move |rank| group.is_none_or(|group| group.contains(rank)))
        .filter_map(move |rank| Some((fault(members.get(&rank), report, now)?, rank)))
}

/// `ranks 0-2 wait since 10.0 s`.
fn who_waits(members: &Members, report: &OperationReport, now: Instant) -> String {
    let in_it = members.iter().filter(|(_, member)| waiting_report(member, report).is_some());
    let waiting: Vec<u32> = in_it.map(|(&rank, _)| rank).collect();
    let since = waiting.iter().filter_map(|rank| waited(&members[rank], report, now)).max();
    let (who, plural) = (ranks(&waiting), if waiting.len() == 1 { "s" } else { "" });
    format!("{who} wait{plural} since {:.1} s", since.unwrap_or_default().as_secs_f64())
}

/// Whether bytes move all the same, as far as those say who wait in the operation.
fn moves(members: &Members, report: &OperationReport) -> bool {
    members
        .values()
        .filter_map(|member| waiting_report(member, report))
        .any(|(here, _)| moves_in(here))
}

fn moves_in(report: &OperationReport) -> bool {
    // What went out at the beginning, to whoever was there, says nothing of the others.
    let idle = Duration::from_millis(report.idle_ms);
    idle < STANDSTILL_MIN.min(Duration::from_millis(report.since_ms) / 2)
}

/// What the ranks wait in, and for whom, where none of them is to blame.
fn standstill(members: &Members, report: &OperationReport, now: Instant) -> String {
    let mut waits = Vec::new();
    for (&rank, member) in members {
        let here = waiting_report(member, report).map(|(here, _)| here);
        if let Some(in_it) = here.or_else(|| waits_elsewhere(member, report, now)) {
            let label = operation(in_it);
            let on = Some(awaited(in_it)).filter(|on| !on.is_empty());
            let on = on.map(|on| format!(" for {}", ranks(&ascending(on)))).unwrap_or_default();
            waits.push(format!("rank {rank} waits in {label}{on}"));
        }
    }
    let more = waits.len().saturating_sub(DESCRIBED_MAX);
    waits.truncate(DESCRIBED_MAX);
    if more > 0 {
        waits.push(format!("{more} more"));
    }
    let what = if moves(members, report) { SLOW } else { "nobody makes progress" };
    format!("{what} ({})", waits.join(", "))
}

fn ascending(ranks: &[u32]) -> Vec<u32> {
    let mut ranks = ranks.to_vec();
    ranks.sort_unstable();
    ranks
}

/// A word on an operation that lasts long but has not failed: who keeps it waiting and what each of
/// those does instead.
pub(super) fn warning(
    config: &CoordinatorConfig,
    members: &Members,
    reporter: u32,
    report: &OperationReport,
    now: Instant,
) -> String {
    if message_place(report.op_seq).is_some() {
        let waited = Duration::from_millis(report.since_ms).as_secs_f64();
        let reason = message_stall(members, report, now).reason;
        return format!("{reason}; rank {reporter} waits since {waited:.1} s");
    }
    let (label, tail) = (in_full(report), who_waits(members, report, now));
    let mut lacking: Vec<String> = Vec::new();
    let mut more = Vec::new();
    for (fault, rank) in faulty(config, members, report, now) {
        let member = members.get(&rank);
        if lacking.len() < DESCRIBED_MAX {
            let what = describe(fault, member, report, now);
            lacking.push(format!("{} {what}", who(rank, member)));
        } else {
            more.push(rank);
        }
    }
    if lacking.is_empty() {
        lacking.push(standstill(members, report, now));
    } else if !more.is_empty() {
        lacking.push(format!("{} likewise", ranks(&more)));
    }
    format!("{label}: {}; {tail}", lacking.join("; "))
}

/// What ranks do that did not come to where others wait for them.
pub(super) fn whereabouts(members: &Members, missing: &[u32], now: Instant) -> String {
    let describe = |rank: &u32| {
        let member = members.get(rank);
        let what = match member {
            None => "never joined the job".to_owned(),
            Some(member) if silence(member, now) >= SILENCE_MIN => {
                let silence = silence(member, now).as_secs_f64();
                format!("is stopped or unreachable: no heartbeat for {silence:.1} s")
            }
            Some(member) => match recent_wait(member, now) {
                Some(wait) => format!("is alive and waits in {}", operation(wait)),
                None => "is alive and does something else".to_owned(),
            },
        };
        format!("{} {what}", who(*rank, member))
    };
    let mut told: Vec<String> = missing.iter().take(DESCRIBED_MAX).map(describe).collect();
    if missing.len() > DESCRIBED_MAX {
        told.push(format!("{} more", missing.len() - DESCRIBED_MAX));
    }
    told.join("; ")
}

/// What a rank waits in, if it has said so lately.
fn recent_wait(member: &Member, now: Instant) -> Option<&OperationReport> {
    let reports = member.progress.values().filter_map(|standing| standing.report.as_ref());
    let waits = |report: &&(OperationReport, Instant)| {
        let is_recent = now.saturating_duration_since(report.1) <= REPORT_AGE_MAX;
        is_recent && matches!(report.0.state, OperationState::Waiting { .. })
    };
    reports.filter(waits).max_by_key(|(_, arrived)| *arrived).map(|(report, _)| report)
}

/// Explains why a message between two ranks does not come or is not taken: by what the other of them
/// does instead.
fn message_stall(members: &Members, report: &OperationReport, now: Instant) -> Stall {
    let label = operation(report);
    let Some(&peer) = awaited(report).first() else {
        return Stall::of(None, format!("{label}: nobody makes progress"));
    };
    let member = members.get(&peer);
    let fault = match member.map(|member| member.presence) {
        None | Some(Presence::Left | Presence::Lost) => Fault::Gone,
        Some(Presence::Present) if member.is_some_and(|m| silence(m, now) >= SILENCE_MIN) => {
            Fault::Silent
        }
        Some(Presence::Present) => Fault::NotEntered,
    };
    let who = who(peer, member);
    if fault == Fault::NotEntered && moves_in(report) {
        // Half of a long message is known to have been called on both sides.
        return Stall { is_slow: true, ..Stall::of(Some(peer), format!("{label}: {who}: {SLOW}")) };
    }
    let what = describe(fault, member, report, now);
    Stall::of(Some(peer), format!("{label}: {who} {what}"))
}

/// Whether another rank waits in the same place of the same communicator, but in another operation
/// than `reporter`: then neither will end, and there is no use in waiting for the deadline. Ranks
/// notice by themselves only if one of the two sends the other something.
pub(super) fn odds(members: &Members, reporter: u32, report: &OperationReport) -> Option<Stall> {
    if message_place(report.op_seq).is_some() {
        return None;
    }
    let (rank, other) = difference(members, report)?;
    let (ours, theirs) = (in_full(report), in_full(other));
    let reason = format!("{ours} on rank {reporter} meets {theirs} on rank {rank}");
    Some(Stall::of(Some(rank), reason))
}

/// What is wrong with a rank, as far as the operation of `report` goes.
fn fault(member: Option<&Member>, report: &OperationReport, now: Instant) -> Option<Fault> {
    let Some(member) = member else { return Some(Fault::Gone) };
    let has_entered = has_entered(member, report);
    match member.presence {
        // Who has left in good order has sent what it owed to the operations that it entered.
        Presence::Left if has_entered => None,
        Presence::Left | Presence::Lost => Some(Fault::Gone),
        Presence::Present if silence(member, now) >= SILENCE_MIN => Some(Fault::Silent),
        Presence::Present if !has_entered => Some(Fault::NotEntered),
        Presence::Present => {
            let waited = Duration::from_millis(report.since_ms).clamp(QUIET_MIN, SILENCE_MIN);
            (silence(member, now) >= waited).then_some(Fault::Quiet)
        }
    }
}

/// Of several ranks, the one to name: by its fault, further behind rather than nearer, one that the
/// reporter waits for rather than any, the lowest.
fn first_culprit(
    members: &Members,
    report: &OperationReport,
    faulty: impl Iterator<Item = (Fault, u32)>,
) -> Option<(Fault, u32)> {
    let awaited = awaited(report);
    faulty.min_by_key(|(fault, rank)| {
        let entered = members.get(rank).map(|member| entered(member, report));
        (*fault, entered, !awaited.contains(rank), *rank)
    })
}

/// Completes "rank 3 …".
fn describe(
    fault: Fault,
    member: Option<&Member>,
    report: &OperationReport,
    now: Instant,
) -> String {
    let Some(member) = member else { return "never joined the job".to_owned() };
    let silence = silence(member, now).as_secs_f64();
    match (fault, member.presence) {
        (Fault::Gone, Presence::Left) => "has left the job".to_owned(),
        (Fault::Gone, _) => "was lost".to_owned(),
        (Fault::Silent, _) => {
            format!("is stopped or unreachable: no heartbeat for {silence:.1} s")
        }
        (Fault::Quiet, _) => {
            format!("is stopped, unreachable or slow: no heartbeat for {silence:.1} s")
        }
        (Fault::NotEntered, _) => {
            let standing = member.standing(report);
            let last = standing.and_then(|standing| match &standing.report {
                Some((last, _)) if last.op_seq.saturating_add(1) == standing.entered => {
                    Some(operation(last))
                }
                _ => Some(format!("#{}", standing.entered.checked_sub(1)?)),
            });
            let last = last.map(|last| format!(", last entered {last}")).unwrap_or_default();
            let instead = waits_elsewhere(member, report, now)
                .map(|other| format!(", waits in {}", operation(other)))
                .unwrap_or_default();
            let missing = if message_place(report.op_seq).is_some() {
                "has not called the other side of it"
            } else {
                "never entered"
            };
            format!("{missing} but is alive (heartbeat {silence:.1} s ago{last}{instead})")
        }
    }
}

/// What a rank waits in, other than the operations of the communicator of `report`.
fn waits_elsewhere<'a>(
    member: &'a Member,
    report: &OperationReport,
    now: Instant,
) -> Option<&'a OperationReport> {
    let here = (report.context, report.communicator);
    member.progress.iter().find_map(|(place, standing)| {
        let (other, arrived) = standing.report.as_ref()?;
        let is_message = message_place(other.op_seq).is_some();
        let is_collective = standing.entered == other.op_seq.saturating_add(1);
        // Of messages it is not known how many a rank has entered.
        let may_be_elsewhere = *place != here || message_place(report.op_seq).is_some();
        let is_in_it = is_message || (is_collective && may_be_elsewhere);
        let is_recent = now.saturating_duration_since(*arrived) <= REPORT_AGE_MAX;
        (is_in_it && is_recent).then_some(other)
    })
}

/// A rank that waits in an operation of the same number that is another one.
fn difference<'a>(
    members: &'a Members,
    report: &OperationReport,
) -> Option<(u32, &'a OperationReport)> {
    members.iter().find_map(|(&rank, member)| {
        let (other, _) = waiting_report(member, report)?;
        (other.signature != report.signature).then_some((rank, other))
    })
}

/// Whether a rank has entered the operation of `report`, a collective.
pub(super) fn has_entered(member: &Member, report: &OperationReport) -> bool {
    message_place(report.op_seq).is_none() && entered(member, report) > report.op_seq
}

/// How many operations of the communicator of `report` a rank has entered.
fn entered(member: &Member, report: &OperationReport) -> u64 {
    member.standing(report).map_or(0, |standing| standing.entered)
}

fn silence(member: &Member, now: Instant) -> Duration {
    now.saturating_duration_since(member.last_heard)
}

/// The report of a rank that waits in the operation of `report`, and when it came.
fn waiting_report<'a>(
    member: &'a Member,
    report: &OperationReport,
) -> Option<&'a (OperationReport, Instant)> {
    let standing = member.standing(report)?;
    let is_in_it =
        member.presence == Presence::Present && standing.entered == report.op_seq.saturating_add(1);
    standing.report.as_ref().filter(|(other, _)| {
        let failed = matches!(other.state, OperationState::Failed { .. });
        is_in_it && other.op_seq == report.op_seq && !failed
    })
}

fn waited(member: &Member, report: &OperationReport, now: Instant) -> Option<Duration> {
    let (report, arrived) = waiting_report(member, report)?;
    Some(Duration::from_millis(report.since_ms) + now.saturating_duration_since(*arrived))
}

fn awaited(report: &OperationReport) -> &[u32] {
    match &report.state {
        OperationState::Waiting { on } | OperationState::TimedOut { on } => on,
        OperationState::Failed { .. } => &[],
    }
}
