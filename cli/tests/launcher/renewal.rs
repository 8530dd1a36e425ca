//! Ranks that go on after failures, and words on operations that last long.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, in a role.

use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::{Context, ReduceOp, SetupError};
use paceline_rendezvous::env::{Environment, ProcessEnvironment};

use crate::support::{Finished, Job};

const ROLE: &str = "ROLE_IN_A_RENEWAL_TEST";

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn run(role: &str, transport: &str, options: &[&str]) -> Finished {
    let program = std::env::current_exe().expect("this binary");
    let program = program.to_str().expect("UTF-8");
    let mut arguments = vec!["-np", "3", "-q", "--transport", transport];
    arguments.extend(options);
    arguments.extend(["--", program, "--exact", "renewal::rank_program", "--nocapture"]);
    arguments.push("--test-threads=1");
    Job::new(&arguments).env(ROLE, role).run()
}

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(role) = ProcessEnvironment.get(ROLE) else { return };
    let context = Context::from_environment().expect("connected");
    match role.to_str() {
        Some("again and again") => again_and_again(context),
        Some("never comes") => never_comes(&context),
        Some("slow") => slow(&context),
        other => panic!("a role: {other:?}"),
    }
}

/// Rank 1 fails in each of three epochs.
#[expect(clippy::print_stderr, reason = "what a rank says is what the test reads")]
fn again_and_again(mut context: Context) {
    for epoch in 0..4 {
        let communicator = context.communicator().expect("a communicator");
        let mut sum = vec![communicator.rank() as f32; 100_000];
        communicator.all_reduce(&mut sum, ReduceOp::Sum).expect("all is well");
        assert!(sum.iter().all(|sum| *sum == 3.0), "epoch {epoch}");
        if epoch == 3 {
            communicator.barrier().expect("all is well");
            eprintln!("rank {} is in epoch {}", context.rank(), context.job().rank_info().epoch);
            return;
        }
        let error = if context.rank() == 1 {
            communicator.broadcast(&mut [0u8; 9], 1).and_then(|()| communicator.barrier())
        } else {
            communicator.barrier()
        };
        let error = error.expect_err("the ranks are at odds");
        assert!(!error.is_timeout(), "{error}");
        context = context.renew().expect("all ranks are there");
    }
}

#[expect(clippy::print_stderr, reason = "what a rank says is what the test reads")]
fn never_comes(context: &Context) {
    let store = &context.job().rendezvous().store;
    if context.rank() == 2 {
        for rank in 0..2 {
            store.get(&format!("done/{rank}"), Instant::now() + PATIENCE).expect("there");
        }
        return;
    }
    let error = context.renew().expect_err("rank 2 does not come");
    let SetupError::NextEpoch { abort } = &error else { panic!("{error}") };
    assert_eq!((abort.culprit, abort.timed_out), (Some(2), true));
    eprintln!("{error}");
    store.set(&format!("done/{}", context.rank()), b"").expect("stored");
}

fn slow(context: &Context) {
    let communicator = context.communicator().expect("a communicator");
    communicator.barrier().expect("all are there");
    if context.rank() == 2 {
        thread::sleep(Duration::from_secs(5));
    }
    communicator.all_reduce(&mut [1f32; 8], ReduceOp::Sum).expect("it goes on");
}

#[test]
fn three_failures_in_a_row_do_not_end_a_job() {
    for transport in ["tcp", "shm"] {
        let ended = run("again and again", transport, &[]);
        assert_eq!(ended.code, 0, "over {transport}: {ended:?}");
        for rank in 0..3 {
            let told = format!("rank {rank} is in epoch 3");
            assert!(ended.stderr.contains(&told), "over {transport}: {ended:?}");
        }
    }
}

#[test]
fn a_rank_that_does_not_come_to_the_next_epoch_is_named() {
    let ended = run("never comes", "tcp", &["--start-timeout", "3"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let told =
        "the next epoch did not begin: rank 2 did not come to epoch 1 within 3.0 s: rank 2 on ";
    assert_eq!(ended.stderr.matches(told).count(), 2, "{ended:?}");
}

#[test]
fn a_stall_is_told_of_once_while_the_operation_goes_on() {
    for (options, count) in [(["--stall-report", "2"], 1), (["--stall-report", "0"], 0)] {
        let ended = run("slow", "shm", &options);
        assert_eq!(ended.code, 0, "{ended:?}");
        let told = |line: &&str| {
            let begins = line.starts_with("paceline: all_reduce #1 (8 f32, sum");
            begins && line.contains(": rank 2 on ") && line.contains("never entered but is alive")
        };
        assert_eq!(ended.stderr.lines().filter(told).count(), count, "{ended:?}");
        assert_eq!(ended.stderr.matches("ranks 0-1 wait since").count(), count, "{ended:?}");
    }
}
