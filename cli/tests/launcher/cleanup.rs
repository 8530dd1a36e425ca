//! Whatever happens to a job, nothing of it stays.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Job, Running, children, command_line, eventually, kill, parent};

/// Each rank has a child, a grandchild, an orphan and a process in a session of its own.
const FAMILY: &str = "
    sh -c 'sleep 601 & sleep 602; true' &
    (sleep 603 &)
    setsid sh -c 'trap \"\" TERM HUP INT; sleep 604; true' &
    (setsid sleep 605 &)
    touch ready.$RANK
    sleep 606; true";

/// Launcher, agent, and per rank: its shell, a shell with two children, an orphan, a shell and its
/// child in a session, an orphan in a session, and what the rank waits for.
fn family_size(ranks: usize) -> usize {
    2 + ranks * 9
}

#[test]
fn sigkill_of_the_launcher_ends_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let job = Job::script(&["-np", "2", "--grace", "0.3"], FAMILY).directory(directory.path());
    let job = job.start();
    eventually("the family is complete", || job.processes().len() == family_size(2));
    job.signal(Signal::KILL);
    job.wait_until_all_gone();
    assert_eq!(job.wait().code, 1009);
}

#[test]
fn sigkill_of_the_agent_ends_everything_and_is_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let job = Job::script(&["-np", "2"], FAMILY).directory(directory.path()).start();
    eventually("the family is complete", || job.processes().len() == family_size(2));
    let agent = job.agent();
    kill(agent, Signal::KILL);
    let job = job.wait();
    assert_eq!(job.code, 125, "{}", job.stderr);
    let expected = format!("(pid {agent}) is lost: it was killed by SIGKILL");
    assert!(job.stderr.contains(&expected), "{}", job.stderr);
}

#[test]
fn a_failure_ends_children_grandchildren_and_sessions() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = format!(
        "if [ $RANK = 0 ]; then while [ ! -e ready.1 ]; do sleep 0.01; done; exit 4; fi {FAMILY}"
    );
    let job = Job::script(&["-np", "2", "--grace", "0.5"], &script).directory(directory.path());
    assert_eq!(job.run().code, 4);
}

#[test]
fn what_a_successful_rank_leaves_behind_is_ended_and_named() {
    let script = "setsid sleep 607 & child=$!
        while [ $(cat /proc/$child/comm) != sleep ]; do :; done; exit 0";
    let job = Job::script(&["-np", "2"], script).run();
    assert_eq!(job.code, 0);
    for rank in 0..2 {
        let expected = format!("rank {rank} left sleep (pid ");
        assert!(job.stderr.contains(&expected), "{}", job.stderr);
    }
}

#[test]
fn a_rank_that_ignores_sigterm_is_killed_after_the_grace() {
    let script = "if [ $RANK = 1 ]; then while [ ! -e trapped ]; do sleep 0.01; done; exit 6; fi
        trap '' TERM; touch trapped; while true; do sleep 0.05; done";
    let directory = tempfile::tempdir().expect("a directory");
    let job = Job::script(&["-np", "2", "--grace", "0.3"], script).directory(directory.path());
    let job = job.run();
    assert_eq!(job.code, 6, "{}", job.stderr);
}

#[test]
fn a_rank_may_use_its_grace() {
    let script = "if [ $RANK = 1 ]; then while [ ! -e trapped ]; do sleep 0.01; done; exit 6; fi
        trap 'sleep 0.3; touch saved; exit 0' TERM; touch trapped
        while true; do sleep 0.05; done";
    let directory = tempfile::tempdir().expect("a directory");
    let job = Job::script(&["-np", "2", "--grace", "50"], script).directory(directory.path());
    assert_eq!(job.run().code, 6);
    assert!(directory.path().join("saved").exists());
}

#[test]
fn a_stopped_rank_is_woken_to_end() {
    // It is continued, so that it can act on SIGTERM within its grace.
    let script = "if [ $RANK = 1 ]; then
            while ! grep -q '^State:.T' /proc/$(cat pid)/status; do sleep 0.01; done; exit 6; fi
        trap 'touch woken; exit 0' TERM; echo $$ > new; mv new pid; kill -STOP $$
        while true; do sleep 0.05; done";
    let directory = tempfile::tempdir().expect("a directory");
    let job = Job::script(&["-np", "2", "--grace", "50"], script).directory(directory.path());
    let job = job.run();
    assert_eq!(job.code, 6, "{}", job.stderr);
    assert!(directory.path().join("woken").exists());
}

#[test]
fn one_job_ends_and_its_neighbour_runs_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let neighbour = Job::script(&["-np", "2"], "while [ ! -e end ]; do sleep 0.02; done; exit 0");
    let neighbour = neighbour.directory(directory.path()).start();
    let job = Job::script(&["-np", "2"], "sleep 608; true").start();
    eventually("both run", || job.processes().len() == 6 && neighbour.processes().len() >= 4);
    job.signal(Signal::INT);
    assert_eq!(job.wait().code, 130);
    assert!(neighbour.processes().len() >= 4, "the neighbour was hit");
    fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(neighbour.wait().code, 0);
}

#[test]
fn the_agent_has_a_session_of_its_own_and_ranks_their_groups() {
    let job =
        Job::script(&["-np", "2"], "cut -d' ' -f5,6 /proc/$$/stat | tr '\\n' ' '; echo $$ $PPID");
    let job = job.run();
    assert_eq!(job.code, 0);
    for line in job.sorted_lines() {
        let fields: Vec<&str> = line.split(' ').skip(1).collect();
        let [group, session, own, agent] = fields[..] else { panic!("{line}") };
        assert_eq!((group, session), (own, agent), "{line}");
    }
}

#[test]
fn a_terminated_agent_ends_its_ranks_in_order() {
    let job = Job::script(&["-np", "2"], "sleep 609; true").start();
    eventually("all run", || job.processes().len() == 6);
    kill(job.agent(), Signal::TERM);
    let job = job.wait();
    assert_eq!(job.code, 125);
    assert!(job.stderr.contains("was stopped by SIGTERM"), "{}", job.stderr);
}

#[test]
fn a_stopped_agent_does_not_keep_the_launcher() {
    let job = Job::script(&["-np", "2", "--grace", "0.1"], "sleep 610; true").start();
    eventually("all run", || job.processes().len() == 6);
    let agent = job.agent();
    kill(agent, Signal::STOP);
    // The agent hears nothing; an impatient user makes the launcher kill what it leaves. Three
    // different signals, because equal ones that are pending become one.
    job.signal(Signal::INT);
    job.signal(Signal::TERM);
    job.signal(Signal::QUIT);
    let code = job.wait().code;
    assert!([130, 131, 143].contains(&code), "{code}");
    assert_eq!(parent(agent), None);
}

#[test]
fn ranks_get_no_descriptor_of_ours_and_no_file_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    // What this test itself was started with is the user's to pass on.
    let inherited = std::process::Command::new("ls").arg("/proc/self/fd").output();
    let inherited = inherited.expect("ls runs").stdout;
    let job = Job::new(&["-np", "1", "--no-prefix", "--", "ls", "/proc/self/fd"]);
    let job = job.env("TMPDIR", path).env("XDG_RUNTIME_DIR", path).run();
    assert_eq!(job.text(), String::from_utf8_lossy(&inherited));
    assert_eq!(fs::read_dir(path).expect("readable").count(), 0);
}

#[test]
fn orphans_that_end_while_the_job_runs_are_buried() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "for i in 1 2 3 4 5; do (true &); done; touch ready
        while [ ! -e end ]; do sleep 0.02; done";
    let job = Job::script(&["-np", "1"], script).directory(directory.path()).start();
    eventually("the orphans were born", || directory.path().join("ready").exists());
    let agent = job.agent();
    eventually("only the rank is left", || children(agent) == 1);
    fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(job.wait().code, 0);
}

/// From before the agent runs to after the family is complete, on machines of any speed.
const MOMENTS: [u64; 8] = [0, 1, 2, 4, 8, 12, 20, 40];

fn struck_after(milliseconds: u64, strike: impl Fn(&Running)) {
    let script = "(setsid sleep 614 &); sleep 615; true";
    let job = Job::script(&["-np", "3", "--grace", "0.5"], script).start();
    std::thread::sleep(Duration::from_millis(milliseconds));
    strike(&job);
    job.wait_until_all_gone();
    assert_ne!(job.wait().code, 0);
}

#[test]
fn the_moment_of_a_kill_does_not_matter() {
    MOMENTS.into_iter().for_each(|moment| struck_after(moment, |job| job.signal(Signal::KILL)));
}

#[test]
fn the_moment_of_an_interrupt_does_not_matter() {
    for moment in MOMENTS {
        struck_after(moment, |job| {
            job.signal(Signal::TERM);
            job.signal(Signal::INT);
        });
    }
}

#[test]
fn the_moment_of_the_agents_death_does_not_matter() {
    for moment in MOMENTS {
        struck_after(moment, |job| kill(job.agent(), Signal::KILL));
    }
}

/// Two generations away from its rank, in a session of its own, deaf to SIGTERM; the second one has also
/// thrown away the environment that says whose it is. Each leaves its process id.
const ORPHANS: &str = "
    (setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > new.1; mv new.1 orphan.1; sleep 616; true' &)
    (env -i setsid sh -c 'trap \"\" TERM; echo $$ > new.2; mv new.2 orphan.2; sleep 617; true' &)
    until [ -e orphan.1 -a -e orphan.2 ]; do sleep 0.01; done";

#[test]
fn orphans_end_with_the_job_whatever_they_have_done() {
    type Strike = fn(&Running);
    let strikes: [(&str, i32, Strike); 5] = [
        ("", 0, |_| ()),
        ("exit 3", 3, |_| ()),
        ("sleep 618; true", 143, |job| job.signal(Signal::TERM)),
        ("sleep 618; true", 1009, |job| job.signal(Signal::KILL)),
        ("sleep 618; true", 125, |job| kill(job.agent(), Signal::KILL)),
    ];
    for (end, code, strike) in strikes {
        let directory = tempfile::tempdir().expect("a directory");
        let script = format!("{ORPHANS}; {end}");
        let job = Job::script(&["-np", "1", "--grace", "0.2"], &script).directory(directory.path());
        let job = job.start();
        let orphan = |number| {
            let path = directory.path().join(format!("orphan.{number}"));
            eventually("the orphan was born", || path.exists());
            let pid: i32 = fs::read_to_string(path).expect("there").trim().parse().expect("a pid");
            pid
        };
        let orphans = [1, 2].map(orphan);
        strike(&job);
        job.wait_until_all_gone();
        // The one without an environment is not among those that a mark tells of.
        let is_orphan = |pid: &i32| command_line(*pid).contains("orphan.");
        eventually("the orphans are gone", || !orphans.iter().any(is_orphan));
        let job = job.wait();
        assert_eq!(job.code, code, "{end}: {}", job.stderr);
        if code == 0 {
            assert!(job.stderr.contains("rank 0 left sh (pid "), "{}", job.stderr);
            assert!(job.stderr.contains("a rank left sh (pid "), "{}", job.stderr);
        }
    }
}
