//! Ranks that are killed, stopped or at odds in the middle of real collectives.

use std::path::Path;

use paceline_rendezvous::env::XDG_RUNTIME_DIR;
use rustix::process::Signal;

use crate::support::{Finished, Job, Running, eventually, json, kill, pid_of, while_stopped};

/// What becomes of ranks that all-reduce if something happens to rank 1 in the middle of it.
fn struck(
    options: &[&str],
    transport: &str,
    strike: impl FnOnce(i32, Running) -> Finished,
) -> Finished {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let program = env!("CARGO_BIN_EXE_paceline");
    let script = format!(
        "exec {program} bench all_reduce --transport {transport} --sizes 64K --min-time 100 --check off"
    );
    let job = Job::script(&[&["-np", "3"], options].concat(), &script);
    let running = job.env(XDG_RUNTIME_DIR.name, path.to_str().expect("UTF-8")).start();
    eventually("all are in the middle of it", || (0..3).all(|rank| has_reduced(path, rank)));
    strike(pid_of(path, 1), running)
}

/// Whether a rank of the only job below `directory` has told of all-reduces.
fn has_reduced(directory: &Path, rank: usize) -> bool {
    let contexts = &json(directory, &[])[0]["status"]["ranks"][rank]["contexts"];
    contexts.to_string().contains("\"kind\":\"all_reduce\"")
}

#[test]
fn a_killed_rank_is_named_by_the_others() {
    for transport in ["tcp", "shm"] {
        let ended = struck(&[], transport, |rank, running| {
            kill(rank, Signal::KILL);
            running.wait()
        });
        assert_eq!(ended.code, 137, "{ended:?}");
        assert!(ended.stderr.contains("first failure: rank 1"), "{ended:?}");
        let told: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| line.starts_with('[') && line.contains("rank 1 was killed by SIGKILL"))
            .collect();
        assert_eq!(told.len(), 1, "one survivor speaks for all, over {transport}: {ended:?}");
    }
}

#[test]
fn a_stopped_rank_is_named_within_the_deadline() {
    for transport in ["tcp", "shm"] {
        let options = ["--op-timeout", "4", "--grace", "0.5"];
        let ended =
            struck(&options, transport, |rank, running| while_stopped(rank, || running.wait()));
        // Also if the first to end is a rank that heard of the time-out before its own.
        assert_eq!(ended.code, 124, "{ended:?}");
        let told = ended.stderr.lines().any(|line| {
            line.contains(": rank 1 on ")
                && line.contains(") is stopped or unreachable: no heartbeat for ")
        });
        assert!(told, "{ended:?}");
    }
}

#[test]
fn ranks_that_call_different_collectives_name_both() {
    let program = env!("CARGO_BIN_EXE_paceline");
    let options = "--sizes 64K --min-time 0.1 --check off";
    for transport in ["tcp", "shm"] {
        let script = format!(
            "case $PACELINE_RANK in 0) what=all_reduce;; *) what=reduce_scatter;; esac; \
             exec {program} bench $what --transport {transport} {options}"
        );
        let ended = Job::script(&["-np", "2"], &script).run();
        assert_ne!(ended.code, 0, "{ended:?}");
        let named = |rank: u32, other: u32| {
            let words = format!("but rank {other} called");
            let speaker = format!(" rank {rank}: ");
            ended.stderr.lines().any(|line| line.contains(&speaker) && line.contains(&words))
        };
        // The slower rank may hear of it from the coordinator first.
        let named = named(0, 1) || named(1, 0);
        assert!(named, "over {transport}: {ended:?}");
    }
}

#[test]
fn where_one_rank_cannot_share_memory_all_use_tcp_and_say_why() {
    let program = env!("CARGO_BIN_EXE_paceline");
    let script = format!(
        "[ $PACELINE_RANK = 0 ] && ulimit -f 0; \
         exec {program} bench all_reduce --transport auto --sizes 4K --min-time 0.1"
    );
    let ended = Job::script(&["-np", "3"], &script).run();
    assert_eq!(ended.code, 0, "{ended:?}");
    let output = String::from_utf8_lossy(&ended.stdout);
    assert!(
        output.contains("shm skipped: ") && output.contains("rank 0: cannot allocate"),
        "{output}"
    );
}
