//! How the members of a node come to share memory: a socket between every two of them, a descriptor
//! from the first to all others.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use paceline_rendezvous::hello::{self, Admission, Identity, Purpose};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::{EstablishError, Group};

/// How long one caller may take over its handshake; members of the group answer in milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest message from member to member here.
const TEXT_BYTES_MAX: usize = 255;

/// The sockets to the other members, by place in the list of members; the own entry is `None`.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) members: Vec<u32>,
    pub(super) place: usize,
    pub(super) streams: Vec<Option<UnixStream>>,
}

/// A listening socket in the abstract namespace: it has a name, no file, and is gone with its
/// process.
pub(super) fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Mesh {
    /// Connects all members. Later members call earlier ones: everybody first makes its calls, then
    /// answers, which by induction from the first cannot deadlock.
    pub(super) fn connect(
        listener: &UnixListener,
        names: &[String],
        members: &[u32],
        group: &Group<'_>,
        deadline: Instant,
    ) -> Result<Self, EstablishError> {
        let place = members
            .iter()
            .position(|rank| *rank == group.rank)
            .expect("who connects is one of the members");
        let mut mesh = Self {
            members: members.to_vec(),
            place,
            streams: members.iter().map(|_| None).collect(),
        };
        for earlier in 0..place {
            mesh.streams[earlier] = Some(call(members[earlier], &names[earlier], group, deadline)?);
        }
        mesh.accept_all(listener, group, deadline)?;
        Ok(mesh)
    }

    fn accept_all(
        &mut self,
        listener: &UnixListener,
        group: &Group<'_>,
        deadline: Instant,
    ) -> Result<(), EstablishError> {
        let started = Instant::now();
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            if !wait_readable(listener, deadline)? {
                let waited_ms = started.elapsed().as_millis();
                return Err(EstablishError::Missing { missing, waited_ms });
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            let until = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
            // A stranger, or a second connection of somebody who is here: dropped.
            if let Some((rank, stream)) = welcome(stream, group, until)
                && let Some(place) = self.members.iter().position(|member| *member == rank)
                && place > self.place
                && self.streams[place].is_none()
            {
                self.streams[place] = Some(stream);
            }
        }
    }

    fn missing(&self) -> Vec<u32> {
        let later = self.members.iter().zip(&self.streams).skip(self.place + 1);
        later.filter(|(_, stream)| stream.is_none()).map(|(rank, _)| *rank).collect()
    }

    /// Runs `create` on the first member and hands what it made to all others, where `join` takes
    /// it. Either every member succeeds or none does, and then all know why.
    pub(super) fn share<T>(
        &mut self,
        create: impl FnOnce() -> Result<(T, Vec<OwnedFd>), String>,
        join: impl FnOnce(Vec<OwnedFd>) -> Result<T, String>,
        deadline: Instant,
    ) -> Result<T, EstablishError> {
        if self.place == 0 { self.lead(create, deadline) } else { self.follow(join, deadline) }
    }

    fn lead<T>(
        &mut self,
        create: impl FnOnce() -> Result<(T, Vec<OwnedFd>), String>,
        deadline: Instant,
    ) -> Result<T, EstablishError> {
        let (value, descriptors, mut outcome) = match create() {
            Ok((value, descriptors)) => (Some(value), descriptors, Ok(())),
            Err(reason) => (None, Vec::new(), Err(reason)),
        };
        for (member, stream) in self.peers() {
            let sent = send_verdict(stream, &outcome, &descriptors, deadline);
            sent.map_err(|source| lost(member, source))?;
        }
        if outcome.is_ok() {
            for (member, stream) in self.peers() {
                let (theirs, _) =
                    receive_verdict(stream, deadline).map_err(|source| lost(member, source))?;
                let named = theirs.map_err(|reason| format!("rank {member}: {reason}"));
                outcome = outcome.and(named);
            }
            for (member, stream) in self.peers() {
                let sent = send_verdict(stream, &outcome, &[], deadline);
                sent.map_err(|source| lost(member, source))?;
            }
        }
        outcome.map_err(unusable)?;
        Ok(value.expect("there is a value unless the outcome is an error"))
    }

    fn follow<T>(
        &mut self,
        join: impl FnOnce(Vec<OwnedFd>) -> Result<T, String>,
        deadline: Instant,
    ) -> Result<T, EstablishError> {
        let leader = self.members[0];
        let stream = self.streams[0].as_mut().expect("followers have called the first member");
        let failed = |source| lost(leader, source);
        let (offer, descriptors) = receive_verdict(stream, deadline).map_err(failed)?;
        offer.map_err(|reason| unusable(format!("rank {leader}: {reason}")))?;
        let (value, joined) = match join(descriptors) {
            Ok(value) => (Some(value), Ok(())),
            Err(reason) => (None, Err(reason)),
        };
        send_verdict(stream, &joined, &[], deadline).map_err(failed)?;
        let (everybody, _) = receive_verdict(stream, deadline).map_err(failed)?;
        joined.and(everybody).map_err(unusable)?;
        Ok(value.expect("there is a value unless joining failed"))
    }

    fn peers(&mut self) -> impl Iterator<Item = (u32, &mut UnixStream)> {
        let members = self.members.iter().copied();
        members.zip(&mut self.streams).filter_map(|(rank, stream)| Some((rank, stream.as_mut()?)))
    }
}

fn unusable(reason: String) -> EstablishError {
    EstablishError::Unusable { transport: "shm", reason }
}

fn lost(peer: u32, source: io::Error) -> EstablishError {
    EstablishError::Connect { peer, address: "its unix socket".to_owned(), source }
}

fn identity(group: &Group<'_>) -> Identity {
    Identity { run_id: group.run_id, epoch: group.epoch, rank: group.rank, features: 0 }
}

fn call(
    peer: u32,
    name: &str,
    group: &Group<'_>,
    deadline: Instant,
) -> Result<UnixStream, EstablishError> {
    let failed = |source| EstablishError::Connect { peer, address: described(name), source };
    let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
    let mut stream = UnixStream::connect_addr(&address).map_err(failed)?;
    let secret = group.secret;
    hello::initiate(&mut stream, identity(group), Purpose::Arena, peer, secret, deadline).map_err(
        |source| EstablishError::Handshake {
            peer,
            address: described(name),
            source: Box::new(source),
        },
    )?;
    Ok(stream)
}

fn described(name: &str) -> String {
    format!("abstract unix socket @{name}")
}

fn welcome(
    mut stream: UnixStream,
    group: &Group<'_>,
    deadline: Instant,
) -> Option<(u32, UnixStream)> {
    let credentials = socket_peercred(&stream).ok()?;
    let ours = rustix::process::geteuid();
    if credentials.uid != ours && !credentials.uid.is_root() {
        return None;
    }
    stream.set_nonblocking(false).ok()?;
    let world_size = u32::try_from(group.addresses.len()).ok()?;
    let admission = Admission { world_size, rank: None };
    let session =
        hello::accept(&mut stream, identity(group), admission, group.secret, deadline).ok()?;
    (session.purpose == Purpose::Arena).then_some((session.peer_rank, stream))
}

/// Waits until there is something to read; false when the deadline has passed.
fn wait_readable(descriptor: impl AsFd, deadline: Instant) -> Result<bool, EstablishError> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let wait = remaining.min(Duration::from_secs(1));
        let timeout = Timespec::try_from(wait).expect("a second fits");
        let mut fds = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) if remaining.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => {
                return Err(EstablishError::Os {
                    what: "wait for the ranks of this node",
                    source: error.into(),
                });
            }
        }
    }
}

/// `Ok`, or why not; with descriptors. One length byte, then the reason.
fn send_verdict(
    stream: &mut UnixStream,
    verdict: &Result<(), String>,
    descriptors: &[OwnedFd],
    deadline: Instant,
) -> io::Result<()> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    stream.set_write_timeout(Some(remaining.max(Duration::from_millis(1))))?;
    let reason = verdict.as_ref().err().map_or("", |reason| reason);
    let mut end = reason.len().min(TEXT_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let length = u8::try_from(end).expect("a reason is at most 255 bytes long");
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(fits, "at most two descriptors are sent");
    }
    sendmsg(&*stream, &[IoSlice::new(&[length])], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(&reason.as_bytes()[..end])
}

/// A verdict and the descriptors that came with it.
type Received = (Result<(), String>, Vec<OwnedFd>);

fn receive_verdict(stream: &mut UnixStream, deadline: Instant) -> io::Result<Received> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(remaining.max(Duration::from_millis(1))))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(&*stream, &mut [IoSliceMut::new(&mut length)], &mut control, flags)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let mut reason = vec![0; usize::from(length[0])];
    stream.read_exact(&mut reason)?;
    let verdict =
        if reason.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&reason).into_owned()) };
    Ok((verdict, descriptors))
}
