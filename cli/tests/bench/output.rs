//! What goes to which stream.

use std::fs;
use std::io::{BufRead, BufReader};

use paceline_benches::schema::Report;

use crate::support::{SHORT, bench, finish, paceline, start_unread};

#[test]
fn the_table_is_for_people_and_comes_without_escapes_in_a_pipe() {
    let finished = bench(
        &[
            &["-np", "2", "--transport", "tcp", "-s", "64,4K", "--histogram", "--explain"],
            &SHORT[..],
        ]
        .concat(),
    );
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let text = &finished.stdout;
    assert!(text.contains("all_reduce over tcp, 2 ranks"), "{text}");
    assert_eq!(text.matches("busbw").count(), 1, "one table: {text}");
    for row in ["    64 B       16 f32", "   4 KiB     1024 f32"] {
        assert!(text.contains(row), "{row:?} is missing: {text}");
    }
    assert!(text.contains("every result checked"), "{text}");
    assert!(text.contains("100.0 %"), "histograms end at all operations: {text}");
    assert!(text.contains("from          1 bytes"), "the plan is explained: {text}");
    assert!(!text.contains('\x1b') && !text.contains('\r'), "no progress in a pipe: {text:?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn only_the_record_is_on_standard_output_if_it_goes_there() {
    let finished = bench(
        &[&["-np", "2", "--transport", "tcp", "-s", "64", "--json", "-"], &SHORT[..]].concat(),
    );
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.starts_with('{') && finished.stdout.ends_with("}\n"));
    assert!(Report::from_json(&finished.stdout).is_ok(), "{}", finished.stdout);
    assert!(finished.stderr.contains("all_reduce over tcp, 2 ranks"), "{}", finished.stderr);
}

#[test]
fn the_record_may_go_to_a_file_beside_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.json");
    let file = path.to_str().unwrap();
    let finished = bench(
        &[&["-np", "2", "--transport", "tcp", "-s", "64", "--json", file], &SHORT[..]].concat(),
    );
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("all_reduce over tcp, 2 ranks"));
    let report = Report::from_json(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(report.results.len(), 1);
}

#[test]
fn a_record_that_cannot_be_written_is_noticed_before_the_work() {
    let finished = bench(&["-np", "2", "--json", "/no/such/directory/record.json"]);
    assert_eq!(finished.code, Some(125), "{finished:?}");
    assert!(finished.stderr.contains("failed to write /no/such/directory/record.json"));
    assert_eq!(finished.stdout, "");
}

#[test]
fn a_reader_that_leaves_ends_the_benchmark() {
    let options = ["bench", "-np", "2", "--transport", "tcp", "-s", "4..1M*2"];
    let mut command = paceline(&[&options[..], &SHORT].concat());
    let (running, stdout) = start_unread(&mut command);
    let mut first = String::new();
    BufReader::new(stdout).read_line(&mut first).unwrap();
    assert!(first.starts_with("# "), "{first:?}");
    // The reader is gone now, as `head -n 1` would be.
    let finished = finish(running);
    assert_eq!(finished.code, Some(128 + 13), "{finished:?}");
    assert!(!finished.stderr.contains("panic"), "{finished:?}");
}

#[test]
fn what_all_ranks_complain_of_is_said_once_and_no_record_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.json");
    let finished = bench(&[
        "-np",
        "3",
        "--transport",
        "tcp",
        "--interface",
        "nosuch0",
        "--json",
        path.to_str().unwrap(),
    ]);
    assert_eq!(finished.code, Some(125), "{finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", finished.stderr);
    assert!(lines[0].starts_with("paceline: all ranks: the network"), "{}", finished.stderr);
    assert!(lines[0].contains("no interface matches \"nosuch0\""), "{}", finished.stderr);
    assert!(lines[1].starts_with("paceline: hint: give --interface"), "{}", finished.stderr);
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
