//! Tests of whole plans.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;

use super::placement::RANKS_PER_HOST_MAX;
use super::summary::value_of;
use super::*;
use crate::hosts::HostList;
use crate::program::Program;
use crate::task::{MoreRanks, Task};

fn facts() -> HostFacts {
    HostFacts {
        name: "node1".into(),
        addresses: vec!["10.0.0.1".parse().expect("an address")],
        local_rule: LocalRule::Own,
        cores: NonZeroUsize::new(8).expect("not zero"),
        framework_ports: [20_001, 20_002],
    }
}

fn job(ranks: u32) -> JobSpec {
    let mut job = JobSpec::local(NonZeroU32::MIN, Program::Command("true".into()), vec![]);
    job.rank_count = NonZeroU32::new(ranks);
    job.working_directory = "/tmp".into();
    job
}

fn job_on(hosts: &str, ranks: u32) -> JobSpec {
    JobSpec { hosts: HostList::parse(hosts).expect("well formed"), ..job(ranks) }
}

fn make(job: &JobSpec) -> Result<LaunchPlan, PlanError> {
    let environment: HashMap<String, String> = HashMap::new();
    plan(job, RunId::from_bytes([7; 16]), &facts(), &environment)
}

/// Each host and what its ranks have of some variables, as `host: value/value value/value`.
fn table(plan: &LaunchPlan, names: &[&str]) -> Vec<String> {
    let rank = |rank: &RankConfig| {
        let values: Vec<String> =
            names.iter().map(|name| value_of(&rank.variables, name)).collect();
        values.join("/")
    };
    let node = |node: &NodePlan| {
        let ranks: Vec<String> = plan.config(node).ranks.iter().map(rank).collect();
        format!("{}: {}", node.host.host, ranks.join(" "))
    };
    plan.nodes.iter().map(node).collect()
}

#[test]
fn ranks_are_numbered_and_told_their_place() {
    let plan = make(&job(3)).expect("sensible");
    assert_eq!(plan.world_size(), 3);
    let places = table(&plan, &["PACELINE_RANK", "HOROVOD_LOCAL_RANK", "WORLD_SIZE"]);
    assert_eq!(places, ["node1: 0/0/3 1/1/3 2/2/3"]);
    let node = &plan.nodes[0];
    assert!(node.is_local && plan.common.divide_cores);
    assert_eq!(value_of(&plan.common.variables, "MASTER_ADDR"), "127.0.0.1");
    assert_eq!(value_of(&plan.common.variables, "MASTER_PORT"), "20001");
    assert_eq!(plan.notices.len(), 1);
    assert!(plan.notices[0].starts_with("OMP_NUM_THREADS=2 for each rank (8 cores, 3 ranks"));
}

#[test]
fn every_host_has_a_plan_with_the_places_of_its_ranks() {
    let plan = make(&job_on("h1:2,localhost:4,me@h3:1", 0)).expect("sensible");
    let ours = ["RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PACELINE_NODE_RANK"];
    assert_eq!(
        table(&plan, &ours),
        ["h1: 0/0/2/0 1/1/2/0", "node1: 2/0/4/1 3/1/4/1 4/2/4/1 5/3/4/1", "h3: 6/0/1/2"]
    );
    let cross = ["HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE", "PACELINE_NODE_COUNT"];
    assert_eq!(
        table(&plan, &cross),
        ["h1: 0/3/3 0/2/3", "node1: 1/3/3 1/2/3 0/1/3 0/1/3", "h3: 2/3/3"]
    );
    let local: Vec<bool> = plan.nodes.iter().map(|node| node.is_local).collect();
    assert_eq!(local, [false, true, false]);
    assert_eq!(plan.nodes[2].host.user.as_deref(), Some("me"));
    // Where they meet is known when their agents have said what they are like.
    assert_eq!(value_of(&plan.common.variables, "MASTER_ADDR"), "");
    assert!(plan.notices[0].contains("the cores of its host"), "{:?}", plan.notices);
}

#[test]
fn ranks_in_turns_and_devices() {
    let mut job = job_on("a:@2+GPU-7,b:@0+1", 3);
    job.map_by = MapBy::Node;
    let plan = make(&job).expect("sensible");
    assert_eq!(
        table(&plan, &["RANK", "PACELINE_DEVICE"]),
        ["a: 0/local:2 2/local:GPU-7", "b: 1/local:0"]
    );
}

#[test]
fn slots_limit_and_supply_the_count() {
    let with = |hosts: &str, ranks| make(&job_on(hosts, ranks)).map(|plan| plan.world_size());
    assert_eq!(with("localhost:4", 0), Ok(4));
    assert_eq!(with("localhost:4", 2), Ok(2));
    assert_eq!(with("localhost", 0), Ok(1));
    assert_eq!(with("other:2,third", 0), Ok(3));
    let refused = PlacementError::TooFewSlots { rank_count: 3, slots: 2 };
    assert_eq!(with("localhost:2", 3), Err(refused.into()));
    assert_eq!(make(&job(0)).map(|plan| plan.world_size()), Err(PlanError::NoRankCount));
}

#[test]
fn all_names_of_this_machine_are_one_host() {
    let plan = make(&job_on("localhost:2,b,127.0.0.1:2,10.0.0.1", 0)).expect("sensible");
    assert_eq!(table(&plan, &["RANK"]), ["node1: 0 1 2 3 4", "b: 5"]);
    assert_eq!(plan.notices[0], "localhost, 127.0.0.1, 10.0.0.1 are all this machine: 5 slots");
    let error = make(&job_on("localhost:@0,127.0.0.1:@0", 0)).expect_err("one device twice");
    assert!(error.to_string().starts_with("localhost, 127.0.0.1 are all this machine"));
    assert!(error.hint().is_some());
    // Logging in as somebody is no name of this machine.
    let plan = make(&job_on("localhost,me@127.0.0.1", 0)).expect("sensible");
    assert_eq!(plan.nodes.len(), 2);
    assert!(!plan.nodes[1].is_local);
}

#[test]
fn one_machine_can_stand_for_several_hosts() {
    let facts = HostFacts { local_rule: LocalRule::NamesOnly, ..facts() };
    let environment: HashMap<String, String> = HashMap::new();
    let job = job_on("localhost:1,127.0.0.2:2,127.0.0.3", 0);
    let plan = plan(&job, RunId::from_bytes([7; 16]), &facts, &environment).expect("sensible");
    assert_eq!(table(&plan, &["RANK"]), ["node1: 0", "127.0.0.2: 1 2", "127.0.0.3: 3"]);
    assert!(plan.nodes[0].is_local && !plan.nodes[1].is_local && !plan.nodes[2].is_local);
}

#[test]
fn hosts_without_ranks_are_left_out_with_a_notice() {
    let plan = make(&job_on("a:2,b:2,c:2,d", 3)).expect("sensible");
    assert_eq!(table(&plan, &["RANK", "GROUP_WORLD_SIZE"]), ["a: 0/2 1/2", "b: 2/2"]);
    assert_eq!(plan.notices[0], "no rank is left for c, d");
    let plan = make(&job_on("n[1-20]", 1)).expect("sensible");
    assert_eq!(plan.notices[0], "no rank is left for 19 of the hosts");
}

#[test]
fn so_many_hosts_with_so_many_ranks() {
    let with = |hosts: &str, nodes, per_host, ranks| {
        let mut job = if hosts.is_empty() { job(ranks) } else { job_on(hosts, ranks) };
        job.host_count = NonZeroU32::new(nodes);
        job.ranks_per_host = NonZeroU32::new(per_host);
        make(&job).map(|plan| table(&plan, &["RANK"]).join(", "))
    };
    assert_eq!(with("a,b,c", 2, 2, 0), Ok("a: 0 1, b: 2 3".into()));
    assert_eq!(with("a,localhost:2,c", 1, 0, 0), Ok("a: 0".into()));
    assert_eq!(with("", 0, 3, 0), Ok("node1: 0 1 2".into()));
    assert_eq!(with("", 1, 3, 2), Ok("node1: 0 1".into()));
    let too_few = PlacementError::TooFewSlots { rank_count: 4, slots: 3 };
    assert_eq!(with("", 1, 3, 4), Err(too_few.into()));
    assert_eq!(with("a,b", 3, 0, 0), Err(PlanError::TooFewHosts { wanted: 3, hosts: 2 }));
    assert_eq!(with("", 2, 1, 0), Err(PlanError::TooFewHosts { wanted: 2, hosts: 1 }));
}

#[test]
fn a_rank_file_names_hosts_and_counts_ranks() {
    let with = |file: &str, hosts: &str| {
        let file = parse_rank_file(file, Path::new("f")).expect("well formed");
        let mut job = if hosts.is_empty() { job(0) } else { job_on(hosts, 0) };
        job.map_by = MapBy::RankFile(file);
        make(&job)
    };
    let plan = with("rank 0=b\nrank 1=localhost\nrank 2=b", "").expect("sensible");
    assert_eq!(table(&plan, &["RANK", "LOCAL_RANK"]), ["b: 0/0 2/1", "node1: 1/0"]);
    let plan = with("rank 0=b slot=1\nrank 1=10.0.0.1", "localhost,b").expect("sensible");
    assert_eq!(table(&plan, &["RANK", "GROUP_RANK"]), ["node1: 1/0", "b: 0/1"]);
    assert!(plan.notices[0].contains("not bound to cores"));
    assert_eq!(plan.nodes[plan.first_node()].host.host, "b");
    assert!(matches!(with("rank 0=x", "a"), Err(PlanError::Placement(_))));
}

#[test]
fn absurd_numbers_of_ranks_are_refused_before_memory_is_taken_for_them() {
    let refused = make(&job(u32::MAX)).map(|plan| plan.world_size());
    let too_many = PlacementError::TooManyRanks { rank_count: u64::from(u32::MAX) };
    assert_eq!(refused, Err(too_many.into()));
    assert!(make(&job(RANKS_PER_HOST_MAX + 1)).is_err());
    assert!(make(&job(RANKS_PER_HOST_MAX)).is_ok());
}

#[test]
fn identities_cannot_be_set_by_hand_and_frameworks_variables_can() {
    let with = |name: &str| {
        let variables = vec![(name.into(), "5".into())];
        make(&JobSpec { variables, ..job(1) })
    };
    assert!(matches!(with("RANK"), Err(PlanError::IdentityVariable { .. })));
    let plan = with("MASTER_PORT").expect("allowed");
    let last = plan.common.variables.last().cloned();
    assert_eq!(last, Some(("MASTER_PORT".into(), "5".into())));
}

#[test]
fn a_thread_count_that_is_set_is_kept() {
    let variables = vec![("OMP_NUM_THREADS".into(), "3".into())];
    let plan = make(&JobSpec { variables, ..job(1) }).expect("sensible");
    assert!(plan.notices.is_empty() && !plan.common.divide_cores);
    let environment = HashMap::from([("OMP_NUM_THREADS", "3")]);
    let plan = plan_with(&environment);
    assert!(plan.notices.is_empty() && plan.common.divide_cores);
}

fn plan_with(environment: &HashMap<&str, &str>) -> LaunchPlan {
    plan(&job(1), RunId::from_bytes([7; 16]), &facts(), environment).expect("sensible")
}

#[test]
fn standard_input_needs_a_rank() {
    let stdin = StdinTarget::Rank(2);
    let refused = make(&JobSpec { stdin, ..job_on("a,b", 0) }).map(|plan| plan.world_size());
    assert_eq!(refused, Err(PlanError::StdinRank { rank: 2, world_size: 2 }));
}

#[test]
fn a_summary_has_what_each_host_would_do() {
    let mut job = job_on("me@a:@0+3,localhost:1", 0);
    job.task.arguments = vec!["a b".into()];
    job.variables = vec![("A".into(), "b".into()), ("HF_TOKEN".into(), "hf_x".into())];
    job.passed_on = vec![("WANDB_API_KEY".into(), "w".into())];
    let summary = make(&job).expect("sensible").summary(Some("/opt/paceline"));
    assert_eq!((summary.world_size, summary.working_directory.as_str()), (3, "/tmp"));
    assert_eq!(summary.command, ["true", "a b"]);
    assert_eq!(summary.passed_on, ["WANDB_API_KEY"]);
    let [a, here] = &summary.hosts[..] else { panic!("{summary:?}") };
    assert_eq!((a.user.as_deref(), a.host.as_str(), a.is_this_host), (Some("me"), "a", false));
    let ssh = a.ssh.as_deref().expect("another host");
    assert_eq!((ssh[0].as_str(), ssh[ssh.len() - 2].as_str()), ("ssh", "a"));
    assert!(ssh[ssh.len() - 1].ends_with("'/opt/paceline'"), "{ssh:?}");
    assert_eq!((a.omp_num_threads.as_deref(), here.ssh.as_deref()), (Some("cores/2"), None));
    assert_eq!((here.host.as_str(), here.omp_num_threads.as_deref()), ("node1", Some("8")));
    let places = a.ranks.iter().map(|rank| (rank.rank, rank.local_rank, rank.device.as_str()));
    assert_eq!(places.collect::<Vec<_>>(), [(0, 0, "local:0"), (1, 1, "local:3")]);
    let text = serde_json::to_string(&summary).expect("plain data");
    assert!(!text.contains("hf_x") && !text.contains("\"w\""), "secrets: {text}");
    assert!(!text.contains("PACELINE_RUN_ID"), "the plan is the same each time: {text}");
}

#[test]
fn a_job_of_this_host_passes_nothing_on_and_a_copy_is_known_later() {
    let mut job = job(2);
    job.passed_on = vec![("NCCL_DEBUG".into(), "INFO".into())];
    job.task.program = Program::Module("pkg".into());
    let summary = make(&job).expect("sensible").summary(None);
    assert_eq!(summary.passed_on, [""; 0]);
    assert_eq!(summary.command, ["python3", "-m", "pkg"]);
    job.wrapper = "nsys -o 'a {rank}'".parse().ok();
    job.bind_to = BindTo::Core;
    let plan = make(&job).expect("sensible");
    assert_eq!(plan.command_line(), "nsys -o 'a {rank}' python3 -m pkg");
    let summary = plan.summary(None);
    assert_eq!(summary.wrapper, ["nsys", "-o", "a {rank}"]);
    assert_eq!(summary.hosts[0].omp_num_threads.as_deref(), Some("own cores"));
    let mut job = job_on("a", 0);
    job.ssh.copy_binary = true;
    let summary = make(&job).expect("sensible").summary(Some("/opt/paceline"));
    assert!(summary.copies_binary);
    let ssh = summary.hosts[0].ssh.as_deref().unwrap_or_default();
    assert_eq!(ssh.last().map(String::as_str), Some("exec 'COPY' agent"));
}

#[test]
fn the_last_ranks_run_other_programs() {
    let more = |count, name: &str| MoreRanks {
        count: NonZeroU32::new(count).expect("not zero"),
        task: Task::new(Program::Command(name.into()), vec![]),
    };
    let mut job = job_on("a:2,b:4", 6);
    job.others = vec![more(2, "second"), more(1, "third")];
    let plan = make(&job).expect("sensible");
    let ranks = plan.nodes.iter().flat_map(|node| plan.config(node).ranks);
    let tasks: Vec<usize> = ranks.map(|rank| rank.task).collect();
    assert_eq!(tasks, [0, 0, 0, 1, 1, 2]);
    assert_eq!(plan.command_line(), "true : second : third");
    assert_eq!(plan.summary(None).other_commands[0].ranks, [3, 4]);
    job.rank_count = NonZeroU32::new(3);
    assert!(matches!(make(&job), Err(PlanError::NoFirstRanks { world_size: 3, others: 3 })));
    job.others[0].task.variables = vec![("RANK".into(), "7".into())];
    assert!(matches!(make(&job), Err(PlanError::IdentityVariable { .. })));
}
