//! The coordinator on a socket: one thread around `poll(2)`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::CoordinatorConfig;
use super::event_loop::EventLoop;
use crate::hello::HelloError;
use crate::message::Abort;
use crate::run::{RunId, Secret};
use crate::status::JobStatus;

/// What a server must know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The run that it serves.
    pub run_id: RunId,
    /// The secret that ranks must prove to know.
    pub secret: Secret,
    /// The job.
    pub coordinator: CoordinatorConfig,
}

impl ServerConfig {
    /// The server of a job that begins with epoch 0, without limits on joining, without grace and
    /// without a word on stalls.
    pub fn new(run_id: RunId, secret: Secret, world_size: u32) -> Self {
        let coordinator = CoordinatorConfig {
            world_size,
            epoch: 0,
            join_timeout: None,
            lost_grace: Duration::ZERO,
            stall_report: None,
        };
        Self { run_id, secret, coordinator }
    }
}

/// Something that happened on a server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A rank has joined.
    Joined {
        /// The rank.
        rank: u32,
    },
    /// All ranks have joined.
    AllJoined,
    /// A rank has said goodbye.
    Left {
        /// The rank.
        rank: u32,
    },
    /// All ranks have joined and then left or been lost.
    AllGone,
    /// The connection of a rank has ended without goodbye.
    Lost {
        /// The rank.
        rank: u32,
        /// How it showed.
        reason: String,
    },
    /// The epoch is over.
    Aborted {
        /// Why.
        abort: Abort,
    },
    /// All ranks have gone on to a new epoch; what was aborted before is over.
    Renewed {
        /// Its number.
        epoch: u32,
    },
    /// Ranks have waited in an operation for a long time, which goes on.
    Stalled {
        /// Which operation, who is missing from it and what those ranks do.
        report: String,
    },
    /// A connection was turned away.
    Turned {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        error: HelloError,
    },
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread or its descriptors cannot be made.
    #[error("failed to start the coordinator thread")]
    Start {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ServerError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(format!(
                    "another rank 0 runs, of this job or of an older one, or something else listens at \
                     {address}; PACELINE_RENDEZVOUS may name another port"
                ))
            }
            _ => None,
        }
    }
}

/// What the owner of a server wants of its thread.
#[derive(Debug)]
pub(super) enum Command {
    RankLost { rank: u32, reason: String },
    Abort { culprit: Option<u32>, reason: String },
    Status { reply: SyncSender<JobStatus> },
    Shutdown,
}

/// What the server's thread and its owner share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Readable when there are commands.
    pub(super) wake: OwnedFd,
    commands: Mutex<Vec<Command>>,
    all_gone: Mutex<bool>,
    gone_changed: Condvar,
}

impl Shared {
    fn send(&self, command: Command) {
        lock(&self.commands).push(command);
        // Fails only if the counter is at its limit, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(super) fn take_commands(&self) -> Vec<Command> {
        let mut counter = [0; 8];
        // Fails when there was no command.
        let _ = rustix::io::read(&self.wake, &mut counter);
        std::mem::take(&mut *lock(&self.commands))
    }

    pub(super) fn set_all_gone(&self, all_gone: bool) {
        let mut present = lock(&self.all_gone);
        if *present != all_gone {
            *present = all_gone;
            self.gone_changed.notify_all();
        }
    }
}

/// No critical section here can be left half done, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running coordinator. Dropping it closes all connections and ends its thread.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `bind`, and on no other address; port 0 lets the kernel choose.
    ///
    /// `on_event` is called on the server's thread and must not block.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(
        bind: SocketAddr,
        config: ServerConfig,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(bind)
            .map_err(|source| ServerError::Listen { address: bind, source })?;
        Self::start_on(listener, config, on_event)
    }

    /// As [`Server::start`], on a listener that exists already.
    ///
    /// # Errors
    /// [`ServerError::Start`].
    pub fn start_on(
        listener: TcpListener,
        config: ServerConfig,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, ServerError> {
        let start = |source| ServerError::Start { source };
        let local_addr = listener.local_addr().map_err(start)?;
        listener.set_nonblocking(true).map_err(start)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| start(error.into()))?;
        let shared = Arc::new(Shared {
            wake,
            commands: Mutex::default(),
            all_gone: Mutex::new(false),
            gone_changed: Condvar::new(),
        });
        let event_loop = EventLoop::new(listener, config, Arc::clone(&shared), Box::new(on_event));
        let thread = std::thread::Builder::new()
            .name("paceline-store".to_owned())
            .spawn(move || event_loop.run())
            .map_err(start)?;
        Ok(Self { local_addr, shared, thread: Some(thread) })
    }

    /// The address that it listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tells all ranks that `rank` is dead; for a supervisor, which knows best why. `reason`
    /// completes "rank 3 …", such as "was killed by signal 9".
    pub fn rank_lost(&self, rank: u32, reason: &str) {
        self.shared.send(Command::RankLost { rank, reason: reason.to_owned() });
    }

    /// Ends the epoch for a reason of the caller's.
    pub fn abort(&self, culprit: Option<u32>, reason: &str) {
        self.shared.send(Command::Abort { culprit, reason: reason.to_owned() });
    }

    /// Waits until no rank is connected and none is to come: all have joined and then left or
    /// been lost, or the epoch was aborted. Returns false at `deadline`.
    pub fn wait_all_gone(&self, deadline: Instant) -> bool {
        let mut all_gone = lock(&self.shared.all_gone);
        while !*all_gone {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            all_gone = self
                .shared
                .gone_changed
                .wait_timeout(all_gone, remaining)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Somebody who may ask what is known of the job, also when the server is gone.
    pub fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.shared))
    }

    /// Closes all connections and waits for the thread to end.
    pub fn shutdown(self) {
        drop(self);
    }
}

/// Asks a server what is known of the job.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<Shared>);

impl Watcher {
    /// What is known now; `None` if the server is gone, or does not answer within `timeout`.
    pub fn status(&self, timeout: Duration) -> Option<JobStatus> {
        let (reply, status) = sync_channel(1);
        self.0.send(Command::Status { reply });
        status.recv_timeout(timeout).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            // A panic of the event callback has been printed; there is nobody to tell it to.
            let _ = thread.join();
        }
    }
}
