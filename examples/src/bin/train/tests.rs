//! The training with its ranks as threads of this process: N ranks learn what one rank learns.

use std::thread;

use paceline_collectives::{ContextOptions, Job};

use super::*;

/// What one rank ended with.
struct Learned {
    losses: Vec<f64>,
    network: Network,
    correct: i32,
}

impl Learned {
    fn bits(&self) -> (Vec<u32>, Vec<u64>, i32) {
        let tensors = self.network.clone().tensors_mut().concat();
        let weights = tensors.iter().map(|weight| weight.to_bits()).collect();
        let losses = self.losses.iter().map(|loss| loss.to_bits()).collect();
        (weights, losses, self.correct)
    }
}

fn learn(world_size: u32, settings: &Settings, is_async: bool) -> Vec<Learned> {
    let digits = Digits::included().unwrap();
    let jobs = Job::in_process(world_size).unwrap();
    thread::scope(|scope| {
        let rank = |job| {
            let digits = &digits;
            let run = move || {
                let context = Context::new(&job, &ContextOptions::default()).unwrap();
                let communicator = context.communicator().unwrap();
                let mut losses = Vec::new();
                let report = |epoch: &Epoch| losses.push(epoch.loss);
                let manner = if is_async {
                    let queued = context.communicator().unwrap();
                    Manner::Queued(Queue::new(queued, &QueueOptions::default()).unwrap())
                } else {
                    Manner::Blocking
                };
                let network = train(&communicator, &manner, digits, settings, report).unwrap();
                let correct = count_correct(&communicator, &network, &digits.test).unwrap();
                Learned { losses, network, correct }
            };
            thread::Builder::new().name("rank".to_owned()).spawn_scoped(scope, run).unwrap()
        };
        let ranks: Vec<_> = jobs.into_iter().map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn many_ranks_learn_what_one_rank_learns() {
    let settings = Settings { epochs: 8, ..SETTINGS };
    let alone = learn(1, &settings, false).remove(0);
    assert!(alone.losses[7] < alone.losses[0] / 4.0, "{:?}", alone.losses);
    // 3 divides neither the batch nor the samples.
    for world_size in [2, 3, 4] {
        let ranks = learn(world_size, &settings, false);
        for (one, many) in alone.losses.iter().zip(&ranks[0].losses) {
            let difference = ((one - many) / one).abs();
            assert!(difference < 1e-5, "{world_size} ranks: {many} instead of {one}");
        }
        // The ranks do not merely resemble each other: they have the same bits.
        let bits: Vec<_> = ranks.iter().map(Learned::bits).collect();
        assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{world_size} ranks drifted apart");
    }
}

#[test]
fn the_queue_changes_no_bit() {
    let settings = Settings { epochs: 2, ..SETTINGS };
    for world_size in [1, 3] {
        let of = |is_async| -> Vec<_> {
            learn(world_size, &settings, is_async).iter().map(Learned::bits).collect()
        };
        assert!(of(true) == of(false), "{world_size} ranks");
    }
}
