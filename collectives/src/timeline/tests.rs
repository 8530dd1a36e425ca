use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("timeline.json");
    create(&path).unwrap();
    (directory, path)
}

fn place(rank: u32) -> Place<'static> {
    Place { rank, context: 0, transport: "tcp" }
}

/// The events of a file, which is whole but for the end of its array.
fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let text = format!("{}]", text.trim_end().trim_end_matches(','));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn label() -> OperationLabel {
    OperationLabel { collective: "all_reduce", communicator: 0, op_seq: 412 }
}

fn operation() -> What {
    What::Operation { label: label(), bytes: 4096, algorithm: "ring", failed: false }
}

#[test]
fn ranks_append_to_one_file_whatever_they_call_things() {
    let (_directory, path) = file();
    let timelines = [0, 1].map(|rank| Timeline::open(&path, place(rank)).unwrap());
    let start = Instant::now();
    let name: Arc<str> = "grad \"7\"\\\n\u{7}é".into();
    for timeline in &timelines {
        timeline.record(Track::Communicator(0), start, operation());
        let at = start + Duration::from_micros(3);
        timeline.record_until(Track::Communicator(0), start, at, What::Wait);
        let message = What::Message { label: label(), bytes: 7 };
        timeline.record(Track::Channel { peer: 1, sends: true }, start, message);
        let known = timeline.name(&name);
        assert_eq!(timeline.name(&name), known);
        let submission = What::Submission { name: known, started: at };
        timeline.record(Track::Queue(0), start, submission);
    }
    drop(timelines);
    let events = events(&path);
    assert_eq!(events[0]["name"], HEAD_NAME);
    for rank in 0..2 {
        let of_rank = || events.iter().filter(|event| event["pid"] == rank);
        let named = |wanted: &str| of_rank().filter(|event| event["name"] == wanted).count();
        assert_eq!((named("all_reduce #412"), named("wait"), named(&name)), (2, 1, 2));
        assert_eq!((named("negotiate"), named("execute"), named("process_name")), (2, 2, 1));
        let tracks: Vec<&str> = of_rank()
            .filter(|event| event["name"] == "thread_name")
            .filter_map(|event| event["args"]["name"].as_str())
            .collect();
        assert_eq!(tracks, ["communicator 0", "send to rank 1", "queue of communicator 0"]);
        let operation = of_rank().find(|event| event["cat"] == "operation").unwrap();
        assert_eq!((&operation["args"]["bytes"], &operation["ph"]), (&4096.into(), &"X".into()));
        assert_eq!(operation["args"]["algorithm"], "ring");
        let wait = of_rank().find(|event| event["cat"] == "wait").unwrap();
        assert_eq!(wait["dur"].as_f64(), Some(3.0));
        assert_eq!(wait["ts"], operation["ts"]);
    }
}

const HEAD_NAME: &str = "clock_origin";

#[test]
fn what_does_not_fit_is_dropped_and_said() {
    let (_directory, path) = file();
    let timeline = Timeline::open(&path, place(3)).unwrap();
    let now = Instant::now();
    {
        // Nobody writes meanwhile.
        let mut recorded = timeline.shared.lock();
        let event = Event { track: Track::Kernels(0), start: now, end: now, what: operation() };
        recorded.events.resize(EVENTS_MAX, event);
        assert_eq!(recorded.events.capacity(), EVENTS_MAX);
        recorded.dropped = 5;
    }
    drop(timeline);
    let events = events(&path);
    let dropped = events.iter().find(|event| event["name"] == "5 events dropped").unwrap();
    assert_eq!(dropped["args"]["dropped"], 5);
    let operations = events.iter().filter(|event| event["cat"] == "operation");
    assert_eq!(operations.count(), EVENTS_MAX);
}

#[test]
fn recording_beyond_the_bound_only_counts() {
    let recorded = Recorded {
        events: Vec::with_capacity(EVENTS_MAX),
        dropped: 0,
        names: HashMap::new(),
        new_names: Vec::new(),
        ended: false,
    };
    let shared = Shared { recorded: Mutex::new(recorded), changed: Condvar::new() };
    // Without a thread that writes.
    let timeline = Timeline { shared: Arc::new(shared), thread: None };
    for _ in 0..EVENTS_MAX + 3 {
        timeline.record(Track::Communicator(0), Instant::now(), operation());
    }
    let recorded = timeline.shared.lock();
    assert_eq!((recorded.events.len(), recorded.dropped), (EVENTS_MAX, 3));
    assert_eq!(recorded.events.capacity(), EVENTS_MAX);
}

#[test]
fn files_of_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.json");
    assert!(Timeline::open(&path, place(0)).is_err());
    fs::write(&path, "{}\n").unwrap();
    let error = Timeline::open(&path, place(0)).unwrap_err();
    assert_eq!(error.to_string(), "it is no timeline of ours");
    assert!(create(&directory.path().join("no/such/place")).is_err());
    let error = create(&path).unwrap_err();
    assert_eq!(error.to_string(), "there is a file of that name that is no timeline");
    assert!(create(directory.path()).is_err());
    // A pipe has another end, which nobody waits for.
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    assert_eq!(create(&pipe).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    fs::remove_file(&pipe).unwrap();
    // An older one is replaced.
    fs::write(&path, "[\n").unwrap();
    create(&path).unwrap();
    assert!(Timeline::open(&path, place(0)).is_ok());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
