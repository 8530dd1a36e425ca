//! Queues under random use: hundreds of small runs, or as many as one likes, in which ranks submit tensors, groups and things
//! that differ, each in an order of its own, and join when they have nothing left.
//!
//! Every run follows from a seed, which a failure prints; `PACELINE_TEST_SEED` starts with another.

use std::time::Duration;

use paceline_collectives::queue::{Handle, Queue, QueueError, QueueOptions};
use paceline_collectives::{Compression, ContextOptions, ReduceOp};

use super::dice::Dice;
use super::support::{contexts, every_way};

const PATIENCE: Duration = Duration::from_secs(100);

/// Runs of each world over each way of communicating; `PACELINE_TEST_RUNS` says otherwise.
const RUNS: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Sum,
    Compressed,
    Max,
    Adasum,
    Group,
    Broadcast(u32),
    Gather,
    Scatter,
}

/// Something to submit: the same on all ranks, but for one that has it differently.
#[derive(Clone, Debug)]
struct Item {
    name: String,
    kind: Kind,
    length: usize,
    priority: i32,
    /// Ranks submit what comes before the end of their data.
    step: usize,
    /// Who submits another length.
    odd_one_out: Option<u32>,
}

/// A run as all ranks know it.
#[derive(Debug)]
struct Plan {
    items: Vec<Item>,
    /// After how many steps each rank has no more data.
    ends: Vec<usize>,
}

impl Plan {
    fn new(dice: &mut Dice, world_size: u32) -> Self {
        let ends: Vec<usize> = (0..world_size).map(|_| 1 + dice.roll(3)).collect();
        let item = |index: usize, dice: &mut Dice| {
            let kind = match dice.roll(9) {
                0 => Kind::Compressed,
                1 => Kind::Max,
                2 => Kind::Adasum,
                3 => Kind::Group,
                4 => Kind::Broadcast(u32::try_from(dice.roll(world_size as usize)).unwrap()),
                5 => Kind::Gather,
                6 => Kind::Scatter,
                _ => Kind::Sum,
            };
            let is_odd = kind != Kind::Gather && dice.roll(8) == 0;
            let odd = u32::try_from(dice.roll(world_size as usize)).unwrap();
            Item {
                // Few names, so that the cache knows them, also as something else.
                name: format!("tensor.{index}"),
                kind,
                length: [0, 1, 5, 40, 3000][dice.roll(5)],
                priority: [0, 0, 1, -1][dice.roll(4)],
                step: dice.roll(3),
                odd_one_out: is_odd.then_some(odd),
            }
        };
        let count = 1 + dice.roll(8);
        Self { items: (0..count).map(|index| item(index, dice)).collect(), ends }
    }

    fn submitters(&self, item: &Item) -> Vec<u32> {
        (0..).zip(&self.ends).filter(|(_, end)| **end > item.step).map(|(rank, _)| rank).collect()
    }

    /// Whether it fails on those who submit it.
    fn fails(&self, item: &Item) -> bool {
        let submitters = self.submitters(item);
        let lacks_root = matches!(item.kind, Kind::Broadcast(root) if !submitters.contains(&root));
        let disagrees =
            submitters.len() > 1 && item.odd_one_out.is_some_and(|odd| submitters.contains(&odd));
        disagrees || lacks_root
    }
}

/// What a rank contributes: small integers, so that all sums are exact, also in halves.
fn value(rank: u32, index: usize) -> f32 {
    f32::from(u16::try_from((index + 3 * rank as usize) % 7).unwrap()) + 1.0
}

fn data(rank: u32, length: usize) -> Vec<f32> {
    (0..length).map(|index| value(rank, index)).collect()
}

/// A submission under way.
enum Under {
    One(Handle<Vec<f32>>),
    Many(Handle<Vec<Vec<f32>>>),
}

fn submit(queue: &Queue, item: &Item) -> Under {
    let rank = queue.rank();
    let odd = item.odd_one_out == Some(rank);
    let data = data(rank, item.length + usize::from(odd));
    let (submitter, name) = (queue.priority(item.priority), &*item.name);
    match item.kind {
        Kind::Sum => Under::One(submitter.all_reduce(name, data, ReduceOp::Sum)),
        Kind::Compressed => {
            let halves = submitter.compression(Compression::Fp16);
            Under::One(halves.all_reduce(name, data, ReduceOp::Sum))
        }
        Kind::Max => Under::One(submitter.all_reduce(name, data, ReduceOp::Max)),
        Kind::Adasum => {
            // All the same: then the result is that, too.
            let data = vec![2.0; data.len()];
            Under::One(submitter.all_reduce_adasum(name, data))
        }
        Kind::Group => {
            let tensors = vec![data.clone(), data];
            Under::Many(submitter.all_reduce_group(name, tensors, ReduceOp::Sum))
        }
        Kind::Broadcast(root) => Under::One(submitter.broadcast(name, data, root)),
        Kind::Gather => Under::Many(submitter.all_gather_v(name, data)),
        Kind::Scatter => Under::One(submitter.reduce_scatter(name, data, ReduceOp::Sum)),
    }
}

/// Waits for the result, doing the queue's work meanwhile or leaving it to its thread.
fn result<B>(handle: Handle<B>, helps: bool) -> Result<B, QueueError> {
    let outcome = match helps {
        true => handle.wait(),
        false => handle.wait_timeout(PATIENCE).expect("the handle completes"),
    };
    outcome.map_err(|failed| failed.error)
}

fn outcome(under: Under, helps: bool) -> Result<Vec<Vec<f32>>, QueueError> {
    match under {
        Under::One(handle) => result(handle, helps).map(|data| vec![data]),
        Under::Many(handle) => result(handle, helps),
    }
}

/// What comes of an item that does not fail.
fn expected(plan: &Plan, item: &Item, rank: u32) -> Vec<Vec<f32>> {
    let (submitters, world_size) = (plan.submitters(item), plan.ends.len());
    // Alone, an odd one out has its way.
    let odd = usize::from(item.odd_one_out == submitters.first().copied() && submitters.len() == 1);
    let length = item.length + odd;
    let reduced = |combine: fn(f32, f32) -> f32| -> Vec<f32> {
        let of = |index| submitters.iter().map(|rank| value(*rank, index)).reduce(combine).unwrap();
        (0..length).map(of).collect()
    };
    let sum = || reduced(|a, b| a + b);
    match item.kind {
        Kind::Sum | Kind::Compressed => vec![sum()],
        Kind::Max => vec![reduced(f32::max)],
        Kind::Adasum => vec![vec![2.0; length]],
        Kind::Group => vec![sum(), sum()],
        Kind::Broadcast(root) => vec![data(root, length)],
        Kind::Gather => {
            let of =
                |rank: u32| if submitters.contains(&rank) { data(rank, length) } else { vec![] };
            (0..u32::try_from(world_size).unwrap()).map(of).collect()
        }
        Kind::Scatter => {
            let start = |rank: usize| rank * (length / world_size) + rank.min(length % world_size);
            let rank = rank as usize;
            vec![sum()[start(rank)..start(rank + 1)].to_vec()]
        }
    }
}

fn run(queue: &Queue, seed: u64) {
    let (rank, world_size) = (queue.rank(), queue.world_size());
    let mut dice = Dice(seed);
    let plan = Plan::new(&mut dice, world_size);
    let mut own = Dice(seed ^ (u64::from(rank) + 1) << 32);
    let mut mine: Vec<&Item> =
        plan.items.iter().filter(|item| plan.submitters(item).contains(&rank)).collect();
    own.shuffle(&mut mine);
    let mut under_way = Vec::new();
    for item in mine {
        under_way.push((item, submit(queue, item)));
        if own.roll(4) == 0 {
            std::thread::yield_now();
        }
    }
    let join = queue.join();
    own.shuffle(&mut under_way);
    for (item, under) in under_way {
        match outcome(under, own.roll(2) == 0) {
            Ok(results) => {
                assert!(!plan.fails(item), "seed {seed}: {item:?} in {plan:?} does not fail");
                let want = expected(&plan, item, rank);
                assert!(
                    results == want,
                    "seed {seed}, rank {rank}: {item:?} in {plan:?}: {results:?}"
                );
            }
            Err(error) => {
                let is_expected = plan.fails(item)
                    && matches!(error, QueueError::Mismatch { .. } | QueueError::Unjoinable { .. });
                assert!(is_expected, "seed {seed}, rank {rank}: {error}: {item:?} in {plan:?}");
            }
        }
    }
    let last = result(join, own.roll(2) == 0).unwrap();
    assert!(last < world_size, "seed {seed}");
}

#[expect(clippy::disallowed_methods, reason = "it is no setting of the product")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn runs(world_size: u32, context_options: &ContextOptions, first_seed: u64) {
    let options = QueueOptions {
        // Sometimes too small for what there is.
        cache_capacity: 6,
        fusion_threshold: [0, 10_000, 16 << 20][usize::try_from(first_seed % 3).unwrap()],
        ..QueueOptions::default()
    };
    contexts(world_size, context_options, |context| {
        let queue = Queue::new(context.communicator().unwrap(), &options).unwrap();
        (0..setting("PACELINE_TEST_RUNS").unwrap_or(RUNS))
            .for_each(|number| run(&queue, first_seed + 7 * number));
    });
}

#[test]
fn random_submissions_have_the_right_results() {
    let mut seed = setting("PACELINE_TEST_SEED").unwrap_or(1);
    for world_size in 2..=4 {
        for context_options in every_way() {
            runs(world_size, &context_options, seed);
            seed += 1_000_001;
        }
    }
}
