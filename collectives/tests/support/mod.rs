//! Worlds whose ranks are threads of this process.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::sync::Arc;
use std::thread;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Communicator, Context, ContextOptions, Job, TransportChoice, TransportKind,
};

/// Runs `body` as every rank of a world and returns what each returned.
pub(crate) fn world<R: Send>(
    world_size: u32,
    options: &ContextOptions,
    body: impl Fn(&Communicator) -> R + Sync,
) -> Vec<R> {
    contexts(world_size, options, |context| body(&context.communicator().unwrap()))
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
    node_contexts(node_of, options, |context| body(&context.communicator().unwrap()))
}

/// The same before a communicator is made.
pub(crate) fn node_contexts<R: Send>(
    node_of: &[u32],
    options: &ContextOptions,
    body: impl Fn(&Context) -> R + Sync,
) -> Vec<R> {
    run(Job::in_process_on(node_of).unwrap(), options, body)
}

fn run<R: Send>(
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
