use std::collections::VecDeque;

use super::{COMMUNICATORS, DEPTH_MAX, FrameHeader, FrameKind, eager_cost};
use crate::{EAGER_BYTES_MAX, EAGER_BYTES_OUTSTANDING_MAX, Event, MessageId, SendPost};

/// Grants that may wait for their send to be posted; more is a protocol violation.
const GRANTS_MAX: usize = 4096;

/// Sends, and what the peer allows.
#[derive(Debug)]
pub(crate) struct Outbox {
    epoch: u32,
    /// Those that have not ended, in the order of their numbers.
    sends: VecDeque<Sending>,
    next_number: u64,
    grants: Vec<MessageId>,
    accounts: Vec<Account>,
}

#[derive(Debug)]
struct Sending {
    post: SendPost,
    /// What frames under way call it by: others may end before it and after it.
    number: u64,
    /// Bytes already given to frames.
    framed: usize,
    /// Frames not yet completely written.
    in_flight: u32,
    /// Whether any frame was made: an empty message needs one too.
    started: bool,
    granted: bool,
}

#[derive(Debug)]
struct Account {
    communicator: u32,
    credit: usize,
}

/// The next frame to write: header, and which bytes of which send follow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutFrame {
    pub(crate) header: FrameHeader,
    send: u64,
    start: usize,
}

impl Outbox {
    pub(crate) fn new(epoch: u32) -> Self {
        Self {
            epoch,
            sends: VecDeque::with_capacity(DEPTH_MAX),
            next_number: 0,
            grants: Vec::with_capacity(DEPTH_MAX),
            accounts: Vec::with_capacity(COMMUNICATORS),
        }
    }

    pub(crate) fn post(&mut self, post: SendPost) {
        let early = self.grants.iter().position(|id| *id == post.id);
        if let Some(at) = early {
            self.grants.swap_remove(at);
        }
        self.sends.push_back(Sending {
            post,
            number: self.next_number,
            framed: 0,
            in_flight: 0,
            started: false,
            granted: early.is_some(),
        });
        self.next_number += 1;
    }

    /// Sends that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.sends.len()
    }

    /// Whether a communicator has as many sends that have not ended as it may have. Each has room of its
    /// own, or what one of them waits for could wait behind it.
    pub(crate) fn is_full_for(&self, communicator: u32) -> bool {
        let of_it = |sending: &&Sending| sending.post.id.communicator == communicator;
        self.sends.len() >= DEPTH_MAX && self.sends.iter().filter(of_it).count() >= DEPTH_MAX
    }

    /// The receive of a message is posted at the peer.
    ///
    /// # Errors
    /// What the peer did wrong, if it broke the protocol.
    pub(crate) fn granted(&mut self, id: MessageId) -> Result<(), String> {
        if let Some(sending) = self.sends.iter_mut().find(|sending| sending.post.id == id) {
            sending.granted = true;
        } else if self.grants.len() < GRANTS_MAX {
            self.grants.push(id);
        } else {
            return Err(format!("more than {GRANTS_MAX} grants for messages that are not sent"));
        }
        Ok(())
    }

    /// The peer gives credit back.
    ///
    /// # Errors
    /// What the peer did wrong, if it broke the protocol.
    pub(crate) fn credited(&mut self, communicator: u32, bytes: u32) -> Result<(), String> {
        let known = self.accounts.iter_mut().find(|account| account.communicator == communicator);
        // Without an account the communicator was abandoned while the credit was on its way.
        let Some(account) = known else { return Ok(()) };
        account.credit += bytes as usize;
        if account.credit > EAGER_BYTES_OUTSTANDING_MAX {
            return Err("more credit than was ever used".to_owned());
        }
        Ok(())
    }

    /// Makes the next frame that may be sent now, of at most `fragment_max` payload bytes.
    pub(crate) fn next_frame(&mut self, fragment_max: usize) -> Option<OutFrame> {
        for at in 0..self.sends.len() {
            let sending = &self.sends[at];
            let rest = sending.post.slice.len() - sending.framed;
            if sending.started && rest == 0 {
                continue;
            }
            let id = sending.post.id;
            let (length, eager) = if sending.granted {
                (rest.min(fragment_max), false)
            } else {
                let eager_left = EAGER_BYTES_MAX.saturating_sub(sending.framed);
                let wanted = rest.min(eager_left).min(fragment_max);
                let credit = self.account(id.communicator).credit;
                let length = wanted.min(credit);
                let affordable = eager_cost(length) <= credit && (length > 0 || rest == 0);
                if !affordable {
                    continue;
                }
                self.account(id.communicator).credit -= eager_cost(length);
                (length, true)
            };
            return Some(self.frame(at, length, eager));
        }
        None
    }

    fn frame(&mut self, at: usize, length: usize, eager: bool) -> OutFrame {
        let sending = &mut self.sends[at];
        let start = sending.framed;
        sending.framed += length;
        sending.in_flight += 1;
        sending.started = true;
        OutFrame {
            header: FrameHeader {
                kind: if eager { FrameKind::Eager } else { FrameKind::Data },
                epoch: self.epoch,
                id: sending.post.id,
                signature: sending.post.signature,
                offset: start as u64,
                message_bytes: sending.post.slice.len() as u64,
                length: u32::try_from(length).expect("frames are shorter"),
                credit: 0,
                payload_checksum: 0,
            },
            send: sending.number,
            start,
        }
    }

    /// The payload of a frame from byte `done` on.
    pub(crate) fn payload(&self, frame: &OutFrame, done: usize) -> &[u8] {
        let length = frame.header.length as usize;
        &self.sends[self.index(frame)].post.slice.bytes(frame.start + done)[..length - done]
    }

    /// A frame is completely written (or copied): its bytes are no longer needed.
    pub(crate) fn written(&mut self, frame: &OutFrame, events: &mut Vec<Event>) {
        let at = self.index(frame);
        let sending = &mut self.sends[at];
        sending.in_flight -= 1;
        if sending.in_flight == 0 && sending.framed == sending.post.slice.len() {
            events.push(Event::Sent { token: sending.post.token });
            self.sends.remove(at);
        }
    }

    /// A header without payload for this communicator.
    pub(crate) fn control(&self, kind: FrameKind, id: MessageId) -> FrameHeader {
        FrameHeader {
            kind,
            epoch: self.epoch,
            id,
            signature: crate::Signature::default(),
            offset: 0,
            message_bytes: 0,
            length: 0,
            credit: 0,
            payload_checksum: 0,
        }
    }

    /// Drops every send of a communicator. Its frames must not be written any further.
    pub(crate) fn abandon(&mut self, communicator: u32) {
        self.sends.retain(|sending| sending.post.id.communicator != communicator);
        self.grants.retain(|id| id.communicator != communicator);
        self.accounts.retain(|account| account.communicator != communicator);
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.sends.capacity() * size_of::<Sending>()
            + self.grants.capacity() * size_of::<MessageId>()
    }

    fn index(&self, frame: &OutFrame) -> usize {
        self.sends
            .binary_search_by_key(&frame.send, |sending| sending.number)
            .expect("a send stays until its last frame is written or its communicator abandoned")
    }

    fn account(&mut self, communicator: u32) -> &mut Account {
        let found = self.accounts.iter().position(|account| account.communicator == communicator);
        let at = found.unwrap_or_else(|| {
            self.accounts.push(Account { communicator, credit: EAGER_BYTES_OUTSTANDING_MAX });
            self.accounts.len() - 1
        });
        &mut self.accounts[at]
    }
}
