//! Saying which network was chosen, and why.

use paceline_launcher::{JobEvent, NetworkChoice, NetworkReport};

use crate::columns;

/// What to say when it happens.
pub(super) fn learn(event: &JobEvent) -> Vec<String> {
    match event {
        JobEvent::NetworkChosen(choice) => lines(choice),
        _ => Vec::new(),
    }
}

fn lines(choice: &NetworkChoice) -> Vec<String> {
    let mut lines = vec![format!("network: {}, {}", choice.network, choice.why)];
    let rows: Vec<[String; 3]> = choice.networks.iter().map(|report| row(report, choice)).collect();
    lines.extend(columns::align(&rows).lines().map(|line| format!("  {line}")));
    lines.extend(choice.warnings.iter().cloned());
    lines
}

fn row(report: &NetworkReport, choice: &NetworkChoice) -> [String; 3] {
    let mark = if report.name == choice.network { "*" } else { " " };
    let unmeasured = || if report.problem.is_some() { "-" } else { "not measured" }.to_owned();
    let bandwidth = report.gigabytes_per_second;
    let bandwidth = bandwidth.map_or_else(unmeasured, |speed| format!("{speed:.2} GB/s"));
    let rest = match (&report.problem, report.round_trip_us) {
        (Some(problem), _) => problem.clone(),
        (None, Some(time)) => format!("{time:.1} us"),
        (None, None) => String::new(),
    };
    [format!("{mark} {}", report.name), bandwidth, rest]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_there_was_to_choose_from() {
        let report = |name: &str, speed: Option<f64>, problem: Option<&str>| NetworkReport {
            name: name.to_owned(),
            gigabytes_per_second: speed,
            round_trip_us: speed.map(|_| 42.04),
            problem: problem.map(str::to_owned),
        };
        let choice = NetworkChoice {
            network: "10.1.0.0/24 (eth1)".into(),
            why: "9.4 times as fast as 10.0.0.0/24 (eth0)".into(),
            networks: vec![
                report("10.0.0.0/24 (eth0)", Some(0.117), None),
                report("10.1.0.0/24 (eth1)", Some(1.1), None),
                report("10.2.0.0/16 (ib0)", None, Some("a to b (10.2.0.2): no answer in time")),
            ],
            warnings: vec!["mind the gap".into()],
        };
        let expected = "\
network: 10.1.0.0/24 (eth1), 9.4 times as fast as 10.0.0.0/24 (eth0)
    10.0.0.0/24 (eth0)  0.12 GB/s  42.0 us
  * 10.1.0.0/24 (eth1)  1.10 GB/s  42.0 us
    10.2.0.0/16 (ib0)   -          a to b (10.2.0.2): no answer in time
mind the gap";
        assert_eq!(lines(&choice).join("\n"), expected);
    }
}
