//! Timelines that whole jobs have written: every rank, every kind of event, one clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use paceline_collectives::queue::{Queue, QueueOptions};
use paceline_collectives::{Context, ContextOptions, Job, ReduceOp, SetupError, TransportKind};
use serde_json::Value;
use support::{contexts, every_way, over};

/// The events of a file that nobody has closed.
fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str(&format!("{}]", text.trim_end().trim_end_matches(','))).unwrap()
}

fn traced(directory: &tempfile::TempDir, options: ContextOptions) -> ContextOptions {
    ContextOptions { timeline: Some(directory.path().join("timeline.json")), ..options }
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

/// Names of tracks, by rank and track.
fn tracks(events: &[Value]) -> BTreeMap<(u64, u64), String> {
    let named = events.iter().filter(|event| event["name"] == "thread_name");
    let entry = |event: &Value| {
        let place = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        (place, text(&event["args"], "name").to_owned())
    };
    named.map(entry).collect()
}

/// From when to when, and what.
type Slice = (f64, f64, String);

/// Slices of one track are nested or apart.
fn assert_nested(events: &[Value]) {
    let mut slices: BTreeMap<(u64, u64), Vec<Slice>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let place = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let (start, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        let slice = (start, start + length, text(event, "name").to_owned());
        slices.entry(place).or_default().push(slice);
    }
    // Times have three digits behind the point.
    let tolerance = 0.002;
    for (place, mut slices) in slices {
        slices.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<(f64, f64, String)> = Vec::new();
        for slice in slices {
            while open.last().is_some_and(|outer| outer.1 <= slice.0 + tolerance) {
                open.pop();
            }
            if let Some(outer) = open.last() {
                assert!(slice.1 <= outer.1 + tolerance, "{place:?}: {slice:?} over {outer:?}");
            }
            open.push(slice);
        }
    }
}

/// Returns when two ranks have been in an operation for a while.
fn wait_until_in(number: u64, early: &Mutex<Vec<Context>>) {
    let give_up = Instant::now() + Duration::from_secs(60);
    let is_in = |context: &Context| {
        let operations = context.counters().operations;
        let in_it = |known_for| known_for > Duration::from_millis(20);
        operations.iter().any(|of| of.op_seq == number && in_it(of.known_for))
    };
    loop {
        let early = early.lock().unwrap();
        // Each is looked at every time: a look is what makes it known.
        if early.iter().filter(|context| is_in(context)).count() == 2 {
            return;
        }
        drop(early);
        assert!(Instant::now() < give_up, "the others never came to operation {number}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_rank_records_operations_waits_messages_and_reductions() {
    for options in every_way() {
        let directory = tempfile::tempdir().unwrap();
        let options = traced(&directory, options);
        let by_messages =
            options.algorithm.is_some() || options.transport == over(TransportKind::Tcp).transport;
        let early = Mutex::new(Vec::new());
        contexts(3, &options, |context| {
            let communicator = context.communicator().unwrap();
            let mut data = vec![1.0f32; 300_000];
            if context.rank() != 2 {
                early.lock().unwrap().push(context.clone());
            }
            for number in 0..3 {
                if context.rank() == 2 {
                    wait_until_in(number, &early);
                }
                communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            }
            communicator.barrier().unwrap();
        });
        // The last handle ends the timeline.
        drop(early);
        let events = events(options.timeline.as_ref().unwrap());
        assert_nested(&events);
        let tracks = tracks(&events);
        for rank in 0..3u64 {
            let of = |category: &str| -> Vec<&Value> {
                let wanted = |event: &&Value| event["pid"] == rank && event["cat"] == category;
                events.iter().filter(wanted).collect()
            };
            let names: Vec<&str> = of("operation").into_iter().map(|o| text(o, "name")).collect();
            let expected = ["all_reduce #0", "all_reduce #1", "all_reduce #2", "barrier #3"];
            assert_eq!(names, expected);
            let first = of("operation")[0];
            assert_eq!(first["args"]["bytes"], 1_200_000);
            assert_eq!(first["args"]["communicator"], "communicator 0");
            assert_ne!(text(&first["args"], "algorithm"), "");
            if rank != 2 {
                assert!(!of("wait").is_empty(), "rank {rank} waits for rank 2");
            }
            let (messages, kernels) = (of("message").len(), of("kernel").len());
            assert_eq!((messages > 0, kernels > 0), (by_messages, by_messages));
            // Barriers work in shared memory where there is some.
            let in_memory = of("shared memory").into_iter();
            let reduced = in_memory.filter(|event| text(event, "name") == "all_reduce #0");
            assert_eq!(reduced.count() > 0, !by_messages);
            let named = |name: &str| tracks.iter().any(|(at, n)| at.0 == rank && n == name);
            assert!(named("communicator 0"));
            if by_messages {
                let next = (rank + 1) % 3;
                assert!(named(&format!("send to rank {next}")), "{tracks:?}");
                assert!(named("reduce, communicator 0"));
            }
        }
    }
}

/// An operation in which every rank waits for the last one ends on no rank before it has begun there.
#[test]
fn ranks_have_one_clock() {
    let directory = tempfile::tempdir().unwrap();
    let options = traced(&directory, over(TransportKind::Tcp));
    contexts(3, &options, |context| {
        let communicator = context.communicator().unwrap();
        for _ in 0..50 {
            communicator.barrier().unwrap();
        }
    });
    let events = events(options.timeline.as_ref().unwrap());
    for number in 0..50 {
        let name = format!("barrier #{number}");
        let all: Vec<&Value> = events.iter().filter(|event| event["name"] == *name).collect();
        let all = all.into_iter().filter(|event| event["cat"] == "operation");
        let times: Vec<(f64, f64)> = all
            .map(|event| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap()))
            .collect();
        assert_eq!(times.len(), 3);
        let last_begin = times.iter().map(|(start, _)| *start).fold(f64::MIN, f64::max);
        let first_end = times.iter().map(|(start, time)| start + time).fold(f64::MAX, f64::min);
        assert!(first_end >= last_begin - 0.002, "{name}: {times:?}");
        assert!(times.iter().all(|(start, _)| *start >= 0.0), "{times:?}");
    }
}

#[test]
fn a_queue_shows_negotiation_and_every_submission_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let options = traced(&directory, over(TransportKind::Shm));
    contexts(2, &options, |context| {
        let communicator = context.communicator().unwrap();
        let queue = Queue::new(communicator, &QueueOptions::default()).unwrap();
        for _ in 0..2 {
            let submit = |name: &str| queue.all_reduce(name, vec![1.0f32; 1000], ReduceOp::Sum);
            let handles = ["grad.0", "grad.1", "grad.2"].map(submit);
            for handle in handles {
                handle.wait().unwrap();
            }
        }
    });
    let events = events(options.timeline.as_ref().unwrap());
    assert_nested(&events);
    for rank in 0..2 {
        let of_rank = || events.iter().filter(|event| event["pid"] == rank);
        for name in ["grad.0", "grad.1", "grad.2"] {
            let named = || of_rank().filter(|event| event["name"] == name);
            assert_eq!(named().filter(|event| event["ph"] == "b").count(), 2);
            assert_eq!(named().filter(|event| event["ph"] == "e").count(), 2);
        }
        let submissions = || of_rank().filter(|event| event["cat"] == "submission");
        let ids: BTreeSet<String> =
            submissions().map(|event| event["id2"]["local"].to_string()).collect();
        assert_eq!((ids.len(), submissions().count()), (6, 6 * 6));
        let negotiated = of_rank().filter(|event| event["cat"] == "queue");
        assert!(negotiated.filter(|event| event["name"] == "negotiate").count() >= 2);
    }
}

#[test]
fn where_it_cannot_be_written_nobody_starts() {
    let path = std::path::PathBuf::from("/no/such/directory/timeline.json");
    let options = ContextOptions { timeline: Some(path), ..ContextOptions::default() };
    let job = Job::in_process(1).unwrap().remove(0);
    let error = Context::new(&job, &options).unwrap_err();
    assert!(matches!(error, SetupError::Timeline { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--timeline"));
}
