//! Real failures of real processes: ranks that are killed, stopped, slow, cut off, started twice or
//! harassed while they reduce large vectors.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone, with a role.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/processes.rs"]
mod processes;

mod cut;
mod killed;
mod stopped;
mod strangers;
mod twice;

use std::fs;
use std::thread;
use std::time::Duration;

use paceline_collectives::{
    CollectiveError, Communicator, Context, ContextOptions, Job, ReduceOp, SetupError,
};
use paceline_rendezvous::{BootstrapOptions, ProcessEnvironment, RankInfo, bootstrap, env};
use processes::{Rank, Site, directory, place, role, say, with_causes};
use serde_json::Value;

/// Elements of a vector: 4 MiB, of which every step of an operation moves hundreds of kilobytes.
const COUNT: usize = 1 << 20;

/// What the test leaves in the directory when ranks shall come to an end.
const END: &str = "end";

/// How long a buffer is watched that nobody may write to any more.
const WATCHED: Duration = Duration::from_millis(50);

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    let Some(role) = role() else { return };
    let context = match join() {
        Ok(context) => context,
        Err(error) => return refused(&error),
    };
    match &*role {
        "reduces" => drop(reduces(&context)),
        "reduces and stays" => {
            reduces(&context);
            std::io::stdin().lines().next().unwrap().unwrap();
        }
        "reduces and goes on" => {
            let culprit = reduces(&context).unwrap();
            drop(context);
            go_on_without(culprit);
        }
        "makes contexts" => strangers::make_contexts(&context),
        other => panic!("a role: {other:?}"),
    }
}

fn join() -> Result<Context, SetupError> {
    let options = ContextOptions::from_environment(&ProcessEnvironment)?;
    let job = Job::from_environment()?;
    say("joined", "");
    Context::new(&job, &options)
}

fn refused(error: &SetupError) {
    say("refused: ", with_causes(error));
    say("hint: ", error.hint().unwrap_or_default());
}

/// Reduces until the test says that it is enough, or until it fails. Returns who is to blame.
fn reduces(context: &Context) -> Option<u32> {
    let communicator = context.communicator().unwrap();
    let mut data = vec![0f32; COUNT];
    let error = match reduce_for_long(&communicator, &mut data) {
        Ok(operations) => {
            say("ended after ", operations);
            return None;
        }
        Err(error) => error,
    };
    // Nobody writes into the buffer of an operation that has failed.
    data.fill(-1.0);
    let failure = serde_json::json!({
        "culprit": error.culprit(),
        "timed out": error.is_timeout(),
        "text": with_causes(&error),
    });
    say("failed: ", failure);
    let then = communicator.barrier().unwrap_err();
    assert!(matches!(then, CollectiveError::Poisoned { .. }), "{then}");
    assert!(then.to_string().contains(&error.to_string()), "{then}, instead of {error}");
    thread::sleep(WATCHED);
    assert!(data.iter().all(|element| *element == -1.0), "somebody writes into it");
    error.culprit()
}

/// Returns how many operations there were, all of them right.
fn reduce_for_long(communicator: &Communicator, data: &mut [f32]) -> Result<u64, CollectiveError> {
    let end = directory().join(END);
    let mut operations = 0;
    loop {
        // Rank 0 looks for all.
        let mut is_over = [u8::from(communicator.rank() == 0 && end.exists())];
        communicator.broadcast(&mut is_over, 0)?;
        if is_over == [1] {
            return Ok(operations);
        }
        data.fill(1.0);
        communicator.all_reduce(data, ReduceOp::Sum)?;
        let sum = communicator.world_size() as f32;
        assert!(data.iter().all(|element| *element == sum), "operation {operations} is wrong");
        operations += 1;
        if operations == 3 {
            say("in full swing", "");
        }
    }
}

/// A new job in the same process, of all ranks but one.
fn go_on_without(lost: u32) {
    let (before, _) = RankInfo::from_environment(&ProcessEnvironment).unwrap();
    let rank = if before.rank > lost { before.rank - 1 } else { before.rank };
    let one_node = vec![0; before.world_size as usize - 1];
    let mut variables = place(rank, &one_node);
    let meeting = directory().join("without the lost rank");
    variables.insert(env::RENDEZVOUS.name, format!("file:{}", meeting.display()));
    let rendezvous = bootstrap(&variables, &BootstrapOptions::default()).unwrap();
    let options = ContextOptions::from_environment(&ProcessEnvironment).unwrap();
    let context = Context::new(&Job::from_rendezvous(rendezvous), &options).unwrap();
    let mut sum = vec![1f32; COUNT];
    context.communicator().unwrap().all_reduce(&mut sum, ReduceOp::Sum).unwrap();
    say("went on with ", sum[COUNT - 1]);
}

/// Where ranks meet that communicate in one way: over `tcp`, in `shm`, or on two `nodes`, between which
/// they use TCP.
fn site(way: &str, world_size: u32) -> Site {
    if way != "nodes" {
        return Site::new(world_size).with(&env::TRANSPORT, way);
    }
    let node_of: Vec<u32> = (0..world_size).map(|rank| rank * 2 / world_size).collect();
    Site::on_nodes(&node_of).with(&env::RENDEZVOUS, twice::free_address())
}

/// What a rank says of its failure.
struct Failure {
    culprit: Option<u32>,
    timed_out: bool,
    text: String,
}

fn failure_of(rank: &mut Rank) -> Failure {
    let said = rank.says("failed: ");
    let said: Value = serde_json::from_str(&said).unwrap();
    Failure {
        culprit: said["culprit"].as_u64().map(|rank| u32::try_from(rank).unwrap()),
        timed_out: said["timed out"].as_bool().unwrap(),
        text: said["text"].as_str().unwrap().to_owned(),
    }
}

/// Starts ranks that reduce, and waits until all do.
fn all_running(site: &Site, role: &str) -> Vec<Rank> {
    let mut ranks = site.start_all(|_| role);
    until_running(&mut ranks);
    ranks
}

fn until_running(ranks: &mut [Rank]) {
    ranks.iter_mut().for_each(|rank| drop(rank.says("in full swing")));
}

/// Lets ranks come to an end, which must be a good one; all have done the same.
fn end_well(site: &Site, mut ranks: Vec<Rank>) {
    fs::write(site.directory.path().join(END), "").unwrap();
    let operations: Vec<String> = ranks.iter_mut().map(|rank| rank.says("ended after ")).collect();
    assert!(operations.iter().all(|all| *all == operations[0]), "{operations:?}");
    ranks.iter_mut().for_each(Rank::ends_well);
}
