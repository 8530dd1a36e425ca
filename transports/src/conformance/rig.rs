use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Harness;
use crate::sim::Random;
use crate::{
    BufSliceMut, Endpoint, EndpointError, Event, MessageId, OpError, RecvPost, Region, Rejected,
    SendPost, Signature,
};

/// How long a case waits for what must happen. Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rounds without movement after which nothing is taken to be under way.
const QUIET_ROUNDS: usize = 300;

/// The signature of messages that are about nothing else.
pub(super) const PLAIN: Signature = Signature(*b"conformance/one.");

/// The message `tag` of operation 0 of communicator 1.
pub(super) fn message(tag: u32) -> MessageId {
    MessageId { communicator: 1, tag, op_seq: 0 }
}

/// How a post ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Sent,
    Received,
    Failed(OpError),
}

/// Memory of the test, lent to endpoints.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pub(super) region: Arc<Region>,
}

impl Buffer {
    fn of(mut bytes: Vec<u8>) -> Self {
        let base = NonNull::new(bytes.as_mut_ptr()).expect("vectors have an address");
        // SAFETY: the heap block stays where it is until the buffer is dropped, which `drop`
        // refuses while slices of it are under way.
        let region = unsafe { Region::lend(base, bytes.len()) };
        Self { bytes, region }
    }

    /// The content that the message of this number must have.
    pub(super) fn filled(number: u32, len: usize) -> Self {
        Self::of(pattern(number, len))
    }

    /// Where a message is to land.
    pub(super) fn blank(len: usize) -> Self {
        Self::of(vec![0xa5; len])
    }

    fn slice_mut(&self) -> BufSliceMut {
        // SAFETY: the buffer is looked at only when its slice is back.
        unsafe { self.region.slice_mut(0..self.region.len()) }
    }

    /// Whether an endpoint holds a slice.
    pub(super) fn is_lent(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }

    /// Proves by the region's own means that nothing is under way.
    pub(super) fn take_back(&mut self) {
        let base = NonNull::new(self.bytes.as_mut_ptr()).expect("vectors have an address");
        // SAFETY: the same memory as before.
        let quiescent = unsafe { self.region.relend(base, self.bytes.len()) };
        quiescent.expect("no slice may be held after the operation has ended");
    }

    #[track_caller]
    pub(super) fn check(&mut self, number: u32) {
        self.take_back();
        let expected = pattern(number, self.bytes.len());
        if self.bytes != expected {
            // Not assert_eq: megabytes of numbers help nobody.
            let at = self.bytes.iter().zip(&expected).position(|(is, should)| is != should);
            panic!("message {number} of {} bytes differs at {at:?}", expected.len());
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_lent() {
            // A failing case: rather leak than let an endpoint write to freed memory.
            std::mem::forget(std::mem::take(&mut self.bytes));
        }
    }
}

fn pattern(number: u32, len: usize) -> Vec<u8> {
    // No period that a chunk or a frame could share.
    let mut random = Random::new(number.into(), 1);
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// One side of the connection.
pub(super) struct End {
    endpoint: Option<Box<dyn Endpoint>>,
    events: Vec<Event>,
    outcomes: HashMap<u64, Outcome>,
    pub(super) early: Vec<(MessageId, Signature)>,
    pub(super) error: Option<EndpointError>,
}

impl End {
    pub(super) fn new(endpoint: Box<dyn Endpoint>) -> Self {
        Self {
            endpoint: Some(endpoint),
            events: Vec::new(),
            outcomes: HashMap::new(),
            early: Vec::new(),
            error: None,
        }
    }

    pub(super) fn endpoint(&mut self) -> &mut dyn Endpoint {
        self.endpoint.as_mut().expect("the case has not dropped this end").as_mut()
    }

    pub(super) fn drop_endpoint(&mut self) {
        self.endpoint = None;
    }

    pub(super) fn take_endpoint(&mut self) -> Box<dyn Endpoint> {
        self.endpoint.take().expect("the case has not dropped this end")
    }

    /// Polls once; keeps what ended.
    pub(super) fn poll(&mut self) -> bool {
        let Some(endpoint) = &mut self.endpoint else { return false };
        let moved = match endpoint.poll(&mut self.events) {
            Ok(moved) => moved,
            Err(error) => {
                assert!(self.events.is_empty(), "a poll that fails must append nothing");
                self.error = Some(error);
                false
            }
        };
        for event in self.events.drain(..) {
            let (token, outcome) = match event {
                Event::Sent { token } => (token, Outcome::Sent),
                Event::Received { token } => (token, Outcome::Received),
                Event::Failed { token, error } => (token, Outcome::Failed(error)),
                Event::Early { id, signature } => {
                    self.early.push((id, signature));
                    continue;
                }
            };
            let before = self.outcomes.insert(token, outcome);
            assert!(before.is_none(), "post {token} ended twice: {before:?}");
        }
        moved
    }

    pub(super) fn outcome(&self, token: u64) -> Option<&Outcome> {
        self.outcomes.get(&token)
    }
}

/// Two ends and what drives them.
pub(super) struct Rig<'h> {
    harness: &'h dyn Harness,
    pub(super) ends: [End; 2],
    next_token: u64,
}

impl<'h> Rig<'h> {
    pub(super) fn new(harness: &'h dyn Harness) -> Self {
        announce(harness);
        Self { harness, ends: harness.pair().map(End::new), next_token: 1 }
    }

    pub(super) fn harness(&self) -> &'h dyn Harness {
        self.harness
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(super) fn send(&mut self, side: usize, id: MessageId, buffer: &Buffer) -> u64 {
        self.try_send(side, id, buffer).expect("the queue has room")
    }

    pub(super) fn try_send(
        &mut self,
        side: usize,
        id: MessageId,
        buffer: &Buffer,
    ) -> Result<u64, Rejected<SendPost>> {
        let token = self.token();
        // SAFETY: nobody writes to a filled buffer.
        let slice = unsafe { buffer.region.slice(0..buffer.region.len()) };
        let post = SendPost { token, id, signature: PLAIN, slice };
        self.ends[side].endpoint().post_send(post).map(|()| token)
    }

    pub(super) fn receive(&mut self, side: usize, id: MessageId, buffer: &Buffer) -> u64 {
        self.receive_as(side, id, PLAIN, buffer)
    }

    pub(super) fn receive_as(
        &mut self,
        side: usize,
        id: MessageId,
        signature: Signature,
        buffer: &Buffer,
    ) -> u64 {
        let token = self.token();
        let post = RecvPost { token, id, signature, slice: buffer.slice_mut() };
        self.ends[side].endpoint().post_recv(post).expect("the queue has room");
        token
    }

    pub(super) fn try_receive(
        &mut self,
        side: usize,
        id: MessageId,
        buffer: &Buffer,
    ) -> Result<u64, Rejected<RecvPost>> {
        let token = self.token();
        let post = RecvPost { token, id, signature: PLAIN, slice: buffer.slice_mut() };
        self.ends[side].endpoint().post_recv(post).map(|()| token)
    }

    /// Polls both ends once, the idle way if nothing moved.
    pub(super) fn round(&mut self) -> bool {
        let moved = self.ends[0].poll() | self.ends[1].poll();
        if !moved {
            self.harness.idle();
        }
        moved
    }

    /// Drives until something has happened.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut happened: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !happened(self) {
            self.round();
            if Instant::now() > give_up {
                self.hangs(what);
            }
        }
    }

    #[track_caller]
    fn hangs(&self, what: &str) -> ! {
        let errors: Vec<_> = self.ends.iter().map(|end| &end.error).collect();
        panic!("{}: {what} did not happen; errors {errors:?}", self.harness.describe());
    }

    /// Drives until all these posts of one side have ended well.
    #[track_caller]
    pub(super) fn finish(&mut self, side: usize, tokens: &[u64]) {
        self.until("the end of all posts", |rig| {
            let end = &rig.ends[side];
            assert!(end.error.is_none(), "{}: {:?}", rig.harness.describe(), end.error);
            tokens.iter().all(|token| end.outcome(*token).is_some())
        });
        for token in tokens {
            let outcome = self.ends[side].outcome(*token);
            let good = matches!(outcome, Some(Outcome::Sent | Outcome::Received));
            assert!(good, "{}: post {token}: {outcome:?}", self.harness.describe());
        }
    }

    /// Drives until nothing moves any more.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET_ROUNDS {
            quiet = if self.round() { 0 } else { quiet + 1 };
        }
    }

    /// Sends one message from `side` to the other and checks it: the connection works.
    #[track_caller]
    pub(super) fn exchange(&mut self, side: usize, id: MessageId, len: usize) {
        let source = Buffer::filled(id.tag, len);
        let mut target = Buffer::blank(len);
        let received = self.receive(1 - side, id, &target);
        let sent = self.send(side, id, &source);
        self.finish(1 - side, &[received]);
        self.finish(side, &[sent]);
        target.check(id.tag);
    }
}

#[expect(clippy::print_stdout, reason = "shown with a failing test: the seed, for instance")]
fn announce(harness: &dyn Harness) {
    println!("conformance over {}", harness.describe());
}
