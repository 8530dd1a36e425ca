//! The comparison as tables for people.

use std::fmt::Write as _;

use super::{Judged, Line, START, Summary};
use crate::stats::ROUNDS_MIN;
use crate::units::{format_bytes, format_microseconds};

/// One row for each size and peer.
pub fn render_lines(lines: &[Line]) -> String {
    let mut text = String::from(
        "collective        transport ranks     size  peer        ours  theirs  ratio  95 % interval   \
         bar  verdict        CPU\n",
    );
    let mut group = None;
    for line in lines {
        let this = (&line.collective, &line.transport, line.world_size);
        if group.replace(this).is_some_and(|last| last != this) {
            text.push('\n');
        }
        let size = if line.bytes == 0 { "-".to_owned() } else { format_bytes(line.bytes) };
        let transport = if line.transport == START { "-" } else { &line.transport };
        let cpu = line.cpu.as_ref().map_or_else(String::new, |cpu| format!("{:.2}", cpu.ratio));
        let row = format!(
            "{:<17} {transport:<9} {:>5} {size:>8}  {:<8} {:>7} {:>7} {}  {cpu:>4}",
            line.collective,
            line.world_size,
            line.peer,
            format_microseconds(line.ours_us),
            format_microseconds(line.theirs_us),
            judged(&line.time),
        );
        writeln!(text, "{}", row.trim_end()).expect("writing to a String cannot fail");
    }
    text
}

/// One row for each collective and transport: time, then CPU time.
pub fn render_summaries(summaries: &[Summary]) -> String {
    let mut text = String::from(
        "geometric mean              points            time  95 % interval   bar  verdict       \
         CPU  95 % interval   bar  verdict\n",
    );
    for summary in summaries {
        let Summary { collective, transport, points, time, cpu } = summary;
        let cpu = cpu.as_ref().map_or_else(String::new, judged);
        let row =
            format!("{collective:<17} {transport:<9} {points:>6}         {} {cpu}", judged(time));
        writeln!(text, "{}", row.trim_end()).expect("writing to a String cannot fail");
    }
    text
}

fn judged(judged: &Judged) -> String {
    let bar = judged.bar.map_or_else(|| "-".to_owned(), |bar| format!("{bar:.2}"));
    let verdict = match (judged.bar, judged.verdict) {
        (Some(_), Some(verdict)) => verdict.to_owned(),
        (Some(_), None) => format!("needs {ROUNDS_MIN} rounds"),
        (None, _) => String::new(),
    };
    let Judged { ratio, low, high, .. } = judged;
    format!("{ratio:>6.2}  {low:>5.2} .. {high:>5.2} {bar:>5}  {verdict:<12}")
}
