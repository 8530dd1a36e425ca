//! The examples as a user runs them: under the real launcher, one process per rank.
#![expect(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HELLO: &str = env!("CARGO_BIN_EXE_hello");
const TRAIN: &str = env!("CARGO_BIN_EXE_train");

/// The launcher beside the examples. Cargo builds it there with the whole workspace, but not for
/// the tests of this crate alone.
fn paceline() -> PathBuf {
    let directory = Path::new(HELLO).parent().unwrap();
    let program = directory.join("paceline");
    assert!(program.exists(), "no {}: build it with  cargo build -p paceline", program.display());
    program
}

/// Runs a command to its end and returns what it wrote to standard output.
fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?} ended with {status}:\n{stderr}");
    String::from_utf8(stdout).unwrap()
}

fn launched(ranks: u32, program: &[&str]) -> String {
    let ranks = ranks.to_string();
    let arguments = ["run", "-np", &ranks, "--no-prefix", "--"];
    output(Command::new(paceline()).args(arguments).args(program))
}

/// The losses that a training printed, epoch by epoch.
fn losses(text: &str) -> Vec<f64> {
    let loss = |line: &str| line.split_once("loss ").map(|(_, loss)| loss.parse().unwrap());
    text.lines().filter_map(loss).collect()
}

/// The per cent of test samples that a training says it reads.
fn accuracy(text: &str) -> f64 {
    let line = text.lines().last().unwrap();
    let words = line.strip_prefix("test accuracy ").unwrap_or_else(|| panic!("last line {line:?}"));
    words.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_launched_training_follows_the_curve_of_one_rank() {
    let alone = output(&mut Command::new(TRAIN));
    let expected = losses(&alone);
    assert_eq!(expected.len(), 30, "{alone}");
    assert!(accuracy(&alone) > 95.0, "{alone}");

    let together = launched(4, &[TRAIN]);
    assert!(together.contains(" 4 ranks over "), "{together}");
    let curve = losses(&together);
    assert_eq!(curve.len(), expected.len(), "{together}");
    for (one, four) in expected.iter().zip(&curve) {
        // Rounding of the sums, and of the seven decimals that are printed.
        assert!((one - four).abs() < 1e-5 * one + 1e-7, "{four} instead of {one}:\n{together}");
    }
    assert!((accuracy(&alone) - accuracy(&together)).abs() < 1e-9, "{alone}{together}");
}

/// Not a digit differs: the queue adds up in the same order, whatever it fuses and however it is timed.
#[test]
fn a_training_that_submits_its_gradients_prints_the_same() {
    for ranks in [1, 3] {
        let blocking = launched(ranks, &[TRAIN]);
        let queued = launched(ranks, &[TRAIN, "--async"]);
        assert_eq!(losses(&queued).len(), 30, "{queued}");
        assert_eq!(blocking, queued);
    }
}

#[test]
fn hello_counts_its_ranks() {
    let text = launched(3, &[HELLO]);
    for rank in 0..3 {
        assert!(text.contains(&format!("hello from rank {rank} of 3")), "{text}");
    }
    assert!(text.contains("1 + … + 3 = 6"), "{text}");
}

#[test]
fn a_training_that_is_asked_for_more_than_it_can_says_so() {
    let failed = Command::new(TRAIN).arg("--epochs").output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.contains("--epochs"), "{message}");
}

#[test]
fn half_a_place_in_a_job_is_refused_with_a_hint() {
    let failed = Command::new(HELLO).env("PACELINE_RANK", "0").output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.starts_with("error: "), "{message}");
    assert!(message.contains("\nhint: "), "{message}");
    assert!(message.contains("PACELINE_WORLD_SIZE"), "{message}");
}
