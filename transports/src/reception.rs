//! How ranks come to know each other over streams of any kind: callers introduce themselves, and who
//! is called shakes hands with all callers at once.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use paceline_rendezvous::HelloError;
use paceline_rendezvous::hello::{self, Admission, Identity, Purpose, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use crate::error::is_lack;
use crate::{EstablishError, Group, Patience};

/// How long a stranger may take over its handshake; members of the group answer in milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at the same time; beyond it connections wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 64;

/// How long a handshake may take when others wait for its place.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);

/// A listening socket.
pub(crate) trait Entrance: AsFd {
    /// What a caller comes in on.
    type Stream: Read + Write + AsFd + Send;

    /// The next caller, without waiting.
    ///
    /// # Errors
    /// Of the system call, or because the caller is nobody to shake hands with.
    fn accept_caller(&self) -> io::Result<Self::Stream>;
}

/// The connections that a rank waits for.
pub(crate) trait Seats: Send {
    /// What fills a seat.
    type Stream;

    /// The seat for a connection of `rank` for `purpose`; `None` if none is expected.
    fn seat(&mut self, rank: u32, purpose: Purpose) -> Option<&mut Option<Self::Stream>>;

    /// The ranks of which connections are missing, ascending.
    fn missing(&self) -> Vec<u32>;
}

/// Introduces this rank to `peer`, which has been called at `address`.
pub(crate) fn introduce<S: Read + Write + AsFd>(
    stream: &mut S,
    peer: u32,
    address: impl FnOnce() -> String,
    purpose: Purpose,
    group: &Group<'_>,
    deadline: Instant,
) -> Result<(), EstablishError> {
    match hello::initiate(stream, identity(group), purpose, peer, group.secret, deadline) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(EstablishError::Handshake { peer, address: address(), source: Box::new(error) })
        }
    }
}

/// Fills all seats with callers who belong there. Others are told why not, or hung up on: nobody
/// who connects and says nothing delays those who matter.
pub(crate) fn receive_all<E, S>(
    entrance: &E,
    seats: &mut S,
    group: &Group<'_>,
    patience: &Patience<'_>,
) -> Result<(), EstablishError>
where
    E: Entrance,
    S: Seats<Stream = E::Stream>,
{
    let started = Instant::now();
    let seats = Mutex::new(seats);
    let (ended, endings) = mpsc::channel();
    let reception = Reception { group, seats: &seats, ended, deadline: patience.deadline };
    thread::scope(|scope| {
        let mut shaking = Shaking::default();
        loop {
            // Who is seated is no longer among those that are hung up on in the end.
            for Ending { number, arrival } in endings.try_iter() {
                shaking.end(number);
                if let Some((session, stream)) = arrival
                    && let Some(seat) = lock(&seats).seat(session.peer_rank, session.purpose)
                {
                    // Of two that were admitted at the same time the first is seated.
                    seat.get_or_insert(stream);
                }
            }
            let missing = lock(&seats).missing();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= patience.deadline {
                let waited_ms = started.elapsed().as_millis();
                return Err(EstablishError::Missing { missing, waited_ms });
            }
            if (patience.in_vain)() {
                return Err(EstablishError::InVain);
            }
            if shaking.handshakes.len() >= HANDSHAKES_MAX {
                shaking.make_room();
            } else if wait_for_caller(entrance, !shaking.handshakes.is_empty())?
                && let Some(stream) = next_caller(entrance)?
            {
                let number = shaking.begin(&stream)?;
                reception.shake_hands(scope, number, stream)?;
            }
        }
    })
}

/// The end of a handshake.
struct Ending<T> {
    number: u64,
    /// Who has come, unless it was a stranger.
    arrival: Option<(Session, T)>,
}

/// What the threads of the handshakes need.
struct Reception<'a, S: Seats> {
    group: &'a Group<'a>,
    /// To see who is there already.
    seats: &'a Mutex<&'a mut S>,
    ended: Sender<Ending<S::Stream>>,
    deadline: Instant,
}

impl<S: Seats> Reception<'_, S>
where
    S::Stream: Read + Write + AsFd + Send,
{
    fn shake_hands<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        number: u64,
        stream: S::Stream,
    ) -> Result<(), EstablishError> {
        let ended = self.ended.clone();
        let handshake = move || {
            let arrival = self.receive(stream);
            // Nobody hears it once all seats are taken.
            let _ = ended.send(Ending { number, arrival });
        };
        thread::Builder::new()
            .name("paceline-hello".to_owned())
            .spawn_scoped(scope, handshake)
            .map_err(|source| EstablishError::Os { what: "start a thread", source })?;
        Ok(())
    }

    /// Shakes hands with a caller. Strangers are dropped.
    fn receive(&self, mut stream: S::Stream) -> Option<(Session, S::Stream)> {
        let deadline = self.deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
        let world_size = u32::try_from(self.group.addresses.len()).expect("ranks are u32");
        let admission = Admission { world_size, rank: None };
        let admit = |rank, purpose| match lock(self.seats).seat(rank, purpose) {
            None => Err(HelloError::UnservedPurpose),
            Some(Some(_)) => Err(HelloError::Duplicate { rank }),
            Some(None) => Ok(()),
        };
        let (us, secret) = (identity(self.group), self.group.secret);
        let session = hello::accept(&mut stream, us, admission, secret, deadline, admit).ok()?;
        Some((session, stream))
    }
}

/// A panic of another thread cannot leave a seat half taken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(group: &Group<'_>) -> Identity {
    Identity { run_id: group.run_id, epoch: group.epoch, rank: group.rank, features: 0 }
}

/// Waits a little for somebody to connect; less while handshakes are under way, whose end is not
/// seen here.
fn wait_for_caller(entrance: impl AsFd, shaking: bool) -> Result<bool, EstablishError> {
    let wait = Duration::from_millis(if shaking { 1 } else { 20 });
    let timeout = Timespec::try_from(wait).expect("a short wait fits");
    let mut fds = [PollFd::new(&entrance, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => {
            Err(EstablishError::Os { what: "wait for connections", source: error.into() })
        }
    }
}

/// The next caller, unless it has gone again. Lack of anything on this side is an error: it would
/// not get better, and nobody would hear of it.
fn next_caller<E: Entrance>(entrance: &E) -> Result<Option<E::Stream>, EstablishError> {
    match entrance.accept_caller() {
        Ok(stream) => Ok(Some(stream)),
        Err(source) if is_lack(&source) => {
            Err(EstablishError::Os { what: "accept a connection", source })
        }
        Err(_) => Ok(None),
    }
}

/// The connections whose handshake is under way, by number. Dropping it hangs up on them, so that
/// nobody who connects and says nothing delays the threads' end.
#[derive(Debug, Default)]
struct Shaking {
    handshakes: Vec<Handshake>,
    next: u64,
}

#[derive(Debug)]
struct Handshake {
    number: u64,
    begun: Instant,
    stream: OwnedFd,
}

impl Shaking {
    /// Returns the connection's number.
    fn begin(&mut self, stream: impl AsFd) -> Result<u64, EstablishError> {
        let failed = |source| EstablishError::Os { what: "duplicate a descriptor", source };
        let stream = stream.as_fd().try_clone_to_owned().map_err(failed)?;
        let number = self.next;
        self.handshakes.push(Handshake { number, begun: Instant::now(), stream });
        self.next += 1;
        Ok(number)
    }

    fn end(&mut self, number: u64) {
        self.handshakes.retain(|handshake| handshake.number != number);
    }

    /// Waits a little for room. Members of the group make room by themselves within milliseconds;
    /// on strangers that stay silent it hangs up.
    fn make_room(&self) {
        for handshake in &self.handshakes {
            if handshake.begun.elapsed() > HANDSHAKE_PATIENCE {
                handshake.hang_up();
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

impl Handshake {
    fn hang_up(&self) {
        // It may have hung up itself, which is as good.
        let _ = shutdown(&self.stream, Shutdown::Both);
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.handshakes.iter().for_each(Handshake::hang_up);
    }
}
