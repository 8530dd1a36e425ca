//! One era: a context and random steps in it.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use paceline_collectives::queue::{Queue, QueueOptions};
use paceline_collectives::{Communicator, Context, ReduceOp};
use rustix::process::{Signal, getpid, kill_process};

use crate::Surprise;
use crate::dice::{Dice, task};
use crate::task::{Task, Verdict};
use crate::value::{hash, perform};

/// Steps of an era: some seconds on a small machine.
const STEPS: u64 = 120;

/// What one rank does at one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It is killed.
    Kill,
    /// It stops for ever.
    Stop,
    /// It calls something else.
    Mismatch,
}

impl Fault {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Self::None,
            "kill" => Self::Kill,
            "stop" => Self::Stop,
            "mismatch" => Self::Mismatch,
            _ => bail!("unknown fault {name}"),
        })
    }
}

/// What has been done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    eras: u64,
    calls: u64,
    groups: u64,
    submissions: u64,
    failed_groups: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { eras, calls, groups, submissions, failed_groups } = self;
        write!(
            f,
            "{eras} eras, {calls} calls, {groups} groups ({failed_groups} failed on purpose), \
             {submissions} submissions"
        )
    }
}

pub(crate) struct Era<'a> {
    context: &'a Context,
    world: &'a Communicator,
    dice: Dice,
    fault: Fault,
}

impl<'a> Era<'a> {
    /// `seed` is the same on all ranks.
    pub(crate) fn new(
        context: &'a Context,
        world: &'a Communicator,
        seed: u64,
        fault: Fault,
    ) -> Self {
        Self { context, world, dice: Dice::new(seed), fault }
    }

    /// Runs to the end and returns the most memory that the library held; `None` if rank 0 says that
    /// the time is up (it is `over`).
    pub(crate) fn run(mut self, over: bool, tally: &mut Tally) -> Result<Option<usize>> {
        let mut all_over = [u8::from(over)];
        self.world.broadcast(&mut all_over, 0)?;
        if all_over == [1] && tally.eras > 0 {
            return Ok(None);
        }
        let ranks = self.world.world_size();
        let (odd_one, odd_step) = (self.dice.rank(ranks), self.dice.below(STEPS));
        let mut held = 0;
        for step in 0..STEPS {
            if self.fault != Fault::None && step == odd_step {
                if self.world.rank() == 0 {
                    println!("soak: rank {odd_one} has the fault at step {step}");
                }
                self.world.barrier()?;
                self.break_down(odd_one)?;
            }
            match self.dice.below(12) {
                0 | 1 => self.groups(tally)?,
                2 => self.queue(tally)?,
                3 if self.dice.one_in(4) => self.failing_group(tally)?,
                _ => {
                    let (dtype, task) = task(&mut self.dice, ranks);
                    judge(perform(self.world, dtype, &task), &task)?;
                    tally.calls += 1;
                }
            }
            held = held.max(self.context.memory_bytes() + self.world.memory_bytes());
        }
        self.world.barrier()?;
        tally.eras += 1;
        Ok(Some(held))
    }

    fn break_down(&self, odd_one: u32) -> Result<()> {
        if self.world.rank() != odd_one {
            return Ok(());
        }
        match self.fault {
            Fault::None => {}
            Fault::Kill => kill_process(getpid(), Signal::KILL)?,
            Fault::Stop => kill_process(getpid(), Signal::STOP)?,
            Fault::Mismatch => self.world.all_reduce(&mut [0u16; 4711], ReduceOp::BitXor)?,
        }
        Ok(())
    }

    /// Some calls in groups, which exist side by side and overlap.
    fn groups(&mut self, tally: &mut Tally) -> Result<()> {
        let rank = self.world.rank();
        let (colours, turned) = (1 + self.dice.rank(3), self.dice.one_in(2));
        let group = self
            .world
            .split(Some(rank % colours), if turned { -1 } else { 1 } * i64::from(rank))?;
        let pair = self.world.split(Some(rank / 2), 0)?;
        for _ in 0..=self.dice.below(4) {
            let (dtype, task) = task(&mut self.dice, 1);
            for group in [&group, &pair].into_iter().flatten() {
                judge(perform(group, dtype, &task), &task)?;
                tally.calls += 1;
            }
        }
        tally.groups += 2;
        Ok(())
    }

    /// A group whose members disagree ends alone.
    fn failing_group(&mut self, tally: &mut Tally) -> Result<()> {
        let ranks = self.world.world_size();
        if ranks < 2 {
            return Ok(());
        }
        let (one, other) = self.dice.pair(ranks);
        let rank = self.world.rank();
        let member = rank == one || rank == other;
        let group = self.world.split(member.then_some(0), 0)?;
        if let Some(group) = group {
            let mut data = vec![1u32; if rank == one { 1000 } else { 1001 }];
            if group.all_reduce(&mut data, ReduceOp::Sum).is_ok() {
                let what = format!("WRONG: rank {rank} got no error, though its group disagreed");
                bail!(Surprise(what));
            }
        }
        self.world.barrier().context("a group failed, but its world should not")?;
        tally.failed_groups += 1;
        Ok(())
    }

    /// Tensors that every rank submits in another order.
    fn queue(&mut self, tally: &mut Tally) -> Result<()> {
        let (rank, ranks) = (self.world.rank(), self.world.world_size());
        let group = self.world.split(Some(0), 0)?.context("everybody is in it")?;
        let queue = Queue::new(group, &QueueOptions::default())?;
        let (salt, tensors) = (self.dice.below(1 << 30), 1 + self.dice.below(30));
        for round in 0..=self.dice.below(3) {
            let mut order: Vec<u64> = (0..tensors).collect();
            order.sort_by_key(|tensor| hash([salt, u64::from(rank), *tensor]));
            let count = |tensor: u64| hash([salt, tensor, 1]) as usize % 3000;
            let value = |tensor: u64, rank: u32| tensor + round + u64::from(rank);
            let submit = |tensor: &u64| {
                let data = vec![value(*tensor, rank); count(*tensor)];
                (*tensor, queue.all_reduce(format!("tensor.{tensor}"), data, ReduceOp::Sum))
            };
            let handles: Vec<_> = order.iter().map(submit).collect();
            for (tensor, handle) in handles {
                let sum: u64 = (0..ranks).map(|rank| value(tensor, rank)).sum();
                let reduced = handle.wait().map_err(|failed| anyhow::anyhow!("{failed:?}"))?;
                if reduced.len() != count(tensor) || reduced.iter().any(|element| *element != sum) {
                    bail!(Surprise(format!("WRONG: tensor {tensor} of a queue, salt {salt}")));
                }
                tally.submissions += 1;
            }
        }
        Ok(())
    }
}

fn judge(verdict: Verdict, task: &Task) -> Result<()> {
    match verdict {
        Verdict::Right => Ok(()),
        Verdict::Wrong(what) => bail!(Surprise(format!("WRONG: {what}"))),
        Verdict::Failed(failed) => {
            if !failed.is_untouched() {
                let what = format!("WRONG: memory of {task:?} was written to after it had failed");
                bail!(Surprise(what));
            }
            Err(failed.error.into())
        }
    }
}
