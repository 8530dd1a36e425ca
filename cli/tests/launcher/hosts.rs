//! Where ranks run: lists of hosts, hostfiles, rank files, and the order of ranks.

use std::fs;

use serde_json::Value;

use crate::support::Job;

/// Which rank a dry run puts where, as `HOST: RANK/LOCAL RANK …`.
fn places(json: &str) -> Vec<String> {
    let plan: Value = serde_json::from_str(json).expect("JSON and nothing else");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let host = |host: &Value| {
        let user = host["user"].as_str().map(|user| format!("{user}@")).unwrap_or_default();
        let rank = |rank: &Value| format!(" {}/{}", rank["rank"], rank["local_rank"]);
        let ranks: String = list(&host["ranks"]).iter().map(rank).collect();
        format!("{user}{}:{ranks}", host["host"].as_str().expect("a name"))
    };
    list(&plan["hosts"]).iter().map(host).collect()
}

fn dry_run(directory: &tempfile::TempDir, options: &[&str]) -> Vec<String> {
    let mut arguments = vec!["--dry-run", "--json", "-"];
    arguments.extend(options);
    arguments.push("true");
    let job = Job::new(&arguments).directory(directory.path()).run();
    assert_eq!(job.code, 0, "{options:?}: {}", job.stderr);
    places(&job.text())
}

fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

#[test]
fn hostfiles_are_read_and_lists_choose_among_them() {
    let text = "# mine\nh1 slots=2\nme@h2 slots=2 max_slots=4\n\nh[3-4]:1\n^h4\n";
    let directory = directory_with(&[("hosts", text)]);
    let all = ["h1: 0/0 1/1", "me@h2: 2/0 3/1", "h3: 4/0"];
    for option in ["--hostfile", "-hostfile", "--machinefile", "-machinefile"] {
        assert_eq!(dry_run(&directory, &[option, "hosts"]), all, "{option}");
    }
    let chosen = dry_run(&directory, &["--hostfile", "hosts", "-H", "h3,h1:1"]);
    assert_eq!(chosen, ["h3: 0/0", "h1: 1/0"]);
}

#[test]
fn ranks_are_dealt_as_asked() {
    let file = "rank 1=a slot=0\nrank 0=b\nrank 2=a\n";
    let directory = directory_with(&[("ranks", file)]);
    let dry = |options: &[&str]| dry_run(&directory, options);
    assert_eq!(dry(&["-H", "a:2,b:2", "--map-by", "node"]), ["a: 0/0 2/1", "b: 1/0 3/1"]);
    assert_eq!(dry(&["-np", "3", "-H", "a:2,b:2,c"]), ["a: 0/0 1/1", "b: 2/0"]);
    let left_out = Job::new(&["--dry-run", "-np", "1", "-H", "a,b", "true"]).run();
    assert!(left_out.stderr.contains("no rank is left for b"), "{}", left_out.stderr);
    let per_node = ["-H", "n[01-03]", "--nnodes", "2", "--nproc-per-node", "2"];
    assert_eq!(dry(&per_node), ["n01: 0/0 1/1", "n02: 2/0 3/1"]);
    assert_eq!(dry(&["--rank-file", "ranks"]), ["b: 0/0", "a: 1/0 2/1"]);
    let with_hosts = ["--rank-file", "ranks", "-H", "a,b"];
    assert_eq!(dry(&with_hosts), ["a: 1/0 2/1", "b: 0/0"]);
}

#[test]
fn ranks_on_this_machine_run_under_any_of_its_names() {
    let directory = directory_with(&[("hosts", "127.0.0.1 slots=1\n")]);
    let script = "echo $LOCAL_RANK/$LOCAL_WORLD_SIZE $HOROVOD_CROSS_RANK/$HOROVOD_CROSS_SIZE";
    let job = Job::script(&["-H", "localhost:2,127.0.0.1"], script).run();
    let lines = ["[0] 0/3 0/1", "[1] 1/3 0/1", "[2] 2/3 0/1"];
    assert_eq!(job.sorted_lines(), lines, "{}", job.stderr);
    assert!(job.stderr.contains("are all this machine: 3 slots"), "{}", job.stderr);
    let job = Job::script(&["--nproc-per-node", "2"], script).run();
    assert_eq!(job.sorted_lines(), ["[0] 0/2 0/1", "[1] 1/2 0/1"], "{}", job.stderr);
    let job = Job::script(&[], script).env("PACELINE_HOSTFILE", "hosts");
    let job = job.directory(directory.path()).run();
    assert_eq!(job.sorted_lines(), ["[0] 0/1 0/1"], "{}", job.stderr);
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let files = [
        ("hosts", "h1 slots=2\n"),
        ("bad", "h1 slots=two\nh2\nh3 sockets=4\n"),
        ("ranks", "rank 0=h1\nrank 0=h1\n"),
    ];
    let directory = directory_with(&files);
    for (options, said) in [
        (&["--hostfile", "bad"][..], "bad:1:4: \"two\" is not a number of slots\nbad:3:4: unknown"),
        (&["--hostfile", "absent"], "failed to read the hostfile absent"),
        (&["--hostfile", "hosts", "-H", "h2"], "host h2 is not in the hostfile"),
        (&["-np", "3", "--hostfile", "hosts"], "3 ranks do not fit into 2 slots"),
        (&["--rank-file", "ranks"], "ranks:2:6: rank 0 is placed twice, first in line 1"),
        (&["--rank-file", "ranks", "--map-by", "node"], "beside a rank file"),
        (&["-H", "a", "--map-by", "core"], "expected slot or node"),
        (&["-H", "a,b", "--nnodes", "3"], "3 hosts were asked for, and there are 2"),
        (&["-H", "a[1-"], "brackets"),
    ] {
        let mut arguments = options.to_vec();
        arguments.push("true");
        let job = Job::new(&arguments).directory(directory.path()).run();
        assert_eq!(job.code, 2, "{options:?}: {}", job.stderr);
        assert!(job.stderr.contains(said), "{options:?}: {}", job.stderr);
        assert_eq!(job.text(), "", "{options:?}");
    }
}
