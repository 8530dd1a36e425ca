//! Messages between two ranks, under way over the wire by non-blocking steps.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;

use paceline_rendezvous::message::MESSAGE_BIT;
use paceline_transports::{MessageId, OpError, RecvPost, Region, Rejected, SendPost};

use super::board::{Token, WINDOW_MAX};
use super::operation::StepError;
use super::wire::Wire;
use crate::batch::{Batch, Message};
use crate::drive::Steps;
use crate::error::OperationName;
use crate::members::Members;
use crate::signature::{Collective, OperationKind};
use crate::timeline::OperationLabel;

/// Boards that one batch needs at most: each has room for a window of sends and one of receives.
const BOARDS_MAX: usize = Batch::MESSAGES_MAX / WINDOW_MAX;

/// Messages of one tag between two ranks that are told apart.
const ORDERS: u64 = 1 << 31;

/// What a communicator keeps between messages, so that none of them allocates but the first of its
/// peer and tag.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// Messages so far to (false) or from (true) a peer with a tag.
    counts: HashMap<(bool, u32, u32), u64>,
    regions: Vec<Arc<Region>>,
    under_way: Vec<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    name: OperationName,
    receives: bool,
    /// In the world.
    peer: u32,
    /// Which of the boards, and its number there.
    board: usize,
    index: usize,
    posted: bool,
}

impl Mail {
    /// Numbers messages that are entered, which must not be more than a batch may have.
    pub(crate) fn number(&mut self, messages: &[Message], communicator: u32, members: &Members) {
        self.under_way.clear();
        let mut counts = [0; 2];
        for message in messages {
            let Message { receives, peer, tag, buffer } = *message;
            let order = self.counts.entry((receives, peer, tag)).or_default();
            let op_seq = MESSAGE_BIT | u64::from(tag) << 31 | (*order % ORDERS);
            *order += 1;
            let peer = members.in_world(peer);
            let collective = if receives { Collective::Receive } else { Collective::Send };
            let kind = OperationKind {
                dtype: Some(buffer.dtype),
                root: Some(peer),
                count: buffer.count as u64,
                ..OperationKind::bare(collective)
            };
            let number = &mut counts[usize::from(receives)];
            self.under_way.push(UnderWay {
                name: OperationName { kind, communicator, op_seq },
                receives,
                peer,
                board: *number / WINDOW_MAX,
                index: *number % WINDOW_MAX,
                posted: false,
            });
            *number += 1;
        }
        while self.regions.len() < messages.len() {
            self.regions.push(Region::empty());
        }
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        let region = size_of::<Arc<Region>>() + size_of::<Region>();
        self.counts.capacity() * size_of::<((bool, u32, u32), u64)>()
            + self.regions.len() * region
            + self.under_way.capacity() * size_of::<UnderWay>()
    }

    /// The name of the first message that was numbered last.
    pub(crate) fn first(&self) -> Option<OperationName> {
        self.under_way.first().map(|message| message.name)
    }
}

/// Messages under way.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    mail: &'a mut Mail,
    communicator: u32,
    boards: [usize; BOARDS_MAX],
    boards_taken: usize,
    all_posted: bool,
}

impl<'a> Exchange<'a> {
    /// The messages that were numbered last, which are these; `None` if too many operations are under
    /// way.
    ///
    /// # Safety
    /// Their buffers must be valid, those to send for reads and those to receive for writes, until
    /// the exchange has [ended](Steps::end), and nobody else may access those to receive, or write
    /// to those to send.
    pub(crate) unsafe fn new(
        mail: &'a mut Mail,
        messages: &[Message],
        communicator: u32,
        wire: &mut Wire,
    ) -> Option<Self> {
        for (message, region) in messages.iter().zip(&mut mail.regions) {
            let start = NonNull::new(message.buffer.host_address());
            let start = start.expect("no buffer begins at address 0");
            // SAFETY: the contract of this function.
            let relent = unsafe { region.relend(start, message.buffer.bytes()) };
            relent.expect("the messages before these left nothing posted");
        }
        let needed = mail.under_way.iter().map(|message| message.board + 1).max().unwrap_or(0);
        let mut exchange = Self {
            mail,
            communicator,
            boards: [0; BOARDS_MAX],
            boards_taken: 0,
            all_posted: false,
        };
        while exchange.boards_taken < needed {
            let Some(board) = wire.take_board() else {
                exchange.end(wire, true);
                return None;
            };
            exchange.boards[exchange.boards_taken] = board;
            exchange.boards_taken += 1;
        }
        Some(exchange)
    }

    /// Posts what can be posted; one peer's full queue does not hold up the others'.
    fn post(&mut self, wire: &mut Wire) -> Result<bool, StepError> {
        let (mut any, mut all) = (false, true);
        for (at, message) in self.mail.under_way.iter_mut().enumerate() {
            if message.posted {
                continue;
            }
            let UnderWay { name, receives, peer, index, .. } = *message;
            let board = self.boards[message.board];
            let number = Token { board, receive: receives, index };
            let token = number.encode();
            let OperationName { kind, communicator, op_seq } = name;
            let (id, signature) = (MessageId { communicator, tag: 0, op_seq }, kind.signature());
            let region = &self.mail.regions[at];
            let bytes = 0..region.len();
            let rejected = if receives {
                // SAFETY: the buffer is lent by the contract of `new`.
                let slice = unsafe { region.slice_mut(bytes) };
                let post = RecvPost { token, id, signature, slice };
                wire.endpoint(peer).post_recv(post).map_err(|rejected| is_dead(&rejected))
            } else {
                // SAFETY: as above.
                let slice = unsafe { region.slice(bytes) };
                let post = SendPost { token, id, signature, slice };
                wire.endpoint(peer).post_send(post).map_err(|rejected| is_dead(&rejected))
            };
            match rejected {
                Ok(()) => {
                    (message.posted, any) = (true, true);
                    if let Some(trace) = &mut wire.trace {
                        let collective = kind.collective.name();
                        let label = OperationLabel { collective, communicator, op_seq };
                        trace.posted(number, peer, label, region.len());
                    }
                }
                Err(false) => all = false,
                Err(true) => return Err(StepError::Endpoint(wire.death_of(peer))),
            }
        }
        self.all_posted = all;
        Ok(any)
    }

    fn check(&self, wire: &mut Wire) -> Result<(), StepError> {
        for (place, board) in self.boards[..self.boards_taken].iter().enumerate() {
            let board = wire.board(*board);
            let Some(error) = board.failure().cloned() else { continue };
            let index = board.failed_step();
            let failed = self.mail.under_way.iter().find(|message| {
                message.receives && message.board == place && Some(message.index) == index
            });
            let peer = failed.expect("only posted receives fail").peer;
            return Err(match error {
                OpError::SignatureMismatch { theirs, .. } => StepError::Mismatch { peer, theirs },
                error => StepError::Message { peer, error },
            });
        }
        Ok(())
    }

    fn is_complete(&self, message: &UnderWay, wire: &mut Wire) -> bool {
        let board = wire.board(self.boards[message.board]);
        message.posted
            && if message.receives {
                board.has_arrived(message.index)
            } else {
                board.has_sent(message.index)
            }
    }

    /// The message to name: one that has failed, else one that is missing, else one not taken.
    fn pending(&self, wire: &mut Wire) -> Option<&UnderWay> {
        let messages = &self.mail.under_way;
        for (place, board) in self.boards[..self.boards_taken].iter().enumerate() {
            let Some(index) = wire.board(*board).failed_step() else { continue };
            let failed = |message: &&UnderWay| {
                message.receives && message.board == place && message.index == index
            };
            return messages.iter().find(failed);
        }
        let mut pending = messages.iter().filter(|message| !self.is_complete(message, wire));
        let first = pending.next()?;
        if first.receives {
            return Some(first);
        }
        Some(pending.find(|message| message.receives).unwrap_or(first))
    }
}

/// Whether it was rejected for good.
fn is_dead<P>(rejected: &Rejected<P>) -> bool {
    matches!(rejected, Rejected::Dead(_))
}

impl Steps for Exchange<'_> {
    fn only_sends(&self) -> bool {
        self.mail.under_way.iter().all(|message| !message.receives)
    }

    fn step(&mut self, wire: &mut Wire) -> Result<bool, StepError> {
        let posted = !self.all_posted && self.post(wire)?;
        let concerns = |peer| self.mail.under_way.iter().any(|message| message.peer == peer);
        let moved = wire.poll(concerns).map_err(StepError::Endpoint)?;
        self.check(wire)?;
        Ok(posted || moved)
    }

    fn is_done(&self, wire: &mut Wire) -> bool {
        self.all_posted && self.mail.under_way.iter().all(|message| self.is_complete(message, wire))
    }

    fn waiting_on(&self, wire: &mut Wire) -> Vec<u32> {
        let Some(first) = self.pending(wire) else { return Vec::new() };
        let receives = first.receives;
        let pending = self.mail.under_way.iter().filter(|message| message.receives == receives);
        let mut peers: Vec<u32> = pending
            .filter(|message| !self.is_complete(message, wire))
            .map(|message| message.peer)
            .collect();
        // The one of the message that is named comes first.
        peers.sort_unstable_by_key(|peer| (*peer != first.peer, *peer));
        peers.dedup();
        peers
    }

    fn waits_in(&self, wire: &mut Wire) -> Option<OperationName> {
        self.pending(wire).map(|message| message.name)
    }

    fn end(&mut self, wire: &mut Wire, is_complete: bool) {
        if !is_complete {
            wire.abandon(self.communicator);
        }
        for board in &self.boards[..self.boards_taken] {
            wire.free_board(*board);
        }
        self.boards_taken = 0;
    }
}
