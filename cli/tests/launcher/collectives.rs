//! Ranks that are killed, stopped or at odds in the middle of real collectives.

use crate::support::Job;

/// Ranks that all-reduce until they are stopped; rank 1 does `mischief` to itself after a while.
fn measuring(options: &[&str], transport: &str, mischief: &str) -> Job {
    let program = env!("CARGO_BIN_EXE_paceline");
    let script = format!(
        "[ $PACELINE_RANK = 1 ] && {{ (sleep 2; {mischief}) & }}; \
         exec {program} bench all_reduce --transport {transport} --sizes 64K --min-time 100 --check off"
    );
    let mut arguments = vec!["-np", "3"];
    arguments.extend(options);
    Job::script(&arguments, &script)
}

#[test]
fn a_killed_rank_is_named_by_the_others() {
    for transport in ["tcp", "shm"] {
        let ended = measuring(&[], transport, "kill -KILL $$").run();
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
        let ended = measuring(&["--op-timeout", "4"], transport, "kill -STOP $$").run();
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
