use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::board::{BOARDS, Board, Token, WINDOW_MAX};
use super::early::EarlyCalls;
use super::trace::WireTrace;
use paceline_rendezvous::message::message_place;
use paceline_transports::{Endpoint, EndpointError, Event, Signature, Wakeup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Operations in a row in which a rank sent without waiting, after which it is taken to do nothing else.
const STREAK_MIN: u32 = 16;

/// The endpoints of a context and the boards of the operations that use them.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) endpoints: Vec<Option<Box<dyn Endpoint>>>,
    boards: Vec<Board>,
    events: Vec<Event>,
    early: EarlyCalls,
    sleep: Sleep,
    /// How long to sleep next where a connection cannot wake, else `None`.
    doze: Option<Duration>,
    /// Operations since this rank last did anything but send.
    streak: u32,
    /// Whether short messages wait for more of them.
    holds_back: bool,
    /// Whether they have done since all that had been reported as sent was seen to be sent.
    has_held_back: bool,
    /// Present while there is a timeline.
    pub(crate) trace: Option<Box<WireTrace>>,
}

/// Where a connection cannot wake: first and longest sleep between two looks. A look costs about a
/// microsecond, so that a rank that waits for long takes a tenth of a per cent of a core.
const DOZE: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(2));

/// What to wait for when nothing moves. Empty except while [`Wire::park`] runs; kept so that no sleep
/// allocates.
#[derive(Debug)]
struct Sleep {
    wakeups: Vec<Wakeup<'static>>,
    fds: Vec<PollFd<'static>>,
}

impl Sleep {
    fn new(wakeups: usize) -> Self {
        // One more for the coordinator.
        Self { wakeups: Vec::with_capacity(wakeups), fds: Vec::with_capacity(wakeups + 1) }
    }
}

impl Wire {
    pub(crate) fn new(endpoints: Vec<Option<Box<dyn Endpoint>>>) -> Self {
        let wakeups = endpoints.iter().flatten().map(|endpoint| endpoint.wakeups_max()).sum();
        let is_blind = endpoints.iter().flatten().any(|endpoint| endpoint.wakeups_max() == 0);
        Self {
            boards: vec![Board::default(); BOARDS],
            events: Vec::with_capacity(4 * WINDOW_MAX),
            early: EarlyCalls::new(),
            sleep: Sleep::new(wakeups),
            doze: is_blind.then_some(DOZE.0),
            streak: 0,
            holds_back: false,
            has_held_back: false,
            trace: None,
            endpoints,
        }
    }

    /// Takes further connections, to peers that it has none to.
    pub(crate) fn add(&mut self, endpoints: Vec<Option<Box<dyn Endpoint>>>) {
        for (place, endpoint) in self.endpoints.iter_mut().zip(endpoints) {
            if let Some(endpoint) = endpoint {
                *place = Some(endpoint);
            }
        }
        let wakeups = self.endpoints.iter().flatten().map(|endpoint| endpoint.wakeups_max()).sum();
        self.sleep = Sleep::new(wakeups);
    }

    /// An operation is over in which this rank only sends. Returns whether there have been many in a row,
    /// without waiting: a system call for each message is what limits it then.
    pub(crate) fn ended_send(&mut self) -> bool {
        self.streak = self.streak.saturating_add(1);
        self.streak > STREAK_MIN
    }

    /// Lets short messages wait for more of them until this rank [waits](Wire::stop_holding_back) itself, or
    /// is in an operation for which others may wait.
    /// Somebody has to [deliver](Wire::deliver) them before long. Returns whether any connection does so.
    pub(crate) fn hold_back(&mut self) -> bool {
        if !self.holds_back {
            for endpoint in self.endpoints.iter_mut().flatten() {
                self.holds_back |= endpoint.hold_back(true);
            }
        }
        self.has_held_back |= self.holds_back;
        self.holds_back
    }

    /// Messages do not wait any more. Returns whether they did until now: the next poll sends them, as far
    /// as the peers take them.
    pub(crate) fn stop_holding_back(&mut self) -> bool {
        self.streak = 0;
        if self.holds_back {
            self.endpoints.iter_mut().flatten().for_each(|endpoint| {
                endpoint.hold_back(false);
            });
        }
        std::mem::take(&mut self.holds_back)
    }

    /// Whether messages that were reported as sent are still here: since they wait for more of them, or
    /// since a peer has not taken them yet.
    pub(crate) fn holds_any_back(&mut self) -> bool {
        let mut endpoints = self.endpoints.iter().flatten();
        let any = self.has_held_back && endpoints.any(|endpoint| endpoint.holds_any_back());
        self.has_held_back = any || self.holds_back;
        any
    }

    /// Sends the messages that wait for more of them. Returns whether there were any. A connection that
    /// is dead says so to the next operation that needs it.
    pub(crate) fn deliver(&mut self) -> bool {
        let mut any = false;
        for peer in 0..self.endpoints.len() {
            let Some(endpoint) = &mut self.endpoints[peer] else { continue };
            if endpoint.holds_any_back() {
                any = true;
                endpoint.hold_back(false);
                let _ = self.poll_endpoint(peer);
                if let Some(endpoint) = &mut self.endpoints[peer] {
                    endpoint.hold_back(self.holds_back);
                }
            }
        }
        any
    }

    /// Sends on so many channels of each connection alone.
    pub(crate) fn use_channels(&mut self, count: usize) {
        self.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.use_channels(count));
    }

    /// Closes the channels that no rank uses any more.
    pub(crate) fn close_unused_channels(&mut self) {
        self.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.close_unused_channels());
    }

    /// Sleeps until a connection with something to do has something, or `other`, or for `limit`.
    pub(crate) fn park(&mut self, other: Option<BorrowedFd<'_>>, limit: Duration) {
        let limit = self.doze.map_or(limit, |doze| limit.min(doze));
        self.doze = self.doze.map(|doze| (doze * 2).min(DOZE.1));
        let timeout = Timespec::try_from(limit).expect("a short wait fits");
        let mut wakeups = reuse(std::mem::take(&mut self.sleep.wakeups));
        for endpoint in self.endpoints.iter().flatten().filter(|endpoint| endpoint.is_active()) {
            endpoint.wakeups(&mut wakeups);
        }
        let mut fds = reuse(std::mem::take(&mut self.sleep.fds));
        fds.extend(wakeups.iter().map(|wakeup| {
            let writable = if wakeup.writable { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(wakeup.fd, PollFlags::IN | writable)
        }));
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // An interrupted or failed sleep is a short one; the caller looks again either way.
        let _ = poll(&mut fds, Some(&timeout));
        self.sleep = Sleep { wakeups: reuse(wakeups), fds: reuse(fds) };
    }

    /// Reserves a board for an operation; `None` if too many are under way.
    pub(crate) fn take_board(&mut self) -> Option<usize> {
        Board::take(&mut self.boards)
    }

    pub(crate) fn free_board(&mut self, board: usize) {
        self.boards[board].free();
    }

    pub(crate) fn board(&mut self, board: usize) -> &mut Board {
        &mut self.boards[board]
    }

    /// Bytes of memory that the connections and what goes with them hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        let endpoints = self.endpoints.iter().flatten();
        let queues = self.events.capacity() * size_of::<Event>() + self.early.memory_bytes();
        endpoints.map(|endpoint| endpoint.memory_bytes()).sum::<usize>() + queues
    }

    /// Moves bytes on every connection that has something to do.
    ///
    /// # Errors
    /// The first one that is found dead among those that concern the caller, by rank of the world. Others
    /// say so to whoever needs them.
    pub(crate) fn poll(&mut self, concerns: impl Fn(u32) -> bool) -> Result<bool, EndpointError> {
        let mut moved = false;
        let mut dead = None;
        for peer in 0..self.endpoints.len() {
            if self.endpoints[peer].as_ref().is_some_and(|endpoint| endpoint.is_active()) {
                match self.poll_endpoint(peer) {
                    Ok(any) => moved |= any,
                    Err(error) if dead.is_none() && concerns(error.peer()) => dead = Some(error),
                    Err(_) => {}
                }
            }
        }
        dead.map_or(Ok(moved), Err)
    }

    /// Moves bytes on all connections, also on those that nothing is expected from. One that is dead
    /// says so to the next operation that needs it.
    pub(crate) fn listen(&mut self) {
        for peer in 0..self.endpoints.len() {
            let _ = self.poll_endpoint(peer);
        }
    }

    #[inline]
    fn poll_endpoint(&mut self, peer: usize) -> Result<bool, EndpointError> {
        let Self { endpoints, boards, events, early, trace, .. } = self;
        let Some(endpoint) = &mut endpoints[peer] else { return Ok(false) };
        let outcome = endpoint.poll(events);
        let mut moved = false;
        for event in events.drain(..) {
            moved = true;
            match event {
                Event::Sent { token } => {
                    let token = Token { receive: false, ..Token::decode(token) };
                    boards[token.board].complete(token);
                    if let Some(trace) = trace {
                        trace.completed(token);
                    }
                }
                Event::Received { token } => {
                    let token = Token::decode(token);
                    boards[token.board].complete(token);
                    if let Some(trace) = trace {
                        trace.completed(token);
                    }
                }
                Event::Failed { token, error } => {
                    let token = Token::decode(token);
                    boards[token.board].fail(token.index, error);
                }
                // Messages between two ranks may come in any order with collective operations.
                Event::Early { id, .. } if message_place(id.op_seq).is_some() => {}
                Event::Early { id, signature } => early.note(endpoint.peer(), id, signature),
                _ => {}
            }
        }
        let moved = moved | outcome?;
        if moved && let Some(doze) = &mut self.doze {
            *doze = DOZE.0;
        }
        Ok(moved)
    }

    /// Whether somebody sent a message of this operation with another signature; forgets what is
    /// older.
    pub(crate) fn early_mismatch(
        &mut self,
        communicator: u32,
        op_seq: u64,
        signature: Signature,
    ) -> Option<(u32, Signature)> {
        self.early.mismatch(communicator, op_seq, signature)
    }

    /// Whether somebody sent a message for an operation of a communicator that this rank has gone past
    /// without wanting it: the number of that operation and what the other rank called there.
    pub(crate) fn stray(&self, communicator: u32, op_seq: u64) -> Option<(u32, u64, Signature)> {
        // Messages between two ranks have numbers of their own.
        let op_seq = Some(op_seq).filter(|op_seq| message_place(*op_seq).is_none())?;
        self.endpoints.iter().flatten().find_map(|endpoint| {
            let (op_seq, signature) = endpoint.stray(communicator, op_seq)?;
            Some((endpoint.peer(), op_seq, signature))
        })
    }

    /// Gives up a communicator on every connection.
    pub(crate) fn abandon(&mut self, communicator: u32) {
        for endpoint in self.endpoints.iter_mut().flatten() {
            endpoint.abandon(communicator);
        }
        self.early.abandon(communicator);
    }

    /// How the connection to a peer died, after it has refused a post.
    pub(crate) fn death_of(&mut self, peer: u32) -> EndpointError {
        // What ended before the connection did comes first.
        let mut looks = (0..2).filter_map(|_| self.poll_endpoint(peer as usize).err());
        let death = looks.next();
        death.unwrap_or_else(|| EndpointError::Closed {
            peer,
            address: self.endpoint(peer).peer_description(),
            orderly: false,
        })
    }

    pub(crate) fn endpoint(&mut self, peer: u32) -> &mut dyn Endpoint {
        let endpoint = self.endpoints[peer as usize].as_mut();
        endpoint.expect("a schedule never names its own rank as peer").as_mut()
    }
}

/// An empty vector in the memory of another one, whose elements differ in lifetime only.
fn reuse<T, U>(mut vector: Vec<T>) -> Vec<U> {
    vector.clear();
    // The standard library collects into the memory of the source where the layouts agree.
    vector.into_iter().map(|_| unreachable!("it is empty")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_reused() {
        let vector: Vec<Option<&'static u8>> = Vec::with_capacity(7);
        let place = vector.as_ptr().addr();
        let reused: Vec<Option<&u8>> = reuse(vector);
        assert_eq!((reused.as_ptr().addr(), reused.capacity()), (place, 7));
    }
}
