//! Data-parallel training from the first line to the last: a small network learns to read
//! handwritten digits on any number of ranks.
//!
//! ```text
//! cargo build --release -p paceline-examples
//! cargo run --release -- run -np 4 target/release/train
//! cargo run --release -- run -np 4 target/release/train --async
//! ```
//!
//! Every rank holds the whole network and a share of each batch. It computes the gradient of its
//! share; [`Communicator::all_reduce_fused`] adds the shares up; every rank takes the same step
//! with the same bits, so the networks never drift apart and never need to be compared. With
//! `--async` each tensor is submitted to a [`Queue`] as soon as the backward pass has finished it,
//! and travels while the pass goes on; the bits are the same. That is
//! all there is to it: what a program for one process has to add are the four numbered places
//! below. `network.rs` and `digits.rs` know nothing of ranks.
//!
//! The batch is that of the whole job, whatever the number of ranks, and its gradient is the
//! sum over all its samples. So N ranks follow the loss curve of one rank up to
//! the rounding of a sum in another order.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program that talks to its user")]

mod digits;
mod network;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use paceline_collectives::queue::{Queue, QueueError, QueueOptions};
use paceline_collectives::{Communicator, Context, ReduceOp};
use paceline_rendezvous::ProcessEnvironment;

use crate::digits::{Digits, Sample};
use crate::network::{Network, Random, TENSORS};

/// What all ranks must have in common.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// How often every training sample is seen.
    epochs: usize,
    /// Samples per step, of all ranks together.
    batch_size: usize,
    /// How far a step goes along the gradient.
    learning_rate: f32,
    /// Start of the random numbers: initial weights and the order of the samples.
    seed: u64,
}

const SETTINGS: Settings = Settings { epochs: 30, batch_size: 48, learning_rate: 0.5, seed: 7 };

/// How gradients are added up.
enum Manner {
    /// All at once, when the backward pass is over.
    Blocking,
    /// Each as soon as the backward pass has finished it.
    Queued(Queue),
}

/// How well the network did in one pass over the training samples.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// From 1.
    number: usize,
    /// Mean over all training samples, each seen just before its step.
    loss: f64,
}

fn main() -> ExitCode {
    paceline_examples::exit_code(run())
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_async = arguments.iter().any(|argument| argument == "--async");
    if let Some(argument) = arguments.iter().find(|argument| *argument != "--async") {
        bail!("unexpected argument {argument:?}: this program has no options but --async");
    }
    let digits = Digits::included().context("failed to read the digits")?;

    // (1) Find the other ranks. Under `paceline run` the environment says who we are and where
    // the others wait; started alone we are rank 0 of 1 and everything below still works.
    let context = Context::from_environment()?;
    let communicator = context.communicator()?;

    // Every rank works, one of them speaks.
    let speaks = communicator.rank() == 0;
    if speaks {
        println!(
            "{} training samples, {} ranks over {}",
            digits.training.len(),
            communicator.world_size(),
            context.carrier()
        );
    }
    let report = |epoch: &Epoch| {
        if speaks {
            println!("epoch {:2}   loss {:.7}", epoch.number, epoch.loss);
        }
    };
    let manner = if is_async {
        // It reads the settings that Horovod's users know, too.
        let options = QueueOptions::from_environment(&ProcessEnvironment)?;
        Manner::Queued(Queue::new(context.communicator()?, &options)?)
    } else {
        Manner::Blocking
    };
    let network = train(&communicator, &manner, &digits, &SETTINGS, report)?;

    let correct = count_correct(&communicator, &network, &digits.test)?;
    if speaks {
        let share = 100.0 * f64::from(correct) / as_f64(digits.test.len());
        println!("test accuracy {share:.2} % ({correct} of {})", digits.test.len());
    }
    Ok(())
}

/// Trains a network on all ranks of `communicator` and calls `report` after each epoch.
///
/// # Errors
/// If the ranks lose each other or disagree; then no rank is left waiting.
fn train(
    communicator: &Communicator,
    manner: &Manner,
    digits: &Digits,
    settings: &Settings,
    mut report: impl FnMut(&Epoch),
) -> anyhow::Result<Network> {
    let mut random = Random::new(settings.seed);

    // (2) Start from the same weights. Equal seeds would do here, but not where weights come from
    // a file that only one rank has: so rank 0 decides.
    let mut network = Network::zero();
    if communicator.rank() == 0 {
        network = Network::random(&mut Random::new(settings.seed));
    }
    for tensor in network.tensors_mut() {
        communicator.broadcast(tensor, 0).context("failed to share the initial weights")?;
    }

    // Every sample weighs the same, also those of the last, smaller batch.
    let rate = settings.learning_rate / as_f32(settings.batch_size);
    let mut order: Vec<usize> = (0..digits.training.len()).collect();
    for number in 1..=settings.epochs {
        // The same shuffle everywhere: all ranks draw the same random numbers.
        random.shuffle(&mut order);
        let mut loss = 0.0;
        for batch in order.chunks(settings.batch_size) {
            loss += step(communicator, manner, &mut network, digits, batch, rate)
                .with_context(|| format!("failed in epoch {number}"))?;
        }
        // Each rank has the loss of its own samples; the curve is about all of them.
        let mut total = [loss];
        communicator.all_reduce(&mut total, ReduceOp::Sum)?;
        report(&Epoch { number, loss: total[0] / as_f64(order.len()) });
    }
    Ok(network)
}

/// One step of gradient descent, by `rate` times the sum of the gradients of a whole batch.
/// Returns the loss of this rank's samples.
fn step(
    communicator: &Communicator,
    manner: &Manner,
    network: &mut Network,
    digits: &Digits,
    batch: &[usize],
    rate: f32,
) -> anyhow::Result<f64> {
    let samples = share(communicator, batch).map(|index| &digits.training[*index]);
    let mut gradient: [Vec<f32>; 4] = Default::default();

    // (3) Add up the gradients of all ranks. The sum and not the average of the ranks, because one
    // rank may have a sample more than another.
    let loss = match manner {
        Manner::Blocking => {
            // Four tensors, one operation.
            let loss = network.backward(samples, |place, tensor| gradient[place] = tensor);
            let mut tensors = gradient.each_mut().map(Vec::as_mut_slice);
            communicator.all_reduce_fused(&mut tensors, ReduceOp::Sum)?;
            loss
        }
        Manner::Queued(queue) => {
            let mut handles = Vec::new();
            let mut priority = 0;
            let loss = network.backward(samples, |place, tensor| {
                // What comes last is needed first by the next step: the first layer.
                let submitter = queue.priority(priority);
                priority += 1;
                let handle = submitter.all_reduce(TENSORS[place], tensor, ReduceOp::Sum);
                handles.push((place, handle));
            });
            for (place, handle) in handles {
                gradient[place] = handle.wait().map_err(QueueError::from)?;
            }
            loss
        }
    };

    network.descend(&gradient, rate);
    Ok(loss)
}

/// How many of the samples the network reads correctly. The ranks share the work, all get the
/// answer.
fn count_correct(
    communicator: &Communicator,
    network: &Network,
    samples: &[Sample],
) -> anyhow::Result<i32> {
    let mine =
        share(communicator, samples).filter(|sample| network.predict(sample) == sample.label);
    let mut correct = [i32::try_from(mine.count())?];

    // (4) Not only floats can be reduced.
    communicator.all_reduce(&mut correct, ReduceOp::Sum).context("failed to count")?;
    Ok(correct[0])
}

/// The items that this rank works on: every `world_size`-th one.
fn share<'a, T>(communicator: &Communicator, items: &'a [T]) -> impl Iterator<Item = &'a T> {
    let (rank, world_size) = (communicator.rank() as usize, communicator.world_size() as usize);
    items.iter().skip(rank).step_by(world_size)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of samples and neurons are far below 2^24")]
fn as_f32(count: usize) -> f32 {
    count as f32
}

#[expect(clippy::cast_precision_loss, reason = "numbers of samples are far below 2^53")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
