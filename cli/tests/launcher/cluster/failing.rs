//! Ranks, agents, links and launchers that fail while a job runs on several hosts.

use rustix::process::Signal;

use super::hosts::Cluster;
use super::on_hosts;
use crate::support::{Running, eventually, is_full, kill};

/// Behaviours 11 to 14.
#[test]
fn the_first_failure_gives_the_exit_code_wherever_it_is() {
    on_hosts(2, |cluster| {
        let fails = |script: &str| {
            let script = format!("[ $RANK != 3 ] && exec sleep 1000; {script}");
            let ended = cluster.script(&["-H", "n1:2,n2:2", "--grace", "1"], &script).run();
            cluster.wait_until_empty();
            (ended.code, ended.stderr)
        };
        let (code, said) = fails("exit 7");
        assert!(code == 7 && said.contains("rank 3 (pid "), "{code}: {said}");
        assert!(said.contains(" on n2) exited with code 7"), "{said}");
        let (code, said) = fails("kill -SEGV $$");
        assert!(code == 139 && said.contains("SIGSEGV"), "{code}: {said}");
        let (code, _) = fails("kill -TERM $$");
        assert_eq!(code, 143);
    });
}

/// Behaviours 17 to 19 and 23: whatever a rank does about it, it ends, and so does what it has started.
#[test]
fn nothing_outlives_a_failure_on_any_host() {
    on_hosts(2, |cluster| {
        let script = "[ $RANK = 0 ] && { sleep 0.5; exit 3; }; trap '' TERM; \
                      (trap '' TERM; sleep 1000) & setsid sleep 1000 & \
                      [ $RANK = 1 ] && kill -STOP $$; while :; do sleep 1; done";
        let ended = cluster.script(&["-H", "n1:1,n2:2", "--grace", "0.5"], script).run();
        assert_eq!(ended.code, 3, "{ended:?}");
        cluster.wait_until_empty();
    });
}

fn sleeping(cluster: &Cluster) -> Running {
    let running = cluster.job(&["-H", "n1:2,n2:2", "--grace", "1", "sleep", "1000"]).start();
    eventually("all ranks sleep", || (1..=2).all(|host| cluster.running(host, "sleep") == 2));
    running
}

/// Behaviour 20.
#[test]
fn nothing_outlives_the_launcher() {
    on_hosts(2, |cluster| {
        let running = sleeping(cluster);
        running.signal(Signal::KILL);
        cluster.wait_until_empty();
        assert_eq!(running.wait().code, 1009);
    });
}

/// Behaviour 21.
#[test]
fn a_lost_agent_is_named_and_takes_its_ranks_along() {
    on_hosts(2, |cluster| {
        let running = sleeping(cluster);
        let agent = cluster.agent(2);
        kill(agent, Signal::KILL);
        let ended = running.wait();
        assert_eq!(ended.code, 125, "{ended:?}");
        let lost = format!("the agent on n2 (pid {agent}) is lost: ssh exited with code 255");
        assert!(ended.stderr.contains(&lost), "{ended:?}");
        assert!(ended.stderr.contains("ssh n2 dmesg"), "{ended:?}");
        cluster.wait_until_empty();
    });
}

/// What comes by ssh is for standard error, too, which takes nothing more: the launcher does not wait.
#[test]
fn a_launcher_whose_words_nobody_reads_still_listens() {
    on_hosts(1, |cluster| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let exists = |name: &str| cluster.path(name).exists();
        let script = format!(
            "cd {}; yes >&2 & while [ ! -e full ]; do sleep 0.02; done; \
             echo word >/proc/$PACELINE_AGENT_PID/fd/2; touch said; sleep 1000",
            cluster.path("").display()
        );
        let job = cluster.script(&["-H", "n1", "--grace", "1"], &script).stderr(writer).start();
        eventually("standard error takes no more", || is_full(&reader));
        std::fs::write(cluster.path("full"), "").expect("a file");
        eventually("the agent has said something", || exists("said"));
        eventually("it ends", || {
            job.signal(Signal::TERM);
            job.processes().is_empty()
        });
        assert_eq!(job.wait().code, 143);
        cluster.wait_until_empty();
    });
}

#[test]
fn a_stopped_agent_is_named_and_not_waited_for() {
    on_hosts(2, |cluster| {
        let running = sleeping(cluster);
        let agent = cluster.agent(2);
        kill(agent, Signal::STOP);
        running.signal(Signal::TERM);
        let ended = running.wait();
        assert_eq!(ended.code, 143, "{ended:?}");
        assert!(ended.stderr.contains(&format!("the agent on n2 (pid {agent})")), "{ended:?}");
        // Nobody can end what it supervises while it is stopped; it does as soon as it goes on.
        kill(agent, Signal::CONT);
        cluster.wait_until_empty();
    });
}

#[test]
fn a_host_that_is_cut_off_ends_the_job_here_and_there() {
    on_hosts(2, |cluster| {
        let running = sleeping(cluster);
        cluster.set_link(2, "down");
        let ended = running.wait();
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.stderr.contains("the agent on n2"), "{ended:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn ranks_end_with_the_session_that_started_them() {
    on_hosts(2, |cluster| {
        let running = sleeping(cluster);
        cluster.kill_sshd(2);
        let ended = running.wait();
        assert_eq!(ended.code, 125, "{ended:?}");
        cluster.wait_until_empty();
    });
}

/// Behaviours 26 and 28.
#[test]
fn signals_and_time_limits_leave_nothing_anywhere() {
    on_hosts(2, |cluster| {
        for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129)] {
            let running = sleeping(cluster);
            running.signal(signal);
            assert_eq!(running.wait().code, code);
            cluster.wait_until_empty();
        }
        let ended = cluster.job(&["-H", "n1,n2", "--timeout", "1", "sleep", "1000"]).run();
        assert_eq!(ended.code, 124, "{ended:?}");
        cluster.wait_until_empty();
    });
}

/// Behaviour 25.
#[test]
fn jobs_on_the_same_hosts_do_not_meet() {
    on_hosts(1, |cluster| {
        let other = cluster.job(&["-H", "n1:1", "sleep", "1000"]).start();
        eventually("the other job runs", || cluster.running(1, "sleep") == 1);
        let ended = cluster.job(&["-H", "n1:2", "false"]).run();
        assert_eq!(ended.code, 1, "{ended:?}");
        assert_eq!(cluster.running(1, "sleep"), 1, "the other job goes on");
        other.signal(Signal::TERM);
        assert_eq!(other.wait().code, 143);
        cluster.wait_until_empty();
    });
}

#[test]
fn a_full_disk_ends_a_job_that_was_to_be_kept_there() {
    on_hosts(1, |cluster| {
        let directory = cluster.path("small").display().to_string();
        std::fs::create_dir(&directory).expect("a directory");
        let options = ["-H", "n1:2", "--output-filename", &directory];
        let job =
            cluster.script(&options, "head -c 1000000 /dev/zero | tr '\\0' x | fold; sleep 60");
        let mount = format!("mount -t tmpfs -o size=64k none {directory} && exec \"$0\" \"$@\"");
        let ended = job.under("unshare", &["--mount", "sh", "-c", &mount]).run();
        assert_eq!(ended.code, 125, "{}", ended.stderr);
        assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
        assert!(ended.stderr.contains("rank."), "{}", ended.stderr);
        cluster.wait_until_empty();
    });
}

#[test]
fn sixty_four_hosts_are_one_job() {
    on_hosts(64, |cluster| {
        let script = "echo $RANK on $(hostname); [ $RANK != 63 ] || exit 3; sleep 60";
        let ended =
            cluster.script(&["-H", "n[1-64]", "--no-prefix"], "echo $RANK on $(hostname)").run();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let mut expected: Vec<String> =
            (0..64).map(|rank| format!("{rank} on n{}", rank + 1)).collect();
        expected.sort();
        assert_eq!(ended.sorted_lines(), expected);
        let ended = cluster.script(&["-H", "n[1-64]"], script).run();
        assert_eq!(ended.code, 3, "{}", ended.stderr);
        assert!(ended.stderr.contains("rank 63"), "{}", ended.stderr);
        cluster.wait_until_empty();
    });
}

#[test]
fn stacks_come_from_the_hosts_where_the_ranks_are() {
    on_hosts(2, |cluster| {
        let options = ["-H", "n1,n2", "--timeout", "1", "--stacks-on-timeout", "--grace", "1"];
        let ended = cluster.job(&[&options[..], &["sleep", "1000"]].concat()).run();
        assert_eq!(ended.code, 124, "{ended:?}");
        for rank in ["rank 0 on n1 when time ran out", "rank 1 on n2 when time ran out"] {
            assert!(ended.stderr.contains(rank), "{ended:?}");
        }
        assert_eq!(ended.stderr.matches("(sleep) sleeps in ").count(), 2, "{ended:?}");
        cluster.wait_until_empty();
    });
}
