//! How far the operations that are under way are.

use paceline_transports::OpError;

/// Operations that may be under way at a time in one context.
pub(crate) const BOARDS: usize = 64;

/// Sends or receives of one operation that may be posted at a time: one bit each in a word.
pub(crate) const WINDOW_MAX: usize = 64;

/// What a token means: board, direction and number of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) board: usize,
    pub(crate) receive: bool,
    pub(crate) index: usize,
}

const INDEX_BITS: u32 = 48;

impl Token {
    pub(crate) fn encode(self) -> u64 {
        debug_assert!(self.index < 1 << INDEX_BITS, "step numbers fit");
        ((self.board as u64) << 1 | u64::from(self.receive)) << INDEX_BITS | self.index as u64
    }

    pub(super) fn decode(token: u64) -> Self {
        let high = token >> INDEX_BITS;
        let index = token & ((1 << INDEX_BITS) - 1);
        let to_usize = |value: u64| usize::try_from(value).expect("64-bit");
        Self { board: to_usize(high >> 1), receive: high & 1 == 1, index: to_usize(index) }
    }
}

/// How far the posted steps of one operation are: filled by whoever polls, read by its owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    taken: bool,
    /// Receives before this number have been applied.
    applied: usize,
    /// Bit i: receive number `applied + i` has arrived.
    arrived: u64,
    /// Sends before this number have completed.
    sent: usize,
    /// Bit i: send number `sent + i` has completed.
    sent_ahead: u64,
    failure: Option<(usize, OpError)>,
}

impl Board {
    /// Takes a board that nobody has, for an operation that begins.
    pub(super) fn take(boards: &mut [Self]) -> Option<usize> {
        let free = boards.iter().position(|board| !board.taken)?;
        boards[free] = Self { taken: true, ..Self::default() };
        Some(free)
    }

    pub(super) fn free(&mut self) {
        self.taken = false;
    }

    pub(crate) fn applied(&self) -> usize {
        self.applied
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    pub(crate) fn next_has_arrived(&self) -> bool {
        self.arrived & 1 == 1
    }

    pub(crate) fn has_arrived(&self, index: usize) -> bool {
        index < self.applied || self.arrived >> (index - self.applied) & 1 == 1
    }

    pub(crate) fn has_sent(&self, index: usize) -> bool {
        index < self.sent || self.sent_ahead >> (index - self.sent) & 1 == 1
    }

    pub(crate) fn apply(&mut self) {
        debug_assert!(self.next_has_arrived(), "only what has arrived is applied");
        self.applied += 1;
        self.arrived >>= 1;
    }

    pub(crate) fn failure(&self) -> Option<&OpError> {
        self.failure.as_ref().map(|(_, error)| error)
    }

    /// A step has failed. What fails first is kept.
    pub(super) fn fail(&mut self, step: usize, error: OpError) {
        self.failure.get_or_insert((step, error));
    }

    /// The step whose failure was noticed first.
    pub(crate) fn failed_step(&self) -> Option<usize> {
        self.failure.as_ref().map(|(step, _)| *step)
    }

    pub(super) fn complete(&mut self, token: Token) {
        if token.receive {
            debug_assert!(token.index >= self.applied, "a receive completes once");
            self.arrived |= 1 << (token.index - self.applied);
        } else {
            self.sent_ahead |= 1 << (token.index - self.sent);
            let run = self.sent_ahead.trailing_ones();
            self.sent += run as usize;
            self.sent_ahead = self.sent_ahead.checked_shr(run).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for board in [0, 1, BOARDS - 1] {
            for receive in [false, true] {
                for index in [0, 7, (1 << INDEX_BITS) - 1] {
                    let token = Token { board, receive, index };
                    assert_eq!(Token::decode(token.encode()), token);
                }
            }
        }
    }

    #[test]
    fn completions_out_of_order_count_in_order() {
        let mut board = Board::default();
        let send = |index| Token { board: 0, receive: false, index };
        for index in (1..WINDOW_MAX).rev() {
            board.complete(send(index));
            assert_eq!(board.sent(), 0);
        }
        board.complete(send(0));
        assert_eq!(board.sent(), WINDOW_MAX);
        board.complete(send(WINDOW_MAX));
        assert_eq!(board.sent(), WINDOW_MAX + 1);
        board.complete(Token { board: 0, receive: true, index: 1 });
        assert!(!board.next_has_arrived() && board.has_arrived(1));
        board.complete(Token { board: 0, receive: true, index: 0 });
        board.apply();
        board.apply();
        assert_eq!(board.applied(), 2);
        assert!(!board.next_has_arrived());
    }
}
