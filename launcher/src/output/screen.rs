//! What is to be written next, of all ranks together.

use std::time::Instant;

use super::fold::{Fold, Shown};
use super::lines::End;
use super::mixer::Mixer;

/// Gathers what ranks say in the form in which it is written.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Where equal lines are shown once.
    fold: Option<Fold>,
    mixer: Mixer,
    /// What has not been written yet.
    pub(crate) pending: Vec<u8>,
}

impl Screen {
    pub(crate) fn new(mixer: Mixer, fold: Option<Fold>) -> Self {
        Self { fold, mixer, pending: Vec::new() }
    }

    /// Takes a segment of a rank. Without a fold nobody looks at the clock.
    pub(crate) fn say(&mut self, rank: u32, segment: &[u8], end: End) {
        let Self { fold, mixer, pending } = self;
        match fold {
            None => mixer.add(Shown::of(&[rank], segment, end), pending),
            Some(fold) => {
                let mut emit = |shown: Shown<'_>| mixer.add(shown, pending);
                fold.add(rank, segment, end, Instant::now(), &mut emit);
            }
        }
    }

    /// Puts a line of the launcher's own behind what has been written, which is all.
    pub(crate) fn own(&mut self, text: &str, out: &mut Vec<u8>) {
        self.mixer.say(text, out);
    }

    /// Nothing more will come from the rank.
    pub(crate) fn ended(&mut self, rank: u32) {
        self.unfold(|fold, now, emit| fold.ended(rank, now, emit));
    }

    /// When [`Screen::tick`] must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.fold.as_ref().and_then(Fold::deadline)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self) {
        self.unfold(|fold, now, emit| fold.give_out(now, emit));
    }

    /// Nothing more will come from anybody.
    pub(crate) fn finish(&mut self) {
        self.unfold(|fold, now, emit| fold.finish(now, emit));
        self.mixer.finish(&mut self.pending);
    }

    fn unfold(&mut self, what: impl FnOnce(&mut Fold, Instant, &mut dyn FnMut(Shown<'_>))) {
        let Self { fold, mixer, pending } = self;
        if let Some(fold) = fold {
            what(fold, Instant::now(), &mut |shown| mixer.add(shown, pending));
        }
    }
}
