//! Processes that claim a place in a job that is not theirs: started twice, restarted, or left from an
//! older job.

use std::net::{Ipv4Addr, TcpListener};

use paceline_rendezvous::env;
use rustix::process::Signal;

use super::{all_running, end_well, failure_of, until_running};
use crate::processes::{Rank, Site, secret_file};

const WORLD_SIZE: u32 = 3;

/// An address that nobody listens at.
pub(super) fn free_address() -> String {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string()
}

/// What a process is told that comes as a rank, with a variable of its own, and what it could do.
fn turned_away(site: &Site, rank: u32, variable: Option<(&str, &str)>) -> (String, String) {
    let mut command = site.rank(rank, "reduces");
    command.envs(variable);
    let mut process = Rank::start(command);
    let told = (process.says("refused: "), process.says("hint: "));
    process.ends_well();
    told
}

#[test]
fn they_are_told_why_not_and_the_job_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let other_secret = secret_file(directory.path(), "other", "a5");
    let other_secret = other_secret.to_str().unwrap();
    for transport in ["tcp", "shm"] {
        let site = Site::new(WORLD_SIZE)
            .with(&env::TRANSPORT, transport)
            .with(&env::RENDEZVOUS, free_address())
            .with(&env::RUN_ID, "5c".repeat(16))
            .with(&env::EPOCH, 7);
        let ranks = all_running(&site, "reduces");
        let second = turned_away(&site, 1, None);
        assert!(
            second.0.contains("another process has connected as this rank already"),
            "{second:?}"
        );
        assert!(second.1.contains("two processes have the same rank"), "{second:?}");
        let second = turned_away(&site, 0, None);
        assert!(second.0.contains("failed to listen on 127.0.0.1:"), "{second:?}");
        assert!(second.1.contains("another rank 0 runs"), "{second:?}");
        let older = turned_away(&site, 1, Some((env::EPOCH.name, "6")));
        assert!(older.0.contains("the peer is in epoch 7, this process in epoch 6"), "{older:?}");
        assert!(older.1.contains("the job was restarted"), "{older:?}");
        let stranger = turned_away(&site, 1, Some((env::SECRET_FILE.name, other_secret)));
        assert!(stranger.0.contains("could not prove that it knows the secret"), "{stranger:?}");
        assert!(stranger.1.contains("PACELINE_SECRET_FILE"), "{stranger:?}");
        let run_id = "c5".repeat(16);
        let other_run = turned_away(&site, 1, Some((env::RUN_ID.name, &run_id)));
        assert!(other_run.0.contains("the peer belongs to run 5c5c"), "{other_run:?}");
        end_well(&site, ranks);
    }
}

/// While the ranks meet in a directory, in which rank 0 has left its address.
#[test]
fn they_do_not_disturb_a_job_that_begins() {
    let site = Site::new(WORLD_SIZE).with(&env::TRANSPORT, "tcp");
    let mut first = [0, 1].map(|rank| site.start(rank, "reduces"));
    first.iter_mut().for_each(|rank| drop(rank.says("joined")));
    let second = turned_away(&site, 1, None);
    assert!(second.0.contains("another process has connected as this rank already"), "{second:?}");
    let second = turned_away(&site, 0, Some((env::START_TIMEOUT.name, "1")));
    assert!(second.0.contains("another rank 0 waits for the ranks of the job in "), "{second:?}");
    assert!(second.1.contains("two processes have rank 0"), "{second:?}");
    let mut ranks: Vec<Rank> = first.into_iter().chain([site.start(2, "reduces")]).collect();
    until_running(&mut ranks);
    end_well(&site, ranks);
}

#[test]
fn a_rank_that_is_started_again_is_told_that_it_is_too_late() {
    let site =
        Site::new(WORLD_SIZE).with(&env::TRANSPORT, "tcp").with(&env::RENDEZVOUS, free_address());
    let mut ranks = all_running(&site, "reduces and stays");
    ranks[1].signal(Signal::KILL);
    for rank in [0, 2] {
        let failure = failure_of(&mut ranks[rank]);
        assert_eq!(failure.culprit, Some(1), "{}", failure.text);
    }
    let again = turned_away(&site, 1, None);
    assert!(again.0.contains("this rank has been in the job before and is gone"), "{again:?}");
    assert!(again.1.contains("start the job again"), "{again:?}");
    ranks.remove(1);
    ranks.iter_mut().for_each(|rank| rank.tell("enough"));
    ranks.iter_mut().for_each(Rank::ends_well);
}
