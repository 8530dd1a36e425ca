//! One rank of a soak: random operations, groups and queues, with every result checked, until the time
//! is up; `ci/soak` starts it under `paceline run`.
//!
//! usage: soak --seed N [--seconds N] [--fault none|kill|stop|mismatch]
//!
//! It works in eras, each with a context of its own. After each it counts what it holds: descriptors
//! and threads are the same as after the first, memory does not grow. With a fault it runs one era, in
//! which one rank dies, stops or disagrees, and every other must get an error.
//!
//! Exit code 0: all results were right and nothing is left over. 10: an operation failed, as it must
//! after a fault. 3: a result was wrong, something grew, or a rank got no error where it must.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
#![allow(clippy::cast_possible_truncation, reason = "hashes are cut to what is needed")]

#[path = "../../../../collectives/tests/proof/dice.rs"]
mod dice;
mod era;
mod holdings;
#[path = "../../../../collectives/tests/proof/task.rs"]
mod task;
#[path = "../../../../collectives/tests/proof/value.rs"]
mod value;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use paceline_collectives::{Context, ContextOptions, Job};
use paceline_rendezvous::ProcessEnvironment;

use era::{Era, Fault, Tally};
use holdings::Holdings;

/// What must never happen, whatever breaks.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Surprise(String);

struct Arguments {
    seed: u64,
    time: Duration,
    fault: Fault,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut parsed = Self { seed: 0, time: Duration::ZERO, fault: Fault::None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} without a value"))?;
            match name.as_str() {
                "--seed" => parsed.seed = value.parse()?,
                "--seconds" => parsed.time = Duration::from_secs(value.parse()?),
                "--fault" => parsed.fault = Fault::parse(&value)?,
                _ => bail!("unknown option {name}"),
            }
        }
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let outcome = Arguments::parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments));
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("soak: {error:#}");
    ExitCode::from(if error.is::<Surprise>() { 3 } else { 10 })
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { seed, time, fault } = *arguments;
    let options = ContextOptions::from_environment(&ProcessEnvironment)?;
    let job = Job::from_environment()?;
    let (start, mut tally) = (Instant::now(), Tally::default());
    let mut first: Option<Holdings> = None;
    for number in 0.. {
        let context = Context::new(&job, &options)?;
        let world = context.communicator()?;
        let over = start.elapsed() >= time;
        let held = Era::new(&context, &world, seed ^ number << 32, fault).run(over, &mut tally)?;
        drop((world, context));
        let Some(held) = held else { break };
        let now = Holdings::read(held)?;
        match &first {
            // Buffers and caches have their size after some eras.
            None if number == WARM_UP => first = Some(now),
            None => {}
            Some(first) => now.compare(first, number)?,
        }
    }
    if fault != Fault::None {
        bail!(Surprise(format!("WRONG: no error, though a rank had a fault ({fault:?})")));
    }
    let rank = job.rank_info().rank;
    let now = Holdings::read(0)?;
    let from = first.unwrap_or(now);
    if rank == 0 {
        println!("soak: seed {seed}, {tally}, {}", now.since(&from));
    }
    Ok(())
}

/// The first era after which what is held is compared.
const WARM_UP: u64 = 2;
