//! Events as lines of Chrome's trace format.

use std::fmt::Write as _;

use paceline_rendezvous::message::{CommunicatorName, message_place};

use super::clock::Clock;
use super::{Event, NameId, OperationLabel, Track, What};

/// Appends `text` as a JSON string.
fn quoted(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                line.push('\\');
                line.push(character);
            }
            c if u32::from(c) < 0x20 => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// Microseconds with nanoseconds behind the point.
fn micros(line: &mut String, key: &str, ns: i64) {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    let _ = write!(line, ",\"{key}\":{sign}{}.{:03}", ns / 1000, ns % 1000);
}

/// A line that names a process or a track.
pub(super) fn metadata(line: &mut String, kind: &str, (pid, tid): (u32, u32), name: &str) {
    let _ = write!(line, "{{\"name\":\"{kind}\",\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid}");
    line.push_str(",\"args\":{\"name\":");
    quoted(line, name);
    line.push_str("}},\n");
}

/// A line that puts a track in its place.
pub(super) fn sort_index(line: &mut String, kind: &str, (pid, tid): (u32, u32), index: u32) {
    let _ = writeln!(
        line,
        "{{\"name\":\"{kind}\",\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\
         \"args\":{{\"sort_index\":{index}}}}},"
    );
}

/// A line that says that events are missing.
pub(super) fn dropped(line: &mut String, (pid, tid): (u32, u32), ns: i64, events: u64) {
    let _ = write!(
        line,
        "{{\"name\":\"{events} events dropped\",\"cat\":\"timeline\",\"ph\":\"i\",\"s\":\"p\",\
         \"pid\":{pid},\"tid\":{tid}"
    );
    micros(line, "ts", ns);
    let _ = writeln!(line, ",\"args\":{{\"dropped\":{events}}}}},");
}

/// What a track is called.
pub(super) fn track_name(track: Track, context: u32) -> String {
    let name = match track {
        Track::Communicator(number) => CommunicatorName(number).to_string(),
        Track::Queue(number) => format!("queue of {}", CommunicatorName(number)),
        Track::Channel { peer, sends: true } => format!("send to rank {peer}"),
        Track::Channel { peer, sends: false } => format!("receive from rank {peer}"),
        Track::Kernels(number) => format!("reduce, {}", CommunicatorName(number)),
    };
    if context == 0 { name } else { format!("{name}, context {context}") }
}

/// Where a track goes among those of its rank.
pub(super) fn track_order(track: Track) -> u32 {
    match track {
        Track::Queue(_) => 0,
        Track::Communicator(_) => 1,
        Track::Kernels(_) => 2,
        Track::Channel { sends: true, .. } => 3,
        Track::Channel { sends: false, .. } => 4,
    }
}

fn label(line: &mut String, label: &OperationLabel) {
    let _ = match message_place(label.op_seq) {
        Some((tag, order)) => write!(line, "{} #{order} with tag {tag}", label.collective),
        None => write!(line, "{} #{}", label.collective, label.op_seq),
    };
}

fn category(what: &What) -> &'static str {
    match what {
        What::Operation { .. } => "operation",
        What::Wait => "wait",
        What::Message { .. } => "message",
        What::Kernel { .. } => "kernel",
        What::InMemory { .. } => "shared memory",
        What::Negotiate { .. } | What::Batch { .. } => "queue",
        What::Submission { .. } => "submission",
    }
}

/// The lines of what may lie over others of its kind: the submission, and in it waiting for all ranks
/// and being carried out.
fn submission(
    line: &mut String,
    (start, started, end): (i64, i64, i64),
    (pid, tid): (u32, u32),
    name: &str,
    id: u64,
) {
    let lines = [
        (name, "b", start),
        ("negotiate", "b", start),
        ("negotiate", "e", started),
        ("execute", "b", started),
        ("execute", "e", end),
        (name, "e", end),
    ];
    for (name, ph, ns) in lines {
        line.push_str("{\"name\":");
        quoted(line, name);
        let _ = write!(
            line,
            ",\"cat\":\"submission\",\"ph\":\"{ph}\",\"id2\":{{\"local\":\"{id:#x}\"}},\
             \"pid\":{pid},\"tid\":{tid}"
        );
        micros(line, "ts", ns);
        line.push_str("},\n");
    }
}

/// The lines about an event. `name` says what a number stands for, `id` tells submissions apart.
pub(super) fn event(
    line: &mut String,
    event: &Event,
    (pid, tid): (u32, u32),
    clock: &Clock,
    name: impl Fn(NameId) -> String,
    id: u64,
) {
    let (start, end) = (clock.ns(event.start), clock.ns(event.end));
    if let What::Submission { name: number, started } = event.what {
        let times = (start, clock.ns(started), end);
        return submission(line, times, (pid, tid), &name(number), id);
    }
    line.push_str("{\"name\":\"");
    match &event.what {
        What::Operation { label: of, .. }
        | What::Message { label: of, .. }
        | What::Kernel { label: of, .. }
        | What::InMemory { label: of } => label(line, of),
        What::Wait => line.push_str("wait"),
        What::Negotiate { .. } => line.push_str("negotiate"),
        What::Batch { .. } => line.push_str("fused operation"),
        What::Submission { .. } => unreachable!("written above"),
    }
    let category = category(&event.what);
    let _ = write!(line, "\",\"cat\":\"{category}\",\"ph\":\"X\",\"pid\":{pid},\"tid\":{tid}");
    micros(line, "ts", start);
    micros(line, "dur", (end - start).max(0));
    arguments(line, &event.what);
    line.push_str("},\n");
}

fn arguments(line: &mut String, what: &What) {
    let _ = match what {
        What::Operation { label, bytes, algorithm, failed } => {
            let communicator = CommunicatorName(label.communicator);
            write!(
                line,
                ",\"args\":{{\"bytes\":{bytes},\"algorithm\":\"{algorithm}\",\
                 \"communicator\":\"{communicator}\",\"failed\":{failed}}}"
            )
        }
        What::Message { label, bytes } | What::Kernel { label, bytes } => {
            let communicator = CommunicatorName(label.communicator);
            write!(line, ",\"args\":{{\"bytes\":{bytes},\"communicator\":\"{communicator}\"}}")
        }
        What::Negotiate { round, ready } => {
            write!(line, ",\"args\":{{\"round\":{round},\"ready\":{ready}}}")
        }
        What::Batch { round, submissions } => {
            write!(line, ",\"args\":{{\"round\":{round},\"submissions\":{submissions}}}")
        }
        What::InMemory { .. } | What::Wait | What::Submission { .. } => Ok(()),
    };
}
