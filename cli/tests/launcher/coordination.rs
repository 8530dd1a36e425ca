//! Ranks that have joined the job learn of each other's deaths.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, with a role.

use std::process::exit;
use std::thread;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::{Environment, ProcessEnvironment};
use paceline_rendezvous::{BootstrapOptions, RankInfo, bootstrap};

use crate::support::Job;

const ROLE: &str = "ROLE_IN_A_PACELINE_TEST";

/// The rank that dies or leaves.
const ACTOR: u32 = 2;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A job of this test binary in a role.
fn job(role: &str, options: &[&str]) -> Job {
    let program = std::env::current_exe().expect("this binary");
    let program = program.to_str().expect("UTF-8");
    let test = "coordination::rank_program";
    let mut arguments = vec!["-q"];
    arguments.extend(options);
    arguments.extend(["--", program, "--exact", test, "--nocapture", "--test-threads=1"]);
    Job::new(&arguments).env(ROLE, role)
}

/// Does nothing unless it was started as a rank.
#[test]
#[expect(clippy::exit, reason = "a rank may leave without unwinding, as programs do")]
fn rank_program() {
    let Some(role) = ProcessEnvironment.get(ROLE) else { return };
    let (place, _) = RankInfo::from_environment(&ProcessEnvironment).expect("a rank");
    if role == "absent" && place.rank == ACTOR {
        thread::sleep(PATIENCE);
        exit(32);
    }
    let job = bootstrap(&ProcessEnvironment, &BootstrapOptions::default()).expect("joined");
    let rank = job.rank_info.rank;
    let deadline = Instant::now() + PATIENCE;
    // The last rank to act knows that all others have joined and wait for nothing else.
    job.store.set(&format!("here/{rank}"), b"").expect("stored");
    for other in (0..job.rank_info.world_size).filter(|_| rank == ACTOR) {
        job.store.get(&format!("here/{other}"), deadline).expect("there");
    }
    match role.to_str() {
        Some("well-behaved") => {
            job.finish(deadline).expect("left in good order");
            return;
        }
        Some("killed") if rank == ACTOR => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .expect("ours");
        }
        Some("silent-exit") if rank == ACTOR => exit(0),
        _ => {}
    }
    let control = job.control.as_ref().expect("a launcher runs");
    while Instant::now() < deadline {
        if let Some(abort) = control.poll_abort() {
            eprintln!("abort: culprit {:?}: {}", abort.culprit, abort.reason);
            exit(30);
        }
        thread::sleep(Duration::from_millis(5));
    }
    exit(31);
}

#[test]
fn ranks_meet_and_leave() {
    let job = job("well-behaved", &["-np", "4"]).run();
    assert_eq!(job.code, 0, "{}", job.stderr);
}

#[test]
fn a_death_is_the_first_failure_and_reaches_every_rank() {
    let job = job("killed", &["-np", "4"]).run();
    assert_eq!(job.code, 137, "{}", job.stderr);
    assert!(job.stderr.contains("first failure: rank 2 (pid "), "{}", job.stderr);
    // The others may have been stopped before they could say so, but what they say is right.
    for line in job.stderr.lines().filter(|line| line.contains("abort: ")) {
        assert!(line.contains("culprit Some(2): rank 2 was killed by SIGKILL"), "{}", job.stderr);
    }
}

#[test]
fn a_rank_that_exits_with_0_while_others_need_it_is_diagnosed() {
    let job = job("silent-exit", &["-np", "3"]).run();
    assert_eq!(job.code, 30, "{}", job.stderr);
    let told = "abort: culprit Some(2): rank 2 exited with code 0";
    assert!(job.stderr.contains(told), "{}", job.stderr);
    assert!(job.stderr.contains("before that: rank 2 exited with code 0"), "{}", job.stderr);
}

#[test]
fn a_rank_that_never_joins_is_named_within_the_time_to_start() {
    let job = job("absent", &["-np", "3", "--start-timeout", "0.5"]).run();
    assert_eq!(job.code, 30, "{}", job.stderr);
    assert!(job.stderr.contains("before that: rank 2 did not join within 0.5 s"), "{}", job.stderr);
}

#[test]
fn jobs_inside_jobs_have_places_and_secrets_of_their_own() {
    let paceline = env!("CARGO_BIN_EXE_paceline");
    let script = "echo $RANK/$WORLD_SIZE $PACELINE_RUN_ID";
    let inner = [paceline, "run", "-np", "2", "-q", "--", "sh", "-c", script];
    let mut arguments = vec!["-np", "1", "-q", "--no-prefix", "--"];
    arguments.extend(inner);
    let job = Job::new(&arguments).run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    let lines = job.sorted_lines();
    assert!(lines[0].starts_with("[0] 0/2 ") && lines[1].starts_with("[1] 1/2 "), "{lines:?}");
    let run_id = |line: &str| line.rsplit(' ').next().map(str::to_owned);
    assert_eq!(run_id(&lines[0]), run_id(&lines[1]));
}
