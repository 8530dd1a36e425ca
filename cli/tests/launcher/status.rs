//! `paceline status` of jobs that run, are stuck, or have been killed.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, in a directory in
//! which files say how far it may go.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::{Context, ReduceOp};
use paceline_rendezvous::env::{Environment, ProcessEnvironment, XDG_RUNTIME_DIR};
use rustix::process::Signal;

use crate::support::{Job, Running, eventually, kill};

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

fn status(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.arg("status").args(arguments).env(XDG_RUNTIME_DIR.name, directory);
    command.output().expect("paceline starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = status(directory, &[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
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

#[test]
fn a_stuck_job_is_listed_and_says_who_keeps_whom_waiting() {
    for transport in ["tcp", "shm"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let running = start(path, &["--transport", transport]);
        let launcher = running.launcher().to_string();
        let told = stalls(path, &launcher, "never entered");
        assert!(told.contains("all_reduce #1: rank 2 on "), "{told}");
        assert!(told.contains("is alive"), "{told}");
        let list = text(&status(path, &[]));
        let line = list.lines().nth(1).unwrap_or_else(|| panic!("no job in {list:?}"));
        assert!(line.contains(&launcher) && line.contains("waiting"), "{list}");
        let job = line.split(' ').next().unwrap();
        let shown = text(&status(path, &[job]));
        assert!(shown.contains("WAITING: all_reduce #1: rank 2 on "), "{shown}");
        let of_rank_0 = shown.lines().find(|line| line.starts_with("0 ")).unwrap();
        assert!(of_rank_0.contains("all_reduce #1, 3.91 KiB, for "), "{shown}");
        let of_rank_2 = shown.lines().find(|line| line.starts_with("2 ")).unwrap();
        assert!(of_rank_2.contains("no operation (1 entered)"), "{shown}");
        let status = &json(path, &[job])["status"];
        let total = &status["ranks"][1]["contexts"][0]["totals"];
        assert!(total.to_string().contains("\"kind\":\"all_reduce\""), "{total}");
        let peers = &status["ranks"][0]["contexts"][0]["peers"];
        assert_eq!(peers.as_array().map(Vec::len), Some(2), "{peers}");
        fs::write(path.join("go"), "").unwrap();
        assert_eq!(running.wait().code, 0);
        assert_eq!(json(path, &[]), serde_json::json!([]), "the card went with the job");
    }
}

#[test]
fn a_stopped_rank_is_told_from_one_that_is_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let running = start(path, &["--transport", "tcp"]);
    let launcher = running.launcher().to_string();
    let pid = json(path, &[&launcher])["status"]["ranks"][LATE as usize]["pid"].as_i64().unwrap();
    let pid = i32::try_from(pid).unwrap();
    kill(pid, Signal::STOP);
    let told = stalls(path, &launcher, "is stopped or unreachable");
    assert!(told.contains("rank 2 on ") && told.contains(&format!("pid {pid}")));
    kill(pid, Signal::CONT);
    fs::write(path.join("go"), "").unwrap();
    assert_eq!(running.wait().code, 0);
}

#[test]
fn a_launcher_that_is_stopped_or_killed_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let running = start(path, &[]);
    let launcher = running.launcher().to_string();
    running.signal(Signal::STOP);
    let silent = status(path, &[&launcher]);
    assert_eq!(silent.status.code(), Some(124), "{silent:?}");
    assert!(String::from_utf8_lossy(&silent.stderr).contains("does not answer"), "{silent:?}");
    assert!(text(&status(path, &[])).contains("no answer"));
    running.signal(Signal::KILL);
    running.wait_until_all_gone();
    assert_eq!(running.wait().code, 1009);
    assert_eq!(json(path, &[]), serde_json::json!([]), "what it left behind is removed");
    let unknown = status(path, &[&launcher]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}
