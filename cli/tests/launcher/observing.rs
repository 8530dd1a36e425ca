//! Timelines and metrics of jobs of real processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::support::{Job, Running, eventually};

/// Two ranks that all-reduce for as long as they may, or nearly no time.
fn measuring(options: &[&str], seconds: &str) -> Job {
    let program = env!("CARGO_BIN_EXE_paceline");
    let script = format!(
        "exec {program} bench all_reduce --transport tcp --sizes 64K --min-time {seconds} --check off"
    );
    let mut arguments = vec!["-np", "2"];
    arguments.extend(options);
    Job::script(&arguments, &script)
}

fn timeline(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("there is a timeline");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_timeline_of_a_job_is_one_json_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("timeline.json");
    let ended = measuring(&["--timeline", path.to_str().expect("UTF-8")], "0.1").run();
    assert_eq!(ended.code, 0, "{ended:?}");
    let events = timeline(&path);
    for rank in 0..2 {
        let operations = |event: &&Value| event["pid"] == rank && event["cat"] == "operation";
        assert!(events.iter().any(|event| operations(&event)), "rank {rank}");
    }
    // Horovod's users have a variable for it, and a second job replaces the file of the first.
    let path_text = path.to_str().expect("UTF-8");
    let ended = measuring(&[], "0.1").env("HOROVOD_TIMELINE", path_text).run();
    assert_eq!(ended.code, 0, "{ended:?}");
    let ends = timeline(&path).iter().filter(|event| event["name"] == "end_of_job").count();
    assert_eq!(ends, 1);
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 1);
}

#[test]
fn a_killed_job_leaves_a_timeline_that_can_be_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("timeline.json");
    let running = measuring(&["--timeline", path.to_str().expect("UTF-8")], "100").start();
    let whole_lines = || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.rsplit_once('\n').map(|(lines, _)| lines.to_owned()).unwrap_or_default()
    };
    let written = |what: &str| whole_lines().contains(what);
    eventually("operations and messages are written while they run", || {
        written("\"cat\":\"operation\"") && written("\"cat\":\"message\"")
    });
    running.signal(rustix::process::Signal::KILL);
    running.wait_until_all_gone();
    // Nobody was left to end the array. Only the last line may be torn.
    let events = format!("{}]", whole_lines().trim_end_matches(','));
    let events: Vec<Value> = serde_json::from_str(&events).expect("whole lines are events");
    assert!(events.iter().any(|event| event["cat"] == "message"));
}

#[test]
fn a_timeline_that_is_no_file_is_refused_before_anything_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
    let pipe = pipe.to_str().expect("UTF-8");
    for (path, what) in [(pipe, "a named pipe"), ("/dev/full", "a device"), ("/", "a directory")] {
        let ended = Job::script(&["-np", "1", "--timeline", path], "echo started").run();
        assert_eq!((ended.code, ended.text().as_str()), (2, ""), "{ended:?}");
        let said = format!("cannot write the timeline {path}: it is {what}");
        assert!(ended.stderr.contains(&said) && ended.stderr.contains("hint: "), "{ended:?}");
    }
}

#[test]
fn a_file_that_can_grow_no_further_is_ended_where_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("timeline.json");
    // What a full disk is for a file, nobody has to be root for. The signal for it is ignored, also
    // by whom the shell becomes.
    let full = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let job = measuring(&["--timeline", path.to_str().expect("UTF-8")], "1");
    let ended = job.under("sh", &["-c", full, "sh"]).run();
    assert_eq!(ended.code, 0, "{ended:?}");
    let events = timeline(&path);
    assert_eq!(events.last().map(|event| &event["name"]), Some(&"end_of_job".into()));
    assert!(events.iter().any(|event| event["cat"] == "operation"));
    let warning = format!("the timeline {} ends early: File too large", path.display());
    assert_eq!(ended.stderr.matches(&warning).count(), 1, "{}", ended.stderr);
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 1);
}

fn metrics_address(stderr: &str) -> Option<String> {
    let (_, rest) = stderr.split_once("metrics at http://")?;
    Some(rest.split('/').next()?.to_owned())
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

fn scrape(address: &str) -> String {
    ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A job that runs until it is told not to, and where its metrics are.
fn with_metrics(log: &Path) -> (Running, String) {
    let file = fs::File::create(log).expect("a file");
    let running = measuring(&["--metrics-port", "0"], "100").stderr(file).start();
    let mut address = None;
    eventually("the address is said", || {
        address = fs::read_to_string(log).ok().and_then(|text| metrics_address(&text));
        address.is_some()
    });
    (running, address.expect("just found"))
}

#[test]
fn metrics_are_served_on_loopback_to_several_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let (running, address) = with_metrics(&directory.path().join("log"));
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let wanted = "paceline_peer_payload_bytes_total{rank=\"1\",context=\"0\",peer=\"0\",\
                  transport=\"tcp\",direction=\"sent\"}";
    let mut page = String::new();
    eventually("ranks have told what they have moved", || {
        page = scrape(&address);
        page.contains(wanted)
    });
    let (head, body) = page.split_once("\r\n\r\n").expect("headers end");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("\npaceline_ranks 2\n"), "{body}");
    // Somebody who says nothing, and one who never stops, are in nobody's way.
    let silent = TcpStream::connect(&address).expect("connected");
    let mut endless = TcpStream::connect(&address).expect("connected");
    let flood = thread::Builder::new().spawn(move || {
        let chunk = [b'x'; 4096];
        // It is hung up on sooner or later.
        while endless.write_all(&chunk).is_ok() {}
    });
    let scrapers: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            thread::Builder::new().spawn(move || scrape(&address)).expect("a thread")
        })
        .collect();
    for scraper in scrapers {
        assert!(scraper.join().expect("an answer").starts_with("HTTP/1.1 200 OK"));
    }
    for (request, answer) in [
        ("HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /other HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
    ] {
        let said = ask(&address, request);
        assert!(said.starts_with(answer), "{request:?}: {said:?}");
        if request.starts_with("HEAD") {
            assert!(said.ends_with("\r\n\r\n"), "no body: {said:?}");
        }
    }
    running.signal(rustix::process::Signal::TERM);
    running.wait();
    flood.expect("a thread").join().expect("it was hung up on");
    drop(silent);
    assert!(TcpStream::connect(&address).is_err(), "it ends with the job");
}

#[test]
fn a_port_that_is_taken_is_an_error_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let ended = Job::new(&["-np", "1", "--metrics-port", &port, "--", "true"]).run();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(ended.stderr.contains("for metrics"), "{ended:?}");
    let ended = Job::new(&["-np", "1", "--metrics-port", "1-2", "--", "true"]).run();
    assert_eq!(ended.code, 2, "{ended:?}");
}
