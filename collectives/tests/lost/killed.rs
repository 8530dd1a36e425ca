//! A rank that is killed while all reduce large vectors.

use std::time::{Duration, Instant};

use paceline_rendezvous::env;
use rustix::process::Signal;

use super::{all_running, failure_of, site};

const WORLD_SIZE: u32 = 4;

/// The deadline of an operation.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A loaded machine's share of that.
const FAR_BELOW_TIMEOUT: Duration = Duration::from_secs(100);

fn kill(way: &str, victim: u32) {
    let case = format!("rank {victim} is killed, {way}");
    let site = site(way, WORLD_SIZE).with(&env::TIMEOUT, TIMEOUT.as_secs());
    let mut survivors = all_running(&site, "reduces and goes on");
    let mut dead = survivors.remove(victim as usize);
    dead.signal(Signal::KILL);
    let killed = Instant::now();
    assert!(!dead.end().success());
    for rank in &mut survivors {
        let failure = failure_of(rank);
        assert_eq!(failure.culprit, Some(victim), "{case}: {}", failure.text);
        assert!(failure.text.contains(&format!("rank {victim}")), "{case}: {}", failure.text);
        assert!(!failure.timed_out, "{case}: {}", failure.text);
    }
    assert!(killed.elapsed() < FAR_BELOW_TIMEOUT, "{case}: {:?}", killed.elapsed());
    for rank in &mut survivors {
        assert_eq!(rank.says("went on with "), "3", "{case}");
        rank.ends_well();
    }
}

#[test]
fn over_tcp_the_survivors_name_it_and_go_on_without_it() {
    [1, WORLD_SIZE - 1].into_iter().for_each(|victim| kill("tcp", victim));
}

#[test]
fn in_shared_memory_the_survivors_name_it_and_go_on_without_it() {
    [1, WORLD_SIZE - 1].into_iter().for_each(|victim| kill("shm", victim));
}

#[test]
fn on_two_nodes_the_survivors_name_it_and_go_on_without_it() {
    [1, WORLD_SIZE - 1].into_iter().for_each(|victim| kill("nodes", victim));
}

/// With rank 0 the coordinator goes, where no launcher has it.
#[test]
fn the_rank_that_runs_the_coordinator_is_named_as_any_other() {
    ["tcp", "shm", "nodes"].into_iter().for_each(|way| kill(way, 0));
}
