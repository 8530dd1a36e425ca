//! What operations and ranks are called in what people read.

use std::fmt::Write as _;

use super::state::{CoordinatorConfig, Member, Members};
use crate::message::{CommunicatorName, NO_COMMUNICATOR, OperationReport, clip, message_place};

/// Most ranks that one list of ranks names; more would drown the message.
const LISTED_MAX: usize = 64;

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

/// A rank and where it runs: `rank 3 on node2 (pid 4711)`.
pub(super) fn who(rank: u32, member: Option<&Member>) -> String {
    match member.and_then(|member| member.place.as_ref()) {
        Some((host, pid)) => format!("rank {rank} on {host} (pid {pid})"),
        None => format!("rank {rank}"),
    }
}

/// An operation with everything about it: `all_reduce #412 (grad.7; 1048576 f32, sum, by ring)`.
pub(super) fn in_full(report: &OperationReport) -> String {
    let (mut text, details) = (operation(report), clip(&report.details));
    if !details.is_empty() {
        match (&report.name, text.pop()) {
            (Some(_), Some(')')) => text.push_str("; "),
            (_, last) => {
                text.extend(last);
                text.push_str(" (");
            }
        }
        write!(text, "{details})").expect("writing to a String cannot fail");
    }
    text
}
