//! The record, field by field.

use std::collections::BTreeSet;

use paceline_benches::histogram::LatencyHistogram;
use paceline_benches::metrics::{Collective, as_f64, as_u64};
use paceline_benches::schema::{BenchResult, Report, SCHEMA};

use crate::support::record;

/// Checks what holds for every record of a short run of `collective` over `ranks`.
fn assert_sound(report: &Report, collective: Collective, ranks: u32) {
    assert_eq!(report.schema, SCHEMA);
    assert_eq!(report.peer, None);
    assert_eq!(report.machines.len(), 1);
    assert!(report.machines[0].cores >= 1);
    assert!(report.machines[0].kernel.is_some());
    assert_eq!(report.ranks.len(), usize::try_from(ranks).expect("a small number"));
    let pids: BTreeSet<u32> = report.ranks.iter().map(|rank| rank.pid).collect();
    assert_eq!(pids.len(), report.ranks.len(), "every rank is a process of its own");
    for (rank, facts) in (0..).zip(&report.ranks) {
        assert_eq!((facts.rank, facts.device.as_str()), (rank, "none"));
        assert_eq!(facts.host, report.machines[0].host);
    }
    assert_eq!((report.config.world_size, report.config.rounds), (ranks, 2));
    assert_eq!(report.config.iterations, Some(3));
    assert!(!report.results.is_empty());
    for result in &report.results {
        assert_eq!(result.collective, collective.name());
        assert_eq!(result.world_size, ranks);
        assert_eq!(result.op.is_some(), collective.reduces());
        assert!(!result.emulated);
        assert!(!result.algorithm.is_empty());
        assert_times(result, ranks);
        assert_rates(result, collective);
    }
}

fn assert_times(result: &BenchResult, ranks: u32) {
    assert!(result.iterations >= 6 && result.iterations.is_multiple_of(2 * result.batch));
    assert_eq!(result.rounds.len(), 2);
    let times = &result.time_us;
    let rising = [times.min, times.p50, times.p90, times.p99, times.p99_9, times.p99_99, times.max];
    assert!(rising.is_sorted(), "{times:?}");
    assert!(times.min > 0.0 && times.mean >= times.min && times.mean <= times.max, "{times:?}");
    let histogram = LatencyHistogram::from_base64(result.histogram.as_deref().expect("recorded"))
        .expect("recorded");
    assert_eq!(histogram.count(), result.iterations / result.batch);
    assert!((as_f64(histogram.max().expect("recorded")) / 1e3 / times.max - 1.0).abs() < 0.01);
    assert_eq!(result.rank_histograms.len(), usize::try_from(ranks).expect("a small number"));
    for text in &result.rank_histograms {
        let of_rank = LatencyHistogram::from_base64(text).expect("a histogram");
        assert_eq!(of_rank.count(), histogram.count());
        assert!(of_rank.max() <= histogram.max(), "the slowest rank counts");
    }
}

fn assert_rates(result: &BenchResult, collective: Collective) {
    assert_eq!(result.wrong, Some(0));
    if result.bytes == 0 {
        let rates = (result.algbw_gbs, result.busbw_gbs, result.cpu_s_per_gib, result.floor_pct);
        assert_eq!(rates, (None, None, None, None));
        return;
    }
    let algbw = as_f64(result.bytes) / (result.time_us.mean / 1e6) / 1e9;
    assert!((result.algbw_gbs.expect("recorded") / algbw - 1.0).abs() < 1e-6);
    let busbw = algbw * collective.bus_factor(result.world_size);
    assert!((result.busbw_gbs.expect("recorded") - busbw).abs() < 1e-6 * algbw);
    assert!(result.cpu_s_per_gib.expect("recorded") > 0.0);
    if result.world_size > 1 {
        assert!(result.floor_us.expect("recorded") > 0.0);
    }
    if let Some(share) = result.floor_pct {
        assert!((0.0..=105.0).contains(&share), "{share}");
    }
}

#[test]
fn every_collective_is_measured_and_right() {
    for (collective, ranks) in [
        (Collective::AllReduce, 4),
        (Collective::ReduceScatter, 3),
        (Collective::AllGather, 2),
        (Collective::Broadcast, 3),
        (Collective::Reduce, 2),
        (Collective::AllToAll, 4),
        (Collective::Gather, 3),
        (Collective::Scatter, 3),
        (Collective::Barrier, 4),
    ] {
        let np = ranks.to_string();
        let report =
            record(&[collective.name(), "-np", &np, "--transport", "tcp", "--sizes", "4,100K"]);
        assert_sound(&report, collective, ranks);
        let rows = if collective == Collective::Barrier { 1 } else { 2 };
        assert_eq!(report.results.len(), rows);
        assert!(report.results.iter().all(|result| result.transport == "tcp"));
        assert_eq!(report.config.check, "every");
    }
}

#[test]
fn buffers_may_be_apart() {
    for (collective, ranks) in [
        (Collective::AllReduce, 2),
        (Collective::ReduceScatter, 2),
        (Collective::AllGather, 3),
        (Collective::Broadcast, 3),
        (Collective::Reduce, 2),
    ] {
        let np = ranks.to_string();
        let report = record(&[
            collective.name(),
            "-np",
            &np,
            "--transport",
            "tcp",
            "-s",
            "1000,70K",
            "--out-of-place",
        ]);
        assert_sound(&report, collective, ranks);
        assert!(report.config.out_of_place);
    }
}

#[test]
fn every_type_and_operator_is_checked_exactly() {
    for (dtype, op) in [
        ("f64", "sum"),
        ("f16", "avg"),
        ("bf16", "max"),
        ("i64", "min"),
        ("i32", "prod"),
        ("u8", "sum"),
    ] {
        let report =
            record(&["-np", "3", "--transport", "tcp", "-s", "40K", "--dtype", dtype, "--op", op]);
        assert_sound(&report, Collective::AllReduce, 3);
        let result = &report.results[0];
        assert_eq!((result.dtype.as_str(), result.op.as_deref()), (dtype, Some(op)));
        assert_eq!(result.bytes, 40 << 10);
    }
}

#[test]
fn an_algorithm_can_be_forced() {
    for algorithm in ["ring", "one-shot", "two-shot", "recursive-doubling", "halving-doubling"] {
        let report =
            record(&["-np", "3", "--transport", "tcp", "-s", "20K", "--algorithm", algorithm]);
        assert_sound(&report, Collective::AllReduce, 3);
        assert_eq!(report.results[0].algorithm, algorithm);
    }
}

#[test]
fn each_transport_is_measured_or_skipped_for_a_reason() {
    let report = record(&["-np", "2", "-s", "64"]);
    assert_sound(&report, Collective::AllReduce, 2);
    for transport in ["tcp", "shm"] {
        let measured = report.results.iter().any(|result| result.transport == transport);
        let skipped = report
            .skipped
            .iter()
            .any(|skipped| skipped.transport == transport && !skipped.reason.is_empty());
        assert!(measured != skipped, "{transport}: {report:?}");
    }
}

#[test]
fn one_rank_measures_itself() {
    for arguments in [&["-s", "4,1K"][..], &["-np", "1", "-s", "4,1K"]] {
        let report = record(arguments);
        assert_sound(&report, Collective::AllReduce, 1);
        assert!(report.results.iter().all(|result| result.transport == "self"));
        assert!(report.results.iter().all(|result| result.batch > 1), "no copy takes 10 us");
        assert!(report.results.iter().all(|result| result.floor_us.is_none()));
    }
}

#[test]
fn a_model_is_measured_tensor_by_tensor_and_fused() {
    let report = record(&[
        "-np",
        "2",
        "--transport",
        "tcp",
        "--model",
        "resnet50",
        "--dtype",
        "f16",
        "--fusion-threshold",
        "8M",
    ]);
    assert_sound(&report, Collective::AllReduce, 2);
    let parameters = 25_557_032;
    let fusion: Vec<_> = report.results.iter().map(|result| result.fusion_bytes).collect();
    assert_eq!(fusion, [None, Some(8 << 20)]);
    for result in &report.results {
        assert_eq!(result.model.as_deref(), Some("resnet50"));
        assert_eq!((result.count, result.bytes), (parameters, parameters * 2));
        assert_eq!(result.batch, 1);
    }
}

#[test]
fn the_exact_answer_may_be_left_unchecked() {
    let report = record(&["-np", "2", "--transport", "tcp", "-s", "4", "--check", "off"]);
    assert_eq!(report.results[0].wrong, None);
    assert_eq!(report.config.check, "off");
    let report = record(&["-np", "2", "--transport", "tcp", "-s", "4", "--check", "first"]);
    assert_eq!(report.results[0].wrong, Some(0));
}

#[test]
fn sizes_are_those_of_nccl_tests() {
    let report = record(&["-np", "2", "--transport", "tcp", "-b", "1K", "-e", "10K", "-f", "3"]);
    let sizes: Vec<u64> = report.results.iter().map(|result| result.bytes).collect();
    assert_eq!(sizes, [1 << 10, 3 << 10, 9 << 10]);
    assert_eq!(report.results.len(), sizes.len());
    assert_eq!(as_u64(sizes.len()), 3);
}

#[test]
fn operations_are_also_measured_through_the_queue() {
    let report = record(&["-np", "2", "--transport", "tcp", "-s", "4,1M", "--async"]);
    assert_sound(&report, Collective::AllReduce, 2);
    assert!(report.results.iter().all(|result| result.queued));
    let arguments = ["-np", "2", "--transport", "shm", "--model", "resnet50", "--async"];
    let report = record(&[&arguments[..], &["--dtype", "bf16"]].concat());
    assert_sound(&report, Collective::AllReduce, 2);
    let rows: Vec<_> =
        report.results.iter().map(|result| (result.queued, result.fusion_bytes)).collect();
    assert_eq!(rows, [(false, None), (false, Some(128 << 20)), (true, Some(16 << 20))]);
}
