//! SIGKILL of the launcher, of its agent, or of both, while ranks reduce in shared memory: no rank
//! survives, and nothing of the job stays on disk or in memory.

use std::fs;
use std::path::Path;

use paceline_rendezvous::env::XDG_RUNTIME_DIR;
use rustix::process::Signal;

use crate::support::{Job, Running, command_line, eventually, kill};

const RANKS: usize = 3;

/// A job whose ranks share memory and reduce in it, and that leaves its card below `directory`.
fn reducing(directory: &Path) -> Running {
    let program = env!("CARGO_BIN_EXE_paceline");
    let script = format!(
        "exec {program} bench all_reduce --transport shm --sizes 64K --min-time 100 --check off"
    );
    let job = Job::script(&["-np", &RANKS.to_string(), "--grace", "0.5"], &script);
    let running = job.env(XDG_RUNTIME_DIR.name, directory.to_str().expect("UTF-8")).start();
    eventually("all ranks share memory", || {
        let shares = |pid: &i32| {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            command_line(*pid).contains("bench") && maps.contains("/memfd:paceline")
        };
        running.processes().iter().filter(|pid| shares(pid)).count() == RANKS
    });
    assert_eq!(cards(directory).len(), 1);
    running
}

/// The files that there are about jobs.
fn cards(directory: &Path) -> Vec<String> {
    let jobs = fs::read_dir(directory).expect("it is there").flatten();
    let files = jobs.flat_map(|jobs| fs::read_dir(jobs.path()).expect("a directory").flatten());
    files.map(|file| file.path().display().to_string()).collect()
}

/// Objects of POSIX shared memory that we could have left.
fn objects() -> Vec<String> {
    let objects = fs::read_dir("/dev/shm").expect("it is there").flatten();
    let names = objects.map(|object| object.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("paceline")).collect()
}

fn after(strike: impl Fn(&Running)) -> (tempfile::TempDir, i32) {
    let directory = tempfile::tempdir().expect("a directory");
    let running = reducing(directory.path());
    strike(&running);
    running.wait_until_all_gone();
    let ended = running.wait();
    assert_eq!(objects(), [""; 0]);
    (directory, ended.code)
}

#[test]
fn nothing_stays_of_a_job_whose_launcher_is_killed() {
    let (directory, code) = after(|running| running.signal(Signal::KILL));
    assert_eq!(code, 1009);
    assert_eq!(cards(directory.path()), [""; 0], "its agent removes its card");
}

#[test]
fn nothing_stays_of_a_job_whose_agent_is_killed() {
    let (directory, code) = after(|running| kill(running.agent(), Signal::KILL));
    assert_eq!(code, 125);
    assert_eq!(cards(directory.path()), [""; 0]);
}

#[test]
fn no_rank_survives_launcher_and_agent_and_the_next_job_removes_the_card() {
    let (directory, code) = after(|running| {
        let agent = running.agent();
        // Neither may do anything about the other's death.
        running.signal(Signal::STOP);
        kill(agent, Signal::STOP);
        kill(agent, Signal::KILL);
        running.signal(Signal::KILL);
    });
    assert_eq!(code, 1009);
    let next = Job::new(&["-np", "1", "true"]);
    let next = next.env(XDG_RUNTIME_DIR.name, directory.path().to_str().expect("UTF-8")).run();
    assert_eq!(next.code, 0, "{next:?}");
    assert_eq!(cards(directory.path()), [""; 0]);
}

#[test]
fn a_stopped_agent_is_named_and_keeps_nobody_from_ending_the_job() {
    let job = Job::new(&["-np", "2", "--grace", "600", "sleep", "1000"]);
    let running = job.start();
    let is_rank = |pid: &i32| command_line(*pid).starts_with("sleep");
    eventually("the ranks run", || {
        running.processes().iter().filter(|pid| is_rank(pid)).count() == 2
    });
    kill(running.agent(), Signal::STOP);
    running.signal(Signal::TERM);
    running.wait_until_all_gone();
    let ended = running.wait();
    assert_eq!(ended.code, 143, "{ended:?}");
    assert!(ended.stderr.contains("has not answered for 8 s"), "{ended:?}");
}
