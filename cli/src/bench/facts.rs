//! What each rank tells about itself, so that the record says on what it was measured.

use std::collections::BTreeMap;
use std::time::Instant;

use paceline_benches::machine::read_machine;
use paceline_benches::schema::{Machine, RankFacts};
use paceline_collectives::Job;
use paceline_rendezvous::env::{self, Environment, Variable};
use serde::{Deserialize, Serialize};

use super::session::BenchError;

/// Settings that change results; none of them can hold a secret. The transport is in each result.
const RECORDED: [Variable; 8] = [
    env::ALGORITHM,
    env::SOCKETS,
    env::CHECKSUM,
    env::INTERFACE,
    env::PORT_RANGE,
    env::TIMEOUT,
    env::START_TIMEOUT,
    env::FUSION_THRESHOLD,
];

/// What one rank publishes.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    rank: RankFacts,
    machine: Machine,
}

/// The machines, each once, and the ranks of the job.
pub(super) fn exchange(
    job: &Job,
    environment: &impl Environment,
    deadline: Instant,
) -> Result<(Vec<Machine>, Vec<RankFacts>), BenchError> {
    let info = job.rank_info();
    let store = &job.rendezvous().store;
    let machine = read_machine(recorded(environment));
    let rank = RankFacts {
        rank: info.rank,
        host: machine.host.clone(),
        pid: std::process::id(),
        device: info.device.to_string(),
    };
    let key = |rank: u32| format!("bench/{}/card/{rank}", info.epoch);
    let text = serde_json::to_vec(&Card { rank, machine }).expect("a card is plain data");
    store.set(&key(info.rank), &text).map_err(BenchError::Publish)?;
    let mut machines: Vec<Machine> = Vec::new();
    let mut ranks = Vec::new();
    for peer in 0..info.world_size {
        let text = store
            .get(&key(peer), deadline)
            .map_err(|source| BenchError::Absent { peer, source })?;
        let card: Card =
            serde_json::from_slice(&text).map_err(|source| BenchError::Card { peer, source })?;
        if machines.iter().all(|known| known.host != card.machine.host) {
            machines.push(card.machine);
        }
        ranks.push(card.rank);
    }
    Ok((machines, ranks))
}

fn recorded(environment: &impl Environment) -> BTreeMap<String, String> {
    let value = |variable: &Variable| {
        let text = variable.text(environment).ok().flatten()?;
        Some((variable.name.to_owned(), text))
    };
    RECORDED.iter().filter_map(value).collect()
}
