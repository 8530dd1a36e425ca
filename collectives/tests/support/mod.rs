//! Worlds whose ranks are threads of this process.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Communicator, Context, ContextOptions, Job, TransportChoice, TransportKind,
};
use paceline_rendezvous::coordinator::{Server, ServerConfig};
use paceline_rendezvous::hello::Identity;
use paceline_rendezvous::{ControlClient, RankInfo, Rendezvous, RunId, Secret};

/// How long a rank may take to find a coordinator that is there: longer than any machine needs.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `body` as every rank of a world, once all have their communicator, and returns what each
/// returned.
pub(crate) fn world<R: Send>(
    world_size: u32,
    options: &ContextOptions,
    body: impl Fn(&Communicator) -> R + Sync,
) -> Vec<R> {
    run(Job::in_process(world_size).unwrap(), options, together(world_size as usize, body))
}

/// The same before a communicator is made.
pub(crate) fn contexts<R: Send>(
    world_size: u32,
    options: &ContextOptions,
    body: impl Fn(&Context) -> R + Sync,
) -> Vec<R> {
    run(Job::in_process(world_size).unwrap(), options, body)
}

/// Runs `body` as every rank of a world whose rank r is on node `node_of[r]`.
pub(crate) fn nodes<R: Send>(
    node_of: &[u32],
    options: &ContextOptions,
    body: impl Fn(&Communicator) -> R + Sync,
) -> Vec<R> {
    run(Job::in_process_on(node_of).unwrap(), options, together(node_of.len(), body))
}

/// A rank may fail in `body` while another still agrees on the communicator, which would then end
/// with the first one's error.
fn together<R>(
    ranks: usize,
    body: impl Fn(&Communicator) -> R + Sync,
) -> impl Fn(&Context) -> R + Sync {
    let all_have_one = Barrier::new(ranks);
    move |context| {
        let communicator = context.communicator();
        all_have_one.wait();
        body(&communicator.unwrap())
    }
}

/// The same before a communicator is made.
pub(crate) fn node_contexts<R: Send>(
    node_of: &[u32],
    options: &ContextOptions,
    body: impl Fn(&Context) -> R + Sync,
) -> Vec<R> {
    run(Job::in_process_on(node_of).unwrap(), options, body)
}

/// The same for jobs that are there already.
pub(crate) fn run<R: Send>(
    jobs: Vec<Arc<Job>>,
    options: &ContextOptions,
    body: impl Fn(&Context) -> R + Sync,
) -> Vec<R> {
    thread::scope(|scope| {
        let ranks: Vec<_> = jobs
            .into_iter()
            .map(|job: Arc<Job>| {
                let body = &body;
                let run = move || body(&Context::new(&job, options).unwrap());
                thread::Builder::new().name("rank".to_owned()).spawn_scoped(scope, run).unwrap()
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Jobs of ranks in this process with a coordinator between them.
pub(crate) fn coordinated(world_size: u32) -> (Server, Vec<Arc<Job>>) {
    let (run_id, secret) = (RunId::random().unwrap(), Secret::random().unwrap());
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let config = ServerConfig::new(run_id, secret.clone(), world_size);
    let server = Server::start(local, config, |_| {}).unwrap();
    let address = server.local_addr();
    let job = |rank| {
        let identity = Identity { run_id, epoch: 0, rank, features: 0 };
        let deadline = Instant::now() + JOIN_TIMEOUT;
        let control = ControlClient::connect(address, identity, &secret, deadline).unwrap();
        let rank_info = RankInfo {
            rank,
            world_size,
            local_rank: rank,
            local_size: world_size,
            ..RankInfo::alone()
        };
        let secret = secret.clone();
        Job::from_rendezvous(Rendezvous::connected(rank_info, run_id, secret, control).unwrap())
    };
    let jobs = (0..world_size).map(job).collect();
    (server, jobs)
}

pub(crate) fn over(kind: TransportKind) -> ContextOptions {
    ContextOptions { transport: TransportChoice::Only(kind), ..ContextOptions::default() }
}

pub(crate) fn forced(kind: TransportKind, algorithm: Algorithm) -> ContextOptions {
    ContextOptions { algorithm: Some(algorithm), ..over(kind) }
}

/// Over TCP, over shared memory directly, and over messages in shared memory.
pub(crate) fn every_way() -> [ContextOptions; 3] {
    let messages = forced(TransportKind::Shm, Algorithm::Ring);
    [over(TransportKind::Tcp), over(TransportKind::Shm), messages]
}

/// Numbers whose sum depends on the order of addition.
pub(crate) fn uneven(rank: u32, at: usize) -> f32 {
    let bits = (u64::from(rank) * 1_000_003 + at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    let value = (bits >> 40) as f32;
    value * 1e-3 + 1e-6
}
