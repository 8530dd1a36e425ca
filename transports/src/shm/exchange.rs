//! How the members of a node come to share memory: a socket between every two of them, a descriptor
//! from the first to all others.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use paceline_rendezvous::hello::Purpose;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};

use crate::reception::{Entrance, Seats, introduce, receive_all};
use crate::{EstablishError, Group, Patience, Weight};

/// Longest reason that a member tells another.
const REASON_BYTES_MAX: usize = 255;

/// `Ok`, or which member failed, and why.
type Verdict = Result<(), (u32, String)>;

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
        patience: &Patience<'_>,
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
            mesh.streams[earlier] = Some(call(members[earlier], &names[earlier], group, patience)?);
        }
        receive_all(listener, &mut mesh, group, patience)?;
        Ok(mesh)
    }

    /// Runs `create` on the first member and hands what it made to all others, where `join` takes
    /// it. Either every member succeeds or none does, and then all say why in the same words.
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
        let ours = self.members[self.place];
        let (value, descriptors, mut outcome) = match create() {
            Ok((value, descriptors)) => (Some(value), descriptors, Ok(())),
            Err(reason) => (None, Vec::new(), Err((ours, reason))),
        };
        for (member, stream) in self.peers() {
            let sent = send_verdict(stream, &outcome, &descriptors, deadline);
            sent.map_err(|source| lost(member, source))?;
        }
        if outcome.is_ok() {
            for (member, stream) in self.peers() {
                let (theirs, _) =
                    receive_verdict(stream, deadline).map_err(|source| lost(member, source))?;
                outcome = outcome.and(theirs);
            }
            for (member, stream) in self.peers() {
                let sent = send_verdict(stream, &outcome, &[], deadline);
                sent.map_err(|source| lost(member, source))?;
            }
        }
        outcome.map_err(failed_on)?;
        Ok(value.expect("there is a value unless the outcome is an error"))
    }

    fn follow<T>(
        &mut self,
        join: impl FnOnce(Vec<OwnedFd>) -> Result<T, String>,
        deadline: Instant,
    ) -> Result<T, EstablishError> {
        let (leader, ours) = (self.members[0], self.members[self.place]);
        let stream = self.streams[0].as_mut().expect("followers have called the first member");
        let failed = |source| lost(leader, source);
        let (offer, descriptors) = receive_verdict(stream, deadline).map_err(failed)?;
        offer.map_err(failed_on)?;
        let (value, joined) = match join(descriptors) {
            Ok(value) => (Some(value), Ok(())),
            Err(reason) => (None, Err((ours, reason))),
        };
        send_verdict(stream, &joined, &[], deadline).map_err(failed)?;
        let (everybody, _) = receive_verdict(stream, deadline).map_err(failed)?;
        // The leader has the last word: another member may have failed before this one.
        everybody.and(joined).map_err(failed_on)?;
        Ok(value.expect("there is a value unless joining failed"))
    }

    fn peers(&mut self) -> impl Iterator<Item = (u32, &mut UnixStream)> {
        let members = self.members.iter().copied();
        members.zip(&mut self.streams).filter_map(|(rank, stream)| Some((rank, stream.as_mut()?)))
    }
}

fn failed_on((rank, reason): (u32, String)) -> EstablishError {
    EstablishError::OnRank { rank, weight: Weight::Own, reason, hint: None }
}

fn lost(peer: u32, source: io::Error) -> EstablishError {
    EstablishError::Connect { peer, address: "its unix socket".to_owned(), source }
}

impl Seats for Mesh {
    type Stream = UnixStream;

    fn seat(&mut self, rank: u32, purpose: Purpose) -> Option<&mut Option<UnixStream>> {
        let place = self.members.iter().position(|member| *member == rank)?;
        // Earlier members are called and do not call.
        (purpose == Purpose::Arena && place > self.place).then(|| &mut self.streams[place])
    }

    fn missing(&self) -> Vec<u32> {
        let later = self.members.iter().zip(&self.streams).skip(self.place + 1);
        later.filter(|(_, stream)| stream.is_none()).map(|(rank, _)| *rank).collect()
    }
}

impl Entrance for UnixListener {
    type Stream = UnixStream;

    /// Callers of other users are turned away before a word is spoken.
    fn accept_caller(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.accept()?;
        let caller = socket_peercred(&stream)?.uid;
        if caller != rustix::process::geteuid() && !caller.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(stream)
    }
}

/// Calls a member. Its socket exists: members publish the names of sockets that listen already.
fn call(
    peer: u32,
    name: &str,
    group: &Group<'_>,
    patience: &Patience<'_>,
) -> Result<UnixStream, EstablishError> {
    let address = || format!("abstract unix socket @{name}");
    let failed = |source| EstablishError::Connect { peer, address: address(), source };
    let mut stream = dial(name, patience).map_err(failed)?;
    introduce(&mut stream, peer, address, Purpose::Arena, group, patience.deadline)?;
    Ok(stream)
}

/// Connects without blocking, which the system call would do, without limit, while the queue of a
/// peer that is late is full.
fn dial(name: &str, patience: &Patience<'_>) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < patience.deadline && !(patience.in_vain)() => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Sends a verdict with descriptors: a byte for the length of the reason, the rank in four bytes,
/// the reason.
fn send_verdict(
    stream: &mut UnixStream,
    verdict: &Verdict,
    descriptors: &[OwnedFd],
    deadline: Instant,
) -> io::Result<()> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    stream.set_write_timeout(Some(remaining.max(Duration::from_millis(1))))?;
    let (rank, reason) = match verdict {
        Ok(()) => (0, ""),
        Err((rank, reason)) => (*rank, reason.as_str()),
    };
    let mut end = reason.len().min(REASON_BYTES_MAX);
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
    retry_on_intr(|| {
        sendmsg(&*stream, &[IoSlice::new(&[length])], &mut control, SendFlags::NOSIGNAL)
    })?;
    stream.write_all(&rank.to_le_bytes())?;
    stream.write_all(&reason.as_bytes()[..end])
}

/// Reads `bytes` as what a member says, over its socket and in the store: for tests.
///
/// # Panics
/// When there are no sockets.
#[cfg(any(test, feature = "testing"))]
pub fn check_arena_handshake(bytes: &[u8]) {
    let (mut ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let _ = theirs.set_nonblocking(true);
    // As much as the socket takes; then it ends, so that nobody waits.
    let _ = theirs.write(bytes);
    drop(theirs);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut verdicts = 0;
    while let Ok((_, descriptors)) = receive_verdict(&mut ours, deadline) {
        assert!(descriptors.is_empty(), "nobody sent any");
        verdicts += 1;
    }
    assert!(verdicts <= bytes.len() / 5, "a verdict has five bytes at least");
    let _ = super::listener::decode(0, bytes);
}

/// A verdict and the descriptors that came with it. No reason is none to fail.
fn receive_verdict(
    stream: &mut UnixStream,
    deadline: Instant,
) -> io::Result<(Verdict, Vec<OwnedFd>)> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(remaining.max(Duration::from_millis(1))))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    // A process that is stopped and continued while it waits on a socket with a time limit is
    // interrupted without any signal handler.
    let received = retry_on_intr(|| {
        recvmsg(&*stream, &mut [IoSliceMut::new(&mut length)], &mut control, flags)
    })?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let mut rank = [0; 4];
    stream.read_exact(&mut rank)?;
    let mut reason = vec![0; usize::from(length[0])];
    stream.read_exact(&mut reason)?;
    let failure = (u32::from_le_bytes(rank), String::from_utf8_lossy(&reason).into_owned());
    let verdict = if reason.is_empty() { Ok(()) } else { Err(failure) };
    Ok((verdict, descriptors))
}
