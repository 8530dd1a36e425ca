//! Every operation against its definition, over every way of communicating; and what becomes of them
//! when things break.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "hashes are cut to what is needed")]

mod canonical;
mod dice;
mod differential;
mod faults;
mod program;
#[path = "../support/mod.rs"]
mod support;
mod task;
mod value;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::simulated::SimulatedWorld;
use paceline_collectives::{Communicator, ContextOptions, TransportKind};
use paceline_transports::sim::{LinkProfile, SimConfig, SimNetwork};

/// Runs `body` as every rank, over a way of communicating, by an algorithm where it is applicable.
fn over(
    kind: TransportKind,
    world_size: u32,
    algorithm: Option<Algorithm>,
    body: impl Fn(&Communicator) + Sync,
) {
    if kind == TransportKind::Sim {
        let profile = LinkProfile { delay_ticks: 0..=2, ..LinkProfile::perfect() };
        let config = SimConfig { seed: 1, world_size, streams_per_peer: 2, profile };
        SimulatedWorld::new(SimNetwork::new(config))
            .algorithm(algorithm)
            .oversubscribed(world_size.is_multiple_of(2))
            .run(|context| body(&context.unwrap().communicator().unwrap()));
    } else {
        let options = ContextOptions { algorithm, ..support::over(kind) };
        support::world(world_size, &options, body);
    }
}

const EVERY_WAY: [TransportKind; 3] = [TransportKind::Sim, TransportKind::Tcp, TransportKind::Shm];
