//! Libraries in Python, measured between the rounds: here a script stands for Python.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{SHORT, bench, record};

/// A program that is started in place of Python.
fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("python");
    fs::write(&path, format!("#!/bin/sh\n{text}")).expect("a file in our directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our file");
    path
}

/// Answers everything, and says that every batch took 30 ms.
const PATIENT: &str = r#"
echo '{"ready":"Fake","version":"1.2"}'
while read -r line; do
    case $line in
    *begin*) echo '{"wrong":0}' ;;
    *)
        batches=${line#*batches\":}
        times=$(yes 30000000 | head -n "${batches%%,*}" | paste -sd, -)
        echo "{\"times_ns\":[$times]}"
        ;;
    esac
done
"#;

#[test]
fn a_helper_is_measured_between_the_rounds() {
    let directory = tempfile::tempdir().unwrap();
    let python = script(directory.path(), PATIENT);
    let python = python.to_str().unwrap();
    for (peer, subject) in
        [("gloo", ["all_gather", "-s", "4,4K"]), ("horovod", ["all_reduce", "-s", "8,64K"])]
    {
        let how = ["-np", "2", "--transport", "shm", "--peer", peer, "--peer-python", python];
        let report = record(&[&subject[..], &how].concat());
        assert_eq!(report.results.len(), 2);
        for result in &report.results {
            let peer = result.peer.as_ref().expect("a peer beside it");
            assert_eq!((peer.name.as_str(), peer.version.as_str()), ("Fake", "1.2"));
            assert_eq!(peer.rounds_us, [30_000.0, 30_000.0]);
            assert!((peer.ratio - result.rounds[0].mean / 30_000.0).abs() < peer.ratio, "{peer:?}");
            assert_eq!(peer.wrong, 0);
        }
    }
}

#[track_caller]
fn assert_told(peer: &str, python: &str, words: &[&str]) {
    let how = ["-np", "2", "--transport", "tcp", "-s", "4", "--peer", peer];
    let finished = bench(&[&how[..], &["--peer-python", python], &SHORT].concat());
    assert_eq!(finished.code, Some(125), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in {finished:?}");
    }
}

#[test]
fn what_is_missing_is_said_with_how_to_get_it() {
    let directory = tempfile::tempdir().unwrap();
    let python = directory.path().join("no-python");
    assert_told("gloo", python.to_str().unwrap(), &["cannot run", "--peer-python"]);

    let missing = r#"echo '{"error":"ModuleNotFoundError: No module named x"}'"#;
    let python = script(directory.path(), missing);
    let python = python.to_str().unwrap();
    assert_told("gloo", python, &["No module named x", "pip install torch"]);
    assert_told(
        "horovod",
        python,
        &["No module named x", "HOROVOD_WITH_GLOO=1", "horovod==0.28.1"],
    );
}

#[test]
fn a_helper_that_dies_or_refuses_ends_the_measurement() {
    let directory = tempfile::tempdir().unwrap();
    let ready = r#"echo '{"ready":"Fake","version":"1"}'; read -r line"#;
    let python = script(directory.path(), ready);
    assert_told("gloo", python.to_str().unwrap(), &["the helper of gloo has ended"]);
    let refusing =
        format!("{ready}\necho '{{\"error\":\"Fake has no all_reduce\"}}'; read -r line");
    let python = script(directory.path(), &refusing);
    assert_told("gloo", python.to_str().unwrap(), &["Fake has no all_reduce"]);
}
