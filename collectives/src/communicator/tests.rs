use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Server, ServerConfig};
use paceline_rendezvous::hello::Identity;
use paceline_rendezvous::{ControlClient, RankInfo, Rendezvous, RunId, Secret};
use paceline_transports::TransportKind;

use super::*;
use crate::context::{Context, ContextOptions, TransportChoice};
use crate::job::Job;

/// Two jobs in this process with a coordinator between them.
fn coordinated() -> (Server, [Arc<Job>; 2]) {
    let (run_id, secret) = (RunId::random().unwrap(), Secret::random().unwrap());
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server =
        Server::start(local, ServerConfig::new(run_id, secret.clone(), 2), |_| {}).unwrap();
    let jobs = [0, 1].map(|rank| {
        let identity = Identity { run_id, epoch: 0, rank, features: 0 };
        let deadline = Instant::now() + Duration::from_secs(60);
        let control =
            ControlClient::connect(server.local_addr(), identity, &secret, deadline).unwrap();
        let (world_size, local_size) = (2, 2);
        let place =
            RankInfo { rank, world_size, local_rank: rank, local_size, ..RankInfo::alone() };
        let rendezvous = Rendezvous::connected(place, run_id, secret.clone(), control);
        Job::from_rendezvous(rendezvous.unwrap())
    });
    (server, jobs)
}

/// An operation that panics on this rank.
fn panic_inside(communicator: &Communicator) {
    let mut state = communicator.enter(Collective::Barrier).unwrap();
    let name = communicator.name(&mut state, OperationKind::bare(Collective::Barrier));
    let _report =
        PanicReport { context: &communicator.context, members: &communicator.members, name };
    panic!("a bug, for the test");
}

#[test]
fn a_panic_ends_the_communicator_on_all_ranks() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let (_server, jobs) = coordinated();
        let options =
            ContextOptions { transport: TransportChoice::Only(kind), ..ContextOptions::default() };
        thread::scope(|scope| {
            for job in jobs {
                let options = &options;
                let run = move || {
                    let context = Context::new(&job, options).unwrap();
                    let communicator = context.communicator().unwrap();
                    if communicator.rank() == 0 {
                        let panics = AssertUnwindSafe(|| panic_inside(&communicator));
                        assert!(catch_unwind(panics).is_err());
                        let error = communicator.barrier().unwrap_err().to_string();
                        assert!(error.contains("an operation panicked"), "{error}");
                    } else {
                        let error = communicator.barrier().unwrap_err();
                        assert_eq!(error.culprit(), Some(0), "{error}");
                        let told = "barrier #0 failed on rank 0: it panicked";
                        assert!(error.to_string().contains(told), "{error}");
                    }
                };
                thread::Builder::new().spawn_scoped(scope, run).unwrap();
            }
        });
    }
}
