//! A rank that is stopped, for good or for a while.

use std::thread;
use std::time::Duration;

use paceline_rendezvous::env;
use rustix::process::Signal;

use super::{all_running, end_well, failure_of, site, until_running};

const WORLD_SIZE: u32 = 3;

/// How long a rank is slow: longer than anything but a deadline.
const SLOW: Duration = Duration::from_millis(2500);

/// How often ranks stand still.
const MOMENTS: usize = 200;

fn stop(way: &str, victim: u32, timeout: Duration) {
    let case = format!("rank {victim} is stopped, {way}, {timeout:?}");
    let site = site(way, WORLD_SIZE).with(&env::TIMEOUT, timeout.as_secs());
    let mut others = all_running(&site, "reduces");
    let mut stopped = others.remove(victim as usize);
    stopped.while_stopped(|| {
        for rank in &mut others {
            let failure = failure_of(rank);
            assert_eq!(failure.culprit, Some(victim), "{case}: {}", failure.text);
            assert!(failure.timed_out, "{case}: {}", failure.text);
            assert!(failure.text.contains(&format!("rank {victim}")), "{case}: {}", failure.text);
        }
    });
    let failure = failure_of(&mut stopped);
    assert!(!failure.text.is_empty(), "{case}");
    stopped.ends_well();
    others.iter_mut().for_each(|rank| rank.ends_well());
}

#[test]
fn the_others_name_it_at_their_deadline_and_it_fails_when_it_goes_on() {
    for way in ["tcp", "shm", "nodes"] {
        stop(way, 1, Duration::from_secs(5));
    }
}

/// Its silence is shorter than three heartbeats then.
#[test]
fn it_is_named_after_a_short_deadline_too() {
    for way in ["tcp", "shm", "nodes"] {
        stop(way, 2, Duration::from_secs(2));
    }
}

#[test]
fn a_stopped_coordinator_is_named_too() {
    for way in ["tcp", "shm", "nodes"] {
        stop(way, 0, Duration::from_secs(4));
    }
}

#[test]
fn a_rank_that_is_merely_slow_loses_nothing() {
    for way in ["tcp", "shm", "nodes"] {
        for victim in 0..WORLD_SIZE {
            let site = site(way, WORLD_SIZE);
            let mut ranks = all_running(&site, "reduces");
            ranks[victim as usize].while_stopped(|| thread::sleep(SLOW));
            assert!(ranks.iter_mut().all(|rank| rank.is_running()), "{way}, {victim}");
            end_well(&site, ranks);
        }
    }
}

/// Every wait of a start is interrupted then, also those that know nothing of signals.
#[test]
fn ranks_that_stand_still_for_moments_while_they_connect_lose_nothing() {
    for way in ["tcp", "shm", "nodes"] {
        let site = site(way, WORLD_SIZE);
        let mut ranks = site.start_all(|_| "makes contexts");
        until_running(&mut ranks);
        for moment in 0..MOMENTS {
            let rank = &ranks[moment % ranks.len()];
            rank.signal(Signal::STOP);
            thread::sleep(Duration::from_millis(1 + moment as u64 % 7));
            rank.signal(Signal::CONT);
            thread::sleep(Duration::from_millis(1 + moment as u64 % 5));
        }
        end_well(&site, ranks);
    }
}
