//! Messages on a timeline.

use std::sync::Arc;
use std::time::Instant;

use super::board::{BOARDS, Token, WINDOW_MAX};
use crate::timeline::{OperationLabel, Timeline, Track, What};

/// What the wire remembers of posted messages while there is a timeline.
///
/// On the track of a channel a message begins when it is posted or when the one before it is done,
/// whichever is later: from then on it is the next one. So no two overlap.
#[derive(Debug)]
pub(crate) struct WireTrace {
    timeline: Arc<Timeline>,
    /// By board, direction and number of the step: a window of each.
    posted: Vec<Option<Posted>>,
    /// By peer: when the last message to it, and the last one from it, was done.
    done: Vec<[Option<Instant>; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Posted {
    at: Instant,
    peer: u32,
    label: OperationLabel,
    bytes: u64,
}

impl WireTrace {
    pub(crate) fn new(timeline: Arc<Timeline>, peers: usize) -> Self {
        Self { timeline, posted: vec![None; BOARDS * 2 * WINDOW_MAX], done: vec![[None; 2]; peers] }
    }

    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub(crate) fn posted(&mut self, token: Token, peer: u32, label: OperationLabel, bytes: usize) {
        let posted = Posted { at: Instant::now(), peer, label, bytes: bytes as u64 };
        self.posted[place(token)] = Some(posted);
    }

    pub(crate) fn completed(&mut self, token: Token) {
        let Some(Posted { at, peer, label, bytes }) = self.posted[place(token)].take() else {
            return;
        };
        let done = &mut self.done[peer as usize][usize::from(token.receive)];
        let start = done.map_or(at, |done| done.max(at));
        let track = Track::Channel { peer, sends: !token.receive };
        *done = Some(self.timeline.record(track, start, What::Message { label, bytes }));
    }
}

fn place(token: Token) -> usize {
    (token.board * 2 + usize::from(token.receive)) * WINDOW_MAX + token.index % WINDOW_MAX
}
