//! What is said of ranks when time runs out.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Job;

/// A debugger that everybody can run.
const DEBUGGER: &str = "#!/bin/sh\necho \"frame of $*\"\n";

#[test]
fn threads_and_debuggers_are_in_the_report_of_a_timeout() {
    let directory = tempfile::tempdir().expect("a directory");
    let debugger = directory.path().join("gdb");
    fs::write(&debugger, DEBUGGER).expect("written");
    fs::set_permissions(&debugger, fs::Permissions::from_mode(0o755)).expect("ours");
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let options = ["-np", "2", "-q", "--timeout", "0.5", "--stacks-on-timeout"];
    let job = Job::script(&options, "sleep 600; true").env("PATH", &path).run();
    assert_eq!(job.code, 124, "{}", job.stderr);
    assert!(job.stderr.contains("the job was stopped: it took longer than"), "{}", job.stderr);
    for rank in 0..2 {
        let head = format!("paceline: rank {rank} on ");
        let from = job.stderr.find(&head).unwrap_or_else(|| panic!("{head}: {}", job.stderr));
        let seen = &job.stderr[from..];
        // The shell, and what it waits for.
        assert!(seen.contains("  | thread ") && seen.contains(" (sleep) sleeps"), "{}", job.stderr);
    }
    assert!(job.stderr.contains("  |   frame of -nx -q -batch -p "), "{}", job.stderr);
    let job = Job::script(&["-np", "1", "-q", "--timeout", "0.5"], "sleep 600").run();
    assert!(!job.stderr.contains("when time ran out"), "nobody asked: {}", job.stderr);
}
