//! The thread of the server.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::connection::{Connection, Progress};
use super::server::{Command, Event, ServerConfig, Shared};
use super::state::Coordinator;
use crate::heartbeat::HEARTBEAT_INTERVAL;
use crate::hello::{Admission, COORDINATOR_RANK, HelloError, Identity, Responder};
use crate::message::ToRank;
use crate::socket::timespec;

/// Connections that have not proven to be ranks, beyond one for each rank that may be on its way.
/// When more come, the oldest stranger goes: an honest peer shakes hands in milliseconds.
const STRANGERS_MAX: usize = 64;
/// Bytes that one connection may deliver before the others get their turn.
const READ_BYTES: usize = 64 << 10;
/// How long new connections wait after accepting failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most connections accepted before the others get their turn.
const ACCEPT_BATCH: usize = 32;

/// A turn that takes this much longer than it may sleep shows that the process was stopped.
const SUSPENSION_MIN: Duration = Duration::from_secs(1);

/// Number of a connection; never used twice.
type ConnectionId = u64;

pub(super) struct EventLoop {
    listener: TcpListener,
    config: ServerConfig,
    shared: Arc<Shared>,
    on_event: Box<dyn FnMut(Event) + Send>,
    coordinator: Coordinator,
    connections: BTreeMap<ConnectionId, Connection>,
    ranks: HashMap<u32, ConnectionId>,
    next_id: ConnectionId,
    accept_again: Option<Instant>,
    scratch: Vec<u8>,
    /// The epoch that has been told of.
    told_epoch: u32,
    /// Whether these events have been told, of this epoch.
    told_abort: bool,
    told_gone: bool,
}

impl EventLoop {
    pub(super) fn new(
        listener: TcpListener,
        config: ServerConfig,
        shared: Arc<Shared>,
        on_event: Box<dyn FnMut(Event) + Send>,
    ) -> Self {
        let coordinator = Coordinator::new(config.coordinator);
        Self {
            listener,
            config,
            shared,
            on_event,
            told_epoch: coordinator.epoch(),
            coordinator,
            connections: BTreeMap::new(),
            ranks: HashMap::new(),
            next_id: 0,
            accept_again: None,
            scratch: vec![0; READ_BYTES],
            told_abort: false,
            told_gone: false,
        }
    }

    /// Runs until the server is shut down.
    pub(super) fn run(mut self) {
        let mut looked = Instant::now();
        loop {
            let now = Instant::now();
            for command in self.shared.take_commands() {
                let messages = match command {
                    Command::Shutdown => return,
                    Command::RankLost { rank, reason } => self.coordinator.rank_lost(rank, &reason),
                    Command::Abort { culprit, reason } => self.coordinator.abort(culprit, &reason),
                    Command::Status { reply } => {
                        // Who does not wait any more wants no answer.
                        let _ = reply.try_send(self.coordinator.status(now));
                        continue;
                    }
                };
                self.deliver(messages, now);
            }
            let due = self.coordinator.tick(now);
            self.deliver(due, now);
            self.expire(now);
            self.tell_state();
            let ready = self.wait(now);
            let now = Instant::now();
            // Ranks are heard every so often, so without them a long sleep means nothing.
            let gap = now - std::mem::replace(&mut looked, now);
            if gap >= HEARTBEAT_INTERVAL + SUSPENSION_MIN {
                self.coordinator.stood_still(gap);
            }
            for id in ready.connections {
                self.serve(id, now);
            }
            if ready.listener {
                self.accept(now);
            }
        }
    }

    /// Sleeps until something is ready or due.
    fn wait(&mut self, now: Instant) -> Ready {
        if self.accept_again.is_some_and(|again| again <= now) {
            self.accept_again = None;
        }
        let strangers = self.connections.values().filter(|connection| connection.rank().is_none());
        let look = (!self.ranks.is_empty()).then(|| now + HEARTBEAT_INTERVAL);
        let timeout = strangers
            .map(|connection| connection.deadline)
            .chain(self.coordinator.next_deadline())
            .chain(self.accept_again)
            .chain(look)
            .min()
            .map(|due| timespec(due.saturating_duration_since(now)));
        let listen = if self.accept_again.is_none() { PollFlags::IN } else { PollFlags::empty() };
        let mut descriptors = vec![
            PollFd::from_borrowed_fd(self.shared.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), listen),
        ];
        for connection in self.connections.values() {
            let mut interest = PollFlags::IN;
            interest.set(PollFlags::OUT, connection.wants_to_send());
            descriptors.push(PollFd::from_borrowed_fd(connection.stream().as_fd(), interest));
        }
        if poll(&mut descriptors, timeout.as_ref()).is_err() {
            // Interrupted, or short of memory: nothing is known to be ready.
            return Ready { listener: false, connections: Vec::new() };
        }
        let is_ready = |descriptor: &PollFd<'_>| !descriptor.revents().is_empty();
        let connections = self
            .connections
            .keys()
            .zip(&descriptors[2..])
            .filter(|(_, descriptor)| is_ready(descriptor))
            .map(|(&id, _)| id)
            .collect();
        Ready { listener: is_ready(&descriptors[1]), connections }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // The peer was gone before we looked.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(_) => {
                    self.accept_again = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            let identity = Identity {
                run_id: self.config.run_id,
                epoch: self.coordinator.epoch(),
                rank: COORDINATOR_RANK,
                features: 0,
            };
            let admission =
                Admission { world_size: self.config.coordinator.world_size, rank: None };
            let responder = Responder::new(identity, admission, &self.config.secret);
            if let (Ok(responder), Ok(())) = (responder, crate::socket::configure_control(&stream))
            {
                let connection = Connection::new(stream, from, responder, now);
                self.connections.insert(self.next_id, connection);
                self.next_id += 1;
                self.evict_strangers();
            }
        }
    }

    /// Keeps the number of strangers bounded.
    fn evict_strangers(&mut self) {
        let missing = usize::try_from(self.config.coordinator.world_size)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.ranks.len());
        let limit = STRANGERS_MAX.saturating_add(missing.min(4096));
        if self.connections.len() - self.ranks.len() <= limit {
            return;
        }
        // Numbers grow, so the first stranger is the oldest.
        let oldest = self
            .connections
            .iter()
            .find(|(_, connection)| connection.rank().is_none())
            .map(|(&id, connection)| (id, connection.timeout_error()));
        if let Some((id, error)) = oldest {
            self.forget_stranger(id, error);
        }
    }

    fn expire(&mut self, now: Instant) {
        let expired: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.rank().is_none() && connection.deadline <= now)
            .map(|(&id, connection)| (id, connection.timeout_error()))
            .collect();
        for (id, error) in expired {
            self.forget_stranger(id, error);
        }
    }

    fn forget_stranger(&mut self, id: ConnectionId, error: Option<HelloError>) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(error) = error {
            (self.on_event)(Event::Turned { from: connection.from, error });
        }
    }

    fn serve(&mut self, id: ConnectionId, now: Instant) {
        let Self { connections, coordinator, scratch, .. } = self;
        let Some(connection) = connections.get_mut(&id) else { return };
        let progress = connection.receive(scratch, now, |rank| coordinator.admit(rank));
        match progress {
            Progress::Nothing => {}
            Progress::Draining { error } => {
                (self.on_event)(Event::Turned { from: connection.from, error });
            }
            Progress::Turned { error } => return self.forget_stranger(id, Some(error)),
            Progress::Closed => return self.forget_stranger(id, None),
            Progress::Joined { rank } => self.join(rank, id, now),
            Progress::Observes { encoder } => {
                connection.answer(encoder, coordinator.status(now), now);
            }
            Progress::Messages { rank, messages, end } => {
                for message in messages {
                    let was_present = self.coordinator.is_present(rank);
                    let answers = self.coordinator.handle(rank, message, now);
                    let left = was_present && !self.coordinator.is_present(rank);
                    self.deliver(answers, now);
                    if left {
                        (self.on_event)(Event::Left { rank });
                    }
                }
                if let Some(reason) = end {
                    return self.lose(rank, &reason, now);
                }
            }
        }
        self.flush(id, now);
    }

    fn join(&mut self, rank: u32, id: ConnectionId, now: Instant) {
        self.ranks.insert(rank, id);
        let messages = self.coordinator.joined(rank, now);
        self.deliver(messages, now);
        (self.on_event)(Event::Joined { rank });
        if self.coordinator.all_joined() {
            (self.on_event)(Event::AllJoined);
        }
    }

    fn flush(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Err(error) = connection.flush() {
            match connection.rank() {
                Some(rank) => self.lose(rank, &format!("the connection failed: {error}"), now),
                None => self.forget_stranger(id, None),
            }
        }
    }

    /// Closes the connection of a rank and draws the consequences.
    fn lose(&mut self, rank: u32, reason: &str, now: Instant) {
        let messages = self.close(rank, reason, now);
        self.deliver(messages, now);
    }

    fn close(&mut self, rank: u32, reason: &str, now: Instant) -> Vec<(u32, ToRank)> {
        if let Some(id) = self.ranks.remove(&rank) {
            self.connections.remove(&id);
        }
        if self.coordinator.is_present(rank) {
            (self.on_event)(Event::Lost { rank, reason: reason.to_owned() });
        }
        self.coordinator.disconnected(rank, reason, now)
    }

    /// Sends messages; a rank that cannot take its message is lost, which makes more of them.
    fn deliver(&mut self, messages: Vec<(u32, ToRank)>, now: Instant) {
        let mut queue = VecDeque::from(messages);
        while let Some((rank, message)) = queue.pop_front() {
            let connection = self.ranks.get(&rank).and_then(|id| self.connections.get_mut(id));
            let Some(connection) = connection else { continue };
            let sent = connection
                .queue(&message)
                .and_then(|()| connection.flush().map_err(|error| error.to_string()));
            if let Err(reason) = sent {
                queue.extend(self.close(rank, &reason, now));
            }
        }
    }

    /// Tells the owner of the server what has become of the job.
    fn tell_state(&mut self) {
        for report in self.coordinator.take_stalls() {
            (self.on_event)(Event::Stalled { report });
        }
        let epoch = self.coordinator.epoch();
        if self.told_epoch != epoch {
            self.told_epoch = epoch;
            self.told_abort = false;
            (self.on_event)(Event::Renewed { epoch });
        }
        if !self.told_abort
            && let Some(abort) = self.coordinator.aborted()
        {
            self.told_abort = true;
            (self.on_event)(Event::Aborted { abort: abort.clone() });
        }
        if !self.told_gone && self.coordinator.all_gone() {
            self.told_gone = true;
            (self.on_event)(Event::AllGone);
        }
        // An epoch that is over may still be joined, so this can change both ways.
        self.shared.set_all_gone(self.coordinator.all_gone());
    }
}

/// What `poll` found.
struct Ready {
    listener: bool,
    connections: Vec<ConnectionId>,
}
