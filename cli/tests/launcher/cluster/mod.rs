//! `paceline run` and `paceline doctor` on several hosts, through real sshd. Where no such hosts can be made the tests pass
//! and say on standard error that they were skipped; `ci/test` says so, too.

mod examining;
mod failing;
mod hosts;
mod networks;
mod reaching;
mod running;

use hosts::Cluster;

/// Runs a test on a cluster, if there can be one.
fn on_hosts(count: usize, test: impl FnOnce(&Cluster)) {
    if let Some(cluster) = Cluster::of(count) {
        test(&cluster);
    }
}
