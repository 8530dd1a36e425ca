//! Exit codes and what is said about failures.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Job;

#[test]
fn all_zero_is_zero_although_one_takes_longer() {
    let job = Job::script(&["-np", "3"], "[ $RANK = 1 ] && sleep 0.5; exit 0").run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    assert!(!job.stderr.contains("failure"), "{}", job.stderr);
}

#[test]
fn the_failing_ranks_code_is_passed_on_and_the_rest_is_stopped() {
    let script = "if [ $RANK = 3 ]; then echo 'cause: no such file' >&2; exit 3; fi; sleep 600";
    let job = Job::script(&["-np", "4"], script).run();
    assert_eq!(job.code, 3);
    let report = &job.stderr;
    assert!(report.contains("first failure: rank 3 (pid "), "{report}");
    assert!(report.contains("exited with code 3 after "), "{report}");
    assert!(report.contains("| cause: no such file\n"), "{report}");
    let rest = "consequences: ranks 0-2 ended by paceline after the first failure\n";
    assert!(report.contains(rest), "{report}");
    assert_eq!(report.matches("first failure:").count(), 1, "{report}");
}

#[test]
fn only_the_last_lines_of_a_long_story_are_repeated() {
    let script = "i=0; while [ $i -lt 300 ]; do echo \"line $i\" >&2; i=$((i+1)); done; exit 9";
    let job = Job::script(&["-np", "1"], script).run();
    assert_eq!(job.code, 9);
    assert!(job.stderr.contains("| line 299\n") && job.stderr.contains("| line 280\n"));
    assert!(!job.stderr.contains("| line 279\n"), "{}", job.stderr);
}

#[test]
fn signals_become_128_plus_their_number_and_are_named() {
    for (name, number) in [("TERM", 15), ("SEGV", 11), ("KILL", 9), ("ABRT", 6)] {
        let script = format!("ulimit -c 0; [ $RANK = 1 ] && kill -{name} $$; sleep 600");
        let job = Job::script(&["-np", "2"], &script).run();
        assert_eq!(job.code, 128 + number, "{}", job.stderr);
        let expected = format!("was killed by SIG{name} after");
        assert!(job.stderr.contains(&expected), "{}", job.stderr);
        assert!(job.stderr.contains("first failure: rank 1 "), "{}", job.stderr);
    }
}

#[test]
fn the_first_of_several_failures_decides() {
    // The others fail because the first one is gone, and with other codes.
    let directory = tempfile::tempdir().expect("a directory");
    let script = "if [ $RANK = 2 ]; then touch gone; exit 5; fi
        while [ ! -e gone ]; do sleep 0.01; done; sleep 0.02; exit 8";
    let job = Job::script(&["-np", "4"], script).directory(directory.path()).run();
    assert_eq!(job.code, 5, "{}", job.stderr);
    assert!(job.stderr.contains("first failure: rank 2 "), "{}", job.stderr);
}

#[test]
fn an_earlier_success_is_no_cause_for_programs_without_the_library() {
    let script = "[ $RANK = 0 ] && exit 0; sleep 0.3; exit 4";
    let job = Job::script(&["-np", "2"], script).run();
    assert_eq!(job.code, 4, "{}", job.stderr);
    assert!(job.stderr.contains("first failure: rank 1 "), "{}", job.stderr);
    assert!(!job.stderr.contains("before that"), "{}", job.stderr);
}

#[test]
fn a_missing_program_is_reported_once_with_path_and_host() {
    let job = Job::new(&["-np", "8", "/no/such/program", "-x"]).run();
    assert_eq!(job.code, 127);
    assert_eq!(job.stderr.matches("/no/such/program").count(), 1, "{}", job.stderr);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("readable");
    assert!(job.stderr.contains(&format!("no such program on {}", host.trim())), "{}", job.stderr);
    let job = Job::new(&["-np", "2", "surely-not-in-path"]).run();
    assert_eq!(job.code, 127);
}

#[test]
fn a_directory_and_a_file_that_may_not_be_executed_are_126() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let job = Job::new(&["-np", "2", path]).run();
    assert_eq!(job.code, 126);
    assert!(job.stderr.contains("is a directory"), "{}", job.stderr);

    let file = directory.path().join("data");
    fs::write(&file, "no program").expect("writable");
    let job = Job::new(&["-np", "2", file.to_str().expect("UTF-8")]).run();
    assert_eq!(job.code, 126);
    assert!(job.stderr.contains("hint: chmod +x"), "{}", job.stderr);

    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(18, 0);
    foreign.extend([0xff, 0xff]);
    fs::write(&file, foreign).expect("writable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("ours");
    let job = Job::new(&["-np", "2", file.to_str().expect("UTF-8")]).run();
    assert_eq!(job.code, 126, "{}", job.stderr);
    assert!(job.stderr.contains("another machine"), "{}", job.stderr);
}

#[test]
fn a_script_without_its_interpreter_is_127_and_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("script");
    fs::write(&file, "#!/no/such/interpreter\n").expect("writable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("ours");
    let job = Job::new(&["-np", "2", file.to_str().expect("UTF-8")]).run();
    assert_eq!(job.code, 127);
    assert!(job.stderr.contains("/no/such/interpreter"), "{}", job.stderr);
    assert_eq!(job.stderr.matches("cannot start").count(), 1, "{}", job.stderr);
}

#[test]
fn other_hosts_take_ssh() {
    let ended = Job::new(&["-H", "no-such-host.invalid", "true"]).env("PATH", "/no/such").run();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(ended.stderr.contains("which has to be in the PATH"), "{ended:?}");
}

#[test]
fn a_job_that_takes_too_long_is_stopped_with_124() {
    let job = Job::script(&["-np", "2", "--timeout", "0.5"], "sleep 600").run();
    assert_eq!(job.code, 124);
    assert!(job.stderr.contains("--timeout 0.5"), "{}", job.stderr);
    let job = Job::script(&["-np", "2", "--timeout", "600"], "exit 0").run();
    assert_eq!(job.code, 0);
    assert!(!job.stderr.contains("timeout"), "{}", job.stderr);
}

#[test]
fn a_refused_plan_starts_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let job = Job::script(&["-np", "3", "-H", "localhost:2"], "touch started");
    let job = job.directory(directory.path()).run();
    assert_eq!(job.code, 2);
    assert!(job.stderr.contains("3 ranks do not fit into 2 slots"), "{}", job.stderr);
    assert!(!directory.path().join("started").exists());
}

#[test]
fn an_output_directory_that_cannot_be_made_is_125_and_names_it() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let job = Job::script(&["-np", "2", "--output-filename", path], "exit 0").run();
    assert_eq!(job.code, 125, "{}", job.stderr);
    assert!(job.stderr.contains(path), "{}", job.stderr);
}

#[test]
fn too_few_descriptors_are_named_with_a_remedy() {
    let job = Job::new(&["-np", "40", "-q", "sleep", "613"]);
    let job = job.under("sh", &["-c", "ulimit -n 48; exec \"$@\"", "sh"]).run();
    assert_eq!(job.code, 125, "{}", job.stderr);
    assert!(job.stderr.contains("Too many open files"), "{}", job.stderr);
    assert!(job.stderr.contains("hint: each rank needs two descriptors"), "{}", job.stderr);
}

#[test]
fn many_ranks_run() {
    let job = Job::script(&["-np", "64", "-q"], "echo $RANK").run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    assert_eq!(job.sorted_lines().len(), 64);
}
