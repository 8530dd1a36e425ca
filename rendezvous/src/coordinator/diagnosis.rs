//! Whose fault a stall is, from what the ranks have reported.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::state::{CoordinatorConfig, Member, Members, Presence};
use crate::message::{OperationReport, OperationState, clip};

/// A stall explained.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) culprit: Option<u32>,
    pub(super) reason: String,
}

/// Most ranks that one list of ranks names; more would drown the message.
const LISTED_MAX: usize = 64;

/// Explains why the operation that `reporter` is in does not end.
///
/// Ranks report an operation only when they wait for it, so a rank without a report has either
/// not called it or not waited long enough to say so: a rank that is stopped looks like one that
/// never came.
pub(super) fn stall(
    config: &CoordinatorConfig,
    members: &Members,
    reporter: u32,
    now: Instant,
) -> Stall {
    let Some((report, _)) = members.get(&reporter).and_then(|member| member.report.as_ref()) else {
        return Stall { culprit: None, reason: format!("rank {reporter} stalled") };
    };
    let label = operation(report);
    let behind: Vec<u32> = (0..config.world_size)
        .filter(|rank| last_op_seq(members, *rank).is_none_or(|op_seq| op_seq < report.op_seq))
        .collect();
    let waiting: Vec<u32> = members
        .iter()
        .filter(|(_, member)| is_waiting_in(member, report.op_seq))
        .map(|(&rank, _)| rank)
        .collect();
    let since =
        waiting.iter().filter_map(|rank| waited(&members[rank], now)).max().unwrap_or_default();
    let tail = format!(
        "{} wait{} since {:.1} s",
        ranks(&waiting),
        if waiting.len() == 1 { "s" } else { "" },
        since.as_secs_f64()
    );
    if let Some(culprit) = first_culprit(members, report, &behind) {
        let what = absence(members.get(&culprit), now);
        return Stall {
            culprit: Some(culprit),
            reason: format!("{label}: rank {culprit} {what}; {tail}"),
        };
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

/// Of the ranks that are `behind`, the one to name: gone rather than late, further behind rather
/// than nearer, one that the reporter waits for rather than any, the lowest.
fn first_culprit(members: &Members, report: &OperationReport, behind: &[u32]) -> Option<u32> {
    let awaited = awaited(report);
    behind.iter().copied().min_by_key(|rank| {
        let is_there = members.get(rank).is_some_and(|member| member.presence == Presence::Present);
        (is_there, last_op_seq(members, *rank), !awaited.contains(rank), *rank)
    })
}

/// A rank that is in an operation of the same number but of another kind or size.
fn mismatch<'a>(
    members: &'a Members,
    report: &OperationReport,
) -> Option<(u32, &'a OperationReport)> {
    members.iter().find_map(|(&rank, member)| {
        let (other, _) = member.report.as_ref()?;
        let differs = other.kind != report.kind || other.bytes != report.bytes;
        (other.op_seq == report.op_seq && differs).then_some((rank, other))
    })
}

/// Completes "rank 3 …" for a rank that keeps the others waiting.
fn absence(member: Option<&Member>, now: Instant) -> String {
    let Some(member) = member else { return "never joined the job".to_owned() };
    match (member.presence, &member.report) {
        (Presence::Left, _) => "has left the job".to_owned(),
        (Presence::Lost, _) => "was lost".to_owned(),
        (Presence::Present, Some((report, _))) => format!("was last seen in {}", operation(report)),
        (Presence::Present, None) => format!(
            "never entered or does not respond (last heard from {:.1} s ago)",
            now.saturating_duration_since(member.last_heard).as_secs_f64()
        ),
    }
}

fn last_op_seq(members: &Members, rank: u32) -> Option<u64> {
    let (report, _) = members.get(&rank)?.report.as_ref()?;
    Some(report.op_seq)
}

fn is_waiting_in(member: &Member, op_seq: u64) -> bool {
    member.presence == Presence::Present
        && member.report.as_ref().is_some_and(|(report, _)| {
            report.op_seq == op_seq && !matches!(report.state, OperationState::Failed { .. })
        })
}

fn waited(member: &Member, now: Instant) -> Option<Duration> {
    let (report, arrived) = member.report.as_ref()?;
    Some(Duration::from_millis(report.since_ms) + now.saturating_duration_since(*arrived))
}

fn awaited(report: &OperationReport) -> &[u32] {
    match &report.state {
        OperationState::Waiting { on } | OperationState::TimedOut { on } => on,
        _ => &[],
    }
}

/// An operation as messages name it: `all_reduce #412 (grad.7)`.
pub(super) fn operation(report: &OperationReport) -> String {
    let mut text = format!("{} #{}", clip(&report.kind), report.op_seq);
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
