//! Jobs on hundreds of hosts: the launcher as it is, hosts that are played.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::thread;

use paceline_launcher::stage::{self, Heard, Play};
use paceline_launcher::{
    ExitCode, HostFacts, HostList, JobEvent, JobSpec, MapBy, Outcome, Program, RankOutcome,
    Verdict, plan,
};
use paceline_rendezvous::RunId;
use paceline_rendezvous::env::ProcessEnvironment;

/// Runs a job on so many hosts with two ranks each, dealt to them in turns. Returns also on which host
/// each rank was started.
fn run(hosts: u32, play: Play) -> (Outcome, Heard, BTreeMap<u32, String>) {
    let mut job =
        JobSpec::local(1.try_into().expect("not 0"), Program::Command("train".into()), Vec::new());
    job.rank_count = None;
    job.hosts = HostList::parse(&format!("node[1-{hosts}]:2")).expect("well formed");
    job.map_by = MapBy::Node;
    job.output.shown = Some("0".parse().expect("a list"));
    let facts = HostFacts::of_this_host().expect("ports are free");
    let run_id = RunId::random().expect("random numbers");
    let plan = plan(&job, run_id, &facts, &ProcessEnvironment).expect("sensible");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("stage");
    let listener = UnixListener::bind(&path).expect("a socket");
    let world_size = plan.world_size();
    let players = thread::Builder::new()
        .name("players".to_owned())
        .spawn(move || stage::play(listener, hosts, world_size, play))
        .expect("a thread");
    let mut started = BTreeMap::new();
    let outcome = stage::run_on_stage(plan, path, |event| {
        if let JobEvent::RankStarted { rank, host, .. } = event {
            started.insert(*rank, host.clone());
        }
    });
    let heard = players.join().expect("no panic").expect("sound orders");
    (outcome.expect("it is started"), heard, started)
}

#[test]
fn every_rank_is_started_on_its_host_and_ends() {
    let (outcome, heard, started) = run(256, Play::Success);
    assert_eq!(outcome.exit_code(), ExitCode::Success);
    assert_eq!((outcome.ranks.len(), heard.agents), (512, 256));
    for rank in 0..512 {
        assert_eq!(started.get(&rank), Some(&format!("node{}", rank % 256 + 1)), "rank {rank}");
    }
}

#[test]
fn the_first_failure_stops_the_ranks_of_all_hosts() {
    let (outcome, _, _) = run(64, Play::Failure);
    assert_eq!(outcome.exit_code(), ExitCode::Worker(1));
    let Verdict::RankFailed(failure) = &outcome.verdict else { panic!("{outcome:?}") };
    assert_eq!((failure.exit.rank, failure.host.as_str()), (0, "node1"));
    let others = &outcome.ranks[1..];
    assert!(others.iter().all(|rank| matches!(rank, RankOutcome::Stopped(_))), "{others:?}");
}

#[test]
fn what_a_host_is_told_does_not_depend_on_how_many_there_are() {
    let per_host = |hosts| {
        let (_, heard, _) = run(hosts, Play::Success);
        heard.bytes_max
    };
    let (few, many) = (per_host(8), per_host(200));
    // Numbers have a digit more here and there; pings come as time passes and have no body.
    assert!(many < few + few / 10, "{few} bytes among 8 hosts, {many} among 200");
}
