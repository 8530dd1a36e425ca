//! A diagnosis as text: pure.

use paceline_benches::units::{format_microseconds, format_nanoseconds, three_digits};
use paceline_launcher::doctor::{
    Check, Diagnosis, PairDiagnosis, Status, WayDiagnosis, WayOutcome,
};

use crate::columns::align;

/// All of it, the verdict last.
pub(super) fn text(diagnosis: &Diagnosis) -> String {
    let mut sections = Vec::new();
    for host in &diagnosis.hosts {
        let here = if host.is_this_host { " (this host)" } else { "" };
        sections.push(section(&format!("{}{here}", host.host), &host.checks));
    }
    let ways = ways(&diagnosis.pairs);
    if ways.len() > 1 {
        sections.push(format!("between hosts\n{}", indented(&align(&ways))));
    }
    let pairs = diagnosis.pairs.iter().flat_map(|pair| &pair.checks);
    let overall: Vec<Check> = pairs.chain(&diagnosis.overall).cloned().collect();
    if !overall.is_empty() {
        sections.push(section("network", &overall));
    }
    sections.push(format!("{}\n", verdict(diagnosis)));
    sections.join("\n")
}

fn section(heading: &str, checks: &[Check]) -> String {
    let mut table = Vec::new();
    for check in checks {
        let word = match check.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "FAILED",
        };
        let took = check.took_us.map(microseconds).unwrap_or_default();
        table.push([word.to_owned(), check.name.clone(), took, check.found.clone()]);
        table.extend(check.remedy.as_ref().map(|remedy| {
            let [nothing, name, took] = [const { String::new() }; 3];
            [nothing, name, took, format!("hint: {remedy}")]
        }));
    }
    format!("{heading}\n{}", indented(&align(&table)))
}

fn microseconds(time: u64) -> String {
    format_microseconds(number(time))
}

/// Times and sizes here are far from where this loses anything that is shown.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn number(number: u64) -> f64 {
    number as f64
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// One row for each way that was tried.
fn ways(pairs: &[PairDiagnosis]) -> Vec<[String; 8]> {
    let head = ["FROM", "TO", "ADDRESS", "INTERFACE", "P50", "P99", "MTU", "GB/s"];
    let mut table = vec![head.map(str::to_owned)];
    for pair in pairs {
        table.extend(pair.ways.iter().map(|way| row(pair, way)));
    }
    table
}

fn row(pair: &PairDiagnosis, way: &WayDiagnosis) -> [String; 8] {
    let [p50, p99, mtu, bandwidth] = match &way.outcome {
        WayOutcome::Way(found) => [
            format_nanoseconds(number(found.p50_ns)),
            format_nanoseconds(number(found.p99_ns)),
            found.mtu.map_or_else(|| "?".to_owned(), |mtu| mtu.to_string()),
            three_digits(found.gigabytes_per_second()),
        ],
        WayOutcome::Error(_) => ["-"; 4].map(str::to_owned),
    };
    let interface = match &way.local_interface {
        Some(local) if *local != way.interface => format!("{local} to {}", way.interface),
        _ => way.interface.clone(),
    };
    let (from, to) = (pair.from.clone(), pair.to.clone());
    [from, to, way.address.to_string(), interface, p50, p99, mtu, bandwidth]
}

/// How many of what.
fn verdict(diagnosis: &Diagnosis) -> String {
    let counted = |count: usize, one: &str, several: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {several}"),
    };
    let hosts = counted(diagnosis.hosts.len(), "host", "hosts");
    let all = counted(diagnosis.checks().count(), "check", "checks");
    let warnings = match diagnosis.count(Status::Warning) {
        0 => "no warnings".to_owned(),
        count => counted(count, "warning", "warnings"),
    };
    let failed = match diagnosis.count(Status::Failed) {
        0 => "nothing FAILED".to_owned(),
        count => format!("{count} FAILED"),
    };
    format!("{hosts}, {all}: {failed}, {warnings}")
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
