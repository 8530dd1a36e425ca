//! Command lines that make no sense are refused before anything is started.

use paceline_rendezvous::env;

use crate::support::{SHORT, bench, finish, paceline, start};

#[track_caller]
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let finished = bench(arguments);
    assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
    assert_eq!(finished.stdout, "", "{arguments:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "{arguments:?}: no {word:?} in {finished:?}");
    }
}

#[test]
fn words_that_mean_nothing() {
    assert_refused(&["gathre", "-np", "2"], &["gathre", "all_gather"]);
    assert_refused(&["-np", "2", "--dtype", "f8"], &["f8", "bf16"]);
    assert_refused(&["-np", "2", "--op", "xor"], &["xor", "prod"]);
    assert_refused(&["-np", "2", "--algorithm", "magic"], &["magic", "ring"]);
    assert_refused(&["-np", "2", "--transport", "pigeon"], &["pigeon", "shm"]);
    if cfg!(not(feature = "mpi")) {
        assert_refused(&["-np", "2", "--transport", "mpi"], &["--features mpi", "libopenmpi-dev"]);
    }
    assert_refused(&["-np", "2", "--model", "alexnet"], &["alexnet", "resnet50"]);
    assert_refused(&["-np", "2", "--check", "some"], &["some", "every"]);
    assert_refused(&["-np", "2", "--frobnicate"], &["--frobnicate"]);
    assert_refused(&["-np", "2", "--port-range", "9-1"], &["9-1"]);
    assert_refused(&["-np", "2", "--timeline", "/dev/full"], &["/dev/full", "it is a device"]);
}

#[test]
fn numbers_that_make_no_sense() {
    assert_refused(&["-np", "0"], &["--np"]);
    assert_refused(&["-np", "many"], &["many"]);
    assert_refused(&["-np", "2", "--sizes", "12Q"], &["12Q"]);
    assert_refused(&["-np", "2", "--sizes", "64M..4"], &["64M..4"]);
    assert_refused(&["-np", "2", "-b", "8", "-e", "4"], &["beyond its end"]);
    assert_refused(&["-np", "2", "-f", "1"], &["at least 2"]);
    assert_refused(&["-np", "2", "--rounds", "0"], &["--rounds", "at least 1"]);
    assert_refused(&["-np", "2", "--iterations", "0"], &["--iterations", "at least 1"]);
    assert_refused(&["-np", "2", "--rounds", "-3"], &["invalid value '-3' for '--rounds"]);
    assert_refused(&["-np", "-2"], &["invalid value '-2' for '--np"]);
    assert_refused(&["-np", "2", "--min-time", "0"], &["--min-time"]);
    assert_refused(&["-np", "2", "--op-timeout=-1"], &["--op-timeout"]);
}

#[test]
fn combinations_that_do_not_exist() {
    assert_refused(&["-np", "2", "--dtype", "i32", "--op", "avg"], &["avg is not defined for i32"]);
    assert_refused(&["broadcast", "-np", "2", "--algorithm", "ring"], &["ring", "chain"]);
    assert_refused(&["broadcast", "-np", "2", "--model", "gpt2"], &["not broadcast"]);
    assert_refused(&["-np", "2", "--model", "gpt2", "--sizes", "4"], &["--sizes"]);
    assert_refused(
        &["barrier", "-np", "2", "--async"],
        &["--async measures all_reduce", "barrier"],
    );
    assert_refused(&["-np", "2", "--fusion-threshold", "4M"], &["--model"]);
    assert_refused(&["-np", "2", "--iterations", "3", "--min-time", "1"], &["--min-time"]);
    assert_refused(
        &["-np", "2", "--plan", "plan.json"],
        &["--plan is for one transport", "hint: ", "--transport NAME"],
    );
}

#[test]
fn settings_of_a_queue_that_is_not_used() {
    for (name, value) in [
        (env::FUSION_THRESHOLD.name, "4M"),
        (env::CYCLE_TIME.name, "1"),
        (env::CACHE_CAPACITY.name, "64"),
    ] {
        let mut command = paceline(&["bench", "-np", "2", "--sizes", "4"]);
        let finished = finish(start(command.env(name, value)));
        assert_eq!(finished.code, Some(2), "{name}: {finished:?}");
        assert!(finished.stderr.contains(&format!("{name} changes nothing here")), "{finished:?}");
        assert!(finished.stderr.contains("hint: ") && finished.stderr.contains("--async"));
    }
    // Where there is one they are taken.
    let queued = [&["-np", "2", "--transport", "tcp", "-s", "4", "--async"], &SHORT[..]].concat();
    let mut command = paceline(&[&["bench"], &queued[..], &["--fusion-threshold", "4M"]].concat());
    let finished = finish(start(command.env(env::CYCLE_TIME.name, "1")));
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn an_interface_that_is_not_there_whatever_the_transport() {
    for transport in ["auto", "tcp", "shm", "all"] {
        let finished =
            bench(&["-np", "2", "--interface", "no-such0", "--transport", transport, "-s", "4"]);
        assert_eq!(finished.code, Some(125), "{transport}: {finished:?}");
        for word in ["no interface matches \"no-such0\"", "127.0.0.1", "hint: ", "--interface"] {
            assert_eq!(finished.stderr.matches(word).count(), 1, "{transport}: {finished:?}");
        }
    }
}

#[test]
fn a_plan_that_cannot_be_used_says_what_to_do_once() {
    let directory = tempfile::tempdir().unwrap();
    let (garbage, nowhere) = (directory.path().join("plan"), directory.path().join("no/plan"));
    std::fs::write(&garbage, "garbage").unwrap();
    for (path, said, hint) in [
        (&garbage, "rank 0 cannot use the plan ", "remove it, and a new one is made"),
        (&nowhere, "rank 0 cannot write the plan ", "make the directory first"),
    ] {
        let path = path.to_str().unwrap();
        let finished = bench(&["-np", "3", "--transport", "tcp", "-s", "4", "--plan", path]);
        assert_eq!(finished.code, Some(125), "{finished:?}");
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert!(lines[0].contains(said) && lines[0].contains(path), "{finished:?}");
        assert!(lines[1].contains(hint) && lines.len() == 2, "only the cause: {finished:?}");
    }
}
