//! The smallest program: find the others, meet them, add one number up.
//!
//! ```text
//! paceline run -np 4 target/release/hello
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program that talks to its user")]

use std::process::ExitCode;

use paceline_collectives::{Context, ReduceOp};

fn main() -> ExitCode {
    paceline_examples::exit_code(hello())
}

fn hello() -> anyhow::Result<()> {
    // Reads who we are from the environment that the launcher has set up, and connects to the
    // other ranks. Started without a launcher, this is a world of one.
    let context = Context::from_environment()?;
    let communicator = context.communicator()?;
    let (rank, world_size) = (communicator.rank(), communicator.world_size());
    println!("hello from rank {rank} of {world_size}, over {}", context.carrier());
    if rank == 0
        && let Some(reason) = context.fallback()
    {
        println!("{reason}");
    }

    // Nobody passes before all have come.
    communicator.barrier()?;

    // Every rank brings a vector of the same length and gets the sum of all vectors, in place.
    let mut numbers = [i64::from(rank) + 1];
    communicator.all_reduce(&mut numbers, ReduceOp::Sum)?;
    if rank == 0 {
        println!("1 + … + {world_size} = {}", numbers[0]);
    }
    Ok(())
}
