//! Signals to the launcher.

use rustix::process::Signal;

use crate::support::{Job, eventually, is_full};

#[test]
fn int_term_hup_and_quit_stop_everything() {
    for (signal, name, code) in [
        (Signal::INT, "SIGINT", 130),
        (Signal::TERM, "SIGTERM", 143),
        (Signal::HUP, "SIGHUP", 129),
        (Signal::QUIT, "SIGQUIT", 131),
    ] {
        let job = Job::script(&["-np", "2"], "sleep 611; true").start();
        eventually("all run", || job.processes().len() == 6);
        job.signal(signal);
        let job = job.wait();
        assert_eq!(job.code, code, "{}", job.stderr);
        assert!(job.stderr.contains(&format!("stopped by {name}")), "{}", job.stderr);
        assert!(!job.stderr.contains("first failure"), "{}", job.stderr);
    }
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    // The grace is longer than a test waits: only the kill can end it.
    let script = "trap 'touch asked' TERM; touch ready; while true; do sleep 0.05; done";
    let job = Job::script(&["-np", "1", "--grace", "3600"], script).directory(directory.path());
    let job = job.start();
    eventually("the trap is set", || directory.path().join("ready").exists());
    job.signal(Signal::INT);
    eventually("it was asked to end", || directory.path().join("asked").exists());
    job.signal(Signal::INT);
    assert_eq!(job.wait().code, 130);
}

/// Not even the report of how the job ended, which waits for a reader.
#[test]
fn nothing_waits_for_who_does_not_read_and_has_had_enough() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let job = Job::script(&["-np", "1", "--grace", "1"], "yes >&2").stderr(writer).start();
    eventually("standard error takes no more", || is_full(&reader));
    eventually("it ends", || {
        job.signal(Signal::TERM);
        job.processes().is_empty()
    });
    assert_eq!(job.wait().code, 143);
}

#[test]
fn nohup_is_respected() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "touch ready; while [ ! -e end ]; do sleep 0.02; done";
    let job = Job::script(&["-np", "1"], script).under("nohup", &[]).directory(directory.path());
    let job = job.start();
    eventually("it runs", || directory.path().join("ready").exists());
    job.signal(Signal::HUP);
    std::fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(job.wait().code, 0);
}

#[test]
fn user_signals_reach_every_rank() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "trap 'touch one.$RANK' USR1; trap 'exit 0' USR2; touch ready.$RANK
        while true; do sleep 0.02; done";
    let job = Job::script(&["-np", "2"], script).directory(directory.path()).start();
    let exists =
        |name: &str| (0..2).all(|rank| directory.path().join(format!("{name}.{rank}")).exists());
    eventually("the traps are set", || exists("ready"));
    job.signal(Signal::USR1);
    eventually("both have heard the first", || exists("one"));
    job.signal(Signal::USR2);
    assert_eq!(job.wait().code, 0);
}

#[test]
fn a_job_is_suspended_and_resumed_as_a_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    // A loop without children: a shell that has forked with vfork stands still in another state.
    let script = "echo $$ > new.$RANK; mv new.$RANK pid.$RANK; while [ ! -e end ]; do :; done";
    let job = Job::script(&["-np", "2"], script).directory(directory.path()).start();
    let state = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
    };
    let pid_of = |rank: u32| {
        let path = directory.path().join(format!("pid.{rank}"));
        std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    };
    eventually("both run", || (0..2).all(|rank| !pid_of(rank).is_empty()));
    job.signal(Signal::TSTP);
    eventually("both stand still", || (0..2).all(|rank| state(&pid_of(rank)) == Some('T')));
    eventually("the launcher too", || state(&job.launcher().to_string()) == Some('T'));
    job.signal(Signal::CONT);
    eventually("both go on", || (0..2).all(|rank| state(&pid_of(rank)) != Some('T')));
    std::fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(job.wait().code, 0);
}
