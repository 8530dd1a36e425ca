//! Ranks on several hosts: where they are, what they get, what becomes of their output.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use rustix::process::Signal;

use super::on_hosts;
use crate::support::eventually;

/// Behaviours 1 and 2: every rank once, packed by host, with the values of its place.
#[test]
fn every_rank_runs_once_and_knows_its_place() {
    on_hosts(2, |cluster| {
        let script = "echo $(hostname) $RANK $LOCAL_RANK/$LOCAL_WORLD_SIZE \
                      $HOROVOD_CROSS_RANK/$HOROVOD_CROSS_SIZE $WORLD_SIZE";
        let ended = cluster.script(&["-H", "n1:1,n2:2", "--no-prefix"], script).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.sorted_lines(), ["n1 0 0/1 0/2 3", "n2 1 0/2 1/2 3", "n2 2 1/2 0/1 3"]);
        cluster.wait_until_empty();
    });
}

#[test]
fn this_host_takes_part_and_ranks_reduce_across_hosts() {
    on_hosts(2, |cluster| {
        let program = env!("CARGO_BIN_EXE_paceline");
        let bench =
            format!("exec {program} bench all_reduce --sizes 4,1M --rounds 1 --check every");
        let ended = cluster.script(&["-H", "localhost:1,n1:1,n2:2"], &bench).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn frameworks_are_told_where_to_meet() {
    on_hosts(2, |cluster| {
        let script = "echo $MASTER_ADDR $MASTER_PORT";
        let ended = cluster.script(&["-H", "n1:1,n2:1", "--no-prefix"], script).run();
        let lines: BTreeSet<String> = ended.text().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 1, "{ended:?}");
        let port = lines.iter().find_map(|line| line.strip_prefix("10.78.0.1 ")?.parse().ok());
        assert!(port.is_some_and(|port: u16| (20_000..32_000).contains(&port)), "{ended:?}");
    });
}

/// Behaviours 31 to 33 and 39, over ssh.
#[test]
fn output_comes_whole_and_in_lines() {
    on_hosts(1, |cluster| {
        let script =
            "printf 'ä\\rno newline'; head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 99 >&2";
        let ended = cluster.script(&["-H", "n1:2"], script).run();
        assert_eq!(ended.code, 0);
        for rank in 0..2 {
            assert!(ended.text().contains(&format!("[{rank}] ä\r")), "{:?}", ended.text());
            assert!(ended.text().contains(&format!("[{rank}] no newline")), "{:?}", ended.text());
        }
        let bytes: usize = ended
            .stderr
            .lines()
            .filter_map(|line| line.split_once("] "))
            .map(|(_, x)| x.len())
            .sum();
        assert_eq!(bytes, 2 * 3_000_000);
    });
}

/// Behaviour 41.
#[test]
fn input_reaches_the_rank_that_it_is_for() {
    on_hosts(2, |cluster| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("input");
        fs::write(&path, "0123456789abcde\n".repeat(1 << 16)).expect("a file");
        let input = fs::File::open(&path).expect("it is there");
        let options = ["-H", "n1:1,n2:1", "--stdin", "1"];
        let job = cluster.script(&options, "echo $(hostname) $(cksum)");
        let ended = job.stdin(Stdio::from(input)).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        let sum = std::process::Command::new("cksum").arg(&path).output().expect("cksum").stdout;
        let sum = String::from_utf8(sum).expect("text");
        let words: Vec<&str> = sum.split(' ').take(2).collect();
        let expected = ["[0] n1 4294967295 0".to_owned(), format!("[1] n2 {}", words.join(" "))];
        assert_eq!(ended.sorted_lines(), expected);
    });
}

/// Behaviour 27.
#[test]
fn signals_reach_ranks_on_other_hosts() {
    on_hosts(2, |cluster| {
        let script = "trap 'echo got it; exit 0' USR1; echo ready; while :; do sleep 0.05; done";
        let running = cluster.script(&["-H", "n1:1,n2:1"], script).start();
        eventually("both ranks sleep", || {
            (1..=2).all(|number| cluster.running(number, "sleep") == 1)
        });
        running.signal(Signal::USR1);
        let ended = running.wait();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.text().matches("got it").count(), 2, "{ended:?}");
    });
}

/// Behaviour 10, for what does not come by itself on another host.
#[test]
fn variables_reach_other_hosts_by_rule() {
    on_hosts(1, |cluster| {
        let script = "echo $MINE,$NCCL_DEBUG,$UNKNOWN_ONE,$CUDA_VISIBLE_DEVICES,$TWO_A,$TWO_B";
        let options = ["-H", "n1", "--no-prefix", "-x", "MINE=a b", "-x", "TWO_*"];
        let job =
            cluster.script(&options, script).env("NCCL_DEBUG", "INFO").env("UNKNOWN_ONE", "1");
        let job = job.env("CUDA_VISIBLE_DEVICES", "3").env("TWO_A", "x").env("TWO_B", "y");
        let ended = job.run();
        assert_eq!(ended.text(), "a b,INFO,,,x,y\n", "{ended:?}");
        let job = cluster.script(&["-H", "n1", "--no-prefix", "--env-all"], script);
        let ended = job.env("UNKNOWN_ONE", "1").env("CUDA_VISIBLE_DEVICES", "3").run();
        assert_eq!(ended.text(), ",,1,,,\n", "{ended:?}");
    });
}

/// Programs believe it.
#[test]
fn the_directory_has_its_name_in_the_environment() {
    on_hosts(1, |cluster| {
        let directory = cluster.path("");
        let job = cluster.job(&["-H", "n1", "--no-prefix", "printenv", "PWD"]);
        let ended = job.directory(&directory).run();
        let directory = directory.canonicalize().expect("a directory");
        assert_eq!(ended.text().trim(), directory.to_str().expect("UTF-8"), "{ended:?}");
    });
}

#[test]
fn what_ranks_get_of_other_hosts_is_found_out_there() {
    on_hosts(2, |cluster| {
        let options = ["-H", "n1:2,n2:1", "--no-prefix", "--tf-config", "--bind-to", "numa"];
        let wrap = ["--wrap", "env WRAPPED={rank}"];
        let script = "echo $(hostname) $WRAPPED $TF_CONFIG";
        let ended = cluster.script(&[&options[..], &wrap].concat(), script).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        for (rank, host) in [(0, "n1"), (1, "n1"), (2, "n2")] {
            assert!(ended.text().contains(&format!("{host} {rank} {{")), "{ended:?}");
            assert!(ended.text().contains(&format!("\"index\":{rank}")), "{ended:?}");
        }
        assert!(ended.text().contains(r#"{"worker":["10.78.0.1:"#), "{ended:?}");
        assert!(ended.stderr.contains("processors on n1: local rank 0 to "), "{ended:?}");
        let refused = cluster.script(&["-H", "n1,n2:@0"], "sleep 60").run();
        assert_eq!(refused.code, 125, "{refused:?}");
        assert!(refused.stderr.contains("n2: GPU 0 was asked for"), "{refused:?}");
        let refused = cluster.script(&["-H", "n1,n2", "--wrap", "no-such"], "true").run();
        assert_eq!(refused.code, 127, "{refused:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn each_host_runs_the_programs_of_its_ranks_and_needs_no_others() {
    on_hosts(2, |cluster| {
        let own = cluster.launchers_own().join("only-here");
        std::os::unix::fs::symlink("/bin/echo", &own).expect("a link");
        let own = own.display().to_string();
        let script = "echo $RANK on $(hostname)";
        let words = ["-H", "localhost:1,n1:2", "--no-prefix", "-np", "1", &own, "0", "here", ":"];
        let words = [&words[..], &["-np", "2", "sh", "-c", script]].concat();
        let ended = cluster.job(&words).run();
        assert_eq!(ended.sorted_lines(), ["0 here", "1 on n1", "2 on n1"], "{ended:?}");
    });
}
