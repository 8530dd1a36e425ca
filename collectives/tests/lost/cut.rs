//! A link that is cut, for good or for a while: ranks in two network namespaces, with a pair of virtual
//! devices between them.

use std::thread;
use std::time::Duration;

use paceline_rendezvous::env;

use super::{end_well, failure_of, until_running};
use crate::processes::{HOST_ADDRESS, Rank, Site, in_a_network_of_its_own, run};

/// How long a link is down for a while.
const INTERRUPTED: Duration = Duration::from_secs(2);

/// Two ranks on this host and between them, in number, one on another.
fn all_running(transport: &str, timeout: Duration) -> (Site, Vec<Rank>) {
    let site = Site::on_nodes(&[0, 1, 0])
        .with(&env::TRANSPORT, transport)
        .with(&env::RENDEZVOUS, format_args!("{HOST_ADDRESS}:4000"))
        .with(&env::TIMEOUT, timeout.as_secs());
    let contained = site.start_contained(1, "reduces");
    let mut ranks = vec![site.start(0, "reduces"), contained, site.start(2, "reduces")];
    until_running(&mut ranks);
    (site, ranks)
}

fn cut(transport: &str) {
    in_a_network_of_its_own(|| {
        let (_site, mut ranks) = all_running(transport, Duration::from_secs(5));
        run("ip link set host down");
        for (rank, process) in ranks.iter_mut().enumerate() {
            let failure = failure_of(process);
            assert!(failure.timed_out, "rank {rank}: {}", failure.text);
            if rank == 1 {
                // It knows of nobody who is there.
                assert!(matches!(failure.culprit, Some(0 | 2)), "rank 1: {}", failure.text);
            } else {
                assert_eq!(failure.culprit, Some(1), "rank {rank}: {}", failure.text);
                assert!(failure.text.contains("unreachable"), "rank {rank}: {}", failure.text);
            }
        }
        ranks.iter_mut().for_each(Rank::ends_well);
    });
}

fn interrupt(transport: &str) {
    in_a_network_of_its_own(|| {
        let (site, ranks) = all_running(transport, Duration::from_secs(120));
        run("ip link set host down");
        thread::sleep(INTERRUPTED);
        run("ip link set host up");
        end_well(&site, ranks);
    });
}

#[test]
fn both_sides_fail_at_their_deadline_and_name_each_other() {
    cut("tcp");
}

/// In two levels: the ranks of one host work in shared memory.
#[test]
fn both_sides_of_an_operation_in_two_levels_fail_alike() {
    cut("auto");
}

#[test]
fn a_link_that_comes_back_in_time_loses_nothing() {
    interrupt("tcp");
    interrupt("auto");
}
