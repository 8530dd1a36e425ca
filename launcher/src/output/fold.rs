//! Showing a line once that several ranks print.
//!
//! Pure, with the time as an argument. The lines of each rank wait in a queue of its own. When the oldest of
//! all is to be shown, it is looked for in the other queues, too: what stands before it there goes first.
//!
//! Invariants:
//! * F-1: every line of every rank is given out exactly once, alone or for several ranks.
//! * F-2: what a rank says is given out in its order: nothing leaves a queue but its first line.
//! * F-3: nothing waits for longer than [`WAIT_MAX`], nor when all have said it.
//! * F-4: no more than [`Fold::lines_max`] lines wait, and different ones of no more than [`BYTES_MAX`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lines::End;

/// What people do not notice; ranks that leave a barrier together print within a fraction of it.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(100);

/// Lines that may wait: a screen or two of each rank, and a few chunks of output where ranks are few.
const LINES_PER_RANK: usize = 64;
const LINES_MIN: usize = 1024;

/// A few chunks of a rank's output, so that ranks that print much at once still meet.
const BYTES_MAX: usize = 1 << 20;

/// Something to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    /// Who said it, in ascending order; several only for whole lines.
    pub(crate) ranks: &'a [u32],
    pub(crate) segment: &'a [u8],
    pub(crate) end: End,
    /// How long it has waited.
    pub(crate) age: Duration,
}

impl<'a> Shown<'a> {
    /// What has not waited.
    pub(crate) fn of(ranks: &'a [u32], segment: &'a [u8], end: End) -> Self {
        Self { ranks, segment, end, age: Duration::ZERO }
    }
}

/// A line that waits for other ranks to print it, too.
#[derive(Debug)]
struct Held {
    line: Arc<[u8]>,
    number: u64,
    since: Instant,
}

#[derive(Debug, Default)]
struct Speaker {
    held: VecDeque<Held>,
    /// More may come from it.
    is_live: bool,
    /// What comes next continues a line, or paints it anew.
    in_line: bool,
}

/// Joins equal lines of several ranks.
#[derive(Debug)]
pub(crate) struct Fold {
    speakers: Vec<Speaker>,
    live: usize,
    /// How often each rank has each line in its queue.
    waiting: HashMap<Arc<[u8]>, BTreeMap<u32, usize>>,
    /// The ranks of all lines in queues, by their numbers: the order in which they came.
    arrivals: BTreeMap<u64, u32>,
    next_number: u64,
    /// Of the lines that `waiting` names.
    bytes: usize,
}

impl Fold {
    /// For the ranks `0..world_size`, of which those will speak that `speaks` says.
    pub(crate) fn new(world_size: u32, speaks: impl Fn(u32) -> bool) -> Self {
        let speaker = |rank| Speaker { is_live: speaks(rank), ..Speaker::default() };
        let speakers: Vec<_> = (0..world_size).map(speaker).collect();
        Self {
            live: speakers.iter().filter(|speaker| speaker.is_live).count(),
            speakers,
            waiting: HashMap::new(),
            arrivals: BTreeMap::new(),
            next_number: 0,
            bytes: 0,
        }
    }

    /// Takes a segment of a rank and gives out what need not wait.
    pub(crate) fn add(
        &mut self,
        rank: u32,
        segment: &[u8],
        end: End,
        now: Instant,
        emit: &mut (impl FnMut(Shown<'_>) + ?Sized),
    ) {
        let Some(speaker) = self.speaker(rank) else { return };
        let is_line = end == End::Line && !speaker.in_line;
        speaker.in_line = end != End::Line;
        if is_line {
            self.hold(rank, segment, now);
            return self.give_out(now, emit);
        }
        // Such as a progress bar: it is shown at once, behind what its rank has said before.
        while self.first_of(rank).is_some() {
            self.give_out_for(rank, now, emit);
        }
        emit(Shown::of(&[rank], segment, end));
    }

    /// Nothing more will come from the rank.
    pub(crate) fn ended(
        &mut self,
        rank: u32,
        now: Instant,
        emit: &mut (impl FnMut(Shown<'_>) + ?Sized),
    ) {
        if let Some(speaker) = self.speaker(rank).filter(|speaker| speaker.is_live) {
            speaker.is_live = false;
            self.live -= 1;
        }
        self.give_out(now, emit);
    }

    /// When [`Fold::give_out`] must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (_, rank) = self.arrivals.first_key_value()?;
        Some(self.first_of(*rank)?.since + WAIT_MAX)
    }

    /// Gives out what has waited long enough, and what waits for nobody.
    pub(crate) fn give_out(&mut self, now: Instant, emit: &mut (impl FnMut(Shown<'_>) + ?Sized)) {
        while let Some((_, &rank)) = self.arrivals.first_key_value() {
            let Some(oldest) = self.first_of(rank) else { return };
            let is_due = now.saturating_duration_since(oldest.since) >= WAIT_MAX;
            let is_full = self.arrivals.len() > self.lines_max() || self.bytes > BYTES_MAX;
            let has_all = || self.waiting.get(&oldest.line).is_some_and(|by| by.len() >= self.live);
            if !(is_due || is_full || has_all()) {
                return;
            }
            self.give_out_for(rank, now, emit);
        }
    }

    /// Gives out everything.
    pub(crate) fn finish(&mut self, now: Instant, emit: &mut (impl FnMut(Shown<'_>) + ?Sized)) {
        while let Some((_, &rank)) = self.arrivals.first_key_value() {
            self.give_out_for(rank, now, emit);
        }
    }

    fn lines_max(&self) -> usize {
        LINES_MIN.max(LINES_PER_RANK * self.speakers.len())
    }

    fn hold(&mut self, rank: u32, segment: &[u8], now: Instant) {
        let known = self.waiting.get_key_value(segment).map(|(line, _)| Arc::clone(line));
        let line = known.unwrap_or_else(|| {
            self.bytes += segment.len();
            Arc::from(segment)
        });
        *self.waiting.entry(Arc::clone(&line)).or_default().entry(rank).or_default() += 1;
        let number = self.next_number;
        self.next_number += 1;
        self.arrivals.insert(number, rank);
        if let Some(speaker) = self.speaker(rank) {
            speaker.held.push_back(Held { line, number, since: now });
        }
    }

    /// Gives out one line: the first of the rank, or what others have before it in their queues.
    fn give_out_for(
        &mut self,
        mut rank: u32,
        now: Instant,
        emit: &mut (impl FnMut(Shown<'_>) + ?Sized),
    ) {
        // Two ranks may each have the other's first line as their second.
        let mut asked = BTreeSet::new();
        let line = loop {
            asked.insert(rank);
            let Some(Held { line, .. }) = self.first_of(rank) else { return };
            let has_other =
                |other: &u32| self.first_of(*other).is_some_and(|held| held.line != *line);
            let mut holders = self.waiting.get(line).into_iter().flat_map(BTreeMap::keys);
            match holders.find(|other| !asked.contains(other) && has_other(other)) {
                Some(&other) => rank = other,
                None => break Arc::clone(line),
            }
        };
        let holders = self.waiting.get(&line).into_iter().flat_map(BTreeMap::keys).copied();
        let is_first = |rank: &u32| self.first_of(*rank).is_some_and(|held| held.line == line);
        let ranks: Vec<u32> = holders.filter(is_first).collect();
        let ages = ranks.iter().filter_map(|rank| self.take(*rank, now)).max();
        let age = ages.unwrap_or_default();
        emit(Shown { ranks: &ranks, segment: &line, end: End::Line, age });
    }

    /// Takes the first line from the queue of a rank. Returns how long it was there.
    fn take(&mut self, rank: u32, now: Instant) -> Option<Duration> {
        let Held { line, number, since } = self.speaker(rank)?.held.pop_front()?;
        self.arrivals.remove(&number);
        if let Some(by) = self.waiting.get_mut(&line) {
            if let Some(count) = by.get_mut(&rank) {
                *count -= 1;
                if *count == 0 {
                    by.remove(&rank);
                }
            }
            if by.is_empty() {
                self.waiting.remove(&line);
                self.bytes -= line.len();
            }
        }
        Some(now.saturating_duration_since(since))
    }

    fn first_of(&self, rank: u32) -> Option<&Held> {
        self.speakers.get(usize::try_from(rank).ok()?)?.held.front()
    }

    fn speaker(&mut self, rank: u32) -> Option<&mut Speaker> {
        self.speakers.get_mut(usize::try_from(rank).ok()?)
    }
}

#[cfg(test)]
mod tests;
