//! Runs the programs of all ranks against each other, in a random but seeded order.
//!
//! Elements are lists of rank numbers and the operator appends, so the result spells out the order
//! of the fold. Delivery is as hostile as a transport may be: nothing is delivered before its
//! receive is posted, a send reads its bytes as late as its completion, a stored receive writes as
//! soon as the bytes arrive. There are no more scratch slots than the schedule says it needs.

use std::collections::{HashMap, VecDeque};

use super::{Action, Partition, RecvStep, Schedule, Source, Target};

pub(super) type Element = Vec<usize>;

pub(super) struct Buffers {
    input: Vec<Vec<Element>>,
    /// Empty when in place.
    output: Vec<Vec<Element>>,
    in_place: bool,
    /// How the vectors are cut, if not evenly.
    partition: Option<Partition>,
}

impl Buffers {
    pub(super) fn new(world_size: usize, count: usize, in_place: bool) -> Self {
        let input: Vec<_> = (0..world_size).map(|rank| vec![vec![rank]; count]).collect();
        let output = vec![vec![Vec::new(); if in_place { 0 } else { count }]; world_size];
        Self { input, output, in_place, partition: None }
    }

    /// Inputs of any length, and empty elements in the outputs, of which there are so many.
    pub(super) fn of(input: Vec<Vec<Element>>, output_counts: &[usize]) -> Self {
        let output = output_counts.iter().map(|count| vec![Vec::new(); *count]).collect();
        Self { input, output, in_place: false, partition: None }
    }

    pub(super) fn cut(self, partition: Partition) -> Self {
        Self { partition: Some(partition), ..self }
    }

    fn partition(&self) -> Partition {
        let even = || Partition::new(self.output(0).len(), self.input.len());
        self.partition.clone().unwrap_or_else(even)
    }

    pub(super) fn output(&self, rank: usize) -> &[Element] {
        if self.in_place { &self.input[rank] } else { &self.output[rank] }
    }

    fn output_mut(&mut self, rank: usize) -> &mut [Element] {
        if self.in_place { &mut self.input[rank] } else { &mut self.output[rank] }
    }

    fn canonical(&self, index: usize) -> Element {
        let world_size = self.input.len();
        let partition = self.partition();
        let owner = (0..world_size).find(|part| partition.range(*part).contains(&index)).unwrap();
        (1..=world_size).map(|step| (owner + step) % world_size).collect()
    }

    pub(super) fn assert_canonical(&self) {
        (0..self.input.len()).for_each(|rank| self.assert_canonical_at(rank));
    }

    pub(super) fn assert_canonical_at(&self, rank: usize) {
        for (index, element) in self.output(rank).iter().enumerate() {
            assert_eq!(*element, self.canonical(index), "rank {rank} element {index}");
        }
    }

    /// The root has the result, and nobody else's buffers were written to.
    pub(super) fn assert_canonical_only_at(&self, root: usize) {
        self.assert_canonical_at(root);
        for rank in (0..self.input.len()).filter(|rank| *rank != root) {
            assert!(self.input[rank].iter().all(|element| *element == [rank]));
            assert!(self.in_place || self.output(rank).iter().all(Vec::is_empty));
        }
    }

    pub(super) fn assert_owned_chunks(&self) {
        let partition = self.partition();
        for rank in 0..self.input.len() {
            for index in partition.range(rank) {
                assert_eq!(self.output(rank)[index], self.canonical(index));
            }
        }
    }

    pub(super) fn assert_same_everywhere(&self) {
        for rank in 0..self.input.len() {
            assert_eq!(self.output(rank), self.output(0), "rank {rank} differs from rank 0");
        }
        for element in self.output(0) {
            let mut ranks = element.clone();
            ranks.sort_unstable();
            assert!(ranks.iter().copied().eq(0..self.input.len()));
        }
    }
}

#[derive(Default)]
struct Rank {
    /// Sends posted and not completed: their number, and which receive left in scratch what they
    /// send, if one did.
    posted: Vec<(usize, Option<usize>)>,
    next_send: usize,
    completed: Vec<bool>,
    /// Receives before this number have been posted.
    next_recv: usize,
    free_slots: usize,
    scratch: HashMap<usize, Vec<Element>>,
    /// The inputs of this rank and of those after it.
    gathered: Vec<Element>,
    /// The receives whose results lie in scratch, no send being posted yet.
    results: VecDeque<usize>,
    arrived: Vec<bool>,
    applied: usize,
}

impl Rank {
    fn new(program: &impl Schedule) -> Self {
        Self {
            completed: vec![false; program.send_count()],
            free_slots: program.held_max() + 1,
            arrived: vec![false; program.recv_count()],
            ..Self::default()
        }
    }

    /// How many sends, counted from the first, have completed without a gap.
    fn sent_prefix(&self) -> usize {
        self.completed.iter().take_while(|done| **done).count()
    }

    /// Frees the slot of a receive.
    fn release(&mut self, recv: usize) -> Vec<Element> {
        self.free_slots += 1;
        self.scratch.remove(&recv).expect("a slot is freed once")
    }
}

pub(super) fn simulate<S: Schedule>(buffers: &mut Buffers, build: impl Fn(usize) -> S) {
    let world_size = buffers.input.len();
    let programs: Vec<S> = (0..world_size).map(build).collect();
    let copy = |buffers: &Buffers| Buffers {
        input: buffers.input.clone(),
        output: buffers.output.clone(),
        in_place: buffers.in_place,
        partition: buffers.partition.clone(),
    };
    let mut other_order = copy(buffers);
    run(buffers, &programs, 1);
    run(&mut other_order, &programs, 2);
    for rank in 0..world_size {
        // The order of events must not matter.
        assert_eq!(buffers.output(rank), other_order.output(rank));
    }
}

fn run<S: Schedule>(buffers: &mut Buffers, programs: &[S], seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    let slots = |program: &S| program.held_max() + 1;
    let gathered = |own: &Vec<Element>| {
        let others = vec![Vec::new(); (programs.len() - 1) * own.len()];
        own.iter().cloned().chain(others).collect()
    };
    let mut ranks: Vec<Rank> = programs
        .iter()
        .zip(&buffers.input)
        .map(|(program, own)| Rank { gathered: gathered(own), ..Rank::new(program) })
        .collect();
    let mut idle = 0;
    loop {
        let rank = next(programs.len());
        let moved = match next(4) {
            0 => post_send(&mut ranks[rank], &programs[rank]),
            1 => post_recv(&mut ranks[rank], &programs[rank]),
            2 => deliver(buffers, programs, &mut ranks, rank, next(1 << 16)),
            _ => apply(buffers, &programs[rank], &mut ranks[rank], rank),
        };
        idle = if moved { 0 } else { idle + 1 };
        let done = ranks.iter().zip(programs).all(|(rank, program)| {
            rank.sent_prefix() == program.send_count() && rank.applied == program.recv_count()
        });
        if done {
            break;
        }
        assert!(idle < 2000 * programs.len(), "the programs wait for each other");
    }
    for (rank, program) in ranks.iter().zip(programs) {
        assert_eq!(rank.free_slots, slots(program), "scratch is released");
    }
}

fn post_send(rank: &mut Rank, program: &impl Schedule) -> bool {
    let ready =
        rank.next_send < program.send_count() && program.send(rank.next_send).after <= rank.applied;
    if ready {
        let from_scratch = program.send(rank.next_send).source == Source::Scratch;
        let result = from_scratch.then(|| rank.results.pop_front().expect("it was made"));
        rank.posted.push((rank.next_send, result));
        rank.next_send += 1;
    }
    ready
}

fn post_recv(rank: &mut Rank, program: &impl Schedule) -> bool {
    if rank.next_recv == program.recv_count() {
        return false;
    }
    if program.recv(rank.next_recv).action.needs_scratch() {
        let Some(left) = rank.free_slots.checked_sub(1) else { return false };
        rank.free_slots = left;
    }
    rank.next_recv += 1;
    true
}

fn deliver<S: Schedule>(
    buffers: &mut Buffers,
    programs: &[S],
    ranks: &mut [Rank],
    from: usize,
    pick: usize,
) -> bool {
    if ranks[from].posted.is_empty() {
        return false;
    }
    let nth = pick % ranks[from].posted.len();
    let (number, result) = ranks[from].posted[nth];
    let send = programs[from].send(number);
    let to = send.peer as usize;
    let matching: Vec<usize> = (0..programs[to].recv_count())
        .filter(|index| {
            let recv = programs[to].recv(*index);
            recv.peer as usize == from && recv.tag == send.tag
        })
        .collect();
    assert_eq!(matching.len(), 1, "exactly one receive for each send: {send:?} from {from}");
    if matching[0] >= ranks[to].next_recv {
        return false;
    }
    ranks[from].posted.swap_remove(nth);
    ranks[from].completed[number] = true;
    let recv = programs[to].recv(matching[0]);
    assert_eq!(recv.range.len(), send.range.len(), "both ends agree on the length");
    let payload = match send.source {
        Source::Input => buffers.input[from][send.range].to_vec(),
        Source::Output => buffers.output(from)[send.range].to_vec(),
        Source::Gathered => ranks[from].gathered[send.range].to_vec(),
        Source::Scratch => ranks[from].release(result.expect("bound when it was posted")),
    };
    match recv.action {
        Action::Store => buffers.output_mut(to)[recv.range].clone_from_slice(&payload),
        Action::Gather | Action::FoldGathered => {
            ranks[to].gathered[recv.range].clone_from_slice(&payload);
        }
        _ => {
            ranks[to].scratch.insert(matching[0], payload);
        }
    }
    assert!(!ranks[to].arrived[matching[0]], "no message arrives twice");
    ranks[to].arrived[matching[0]] = true;
    true
}

fn apply(buffers: &mut Buffers, program: &impl Schedule, state: &mut Rank, rank: usize) -> bool {
    let index = state.applied;
    if index >= program.recv_count() || !state.arrived[index] {
        return false;
    }
    let recv = program.recv(index);
    if recv.after_sends > state.sent_prefix() {
        return false;
    }
    match recv.action {
        Action::Store | Action::Hold | Action::Gather => {}
        Action::FoldGathered => {
            let count = buffers.input[rank].len();
            let inputs: Vec<_> = (1..buffers.input.len())
                .map(|nth| state.gathered[nth * count..(nth + 1) * count].to_vec())
                .collect();
            fold_chunks(buffers, rank, &(0..count), &inputs);
        }
        Action::Reduce { target, .. } => fold(buffers, rank, state, &recv, index..=index, target),
        Action::Fold { held, target } => {
            fold(buffers, rank, state, &recv, index - held..=index, target);
        }
        Action::FoldChunks { held } => {
            let inputs: Vec<_> = (index - held..=index).map(|at| state.release(at)).collect();
            fold_chunks(buffers, rank, &recv.range, &inputs);
        }
        Action::Combine { received_first, first, .. } => {
            let received = state.release(index);
            for (at, right) in recv.range.zip(&received) {
                let own = if first { &buffers.input[rank] } else { buffers.output(rank) };
                let own = own[at].clone();
                let pair = if received_first { [right, &own] } else { [&own, right] };
                buffers.output_mut(rank)[at] = pair.into_iter().flatten().copied().collect();
            }
        }
    }
    state.applied += 1;
    true
}

fn fold(
    buffers: &mut Buffers,
    rank: usize,
    state: &mut Rank,
    recv: &RecvStep,
    received: std::ops::RangeInclusive<usize>,
    target: Target,
) {
    let last = *received.end();
    let inputs: Vec<_> = received.map(|at| state.release(at)).collect();
    let own = &buffers.input[rank][recv.range.clone()];
    let folded: Vec<Element> = own
        .iter()
        .enumerate()
        .map(|(nth, own)| {
            inputs.iter().map(|input| &input[nth]).chain([own]).flatten().copied().collect()
        })
        .collect();
    match target {
        Target::Output => buffers.output_mut(rank)[recv.range.clone()].clone_from_slice(&folded),
        Target::Scratch => {
            state.free_slots -= 1;
            state.scratch.insert(last, folded);
            state.results.push_back(last);
        }
    }
}

fn fold_chunks(
    buffers: &mut Buffers,
    rank: usize,
    range: &std::ops::Range<usize>,
    inputs: &[Vec<Element>],
) {
    let world_size = inputs.len() + 1;
    let own = buffers.input[rank].clone();
    let partition = Partition::new(own.len(), world_size);
    for chunk in 0..world_size {
        for at in partition.range(chunk).filter(|at| range.contains(at)) {
            let folded = (1..=world_size).map(|step| (chunk + step) % world_size).flat_map(|of| {
                let nth = (of + world_size - rank) % world_size;
                if nth == 0 { own[at].clone() } else { inputs[nth - 1][at - range.start].clone() }
            });
            buffers.output_mut(rank)[at] = folded.collect();
        }
    }
}
