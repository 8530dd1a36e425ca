//! What is written to `--events FILE`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Job, eventually};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("it is there");
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON in every line")).collect()
}

fn names(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["event"].as_str()).collect()
}

#[test]
fn a_job_is_told_from_its_first_agent_to_its_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("job.events");
    fs::write(&path, "an older one").expect("written");
    let script = "[ $RANK = 1 ] || exec sleep 600; exit 7";
    let options = ["-np", "3", "--events", path.to_str().expect("UTF-8")];
    let job = Job::script(&options, script).run();
    assert_eq!(job.code, 7, "{}", job.stderr);
    let lines = lines(&path);
    assert_eq!(lines[0]["schema"], "paceline.events/1");
    assert_eq!(lines[0]["world_size"], 3);
    assert_eq!(lines[0]["run_id"].as_str().map(str::len), Some(32));
    assert_eq!(lines[1]["event"], "agent_up");
    let of = |name: &'static str| lines.iter().filter(move |line| line["event"] == name);
    assert_eq!(of("rank_started").count(), 3);
    assert_eq!(of("rank_exited").count(), 3);
    let failed = of("rank_exited").find(|line| line["rank"] == 1).expect("it has ended");
    assert_eq!(failed["code"], 7, "{failed}");
    assert_eq!(failed.get("signal"), None);
    let started = of("rank_started").find(|line| line["rank"] == 1).expect("it was started");
    assert_eq!((&failed["pid"], &failed["host"]), (&started["pid"], &started["host"]));
    for field in ["ran_s", "user_s", "system_s", "max_rss_bytes"] {
        assert!(failed[field].is_number(), "{failed}");
    }
    let stopped = of("rank_exited").find(|line| line["rank"] == 0).expect("it has ended");
    assert_eq!(stopped["signal"], 15, "{stopped}");
    assert_eq!(of("stopping").count(), 1);
    let last = lines.last().expect("many");
    assert_eq!((&last["event"], &last["code"]), (&"finished".into(), &7.into()), "{last}");
    assert_eq!(last["failed_rank"], 1);
    assert!(last["reason"].as_str().is_some_and(|text| text.contains("exited with code 7")));
    let times: Vec<f64> = lines[1..].iter().filter_map(|line| line["time"].as_f64()).collect();
    assert_eq!(times.len(), lines.len() - 1);
}

#[test]
fn events_are_written_as_they_happen() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("events");
    let script = "while [ ! -e end ]; do sleep 0.02; done";
    let job = Job::script(&["-np", "2"], script).directory(directory.path());
    let job = job.env("PACELINE_EVENTS", "events").start();
    eventually("both ranks are told of while they run", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.matches("rank_started").count() == 2
    });
    fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(job.wait().code, 0);
    let lines = lines(&path);
    let names = names(&lines);
    assert_eq!(names.last(), Some(&"finished"));
    assert!(!names.contains(&"stopping"), "{names:?}");
    assert_eq!(lines.last().expect("many")["reason"], "every rank exited with 0");
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, code, said) in [
        ("-", 2, "events cannot go to standard output"),
        ("absent/events", 125, "failed to create absent/events for the job's events: No such"),
        (".", 125, "failed to create . for the job's events: Is a directory"),
    ] {
        let job = Job::script(&["-np", "1", "--events", path], "echo started");
        let job = job.directory(directory.path()).run();
        assert_eq!((job.code, job.text().as_str()), (code, ""), "{path}: {}", job.stderr);
        assert!(job.stderr.contains(said), "{path}: {}", job.stderr);
        assert!(job.stderr.contains("paceline: hint: "), "{path}: {}", job.stderr);
    }
    let dry = Job::new(&["-np", "1", "--dry-run", "--events", "events", "true"]);
    assert_eq!(dry.directory(directory.path()).run().code, 0);
    assert!(!directory.path().join("events").exists(), "a dry run does nothing");
}

#[test]
fn a_disk_that_is_full_is_said_once_and_ends_nothing() {
    let job = Job::script(&["-np", "2", "-q", "--events", "/dev/full"], "echo done").run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    assert_eq!(job.sorted_lines(), ["[0] done", "[1] done"]);
    let said = "paceline: no more events in /dev/full: No space left on device";
    assert_eq!(job.stderr.matches(said).count(), 1, "{}", job.stderr);
}
