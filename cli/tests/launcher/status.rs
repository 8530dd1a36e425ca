//! `paceline status` of jobs that run, are stuck, or have been killed.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, in a directory in
//! which files say how far it may go.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::{Context, ReduceOp};
use paceline_rendezvous::env::{Environment, ProcessEnvironment, XDG_RUNTIME_DIR};
use rustix::process::Signal;

use crate::support::{Job, Running, eventually, json, pid_of, settles, status, while_stopped};

const DIRECTORY: &str = "DIRECTORY_OF_A_PACELINE_TEST";

/// The rank that keeps the others waiting.
const LATE: u32 = 2;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(directory) = ProcessEnvironment.get(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let context = Context::from_environment().unwrap();
    let communicator = context.communicator().unwrap();
    let mut data = vec![1.0f32; 1000];
    communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    fs::write(directory.join(format!("here.{}", context.rank())), "").unwrap();
    let give_up = Instant::now() + PATIENCE;
    while context.rank() == LATE && !directory.join("go").exists() {
        assert!(Instant::now() < give_up, "never let go");
        thread::sleep(Duration::from_millis(5));
    }
    communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
}

/// Three ranks, of which one does not enter the second operation.
fn start(directory: &Path, options: &[&str]) -> Running {
    let program = std::env::current_exe().expect("this binary");
    let test = "status::rank_program";
    let mut arguments = vec!["-np", "3", "-q"];
    arguments.extend(options);
    let program = program.to_str().expect("UTF-8");
    arguments.extend(["--", program, "--exact", test, "--nocapture", "--test-threads=1"]);
    let running = Job::new(&arguments)
        .env(XDG_RUNTIME_DIR.name, directory.to_str().expect("UTF-8"))
        .env(DIRECTORY, directory.to_str().expect("UTF-8"))
        .start();
    eventually("all ranks are in the job", || {
        (0..3).all(|rank| directory.join(format!("here.{rank}")).exists())
    });
    running
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How many jobs are listed.
fn jobs(directory: &Path) -> usize {
    json(directory, &[]).as_array().expect("a list").len()
}

/// The sentences about who keeps whom waiting, once there are some.
fn stalls(directory: &Path, job: &str, wanted: &str) -> String {
    let mut told = String::new();
    eventually("a stall is told", || {
        told = json(directory, &[job])["status"]["stalls"].to_string();
        told.contains(wanted)
    });
    told
}

/// Whether the table of a stuck job says all that it should; what it says if not.
fn shows_who_waits(shown: &str) -> Result<(), String> {
    let row = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    let told = [
        shown.contains("WAITING: all_reduce #1: rank 2 on "),
        shown.contains("never entered but is alive"),
        row("0 ").contains("all_reduce #1, 3.91 KiB, for "),
        row("2 ").contains("no operation (1 entered)"),
    ];
    if told == [true; 4] { Ok(()) } else { Err(format!("{told:?}: {shown}")) }
}

/// The same of what is there in numbers.
fn holds_what_was_done(status: &serde_json::Value) -> Result<(), String> {
    let contexts = |rank: usize| &status["ranks"][rank]["contexts"][0];
    let totals = contexts(1)["totals"].to_string();
    let peers = contexts(0)["peers"].as_array().map(Vec::len);
    let has_all = totals.contains("\"kind\":\"all_reduce\"") && peers == Some(2);
    if has_all { Ok(()) } else { Err(status.to_string()) }
}

#[test]
fn a_stuck_job_is_listed_and_says_who_keeps_whom_waiting() {
    for transport in ["tcp", "shm"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let running = start(path, &["--transport", transport]);
        let launcher = running.launcher().to_string();
        // What is told of a rank comes with its heartbeats, bit by bit.
        settles("all of it is shown", || {
            let list = text(&status(path, &[]));
            let line = list.lines().nth(1).ok_or_else(|| format!("no job in {list:?}"))?;
            let is_waiting = line.contains(&launcher) && line.contains("waiting");
            let job = line.split(' ').next().filter(|_| is_waiting).ok_or(line)?;
            shows_who_waits(&text(&status(path, &[job])))?;
            holds_what_was_done(&json(path, &[job])["status"])
        });
        fs::write(path.join("go"), "").unwrap();
        assert_eq!(running.wait().code, 0);
        assert_eq!(jobs(path), 0, "the card went with the job");
    }
}

#[test]
fn a_stopped_rank_is_told_from_one_that_is_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let running = start(path, &["--transport", "tcp"]);
    let launcher = running.launcher().to_string();
    let pid = pid_of(path, LATE);
    let told = while_stopped(pid, || stalls(path, &launcher, "is stopped or unreachable"));
    assert!(told.contains("rank 2 on ") && told.contains(&format!("pid {pid}")));
    fs::write(path.join("go"), "").unwrap();
    assert_eq!(running.wait().code, 0);
}

#[test]
fn a_launcher_that_is_stopped_or_killed_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let running = start(path, &[]);
    let launcher = running.launcher().to_string();
    while_stopped(running.launcher(), || {
        let silent = status(path, &[&launcher]);
        assert_eq!(silent.status.code(), Some(124), "{silent:?}");
        assert!(String::from_utf8_lossy(&silent.stderr).contains("does not answer"), "{silent:?}");
        assert!(text(&status(path, &[])).contains("no answer"));
    });
    running.signal(Signal::KILL);
    running.wait_until_all_gone();
    assert_eq!(running.wait().code, 1009);
    assert_eq!(jobs(path), 0, "what it left behind is removed");
    let unknown = status(path, &[&launcher]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}
