use super::*;
use crate::schema::Peer;
use crate::schema::tests::sample;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn record(peer: Option<&str>, transport: &str, world: u32, bytes: u64, mean: f64) -> Report {
    let mut report = sample();
    report.peer = peer.map(|name| Peer { name: name.to_owned(), version: "1".to_owned() });
    let result = &mut report.results[0];
    result.transport = transport.to_owned();
    result.world_size = world;
    result.bytes = bytes;
    result.time_us.mean = mean;
    report
}

fn rounds_of(comparison: &mut Comparison, peer: Option<&str>, case: (&str, u32, u64), mean: f64) {
    for round in 1..=9 {
        // One per cent up and down, the same for everybody.
        let time = mean * if round % 2 == 0 { 1.01 } else { 0.99 };
        comparison.add(&record(peer, case.0, case.1, case.2, time), round).unwrap();
    }
}

#[test]
fn golden_comparison() {
    let mut comparison = Comparison::default();
    for (case, ours, mpi, gloo) in [
        (("tcp", 2, 4), 9.0, 11.4, 300.0),
        (("tcp", 2, MIB), 450.0, 384.0, 1534.0),
        (("tcp", 4, 64 * MIB), 120_000.0, 247_000.0, 126_000.0),
    ] {
        rounds_of(&mut comparison, None, case, ours);
        rounds_of(&mut comparison, Some(OPEN_MPI), case, mpi);
        rounds_of(&mut comparison, Some(GLOO), case, gloo);
    }
    rounds_of(&mut comparison, None, ("shm", 2, 64 * KIB), 20.0);
    rounds_of(&mut comparison, Some(OPEN_MPI), ("shm", 2, 64 * KIB), 26.9);
    for round in 1..=9 {
        comparison.add_start(None, 4, round, 120_000.0);
        comparison.add_start(Some(OPEN_MPI), 4, round, 150_000.0);
    }
    insta::assert_snapshot!(render_lines(&comparison.lines().unwrap()));
}

#[test]
fn the_better_peer_is_chosen_by_size() {
    let mut comparison = Comparison::default();
    let case = ("tcp", 4, 4 * MIB);
    rounds_of(&mut comparison, None, case, 9.0);
    rounds_of(&mut comparison, Some(OPEN_MPI), case, 10.0);
    rounds_of(&mut comparison, Some(GLOO), case, 8.0);
    let bars: Vec<_> = comparison
        .lines()
        .unwrap()
        .into_iter()
        .map(|line| (line.peer, line.time.verdict))
        .collect();
    // The bar on the best is about Gloo here; the one on every point of Open MPI remains.
    assert_eq!(bars, [(GLOO.to_owned(), Some("MISSED")), (OPEN_MPI.to_owned(), Some("met"))]);
}

#[test]
fn fused_gradients_are_compared_by_model() {
    let mut comparison = Comparison::default();
    for round in 1..=7 {
        let mut ours = record(None, "tcp", 2, 4 * MIB, 90.0);
        ours.results[0].model = Some("resnet50".to_owned());
        ours.results[0].fusion_bytes = None;
        let mut fused = ours.results[0].clone();
        fused.fusion_bytes = Some(128 * MIB);
        fused.time_us.mean = 40.0;
        let mut queued = fused.clone();
        queued.queued = true;
        queued.time_us.mean = 60.0;
        ours.results.extend([fused, queued]);
        comparison.add(&ours, round).unwrap();
        let mut theirs = record(Some(HOROVOD), "tcp", 2, 4 * MIB, 100.0);
        theirs.results[0].model = Some("resnet50".to_owned());
        theirs.results[0].fusion_bytes = Some(MIB);
        comparison.add(&theirs, round).unwrap();
    }
    let lines = comparison.lines().unwrap();
    let lines_said: Vec<_> = lines
        .iter()
        .map(|line| (line.collective.as_str(), line.time.ratio, line.time.verdict))
        .collect();
    let expected = [("resnet50", 0.4, Some("met")), ("resnet50, queue", 0.6, Some("MISSED"))];
    assert_eq!(lines_said, expected);
    assert!(summaries(&lines).is_empty(), "those are about Open MPI");
}

#[test]
fn only_rounds_that_both_completed_count() {
    let mut comparison = Comparison::default();
    for round in [1, 2, 3, 4, 5] {
        comparison.add(&record(None, "tcp", 2, 4, 10.0), round).unwrap();
    }
    for round in [4, 5, 6] {
        comparison.add(&record(Some(OPEN_MPI), "tcp", 2, 4, 5.0), round).unwrap();
    }
    let line = &comparison.lines().unwrap()[0];
    let time = &line.time;
    assert_eq!((time.rounds, time.ratio, time.bar), (2, 2.0, Some(1.0)));
    assert_eq!(time.verdict, None, "two rounds are no verdict");
}

#[test]
fn wrong_results_and_missing_rounds_are_errors() {
    let mut comparison = Comparison::default();
    assert_eq!(comparison.lines(), Err(PeersError::NothingOfOurs));
    let mut bad = record(Some(GLOO), "tcp", 2, 4, 10.0);
    bad.results[0].wrong = Some(3);
    assert!(matches!(comparison.add(&bad, 1), Err(PeersError::Wrong { wrong: 3, .. })));
    rounds_of(&mut comparison, None, ("tcp", 2, 4), 0.0);
    rounds_of(&mut comparison, Some(GLOO), ("tcp", 2, 4), 1.0);
    assert!(matches!(comparison.lines(), Err(PeersError::Times { .. })));
}

/// Nine rounds of a collective, ours and Open MPI's, with their times and CPU seconds per GiB.
fn collective(
    comparison: &mut Comparison,
    name: &str,
    bytes: u64,
    ours: (f64, Option<f64>),
    theirs: (f64, Option<f64>),
) {
    for (peer, (time, cpu)) in [(None, ours), (Some(OPEN_MPI), theirs)] {
        for round in 1..=9 {
            let mut report = record(peer, "shm", 2, bytes, time);
            report.results[0].collective = name.to_owned();
            report.results[0].cpu_s_per_gib = cpu;
            comparison.add(&report, round).unwrap();
        }
    }
}

#[test]
fn a_collective_is_judged_by_its_geometric_mean_and_its_cpu_time() {
    let mut comparison = Comparison::default();
    let cpu = |seconds| Some(seconds);
    collective(&mut comparison, "gather", 4, (90.0, cpu(1.0)), (1.0, cpu(1.0)));
    collective(&mut comparison, "gather", KIB, (1.0, cpu(3.0)), (2.0, cpu(1.0)));
    collective(&mut comparison, "gather", MIB, (200.0, cpu(3.0)), (100.0, cpu(1.0)));
    collective(&mut comparison, "scatter", MIB, (0.5, cpu(0.5)), (1.0, cpu(1.0)));
    collective(&mut comparison, "barrier", 0, (1.0, None), (1.3, None));
    let lines = comparison.lines().unwrap();
    insta::assert_snapshot!(render_lines(&lines));
    let summaries = summaries(&lines);
    insta::assert_snapshot!(render_summaries(&summaries));
    let of = |name| summaries.iter().find(|summary| summary.collective == name).unwrap();
    let gather = of("gather");
    assert_eq!(gather.points, 2, "4 bytes are below what the bar is about");
    assert!((gather.time.ratio - 1.0).abs() < 1e-9, "half and twice the time");
    assert_eq!(gather.time.verdict, Some("MISSED"));
    assert_eq!(gather.cpu.as_ref().and_then(|cpu| cpu.verdict), Some("MISSED"));
    assert_eq!(of("scatter").cpu.as_ref().and_then(|cpu| cpu.verdict), Some("met"));
    assert_eq!((of("barrier").time.verdict, &of("barrier").cpu), (Some("met"), &None));
}
