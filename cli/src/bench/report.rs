//! The words around the numbers.

use std::fmt::Write as _;

use paceline_benches::bars::{BarStyle, render_bars};
use paceline_benches::histogram::LatencyHistogram;
use paceline_benches::metrics::Collective;
use paceline_benches::record::Case;
use paceline_benches::run::Check;
use paceline_benches::schema::{BenchResult, Report};
use paceline_benches::table::{
    Table, floor_note, group_title, machine_line, peer_line, skipped_line,
};
use paceline_benches::units::format_bytes;

use super::lanes::Lane;
use super::plan::{Plan, Subject};
use super::session::row_name;
use super::terminal::bar_style;

/// What was measured on, and how.
pub(super) fn head(plan: &Plan, report: &Report) -> String {
    let mut text: String = report.machines.iter().map(machine_line).collect();
    let ranks = report.config.world_size;
    let check = match plan.settings.check {
        Check::Every => "every result checked",
        Check::First => "the first result of each row checked",
        Check::Off => "results not checked",
    };
    let place = if plan.out_of_place { "out of place" } else { "in place" };
    let number =
        |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let of = match plan.settings.iterations {
        Some(iterations) => number(iterations, "operation"),
        None => format!("{} s", report.config.min_time_s),
    };
    let (ranks, rounds) =
        (number(ranks.into(), "rank"), number(plan.settings.rounds.into(), "round"));
    line(&mut text, &format!("# {ranks}, {place}, {check}, {rounds} of {of}"));
    if let Subject::Model(model, _) = &plan.subject {
        let (tensors, parameters) = (model.tensors.len(), model.parameters());
        line(
            &mut text,
            &format!(
                "# {}: {tensors} gradient tensors, {parameters} elements, from {}",
                model.name, model.source
            ),
        );
    }
    report.skipped.iter().for_each(|skipped| text.push_str(&skipped_line(skipped)));
    text
}

/// Sizes without a row that are named.
const MERGED_NAMED_MAX: usize = 6;

/// Which sizes have no row of their own.
pub(super) fn merged(sizes: &[u64], plan: &Plan) -> Option<String> {
    let named = sizes.iter().take(MERGED_NAMED_MAX).map(|bytes| format_bytes(*bytes));
    let mut names = named.collect::<Vec<_>>().join(", ");
    match sizes.len().checked_sub(MERGED_NAMED_MAX) {
        _ if sizes.is_empty() => return None,
        Some(more) if more > 0 => names.push_str(&format!(" and {more} more")),
        _ => {}
    }
    Some(format!(
        "# left out, as whole elements of {} the same as another size: {names}\n",
        plan.dtype
    ))
}

/// Which algorithm is used from which size on.
pub(super) fn explanation(
    lane: &Lane,
    collective: Collective,
    name: paceline_collectives::Collective,
) -> String {
    let (facts, origin) = (lane.communicator.plan_facts(), lane.context.plan_origin());
    let sockets = match facts.tuning.sockets {
        1 => String::new(),
        count => format!(", {count} sockets to a peer"),
    };
    format!("\n# {collective} over {}, {origin}{sockets}:\n{}", lane.name, facts.explain(name))
}

/// Names a row while it is measured, e.g. `tcp: all_reduce of 64 KiB`.
pub(super) fn label(case: &Case) -> String {
    let fused = match (&case.model, case.fusion_bytes) {
        (Some(_), Some(_)) => ", fused",
        (Some(_), None) => ", not fused",
        (None, _) => "",
    };
    let queued = if case.queued { ", queued" } else { "" };
    format!("{}: {}{fused}{queued}", case.transport, row_name(case))
}

/// The table of one transport, printed row by row.
#[derive(Debug)]
pub(super) struct LaneTable {
    table: Table,
    title: String,
}

impl LaneTable {
    /// A table as wide as the names of its rows need.
    pub(super) fn new(previews: &[BenchResult]) -> Self {
        Self { table: Table::fitting(previews), title: String::new() }
    }

    /// A row, below its title and the names of the columns where it is the first.
    pub(super) fn row(&mut self, result: &BenchResult) -> String {
        let title = group_title(result);
        let mut text = String::new();
        if title != self.title {
            write!(text, "\n{title}\n{}", self.table.header())
                .expect("writing to a String cannot fail");
            self.title = title;
        }
        text.push_str(&self.table.row(result));
        text.push_str(&peer_line(result).unwrap_or_default());
        text
    }
}

/// What follows the table of a transport: notes, and histograms where they are wanted.
pub(super) fn foot(plan: &Plan, results: &[BenchResult], width: usize) -> String {
    let mut text = floor_note(results).unwrap_or_default().to_owned();
    if plan.histogram {
        let style = bar_style(&plan.environment);
        results.iter().for_each(|result| text.push_str(&bars(result, width, style)));
    }
    text
}

fn bars(result: &BenchResult, width: usize, style: BarStyle) -> String {
    let decoded = result.histogram.as_deref().map(LatencyHistogram::from_base64);
    let Some(Ok(histogram)) = decoded else {
        return String::new();
    };
    let what = match (&result.model, result.fusion_bytes) {
        (Some(model), Some(_)) => format!("{model}, fused"),
        (Some(model), None) => format!("{model}, not fused"),
        (None, _) if result.bytes == 0 => result.collective.clone(),
        (None, _) => format!("{} of {}", result.collective, format_bytes(result.bytes)),
    };
    let queued = if result.queued { ", queued" } else { "" };
    let batches = if result.batch > 1 {
        format!(", {} batches of {}", histogram.count(), result.batch)
    } else {
        String::new()
    };
    let bars = render_bars(&histogram, width, style);
    let (over, operations) = (&result.transport, result.iterations);
    format!("\n{what}{queued} over {over}, {operations} operations{batches}\n{bars}")
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
