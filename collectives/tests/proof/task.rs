//! One call of any operation, with what its result must be.

use paceline_collectives::{Batch, CollectiveError, Communicator, ReduceOp};

use super::value::{Value, hash, reduced, sample};

/// Every typed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    AllReduce,
    AllReduceInto,
    Fused,
    ReduceScatter,
    ReduceScatterInPlace,
    ReduceScatterV,
    ReduceScatterVInPlace,
    Reduce,
    ReduceInto,
    Broadcast,
    BroadcastInto,
    AllGather,
    AllGatherInPlace,
    AllGatherV,
    AllGatherVInPlace,
    AllToAll,
    AllToAllV,
    Gather,
    GatherV,
    Scatter,
    ScatterV,
    Shift,
    Messages,
    Barrier,
}

impl Call {
    pub(crate) const REDUCE: [Self; 9] = [
        Self::AllReduce,
        Self::AllReduceInto,
        Self::Fused,
        Self::ReduceScatter,
        Self::ReduceScatterInPlace,
        Self::ReduceScatterV,
        Self::ReduceScatterVInPlace,
        Self::Reduce,
        Self::ReduceInto,
    ];

    pub(crate) const MOVE: [Self; 15] = [
        Self::Broadcast,
        Self::BroadcastInto,
        Self::AllGather,
        Self::AllGatherInPlace,
        Self::AllGatherV,
        Self::AllGatherVInPlace,
        Self::AllToAll,
        Self::AllToAllV,
        Self::Gather,
        Self::GatherV,
        Self::Scatter,
        Self::ScatterV,
        Self::Shift,
        Self::Messages,
        Self::Barrier,
    ];
}

/// One call, the same on all ranks.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) call: Call,
    pub(crate) op: ReduceOp,
    /// Elements of the whole, or about so many.
    pub(crate) count: usize,
    pub(crate) root: u32,
    /// What the data follow from.
    pub(crate) salt: u64,
}

/// What came of a call.
pub(crate) enum Verdict {
    Right,
    Wrong(String),
    Failed(Failed),
}

/// A call that failed, and the memory that it had: nobody may write to it any more.
pub(crate) struct Failed {
    pub(crate) error: CollectiveError,
    untouched: Box<dyn Fn() -> bool + Send>,
}

impl Failed {
    /// Whether the memory is as it was when the call returned.
    pub(crate) fn is_untouched(&self) -> bool {
        (self.untouched)()
    }
}

/// Where the chunk of each rank begins, and the end: even chunks, the longer ones first.
fn even(count: usize, ranks: usize) -> Vec<usize> {
    let mut bounds = vec![0];
    for rank in 0..ranks {
        bounds.push(bounds[rank] + count / ranks + usize::from(rank < count % ranks));
    }
    bounds
}

/// Chunks of any lengths, some of them empty.
fn uneven(count: usize, ranks: usize, salt: u64) -> Vec<usize> {
    let cut = |cut: usize| hash([salt, 77, cut as u64]) as usize % (count + 1);
    let mut bounds: Vec<usize> = (1..ranks).map(cut).chain([0, count]).collect();
    bounds.sort_unstable();
    bounds
}

fn lengths(bounds: &[usize]) -> Vec<usize> {
    bounds.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// One rank's view of a task.
struct Rank<'a> {
    communicator: &'a Communicator,
    task: &'a Task,
    rank: u32,
    ranks: u32,
}

/// Makes the call and compares its result with the definition.
pub(crate) fn perform<T: Value>(communicator: &Communicator, task: &Task) -> Verdict {
    let (rank, ranks) = (communicator.rank(), communicator.world_size());
    let view = Rank { communicator, task, rank, ranks };
    if Call::REDUCE.contains(&task.call) { view.reduce::<T>() } else { view.pass_on::<T>() }
}

impl Rank<'_> {
    /// Elements of a rank's vector. `which` tells vectors of one task apart.
    fn data<T: Value>(&self, which: u64, rank: u32, count: usize) -> Vec<T> {
        let Task { op, salt, .. } = *self.task;
        let salt = salt.wrapping_add(which << 32);
        (0..count).map(|index| sample(op, self.ranks, (salt, rank, index))).collect()
    }

    /// The reduction of all ranks' vectors.
    fn reduced<T: Value>(&self, which: u64, count: usize) -> Vec<T> {
        let all: Vec<Vec<T>> = (0..self.ranks).map(|rank| self.data(which, rank, count)).collect();
        let numbers =
            |index: usize| all.iter().map(|data| data[index].number()).collect::<Vec<_>>();
        (0..count).map(|index| reduced(self.task.op, &numbers(index))).collect()
    }

    fn judge<T: Value>(
        &self,
        outcome: Result<(), CollectiveError>,
        output: Vec<T>,
        want: impl FnOnce() -> Vec<T>,
    ) -> Verdict {
        self.judge_part(outcome, output, 0, want)
    }

    /// The same of what begins at an element of the output.
    fn judge_part<T: Value>(
        &self,
        outcome: Result<(), CollectiveError>,
        output: Vec<T>,
        start: usize,
        want: impl FnOnce() -> Vec<T>,
    ) -> Verdict {
        if let Err(error) = outcome {
            let after: Vec<u64> = output.iter().map(|value| value.bits()).collect();
            let untouched =
                move || output.iter().zip(&after).all(|(value, bits)| value.bits() == *bits);
            return Verdict::Failed(Failed { error, untouched: Box::new(untouched) });
        }
        let want = want();
        let wrong = (0..want.len()).find(|at| output[start + at].bits() != want[*at].bits());
        match wrong {
            None => Verdict::Right,
            Some(at) => Verdict::Wrong(format!(
                "{:?} of {}: element {at} of {} is {:?}, not {:?}, on rank {} of {}",
                self.task,
                T::DTYPE,
                want.len(),
                output[start + at],
                want[at],
                self.rank,
                self.ranks
            )),
        }
    }

    fn reduce<T: Value>(&self) -> Verdict {
        let Task { call, op, count, root, salt } = *self.task;
        let (communicator, ranks, me) =
            (self.communicator, self.ranks as usize, self.rank as usize);
        let even_count = count / ranks * ranks;
        let count = if call == Call::ReduceScatter { even_count } else { count };
        let mut data: Vec<T> = self.data(0, self.rank, count);
        let input = data.clone();
        let vary = matches!(call, Call::ReduceScatterV | Call::ReduceScatterVInPlace);
        let bounds = if vary { uneven(count, ranks, salt) } else { even(count, ranks) };
        let lengths = lengths(&bounds);
        let own = || self.reduced(0, count)[bounds[me]..bounds[me + 1]].to_vec();
        let mut chunk: Vec<T> = self.data(9, self.rank, lengths[me]);
        match call {
            Call::AllReduce => {
                let outcome = communicator.all_reduce(&mut data, op);
                self.judge(outcome, data, || self.reduced(0, count))
            }
            Call::AllReduceInto => {
                let mut output: Vec<T> = self.data(9, self.rank, count);
                let outcome = communicator.all_reduce_into(&input, &mut output, op);
                self.judge(outcome, output, || self.reduced(0, count))
            }
            Call::Fused => self.fused::<T>(data),
            Call::ReduceScatter => {
                let outcome = communicator.reduce_scatter(&input, &mut chunk, op);
                self.judge(outcome, chunk, own)
            }
            Call::ReduceScatterV => {
                let outcome = communicator.reduce_scatter_v(&input, &mut chunk, &lengths, op);
                self.judge(outcome, chunk, own)
            }
            Call::ReduceScatterInPlace => {
                let outcome = communicator.reduce_scatter_in_place(&mut data, op);
                self.judge_part(outcome.map(|_| ()), data, bounds[me], own)
            }
            Call::ReduceScatterVInPlace => {
                let outcome = communicator.reduce_scatter_v_in_place(&mut data, &lengths, op);
                self.judge_part(outcome.map(|_| ()), data, bounds[me], own)
            }
            Call::Reduce => {
                let outcome = communicator.reduce(&mut data, op, root);
                let mine = root == self.rank;
                self.judge(outcome, data, || if mine { self.reduced(0, count) } else { input })
            }
            _ => {
                let mine = root == self.rank;
                let mut output: Vec<T> = self.data(9, self.rank, if mine { count } else { 0 });
                let into = mine.then_some(output.as_mut_slice());
                let outcome = communicator.reduce_into(&input, into, op, root);
                self.judge(outcome, output, || if mine { self.reduced(0, count) } else { vec![] })
            }
        }
    }

    fn fused<T: Value>(&self, mut first: Vec<T>) -> Verdict {
        let counts = [first.len(), first.len() / 2, 3];
        let mut second: Vec<T> = self.data(1, self.rank, counts[1]);
        let mut third: Vec<T> = self.data(2, self.rank, counts[2]);
        let tensors = &mut [first.as_mut_slice(), &mut second, &mut third];
        let outcome = self.communicator.all_reduce_fused(tensors, self.task.op);
        let all = [first, second, third].concat();
        let want =
            || (0..3).flat_map(|which| self.reduced(which, counts[which as usize])).collect();
        self.judge(outcome, all, want)
    }

    fn pass_on<T: Value>(&self) -> Verdict {
        match self.task.call {
            Call::Broadcast | Call::BroadcastInto | Call::Gather | Call::GatherV => {
                self.rooted::<T>()
            }
            Call::Scatter | Call::ScatterV => self.scatter::<T>(),
            Call::AllToAll | Call::AllToAllV => self.all_to_all::<T>(),
            Call::Messages => self.messages::<T>(),
            Call::Barrier => self.judge(self.communicator.barrier(), Vec::<T>::new(), Vec::new),
            Call::Shift => {
                let count = self.task.count;
                let mut output = self.data::<T>(9, self.rank, count);
                let input = self.data::<T>(0, self.rank, count);
                let outcome = self.communicator.shift(&input, &mut output, None);
                let before = (self.rank + self.ranks - 1) % self.ranks;
                self.judge(outcome, output, || self.data(0, before, count))
            }
            _ => self.all_gather::<T>(),
        }
    }

    /// Every rank's chunk, one behind the other.
    fn gathered<T: Value>(&self, lengths: &[usize]) -> Vec<T> {
        (0..self.ranks).flat_map(|rank| self.data::<T>(0, rank, lengths[rank as usize])).collect()
    }

    fn all_gather<T: Value>(&self) -> Verdict {
        let Task { call, count, salt, .. } = *self.task;
        let (communicator, ranks, me) =
            (self.communicator, self.ranks as usize, self.rank as usize);
        let count = if call == Call::AllGather { count / ranks * ranks } else { count };
        let vary = matches!(call, Call::AllGatherV | Call::AllGatherVInPlace);
        let bounds = if vary { uneven(count, ranks, salt) } else { even(count, ranks) };
        let lengths = lengths(&bounds);
        let input: Vec<T> = self.data(0, self.rank, lengths[me]);
        let mut output: Vec<T> = self.data(9, self.rank, count);
        if matches!(call, Call::AllGatherInPlace | Call::AllGatherVInPlace) {
            output[bounds[me]..bounds[me + 1]].copy_from_slice(&input);
        }
        let outcome = match call {
            Call::AllGather => communicator.all_gather(&input, &mut output),
            Call::AllGatherInPlace => communicator.all_gather_in_place(&mut output),
            Call::AllGatherV => communicator.all_gather_v(&input, &mut output, &lengths),
            _ => communicator.all_gather_v_in_place(&mut output, &lengths),
        };
        self.judge(outcome, output, || self.gathered(&lengths))
    }

    fn rooted<T: Value>(&self) -> Verdict {
        let Task { call, count, root, salt, .. } = *self.task;
        let (communicator, ranks, me) =
            (self.communicator, self.ranks as usize, self.rank as usize);
        let mine = root == self.rank;
        if matches!(call, Call::Broadcast | Call::BroadcastInto) {
            let sent: Vec<T> = self.data(0, root, count);
            let mut output = if mine { sent.clone() } else { self.data(9, self.rank, count) };
            let outcome = if call == Call::Broadcast {
                communicator.broadcast(&mut output, root)
            } else {
                communicator.broadcast_into(mine.then_some(&sent), &mut output, root)
            };
            return self.judge(outcome, output, || sent);
        }
        let bounds = match call {
            Call::Gather => even(count / ranks * ranks, ranks),
            _ => uneven(count, ranks, salt),
        };
        let lengths = lengths(&bounds);
        let input: Vec<T> = self.data(0, self.rank, lengths[me]);
        let mut output: Vec<T> = self.data(9, self.rank, if mine { bounds[ranks] } else { 0 });
        let outcome = if call == Call::Gather {
            communicator.gather(&input, mine.then_some(&mut output), root)
        } else {
            communicator.gather_v(&input, mine.then_some((&mut output, &lengths)), root)
        };
        self.judge(outcome, output, || if mine { self.gathered(&lengths) } else { vec![] })
    }

    fn scatter<T: Value>(&self) -> Verdict {
        let Task { call, count, root, salt, .. } = *self.task;
        let (communicator, ranks, me) =
            (self.communicator, self.ranks as usize, self.rank as usize);
        let bounds = match call {
            Call::Scatter => even(count / ranks * ranks, ranks),
            _ => uneven(count, ranks, salt),
        };
        let lengths = lengths(&bounds);
        let whole: Vec<T> = self.data(0, root, bounds[ranks]);
        let mut output: Vec<T> = self.data(9, self.rank, lengths[me]);
        let mine = root == self.rank;
        let outcome = if call == Call::Scatter {
            communicator.scatter(mine.then_some(&whole), &mut output, root)
        } else {
            communicator.scatter_v(mine.then_some((&whole, &lengths)), &mut output, root)
        };
        self.judge(outcome, output, || whole[bounds[me]..bounds[me + 1]].to_vec())
    }

    /// What one rank has for another.
    fn block<T: Value>(&self, from: u32, to: u32) -> Vec<T> {
        let Task { call, count, salt, .. } = *self.task;
        let usual = count / self.ranks as usize;
        let length = match call {
            Call::AllToAll => usual,
            _ => hash([salt, u64::from(from), u64::from(to) + 1000]) as usize % (2 * usual + 2),
        };
        self.data(u64::from(to) + 10, from, length)
    }

    fn all_to_all<T: Value>(&self) -> Verdict {
        let sent: Vec<Vec<T>> = (0..self.ranks).map(|to| self.block(self.rank, to)).collect();
        let came: Vec<Vec<T>> = (0..self.ranks).map(|from| self.block(from, self.rank)).collect();
        let lengths = |blocks: &[Vec<T>]| blocks.iter().map(Vec::len).collect::<Vec<_>>();
        let mut output: Vec<T> = self.data(9, self.rank, came.iter().map(Vec::len).sum());
        let input = sent.concat();
        let outcome = if self.task.call == Call::AllToAll {
            self.communicator.all_to_all(&input, &mut output)
        } else {
            let (sent, came) = (lengths(&sent), lengths(&came));
            self.communicator.all_to_all_v(&input, &sent, &mut output, &came)
        };
        self.judge(outcome, output, || came.concat())
    }

    /// A message to and from everybody, also itself, in one batch.
    fn messages<T: Value>(&self) -> Verdict {
        let sent: Vec<Vec<T>> = (0..self.ranks).map(|to| self.block(self.rank, to)).collect();
        let came: Vec<Vec<T>> = (0..self.ranks).map(|from| self.block(from, self.rank)).collect();
        let mut output: Vec<T> = self.data(9, self.rank, came.iter().map(Vec::len).sum());
        let mut batch = Batch::new();
        let mut rest = output.as_mut_slice();
        for (peer, (sent, came)) in (0..).zip(sent.iter().zip(&came)) {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(came.len());
            rest = others;
            batch.send(sent, peer, 5).recv(part, peer, 5);
        }
        let outcome = self.communicator.exchange(batch);
        self.judge(outcome, output, || came.concat())
    }
}
