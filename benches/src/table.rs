//! Results as a table for people: at most about 110 columns.

use std::fmt::Write as _;

use crate::schema::{BenchResult, Machine, Report, SkippedTransport};
use crate::units::{format_bytes, format_microseconds, three_digits};

/// Names and units of the columns; the unit is empty where each cell carries its own.
const COLUMNS: [(&str, &str, Align); 14] = [
    ("size", "", Align::Right),
    ("count", "", Align::Right),
    ("dtype", "", Align::Left),
    ("op", "", Align::Left),
    ("algorithm", "", Align::Left),
    ("p50", "", Align::Right),
    ("p99", "", Align::Right),
    ("max", "", Align::Right),
    ("mean", "", Align::Right),
    ("algbw", "GB/s", Align::Right),
    ("busbw", "GB/s", Align::Right),
    ("floor", "%", Align::Right),
    ("CPU", "s/GiB", Align::Right),
    ("wrong", "", Align::Right),
];

/// Columns before a row is known: enough for most rows, so that lines printed one by one as they
/// are measured stay in line.
const WIDTHS_MIN: [usize; 14] = [8, 8, 5, 4, 9, 7, 7, 7, 7, 7, 7, 5, 6, 5];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Prints rows one by one, in columns that were fixed beforehand.
#[derive(Debug)]
pub struct Table {
    widths: [usize; 14],
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// A table for rows that are not known yet.
    pub const fn new() -> Self {
        Self { widths: WIDTHS_MIN }
    }

    /// A table as wide as `results` need.
    pub fn fitting(results: &[BenchResult]) -> Self {
        let mut table = Self::new();
        for result in results {
            table.widen(result);
        }
        table
    }

    /// Makes room for the longest names of a run before its first row is printed.
    pub fn widen(&mut self, result: &BenchResult) {
        for (width, cell) in self.widths.iter_mut().zip(cells(result)) {
            *width = (*width).max(cell.chars().count());
        }
    }

    /// The two lines above the rows: names and units.
    pub fn header(&self) -> String {
        let names = self.line(&COLUMNS.map(|(name, _, _)| name.to_owned()));
        let units = self.line(&COLUMNS.map(|(_, unit, _)| unit.to_owned()));
        format!("{names}{units}")
    }

    /// One row.
    pub fn row(&self, result: &BenchResult) -> String {
        self.line(&cells(result))
    }

    fn line(&self, cells: &[String; 14]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, _, align)) in cells.iter().zip(self.widths).zip(COLUMNS) {
            if !line.is_empty() {
                line.push(' ');
            }
            match align {
                Align::Left => write!(line, "{cell:<width$}"),
                Align::Right => write!(line, "{cell:>width$}"),
            }
            .expect("writing to a String cannot fail");
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

fn cells(result: &BenchResult) -> [String; 14] {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), three_digits);
    let times = &result.time_us;
    [
        format_bytes(result.bytes),
        result.count.to_string(),
        result.dtype.clone(),
        result.op.clone().unwrap_or_else(|| "-".to_owned()),
        result.algorithm.clone(),
        format_microseconds(times.p50),
        format_microseconds(times.p99),
        format_microseconds(times.max),
        format_microseconds(times.mean),
        number(result.algbw_gbs),
        number(result.busbw_gbs),
        floor_cell(result),
        number(result.cpu_s_per_gib),
        result.wrong.map_or_else(|| "-".to_owned(), |wrong| wrong.to_string()),
    ]
}

/// The share of the floor; where the result beat the floor, the mark that explains itself in
/// [`floor_note`].
fn floor_cell(result: &BenchResult) -> String {
    match (result.floor_pct, result.floor_us) {
        (Some(share), _) => format!("{share:.0}"),
        (None, Some(_)) => "!".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// The line below a row: another library, and how ours compares.
pub fn peer_line(result: &BenchResult) -> Option<String> {
    let peer = result.peer.as_ref()?;
    let wrong = if peer.wrong > 0 { format!(", {} WRONG", peer.wrong) } else { String::new() };
    Some(format!(
        "         {} {}: {}{wrong}; ours / theirs {:.2}, 95 % {:.2} .. {:.2} ({} rounds)\n",
        peer.name,
        peer.version,
        format_microseconds(peer.time_us).trim(),
        peer.ratio,
        peer.low,
        peer.high,
        peer.rounds_us.len(),
    ))
}

/// The line below a table in which a result beat its floor.
pub fn floor_note(results: &[BenchResult]) -> Option<&'static str> {
    results
        .iter()
        .any(|result| result.floor_pct.is_none() && result.floor_us.is_some())
        .then_some("# !: more than 5 % faster than the bare exchange, which is no floor then\n")
}

/// What all rows of one group share, e.g. `all_reduce over tcp, 2 ranks` or
/// `all_reduce of the gradients of resnet50 over shm, 4 ranks, fused up to 128 MiB`.
pub fn group_title(result: &BenchResult) -> String {
    let mut title = result.collective.clone();
    if let Some(model) = &result.model {
        write!(title, " of the gradients of {model}").expect("writing to a String cannot fail");
    }
    let ranks = if result.world_size == 1 { "rank" } else { "ranks" };
    write!(title, " over {}, {} {ranks}", result.transport, result.world_size)
        .expect("writing to a String cannot fail");
    if result.emulated {
        title.push_str(", EMULATED hardware");
    }
    match (&result.model, result.fusion_bytes) {
        (Some(_), Some(bytes)) => {
            write!(title, ", fused up to {}", format_bytes(bytes))
                .expect("writing to a String cannot fail");
        }
        (Some(_), None) => title.push_str(", not fused"),
        (None, _) => {}
    }
    if result.queued {
        title.push_str(", through the queue");
    }
    title
}

/// One line per machine: what the numbers below were measured on.
pub fn machine_line(machine: &Machine) -> String {
    let mut facts = vec![machine.host.clone()];
    facts.extend(machine.cpu.clone());
    let cores = if machine.cores == 1 { "core" } else { "cores" };
    facts.push(format!("{} {cores}", machine.cores));
    facts.extend(machine.memory_bytes.map(format_bytes));
    facts.extend(machine.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    for nic in &machine.nics {
        let mut text = nic.name.clone();
        if let Some(mtu) = nic.mtu {
            write!(text, " MTU {mtu}").expect("writing to a String cannot fail");
        }
        if let Some(speed) = nic.speed_mbps {
            write!(text, " {} Gb/s", three_digits(f64::from(speed) / 1e3))
                .expect("writing to a String cannot fail");
        }
        facts.push(text);
    }
    facts.extend(machine.git_revision.as_ref().map(|revision| format!("paceline {revision}")));
    format!("# {}\n", facts.join(" | "))
}

/// The line that says why a transport has no rows.
pub fn skipped_line(skipped: &SkippedTransport) -> String {
    format!("# {} skipped: {}\n", skipped.transport, skipped.reason)
}

/// A whole report: machines, skipped transports, and the rows in groups.
pub fn render_report(report: &Report) -> String {
    let mut text = String::new();
    if let Some(peer) = &report.peer {
        writeln!(text, "# {} {}", peer.name, peer.version)
            .expect("writing to a String cannot fail");
    }
    report.machines.iter().for_each(|machine| text.push_str(&machine_line(machine)));
    report.skipped.iter().for_each(|skipped| text.push_str(&skipped_line(skipped)));
    let table = Table::fitting(&report.results);
    let mut title = String::new();
    for result in &report.results {
        let group = group_title(result);
        if group != title {
            title = group;
            writeln!(text, "\n{title}").expect("writing to a String cannot fail");
            text.push_str(&table.header());
        }
        text.push_str(&table.row(result));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::sample;

    fn varied() -> Report {
        let mut report = sample();
        let base = report.results[0].clone();
        let mut large = base.clone();
        large.count = 16_777_216;
        large.bytes = 64 << 20;
        large.algorithm = "halving-doubling".to_owned();
        large.time_us.p50 = 79_200.0;
        large.time_us.p99 = 110_000.0;
        large.time_us.max = 1_234_567.0;
        large.time_us.mean = 80_111.0;
        large.floor_pct = None;
        large.wrong = None;
        let mut model = base;
        model.transport = "shm".to_owned();
        model.model = Some("resnet50".to_owned());
        model.fusion_bytes = Some(128 << 20);
        model.count = 25_557_032;
        model.bytes = 102_228_128;
        model.wrong = Some(12);
        let mut barrier = large.clone();
        barrier.collective = "barrier".to_owned();
        barrier.count = 0;
        barrier.bytes = 0;
        barrier.op = None;
        (barrier.algbw_gbs, barrier.busbw_gbs, barrier.cpu_s_per_gib) = (None, None, None);
        barrier.floor_us = None;
        barrier.emulated = true;
        report.results.extend([large, model, barrier]);
        report
    }

    #[test]
    fn golden_table() {
        insta::assert_snapshot!(render_report(&varied()));
    }

    #[test]
    fn lines_fit_a_terminal_of_120_columns() {
        let text = render_report(&varied());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.chars().count() <= 120, "{} columns: {line}", line.chars().count());
        }
    }

    #[test]
    fn rows_printed_one_by_one_stay_below_their_header() {
        let table = Table::new();
        let header = table.header();
        let row = table.row(&sample().results[0]);
        let end_of = |text: &str, word: &str| text.find(word).unwrap() + word.len();
        assert_eq!(end_of(&header, "size"), end_of(&row, "64 KiB"));
        assert_eq!(end_of(header.lines().next().unwrap(), "wrong"), row.trim_end().len());
    }
}
