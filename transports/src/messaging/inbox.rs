use std::ops::Range;

use super::early::{EarlyFrames, EarlyPlace};
use super::{COMMUNICATORS, DEPTH_MAX, EAGER_COST_MIN, FrameHeader, FrameKind, eager_cost};
use crate::copy::copy_slice;
use crate::{
    EAGER_BYTES_MAX, EAGER_BYTES_OUTSTANDING_MAX, Event, MessageId, OpError, RecvPost, Signature,
};

/// Communicators in which messages of one peer may wait for their receive; more is a protocol violation.
const COMMUNICATORS_MAX: usize = 1024;

/// Stretches of one message that may have begun to land apart from each other: an honest peer leaves
/// at most one gap per stream.
const PIECES_MAX: usize = 64;

/// What credit may be owed to a peer that has used all of it, as long as nothing is waited for.
const CREDIT_WITHHELD_MAX: usize = 16 << 10;

/// Short frames after which their credit is given back, however little it is: a sender that only sends
/// can go on while what it sent is worked on.
const FRAMES_PER_CREDIT: usize = 64;

/// Receives, what arrived before its receive, and the credit owed to the peer.
#[derive(Debug)]
pub(crate) struct Inbox {
    posted: Vec<Option<Posted>>,
    posted_count: usize,
    generation: u32,
    early: EarlyFrames,
    accounts: Vec<Account>,
    coverage: Coverage,
    /// Whether an account became full, so that grants may be due.
    filled: bool,
}

#[derive(Debug)]
struct Posted {
    post: RecvPost,
    landed: usize,
    /// Frames have begun to land for every byte before this one; for others see [`Coverage`].
    begun: usize,
    /// Whether the peer was told that it may send without credit.
    granted: bool,
    /// Whether any frame has arrived: what completes a message of no bytes.
    arrived: bool,
    generation: u32,
}

impl Posted {
    fn is_complete(&self) -> bool {
        self.arrived && self.landed == self.post.slice.len()
    }

    fn land(&mut self, bytes: usize) {
        self.landed += bytes;
        self.arrived = true;
    }
}

/// Which bytes of posted receives frames have begun to land for, beyond those that follow each other
/// from the first on: what arrives out of order over several streams. Kept for all receives in one
/// place, so that none of them allocates.
#[derive(Debug)]
struct Coverage {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// That of the receive.
    generation: u32,
    range: Range<usize>,
}

impl Coverage {
    /// Books the bytes of a frame that begins. Returns whether they are new: otherwise some of them
    /// would land twice, and others perhaps never.
    #[must_use]
    fn book(&mut self, posted: &mut Posted, range: Range<usize>) -> bool {
        if range.is_empty() {
            return true;
        }
        if range.start == posted.begun && self.pieces.is_empty() {
            posted.begun = range.end;
            return true;
        }
        let ours = |piece: &&Piece| piece.generation == posted.generation;
        let overlaps =
            |piece: &Piece| piece.range.start < range.end && range.start < piece.range.end;
        if range.start < posted.begun || self.pieces.iter().filter(ours).any(overlaps) {
            return false;
        }
        self.pieces.push(Piece { generation: posted.generation, range });
        let next = |piece: &Piece, posted: &Posted| {
            piece.generation == posted.generation && piece.range.start == posted.begun
        };
        while let Some(at) = self.pieces.iter().position(|piece| next(piece, posted)) {
            posted.begun = self.pieces.swap_remove(at).range.end;
        }
        true
    }

    fn pieces_of(&self, posted: &Posted) -> usize {
        self.pieces.iter().filter(|piece| piece.generation == posted.generation).count()
    }

    fn forget(&mut self, generation: u32) {
        self.pieces.retain(|piece| piece.generation != generation);
    }
}

#[derive(Debug)]
struct Account {
    communicator: u32,
    /// Cost of all eager frames whose credit was not given back.
    outstanding: usize,
    /// Cost of those among them that wait for their receive.
    held: usize,
    /// Cost of those that have landed: credit to give back to the peer.
    owed: usize,
    /// How many those are.
    owed_frames: usize,
}

impl Account {
    /// Whether early frames hold so much that the peer cannot send even the smallest frame.
    fn is_full(&self) -> bool {
        self.held + EAGER_COST_MIN > EAGER_BYTES_OUTSTANDING_MAX
    }

    /// Three quarters of what is not held: back-to-back 64 KiB exchanges never reach it (their
    /// credit rides in the next operation's frame), one-way traffic does before its sender runs
    /// dry. But not for less than [`CREDIT_WITHHELD_MAX`]: where a sender is far ahead there is enough to
    /// work on, and with a frame of credit for each message the two would go in step.
    fn is_credit_due(&self) -> bool {
        let free = EAGER_BYTES_OUTSTANDING_MAX.saturating_sub(self.held);
        self.owed >= (free / 4 * 3).max(CREDIT_WITHHELD_MAX)
            || self.owed_frames >= FRAMES_PER_CREDIT
    }

    fn owes(&mut self, cost: usize) {
        self.owed += cost;
        self.owed_frames += 1;
    }

    /// Whether the peer cannot send even the smallest frame before it gets credit that is owed to it.
    fn is_starved(&self) -> bool {
        self.owed > 0 && self.outstanding + EAGER_COST_MIN > EAGER_BYTES_OUTSTANDING_MAX
    }
}

/// What became of a receive when it was posted.
#[derive(Debug)]
pub(crate) enum Receiving {
    /// It waits for frames; whether the peer must be told that it may send.
    Waits { needs_grant: bool },
    /// Everything was there already.
    Ended(Event),
}

/// Where the payload of a frame goes. Obtained at its header, used until its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Landing {
    /// Into a posted receive.
    Posted { slot: usize, generation: u32, offset: usize },
    /// Into the early buffer.
    Early(EarlyPlace),
    /// Nowhere: its operation has failed.
    Discard,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            posted: Vec::with_capacity(DEPTH_MAX),
            posted_count: 0,
            generation: 0,
            early: EarlyFrames::new(),
            accounts: Vec::with_capacity(COMMUNICATORS),
            coverage: Coverage { pieces: Vec::with_capacity(PIECES_MAX) },
            filled: false,
        }
    }

    /// Whether receives are posted.
    pub(crate) fn has_posted(&self) -> bool {
        self.posted_count > 0
    }

    /// Whether a communicator has as many receives posted as it may have; see [`Outbox::is_full_for`].
    ///
    /// [`Outbox::is_full_for`]: super::Outbox::is_full_for
    pub(crate) fn is_full_for(&self, communicator: u32) -> bool {
        let of_it = |posted: &&Posted| posted.post.id.communicator == communicator;
        self.posted_count >= DEPTH_MAX
            && self.posted.iter().flatten().filter(of_it).count() >= DEPTH_MAX
    }

    /// Whether the whole of a message has arrived early.
    pub(crate) fn holds(&self, id: MessageId, length: usize) -> bool {
        let frames = || self.early.of_message(id).map(|(_, frame)| frame.landed);
        frames().count() > 0 && frames().sum::<usize>() == length
    }

    /// Takes a receive and gives it what arrived early.
    pub(crate) fn post(&mut self, post: RecvPost) -> Receiving {
        let id = post.id;
        let granted = post.slice.len() > EAGER_BYTES_MAX;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let mut posted = Posted { post, landed: 0, begun: 0, granted, arrived: false, generation };
        if !self.early.is_empty() {
            for (_, frame) in self.early.of_message(id) {
                let new = self.coverage.book(&mut posted, frame.range());
                debug_assert!(new, "early frames were compared when they began");
            }
            if let Err(error) = self.deliver_early(&mut posted) {
                self.coverage.forget(generation);
                return Receiving::Ended(Event::Failed { token: posted.post.token, error });
            }
            if self.account(id.communicator).is_full() {
                posted.granted = true;
            }
        }
        if posted.is_complete() {
            return Receiving::Ended(Event::Received { token: posted.post.token });
        }
        // From here on its slot owns it, and releasing that forgets its pieces.
        let granted = posted.granted;
        self.posted_count += 1;
        match self.posted.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(posted),
            None => self.posted.push(Some(posted)),
        }
        Receiving::Waits { needs_grant: granted }
    }

    /// Gives a receive what has arrived early. If it disagrees with its sender's message, the
    /// early frames of the message are dropped.
    fn deliver_early(&mut self, posted: &mut Posted) -> Result<(), OpError> {
        let outcome = self.copy_early(posted);
        if outcome.is_err() {
            self.drop_early(posted.post.id);
        }
        outcome
    }

    fn copy_early(&mut self, posted: &mut Posted) -> Result<(), OpError> {
        let (id, ours) = (posted.post.id, posted.post.signature);
        let mut signatures = self.early.of_operation(id).map(|(_, frame)| frame.header.signature);
        let other = signatures.find(|theirs| *theirs != ours);
        drop(signatures);
        if let Some(theirs) = other {
            return Err(OpError::SignatureMismatch { id, ours, theirs });
        }
        loop {
            let mut frames = self.early.of_message(id);
            let Some((place, frame)) = frames.find(|(_, frame)| frame.is_complete()) else {
                return Ok(());
            };
            check_length(&posted.post, &frame.header)?;
            drop(frames);
            let Some((frame, payload)) = self.early.remove(place) else { return Ok(()) };
            let (range, length) = (frame.range(), payload.len());
            copy_slice(posted.post.slice.bytes_mut(range), payload);
            posted.land(length);
            self.release_early(&frame.header);
        }
    }

    fn drop_early(&mut self, id: MessageId) {
        loop {
            let first = self.early.of_message(id).next().map(|(place, _)| place);
            let Some((frame, _)) = first.and_then(|place| self.early.remove(place)) else { return };
            self.release_early(&frame.header);
        }
    }

    /// The frame's bytes are no longer needed: the peer gets its credit back.
    fn release_early(&mut self, header: &FrameHeader) {
        let cost = eager_cost(header.length as usize);
        let account = self.account(header.id.communicator);
        account.held = account.held.saturating_sub(cost);
        account.owes(cost);
    }

    /// Decides where a data frame goes.
    ///
    /// # Errors
    /// What the peer did wrong, if it broke the protocol.
    pub(crate) fn begin(
        &mut self,
        header: &FrameHeader,
        events: &mut Vec<Event>,
    ) -> Result<Landing, String> {
        if header.kind == FrameKind::Eager {
            self.charge(header)?;
        }
        if let Some(slot) = self.find(header.id) {
            let posted = self.posted[slot].as_mut().expect("found slots are taken");
            let token = posted.post.token;
            let error = if posted.post.signature == header.signature {
                check_length(&posted.post, header).err()
            } else {
                let (ours, theirs) = (posted.post.signature, header.signature);
                Some(OpError::SignatureMismatch { id: header.id, ours, theirs })
            };
            if let Some(error) = error {
                self.release(slot);
                events.push(Event::Failed { token, error });
                return Ok(Landing::Discard);
            }
            let offset =
                usize::try_from(header.offset).map_err(|_| "offset overflows".to_owned())?;
            let length = header.length as usize;
            if !self.coverage.book(posted, offset..offset + length) {
                return Err(twice(header));
            }
            if self.coverage.pieces_of(posted) > PIECES_MAX {
                return Err(format!("more than {PIECES_MAX} gaps in a message ({})", header.id));
            }
            return Ok(Landing::Posted { slot, generation: posted.generation, offset });
        }
        self.begin_early(header, events)
    }

    fn begin_early(
        &mut self,
        header: &FrameHeader,
        events: &mut Vec<Event>,
    ) -> Result<Landing, String> {
        if header.kind != FrameKind::Eager {
            // A granted message whose receive is gone: the operation was abandoned here.
            return Ok(Landing::Discard);
        }
        if self.early.meets(header) {
            return Err(twice(header));
        }
        let length = header.length as usize;
        if self.account(header.id.communicator).held == 0
            && self.accounts.len() >= COMMUNICATORS_MAX
            && self.accounts.iter().filter(|account| account.held > 0).count() >= COMMUNICATORS_MAX
        {
            return Err(format!("early messages in more than {COMMUNICATORS_MAX} communicators"));
        }
        let account = self.account(header.id.communicator);
        account.held += eager_cost(length);
        self.filled |= account.is_full();
        if header.offset == 0 {
            events.push(Event::Early { id: header.id, signature: header.signature });
        }
        Ok(Landing::Early(self.early.push(*header)))
    }

    /// Books an eager frame in its communicator's account.
    ///
    /// # Errors
    /// When the peer has no credit for it.
    fn charge(&mut self, header: &FrameHeader) -> Result<(), String> {
        let account = self.account(header.id.communicator);
        account.outstanding += eager_cost(header.length as usize);
        if account.outstanding > EAGER_BYTES_OUTSTANDING_MAX {
            return Err(format!(
                "more than {EAGER_BYTES_OUTSTANDING_MAX} bytes sent without a grant"
            ));
        }
        Ok(())
    }

    /// The bytes to fill next for a frame of which `done` of `length` payload bytes have landed;
    /// `None` when they are to be thrown away.
    pub(crate) fn target(
        &mut self,
        landing: Landing,
        done: usize,
        length: usize,
    ) -> Option<&mut [u8]> {
        match landing {
            Landing::Posted { slot, generation, offset } => {
                let posted = self.posted.get_mut(slot)?.as_mut()?;
                (posted.generation == generation)
                    .then(|| posted.post.slice.bytes_mut(offset + done..offset + length))
            }
            Landing::Early(place) => self.early.payload_mut(place, done),
            Landing::Discard => None,
        }
    }

    /// Ends a frame: all its payload has landed.
    pub(crate) fn finish(
        &mut self,
        landing: Landing,
        header: &FrameHeader,
        events: &mut Vec<Event>,
    ) {
        let length = header.length as usize;
        let eager = header.kind == FrameKind::Eager;
        match landing {
            Landing::Posted { slot, generation, .. } => {
                let entry = self.posted.get_mut(slot).and_then(Option::as_mut);
                if let Some(posted) = entry.filter(|posted| posted.generation == generation) {
                    posted.land(length);
                    if posted.is_complete() {
                        let token = posted.post.token;
                        self.release(slot);
                        events.push(Event::Received { token });
                    }
                }
                if eager {
                    self.account(header.id.communicator).owes(eager_cost(length));
                }
            }
            Landing::Early(place) => self.finish_early(place, header.id, events),
            Landing::Discard => {
                if eager {
                    self.account(header.id.communicator).owes(eager_cost(length));
                }
            }
        }
    }

    /// An early frame is complete; its receive may have been posted while it arrived.
    fn finish_early(&mut self, place: EarlyPlace, id: MessageId, events: &mut Vec<Event>) {
        self.early.complete(place);
        let Some(slot) = self.find(id) else { return };
        let mut posted = self.posted[slot].take().expect("found slots are taken");
        let token = posted.post.token;
        let outcome = self.deliver_early(&mut posted);
        match outcome {
            Ok(()) if !posted.is_complete() => self.posted[slot] = Some(posted),
            outcome => {
                self.posted_count -= 1;
                self.coverage.forget(posted.generation);
                events.push(match outcome {
                    Ok(()) => Event::Received { token },
                    Err(error) => Event::Failed { token, error },
                });
            }
        }
    }

    /// Takes the credit to put into the header of a frame of this communicator.
    pub(crate) fn take_credit(&mut self, communicator: u32) -> u32 {
        let account = self.account(communicator);
        // Frames that began before the communicator was abandoned here are not booked any more.
        account.outstanding = account.outstanding.saturating_sub(account.owed);
        let owed = std::mem::take(&mut account.owed);
        account.owed_frames = 0;
        u32::try_from(owed).expect("bounded by what may be outstanding")
    }

    /// A communicator whose credit must be given back in a frame of its own.
    pub(crate) fn credit_due(&self) -> Option<u32> {
        let mut accounts = self.accounts.iter();
        let is_due = |account: &&Account| {
            account.is_credit_due() || (account.is_starved() && self.awaits(account.communicator))
        };
        accounts.find(is_due).map(|account| account.communicator)
    }

    /// Whether something is posted for a communicator.
    fn awaits(&self, communicator: u32) -> bool {
        self.posted_count > 0
            && self.posted.iter().flatten().any(|of| of.post.id.communicator == communicator)
    }

    /// A posted message that the peer cannot send for want of credit, since early messages hold
    /// all of it, and that it must therefore be granted. Each is returned once.
    pub(crate) fn grant_due(&mut self) -> Option<MessageId> {
        if !self.filled {
            return None;
        }
        for posted in self.posted.iter_mut().flatten().filter(|posted| !posted.granted) {
            let id = posted.post.id;
            let mut accounts = self.accounts.iter();
            if accounts.any(|account| account.communicator == id.communicator && account.is_full())
            {
                posted.granted = true;
                return Some(id);
            }
        }
        self.filled = false;
        None
    }

    /// An early message of an operation before `op_seq`.
    pub(crate) fn stray(&self, communicator: u32, op_seq: u64) -> Option<(u64, Signature)> {
        let headers = self.early.iter().map(|frame| &frame.header);
        let is_stray = |header: &&FrameHeader| {
            header.id.communicator == communicator && header.id.op_seq < op_seq
        };
        let first = headers.filter(is_stray).min_by_key(|header| header.id.op_seq);
        first.map(|header| (header.id.op_seq, header.signature))
    }

    /// Drops everything of a communicator.
    pub(crate) fn abandon(&mut self, communicator: u32) {
        for slot in 0..self.posted.len() {
            let ours = |posted: &Posted| posted.post.id.communicator == communicator;
            if self.posted[slot].as_ref().is_some_and(ours) {
                self.release(slot);
            }
        }
        self.early.abandon(communicator);
        self.accounts.retain(|account| account.communicator != communicator);
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.early.memory_bytes() + self.posted.capacity() * size_of::<Option<Posted>>()
    }

    fn find(&self, id: MessageId) -> Option<usize> {
        self.posted.iter().position(|slot| slot.as_ref().is_some_and(|posted| posted.post.id == id))
    }

    fn release(&mut self, slot: usize) {
        if let Some(posted) = self.posted[slot].take() {
            self.posted_count -= 1;
            self.coverage.forget(posted.generation);
        }
    }

    fn account(&mut self, communicator: u32) -> &mut Account {
        let found = self.accounts.iter().position(|account| account.communicator == communicator);
        let at = found.unwrap_or_else(|| {
            self.accounts.push(Account {
                communicator,
                outstanding: 0,
                held: 0,
                owed: 0,
                owed_frames: 0,
            });
            self.accounts.len() - 1
        });
        &mut self.accounts[at]
    }
}

fn twice(header: &FrameHeader) -> String {
    format!("bytes from {} on twice ({})", header.offset, header.id)
}

fn check_length(post: &RecvPost, header: &FrameHeader) -> Result<(), OpError> {
    let posted = post.slice.len();
    match usize::try_from(header.message_bytes) {
        Ok(announced) if announced == posted => Ok(()),
        announced => Err(OpError::LengthMismatch {
            id: post.id,
            posted,
            announced: announced.unwrap_or(usize::MAX),
        }),
    }
}
