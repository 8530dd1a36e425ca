//! Random programs in simulated worlds in which things break.
//!
//! Whatever breaks, every rank gets the right result or an error within its deadline, and nobody
//! writes to the memory of a call that has returned. A failing run prints its seed; `PROOF_SEED=…`
//! runs just that one, `PROOF_RUNS=…` so many of each kind.

use std::time::Duration;

use paceline_collectives::simulated::SimulatedWorld;
use paceline_collectives::{CollectiveError, Communicator, Context, SetupError};
use paceline_transports::Checksum;
use paceline_transports::sim::{Fault, LinkProfile, SimConfig, SimNetwork, When};

use super::dice::Dice;
use super::program::{Program, Step};
use super::task::{Call, Failed, Verdict};
use super::value::perform;

/// Runs of each kind, unless `PROOF_RUNS` says otherwise.
const RUNS: u64 = 150;

/// What breaks in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Pauses,
    Deaths,
    Links,
    Bytes,
    Disagreement,
}

/// How a rank ended its program.
enum End {
    /// All results were right.
    Right,
    Failed(CollectiveError),
    /// The ranks did not come together, or did not fall into groups.
    Apart(SetupError),
    /// A result was reported as right and is not.
    Wrong(String),
}

#[test]
fn programs_are_right_while_nothing_breaks() {
    run_all(Kind::Nothing);
}

#[test]
fn programs_are_right_though_ranks_pause() {
    run_all(Kind::Pauses);
}

#[test]
fn the_death_of_ranks() {
    run_all(Kind::Deaths);
}

#[test]
fn broken_links() {
    run_all(Kind::Links);
}

#[test]
fn corrupted_bytes() {
    run_all(Kind::Bytes);
}

#[test]
fn ranks_that_disagree() {
    run_all(Kind::Disagreement);
}

#[expect(clippy::disallowed_methods, reason = "it is no setting of the product")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run_all(kind: Kind) {
    let seeds = match (number("PROOF_SEED"), number("PROOF_RUNS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, runs) => 0..runs.unwrap_or(RUNS),
    };
    for seed in seeds {
        let blame = Blame { kind, seed };
        run(kind, seed);
        std::mem::forget(blame);
    }
}

/// Says which run it was, when it is dropped by a panic.
struct Blame {
    kind: Kind,
    seed: u64,
}

impl Drop for Blame {
    #[expect(clippy::print_stderr, reason = "a failing test says how to run it again")]
    fn drop(&mut self) {
        let Self { kind, seed } = self;
        eprintln!("kind {kind:?}: run it again with PROOF_SEED={seed}");
    }
}

fn run(kind: Kind, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut program = Program::new(&mut dice);
    let profile = dice.pick(&[
        LinkProfile::perfect(),
        LinkProfile::choppy(),
        LinkProfile { delay_ticks: 0..=30, ..LinkProfile::perfect() },
        LinkProfile { capacity_bytes: 4 << 10, busy_per_mille: 200, ..LinkProfile::perfect() },
    ]);
    let streams_per_peer = 1 + dice.below(3) as u16;
    let network =
        SimNetwork::new(SimConfig { seed, world_size: program.ranks, streams_per_peer, profile });
    break_something(kind, &mut dice, &network, program.ranks);
    let odd_one = (kind == Kind::Disagreement).then(|| disagree(&mut dice, &mut program)).flatten();
    let timeout = if dice.one_in(2) { 60 } else { 3 };
    let timeout = if kind == Kind::Pauses { 60 } else { timeout };
    // Nothing else notices a wrong bit among the elements.
    let checked = kind == Kind::Bytes || dice.one_in(4);
    let checksum = if checked { Checksum::Crc32c } else { Checksum::None };
    let ends = SimulatedWorld::new(network.clone())
        .algorithm(program.algorithm)
        .oversubscribed(dice.one_in(2))
        .timeout(Duration::from_secs(timeout))
        .checksum(checksum)
        .run(|context| match context {
            Ok(context) => follow(&context, &program, odd_one.as_ref()),
            Err(error) => End::Apart(error),
        });
    for (rank, end) in ends.iter().enumerate() {
        let told = || format!("seed {seed}, {kind:?}, rank {rank} of {program:?}");
        match (kind, end) {
            (_, End::Right) => {}
            (_, End::Wrong(what)) => panic!("{}: {what}", told()),
            (Kind::Nothing | Kind::Pauses, End::Failed(error)) => panic!("{}: {error}", told()),
            (Kind::Nothing | Kind::Pauses, End::Apart(error)) => panic!("{}: {error}", told()),
            // Nobody takes bytes that changed for what another rank called or sent.
            (
                Kind::Bytes,
                End::Failed(
                    error @ (CollectiveError::Mismatch { .. } | CollectiveError::Message { .. }),
                ),
            ) => panic!("{}: {error}", told()),
            (_, End::Failed(error)) => assert!(error.is_fatal(), "{}: {error}", told()),
            (_, End::Apart(_)) => {}
        }
    }
    let noticed = ends.iter().any(|end| matches!(end, End::Failed(_)));
    let case = || format!("seed {seed}: nobody noticed {odd_one:?} in {program:?}");
    assert!(odd_one.is_none() || noticed, "{}", case());
}

fn break_something(kind: Kind, dice: &mut Dice, network: &SimNetwork, ranks: u32) {
    for _ in 0..=dice.below(2) {
        let (one, other) = dice.pair(ranks);
        let when = if dice.one_in(2) {
            When::Tick(dice.below(300))
        } else {
            let bytes = dice.pick(&[50, 500, 5000, 100_000]);
            When::Sent { from: one, to: other, bytes: dice.below(bytes) }
        };
        let fault = match kind {
            Kind::Nothing | Kind::Disagreement => return,
            Kind::Pauses => {
                let tick = dice.below(300);
                network.schedule(When::Tick(tick), Fault::Stop { rank: one });
                let until = When::Tick(tick + dice.below(5000));
                network.schedule(until, Fault::Resume { rank: one });
                continue;
            }
            Kind::Deaths => dice.pick(&[Fault::Kill { rank: one }, Fault::Stop { rank: one }]),
            Kind::Links => {
                dice.pick(&[Fault::Cut { one, other }, Fault::Silence { from: one, to: other }])
            }
            Kind::Bytes => Fault::Corrupt { from: one, to: other },
        };
        network.schedule(when, fault);
    }
}

/// What one rank does otherwise: which rank, at which step, and in which way.
#[derive(Debug)]
struct OddOne {
    rank: u32,
    step: usize,
    instead: Step,
}

/// Makes one rank call something else at one step in the world, if there is any.
fn disagree(dice: &mut Dice, program: &mut Program) -> Option<OddOne> {
    // What one rank sends and nobody waits for is nothing to disagree about.
    let noticed = |call| !matches!(call, Call::Messages | Call::Barrier);
    let step = program
        .steps
        .iter()
        .position(|step| matches!(step, Step::World(_, task) if noticed(task.call)))?;
    // Later steps would meet the odd one's messages in any case.
    let Step::World(dtype, task) = &mut program.steps[step] else { return None };
    // Where there is nothing to exchange nobody hears of anybody.
    task.count += 4 * program.ranks as usize;
    let (dtype, mut task) = (*dtype, task.clone());
    match dice.below(3) {
        // As many elements as that make a difference however they are rounded.
        0 => task.count += 2 * program.ranks as usize,
        1 if Call::REDUCE.contains(&task.call) => task.call = Call::AllGatherV,
        1 => task.call = Call::Reduce,
        _ => task.call = Call::Barrier,
    }
    // Everybody comes and waits for everybody.
    program.steps.truncate(step + 1);
    let rank = dice.rank(program.ranks);
    Some(OddOne { rank, step, instead: Step::World(dtype, task) })
}

/// Runs a program to its end, or to the first failure.
fn follow(context: &Context, program: &Program, odd_one: Option<&OddOne>) -> End {
    let (communicator, after) = match (context.communicator(), context.communicator()) {
        (Ok(communicator), Ok(after)) => (communicator, after),
        (Err(error), _) | (_, Err(error)) => return End::Apart(error),
    };
    let odd_one = odd_one.filter(|odd_one| odd_one.rank == context.rank());
    for (number, step) in program.steps.iter().enumerate() {
        let instead = odd_one.filter(|odd_one| odd_one.step == number);
        let step = instead.map_or(step, |odd_one| &odd_one.instead);
        let verdict = match carry_out(&communicator, step) {
            Ok(verdict) => verdict,
            Err(error) => return End::Apart(error),
        };
        match verdict {
            Verdict::Right => {}
            Verdict::Wrong(what) => return End::Wrong(what),
            Verdict::Failed(failed) => return end(failed, &communicator, step, &after),
        }
    }
    match communicator.barrier() {
        Err(error) if odd_one.is_none() => End::Failed(error),
        _ => End::Right,
    }
}

fn carry_out(communicator: &Communicator, step: &Step) -> Result<Verdict, SetupError> {
    match step {
        Step::World(dtype, task) => Ok(perform(communicator, *dtype, task)),
        Step::Groups(groups, tasks) => {
            let rank = communicator.rank();
            let group = communicator.split(Some(rank % groups), -i64::from(rank))?;
            let group = group.expect("everybody is in one");
            for (dtype, task) in tasks {
                match perform(&group, *dtype, task) {
                    Verdict::Right => {}
                    other => return Ok(other),
                }
            }
            Ok(Verdict::Right)
        }
    }
}

/// What must hold after a call has failed.
fn end(failed: Failed, communicator: &Communicator, step: &Step, after: &Communicator) -> End {
    if let Step::World(..) = step {
        let next = communicator.barrier().unwrap_err();
        assert!(matches!(next, CollectiveError::Poisoned { .. }), "{next}");
    }
    // Whatever still comes for the failed call comes now.
    let _ = after.barrier();
    assert!(failed.is_untouched(), "written to after it failed: {}", failed.error);
    End::Failed(failed.error)
}
