//! Benchmarks that end before the last row, and what is left of them.

use std::fs;
use std::io::{BufRead, BufReader};

use paceline_benches::schema::Report;
use paceline_rendezvous::env::{RANK, XDG_RUNTIME_DIR};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{SHORT, bench, finish, paceline, start, start_unread};

#[test]
fn rows_that_were_measured_are_kept_when_a_later_one_fails() {
    let directory = tempfile::tempdir().unwrap();
    let (path, runtime) =
        (directory.path().join("record.json"), directory.path().to_str().unwrap());
    // The second row takes longer than anybody waits for.
    let options = ["bench", "-np", "2", "--transport", "tcp", "-s", "4,64M", "--rounds", "1"];
    let file = path.to_str().unwrap();
    let mut command =
        paceline(&[&options[..], &["--iterations", "20000", "--json", file]].concat());
    let (running, stdout) = start_unread(command.env(XDG_RUNTIME_DIR.name, runtime));
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("     4 B ")), "no first row");

    let status = finish(start(paceline(&["status"]).env(XDG_RUNTIME_DIR.name, runtime)));
    assert!(status.stdout.contains(" paceline bench -np 2 --transport tcp"), "{status:?}");

    kill_process(process(runtime, 1), Signal::KILL).unwrap();
    lines.for_each(drop);
    let finished = finish(running);
    assert_eq!(finished.code, Some(128 + 9), "{finished:?}");
    let report = Report::from_json(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(report.results.len(), 1);
    let failure = report.failure.unwrap();
    // Rank 0 hears of it, or is stopped before it does.
    assert!(["rank 1", "it was stopped"].iter().any(|said| failure.contains(said)), "{failure}");
}

/// The process of a rank, by the directory that its job was given.
fn process(runtime: &str, rank: u32) -> Pid {
    let wanted = [format!("{}={rank}", RANK.name), format!("{}={runtime}", XDG_RUNTIME_DIR.name)];
    let is_it = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has =
            |entry: &String| environ.split(|byte| *byte == 0).any(|it| it == entry.as_bytes());
        wanted.iter().all(has)
    };
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(is_it).and_then(Pid::from_raw).expect("it runs")
}

#[test]
fn a_size_that_does_not_fit_into_memory_is_found_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.json");
    for (size, why) in
        [("100000G", "does not fit into memory"), ("8000000000G", "cannot have the ")]
    {
        let sizes = format!("4,{size}");
        let options = ["-np", "2", "--transport", "shm", "-s", &sizes, "--json"];
        let finished = bench(&[&options[..], &[path.to_str().unwrap()]].concat());
        assert_eq!(finished.code, Some(125), "{finished:?}");
        assert!(finished.stderr.contains(why), "{finished:?}");
        assert!(finished.stderr.contains("hint: measure smaller sizes"), "{finished:?}");
        assert!(!finished.stdout.contains("busbw"), "nothing was measured: {finished:?}");
        assert!(!path.exists(), "there is nothing to record");
    }
}

#[test]
fn sizes_of_as_many_whole_elements_are_measured_once() {
    let options = ["-np", "2", "--transport", "tcp", "-s", "1,4,6,8,11"];
    let finished = bench(&[&options[..], &SHORT].concat());
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let text = &finished.stdout;
    assert!(text.contains("the same as another size: 4 B, 6 B, 11 B\n"), "{text}");
    assert_eq!(text.matches(" f32 ").count() - 1, 2, "two rows: {text}");
}
