use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;

use paceline_launcher::{
    HostFacts, HostList, JobSpec, LocalRule, MapBy, Program, parse_rank_file, plan,
};
use paceline_rendezvous::RunId;

use super::*;

fn job(hosts: &str) -> JobSpec {
    let program = Program::Command("train".into());
    let arguments = vec!["--name".into(), "it's mine".into()];
    JobSpec {
        rank_count: None,
        hosts: HostList::parse(hosts).unwrap(),
        working_directory: "/work".into(),
        variables: vec![("A".into(), "b c".into()), ("HF_TOKEN".into(), "hf_x".into())],
        passed_on: ["NCCL_DEBUG", "PATH", "WANDB_API_KEY"]
            .map(|name| (name.into(), "1".into()))
            .into(),
        ..JobSpec::local(NonZeroU32::MIN, program, arguments)
    }
}

fn shown(job: &JobSpec) -> String {
    let facts = HostFacts {
        name: "node1".into(),
        addresses: vec![],
        local_rule: LocalRule::Own,
        cores: NonZeroUsize::new(8).unwrap(),
        framework_ports: [20_001, 20_002],
    };
    let environment: HashMap<String, String> = HashMap::new();
    let plan = plan(job, RunId::from_bytes([7; 16]), &facts, &environment).unwrap();
    text(&plan.summary(Some("/opt/paceline")))
}

/// The table of hosts alone, without its head and with single spaces.
fn table(job: &JobSpec) -> Vec<String> {
    let text = shown(job);
    let lines = text.lines().skip(3).take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_plan_for_this_host() {
    insta::assert_snapshot!(shown(&job("localhost:4")));
}

#[test]
fn a_plan_for_many_hosts_is_a_page() {
    let mut job = job("localhost:2,n[01-63]:@0+1+2+3,me@other:1");
    job.ssh.port = Some(2222);
    job.ssh.copy_binary = true;
    job.wrapper = "numactl --localalloc --".parse().ok();
    job.bind_to = BindTo::Numa;
    insta::assert_snapshot!(shown(&job));
}

#[test]
fn only_hosts_that_are_alike_are_one_row() {
    for (hosts, rows) in [
        ("n[8-11]", &["0-3 n[8-11] ssh 0; 1; … 3 0 - cores/1"][..]),
        ("n[08-09]:2", &["0-1 n[08-09] ssh 0-1; 2-3 0-1 - cores/2"]),
        ("10.0.0.[1-2].x", &["0-1 10.0.0.[1-2].x ssh 0; 1 0 - cores/1"]),
        ("r[1-2]n1", &["0-1 r[1-2]n1 ssh 0; 1 0 - cores/1"]),
        // Another number, another order, another user, other ranks, other devices.
        ("n1,n3", &["0 n1 ssh 0 0 - cores/1", "1 n3 ssh 1 0 - cores/1"]),
        ("n2,n1", &["0 n2 ssh 0 0 - cores/1", "1 n1 ssh 1 0 - cores/1"]),
        ("n9,n010", &["0 n9 ssh 0 0 - cores/1", "1 n010 ssh 1 0 - cores/1"]),
        ("n1,me@n2", &["0 n1 ssh 0 0 - cores/1", "1 me@n2 ssh 1 0 - cores/1"]),
        ("n1:2,n2", &["0 n1 ssh 0-1 0-1 - cores/2", "1 n2 ssh 2 0 - cores/1"]),
        ("n1:@0,n2:@1", &["0 n1 ssh 0 0 0 cores/1", "1 n2 ssh 1 0 1 cores/1"]),
        (
            "a:@GPU-7+GPU-2,node1:@3+1",
            &["0 a ssh 0-1 0-1 GPU-7, GPU-2 cores/2", "1 node1 this host 2-3 0-1 3, 1 4"],
        ),
    ] {
        assert_eq!(table(&job(hosts)), rows, "{hosts}");
    }
}

#[test]
fn ranks_in_turns_are_a_series() {
    let mut job = job("n[1-64]:8");
    job.map_by = MapBy::Node;
    let row = "0-63 n[1-64] ssh 0, 64, … 448; 1, 65, … 449; … 63, 127, … 511 0-7 - cores/8";
    assert_eq!(table(&job), [row]);
    let file = parse_rank_file("rank 0=a\nrank 1=a\nrank 2=b\nrank 3=a", Path::new("f")).unwrap();
    job.hosts = HostList::default();
    job.map_by = MapBy::RankFile(file);
    assert_eq!(table(&job), ["0 a ssh 0-1, 3 0-2 - cores/3", "1 b ssh 2 0 - cores/1"]);
}
