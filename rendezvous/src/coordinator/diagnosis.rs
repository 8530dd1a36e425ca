//! Whose fault a stall is, from what the ranks have reported.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::state::{CoordinatorConfig, Member, Members, Presence};
use crate::message::{
    CommunicatorName, NO_COMMUNICATOR, OperationReport, OperationState, clip, message_place,
};

/// A stall explained.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) culprit: Option<u32>,
    pub(super) reason: String,
}

/// Most ranks that one list of ranks names; more would drown the message.
const LISTED_MAX: usize = 64;

/// A rank that has been silent for so long is taken to be stopped or out of reach: three heartbeats.
pub(super) const SILENCE_MIN: Duration = Duration::from_secs(3);

/// Age up to which a report says what a rank does now: ranks that wait repeat theirs every 5 s.
const REPORT_AGE_MAX: Duration = Duration::from_secs(6);

/// Why a rank keeps the others waiting, the surest sign first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// It is not there.
    Gone,
    /// It is connected, but nothing has been heard from it.
    Silent,
    /// It lives and has not called the operation.
    NotEntered,
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
    let label = operation(report);
    let waiting: Vec<u32> = members
        .iter()
        .filter(|(_, member)| waiting_report(member, report).is_some())
        .map(|(&rank, _)| rank)
        .collect();
    let since = waiting.iter().filter_map(|rank| waited(&members[rank], report, now)).max();
    let tail = format!(
        "{} wait{} since {:.1} s",
        ranks(&waiting),
        if waiting.len() == 1 { "s" } else { "" },
        since.unwrap_or_default().as_secs_f64()
    );
    let group = report.members.as_deref();
    let is_member = |rank: &u32| group.is_none_or(|group| group.contains(rank));
    let others = (0..config.world_size).filter(|rank| *rank != reporter && is_member(rank));
    let faulty = others.filter_map(|rank| Some((fault(members.get(&rank), report, now)?, rank)));
    if let Some((fault, culprit)) = first_culprit(members, report, faulty) {
        let member = members.get(&culprit);
        let what = describe(fault, member, report, now);
        let who = who(culprit, member);
        return Stall { culprit: Some(culprit), reason: format!("{label}: {who} {what}; {tail}") };
    }
    if let Some((rank, other)) = mismatch(members, report) {
        return Stall {
            culprit: Some(rank),
            reason: format!(
                "{label} of {} bytes on rank {reporter} meets {} of {} bytes on rank {rank}; {tail}",
                report.bytes,
                operation(other),
                other.bytes
            ),
        };
    }
    Stall { culprit: None, reason: format!("{label}: nobody makes progress; {tail}") }
}

/// Explains why a message between two ranks does not come or is not taken: by what the other of them
/// does instead.
fn message_stall(members: &Members, report: &OperationReport, now: Instant) -> Stall {
    let label = operation(report);
    let Some(&peer) = awaited(report).first() else {
        return Stall { culprit: None, reason: format!("{label}: nobody makes progress") };
    };
    let member = members.get(&peer);
    let fault = match member.map(|member| member.presence) {
        None | Some(Presence::Left | Presence::Lost) => Fault::Gone,
        Some(Presence::Present) if member.is_some_and(|m| silence(m, now) >= SILENCE_MIN) => {
            Fault::Silent
        }
        Some(Presence::Present) => Fault::NotEntered,
    };
    let what = describe(fault, member, report, now);
    let who = who(peer, member);
    Stall { culprit: Some(peer), reason: format!("{label}: {who} {what}") }
}

/// Whether another rank waits in the same place of the same communicator, but in another collective
/// than `reporter`: then neither will end, and there is no use in waiting for the deadline. Ranks
/// notice by themselves only if one of the two sends the other something.
pub(super) fn odds(members: &Members, reporter: u32, report: &OperationReport) -> Option<Stall> {
    if message_place(report.op_seq).is_some() {
        return None;
    }
    let (rank, other) = members.iter().find_map(|(&rank, member)| {
        let (other, _) = waiting_report(member, report)?;
        (other.kind != report.kind).then_some((rank, other))
    })?;
    let (ours, theirs) = (operation(report), operation(other));
    let reason = format!(
        "{ours} of {} bytes on rank {reporter} meets {theirs} of {} bytes on rank {rank}",
        report.bytes, other.bytes
    );
    Some(Stall { culprit: Some(rank), reason })
}

/// What is wrong with a rank, as far as the operation of `report` goes.
fn fault(member: Option<&Member>, report: &OperationReport, now: Instant) -> Option<Fault> {
    let Some(member) = member else { return Some(Fault::Gone) };
    let has_entered = entered(member, report) > report.op_seq;
    match member.presence {
        // Who has left in good order has sent what it owed to the operations that it entered.
        Presence::Left if has_entered => None,
        Presence::Left | Presence::Lost => Some(Fault::Gone),
        Presence::Present if silence(member, now) >= SILENCE_MIN => Some(Fault::Silent),
        Presence::Present => (!has_entered).then_some(Fault::NotEntered),
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

/// A rank and where it runs: `rank 3 on node2 (pid 4711)`.
pub(super) fn who(rank: u32, member: Option<&Member>) -> String {
    match member.and_then(|member| member.place.as_ref()) {
        Some((host, pid)) => format!("rank {rank} on {host} (pid {pid})"),
        None => format!("rank {rank}"),
    }
}

/// A rank that is in an operation of the same number but of another kind or size.
fn mismatch<'a>(
    members: &'a Members,
    report: &OperationReport,
) -> Option<(u32, &'a OperationReport)> {
    members.iter().find_map(|(&rank, member)| {
        let (other, _) = waiting_report(member, report)?;
        let differs = other.kind != report.kind || other.bytes != report.bytes;
        differs.then_some((rank, other))
    })
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

/// An operation as messages name it: `all_reduce #412 (grad.7)`, and `all_reduce #412 of communicator
/// 2` or `all_reduce #412 of communicator 0 of context 1` where there are several.
pub(super) fn operation(report: &OperationReport) -> String {
    let mut text = clip(&report.kind).to_owned();
    match message_place(report.op_seq) {
        Some((tag, order)) => write!(text, " #{order} with tag {tag}"),
        None => write!(text, " #{}", report.op_seq),
    }
    .expect("writing to a String cannot fail");
    let is_only_one = report.communicator == 0 && report.context == 0;
    if !is_only_one && report.communicator != NO_COMMUNICATOR {
        write!(text, " of {}", CommunicatorName(report.communicator))
            .expect("writing to a String cannot fail");
    }
    if report.context != 0 {
        write!(text, " of context {}", report.context).expect("writing to a String cannot fail");
    }
    if let Some(name) = &report.name {
        write!(text, " ({})", clip(name)).expect("writing to a String cannot fail");
    }
    text
}

/// The ranks of the job that have not joined.
pub(super) fn absent(config: &CoordinatorConfig, members: &Members) -> Vec<u32> {
    (0..config.world_size).filter(|rank| !members.contains_key(rank)).collect()
}

/// `rank 3`, `ranks 0-2`, `ranks 0, 2-5`; `ranks` must be ascending.
pub(super) fn ranks(ranks: &[u32]) -> String {
    let mut text = String::from(if ranks.len() == 1 { "rank " } else { "ranks " });
    for (groups, run) in ranks.chunk_by(|a, b| a.checked_add(1) == Some(*b)).enumerate() {
        if groups == LISTED_MAX {
            text.push_str(", …");
            break;
        }
        let (first, last) = (run[0], run[run.len() - 1]);
        let separator = if groups == 0 { "" } else { ", " };
        if first == last {
            write!(text, "{separator}{first}")
        } else {
            write!(text, "{separator}{first}-{last}")
        }
        .expect("writing to a String cannot fail");
    }
    text
}
