//! What other ranks have called already: messages that came before their receives were posted.

use std::collections::VecDeque;

use paceline_transports::{MessageId, Signature};

/// Communicators, and operations of each, for which there is room from the start.
const COMMUNICATORS: usize = 8;
const OPERATIONS: usize = 64;

/// The operations that messages came early for, so that whoever calls something else there can say so.
///
/// Ranks may be ahead by thousands of operations and every step asks, so they are kept in order: those
/// of one communicator come in that of their numbers, nearly, and are asked for in it.
#[derive(Debug)]
pub(super) struct EarlyCalls {
    communicators: Vec<Calls>,
}

#[derive(Debug)]
struct Calls {
    /// None where the queue waits for one.
    communicator: Option<u32>,
    /// In ascending order of operations.
    queue: VecDeque<EarlyCall>,
}

/// What ranks called as one operation.
#[derive(Debug)]
struct EarlyCall {
    op_seq: u64,
    /// The first rank that was heard of, and what it called.
    first: (u32, Signature),
    /// One that called something else.
    other: Option<(u32, Signature)>,
}

impl Calls {
    fn new() -> Self {
        Self { communicator: None, queue: VecDeque::with_capacity(OPERATIONS) }
    }
}

impl EarlyCalls {
    pub(super) fn new() -> Self {
        // All at once: who is ahead of whom changes, and an operation shall not allocate for it.
        Self { communicators: (0..COMMUNICATORS).map(|_| Calls::new()).collect() }
    }

    /// Takes note of the first message of an operation from a peer.
    pub(super) fn note(&mut self, peer: u32, id: MessageId, signature: Signature) {
        let MessageId { communicator, op_seq, .. } = id;
        let first = (peer, signature);
        let call = EarlyCall { op_seq, first, other: None };
        let Calls { queue, .. } = self.calls_of(communicator);
        if queue.back().is_none_or(|last| last.op_seq < op_seq) {
            return queue.push_back(call);
        }
        match queue.binary_search_by_key(&op_seq, |call| call.op_seq) {
            Ok(at) if queue[at].first.1 != signature => queue[at].other = Some(first),
            Ok(_) => {}
            Err(at) => queue.insert(at, call),
        }
    }

    /// Whether somebody called an operation with another signature than `signature`: who, and with
    /// which. Forgets the operations before it.
    pub(super) fn mismatch(
        &mut self,
        communicator: u32,
        op_seq: u64,
        signature: Signature,
    ) -> Option<(u32, Signature)> {
        let calls =
            self.communicators.iter_mut().find(|of| of.communicator == Some(communicator))?;
        while calls.queue.pop_front_if(|call| call.op_seq < op_seq).is_some() {}
        let call = calls.queue.front().filter(|call| call.op_seq == op_seq)?;
        [Some(call.first), call.other]
            .into_iter()
            .flatten()
            .find(|(_, theirs)| *theirs != signature)
    }

    fn calls_of(&mut self, communicator: u32) -> &mut Calls {
        let place = |owner| self.communicators.iter().position(|of| of.communicator == owner);
        let at = place(Some(communicator)).or_else(|| place(None)).unwrap_or_else(|| {
            self.communicators.push(Calls::new());
            self.communicators.len() - 1
        });
        let calls = &mut self.communicators[at];
        calls.communicator = Some(communicator);
        calls
    }

    pub(super) fn abandon(&mut self, communicator: u32) {
        let ours = |of: &&mut Calls| of.communicator == Some(communicator);
        if let Some(calls) = self.communicators.iter_mut().find(ours) {
            calls.communicator = None;
            calls.queue.clear();
        }
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        let queues = self.communicators.iter().map(|of| of.queue.capacity());
        queues.sum::<usize>() * size_of::<EarlyCall>()
            + self.communicators.capacity() * size_of::<Calls>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Signature = Signature([1; 16]);
    const THEIRS: Signature = Signature([2; 16]);

    fn of(communicator: u32, op_seq: u64) -> MessageId {
        MessageId { communicator, tag: 0, op_seq }
    }

    #[test]
    fn whoever_called_something_else_is_named_in_whatever_order_ranks_come() {
        let mut early = EarlyCalls::new();
        early.note(1, of(0, 5), OURS);
        early.note(1, of(0, 7), OURS);
        early.note(2, of(0, 6), THEIRS);
        early.note(2, of(0, 7), OURS);
        early.note(3, of(0, 7), THEIRS);
        early.note(4, of(1, 7), THEIRS);
        assert_eq!(early.mismatch(0, 5, OURS), None);
        assert_eq!(early.mismatch(0, 5, THEIRS), Some((1, OURS)));
        assert_eq!(early.mismatch(0, 6, OURS), Some((2, THEIRS)));
        assert_eq!(early.mismatch(0, 5, THEIRS), None, "it is forgotten");
        assert_eq!(early.mismatch(0, 7, OURS), Some((3, THEIRS)));
        assert_eq!(early.mismatch(0, 7, THEIRS), Some((1, OURS)));
        assert_eq!(early.mismatch(0, 8, OURS), None);
        assert_eq!(early.mismatch(1, 7, OURS), Some((4, THEIRS)));
        early.abandon(1);
        assert_eq!(early.mismatch(1, 7, OURS), None);
    }
}
