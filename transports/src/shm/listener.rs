use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use paceline_rendezvous::RunId;
use rustix::event::{EventfdFlags, eventfd};

use super::arena::{Arena, ArenaLayout};
use super::exchange::{self, Mesh};
use super::memory::SharedMemory;
use super::pipe::PipeLayout;
use super::stream::ShmStream;
use crate::error::explain;
use crate::messaging::{StreamEndpoint, stream_capabilities};
use crate::{Capabilities, Endpoint, EstablishError, Group, Patience, Transport, TransportKind};

/// What a rank publishes about its socket: `shm/1 NAME`.
const PREFIX: &str = "shm/1 ";

/// One listening unix socket, to become shared memory.
#[derive(Debug)]
pub struct ShmTransport {
    listener: UnixListener,
    pub(super) name: String,
}

/// What the ranks of one node share.
#[derive(Debug)]
pub struct Node {
    /// The arena for node-local collectives, if one was asked for.
    pub arena: Option<Arena>,
    /// Endpoints by rank of the group; `None` for the own rank and for ranks that are not members.
    pub endpoints: Vec<Option<Box<dyn Endpoint>>>,
}

impl ShmTransport {
    /// Opens the listening socket.
    ///
    /// # Errors
    /// [`EstablishError::Os`] and [`EstablishError::Listen`].
    pub fn bind() -> Result<Self, EstablishError> {
        let random = RunId::random().map_err(|error| EstablishError::Os {
            what: "name a unix socket",
            source: std::io::Error::other(error),
        })?;
        let name = format!("paceline-{random}");
        let listener = exchange::listen(&name).map_err(|source| EstablishError::Listen {
            address: format!("abstract unix socket @{name}"),
            source,
        })?;
        Ok(Self { listener, name })
    }

    /// Connects the ranks `members` (ascending, this one among them) of a group, and makes the
    /// arena that `arena` describes if it is given. That this succeeds proves that the members are
    /// on one node.
    ///
    /// A member whose connections fail hangs up; others may be done by then, so that all must tell
    /// each other how they fared. From when the connections stand it succeeds on all or on none.
    ///
    /// # Errors
    /// [`EstablishError`] names the peer and the step that failed.
    pub fn connect_node(
        self,
        group: &Group<'_>,
        members: &[u32],
        arena: Option<ArenaLayout>,
        patience: &Patience<'_>,
    ) -> Result<Node, EstablishError> {
        let mut mesh = self.mesh(group, members, patience)?;
        let place = u32::try_from(mesh.place).expect("members are counted in u32");
        let pipes = PipeLayout::new(members.len());
        let create = || {
            let memory = SharedMemory::create(pipes.bytes()).map_err(|error| explain(&error))?;
            let mut descriptors = vec![memory.as_fd().try_clone_to_owned().map_err(text)?];
            let arena = arena
                .map(|layout| Arena::create(layout, place))
                .transpose()
                .map_err(|error| explain(&error))?;
            if let Some(arena) = &arena {
                descriptors.push(arena.as_fd().try_clone_to_owned().map_err(text)?);
            }
            Ok(((memory, arena), descriptors))
        };
        let join = |descriptors: Vec<_>| {
            let mut descriptors = descriptors.into_iter();
            let mut next = || descriptors.next().ok_or_else(refused);
            let memory =
                SharedMemory::from_fd(next()?, pipes.bytes()).map_err(|error| explain(&error))?;
            let arena = match arena {
                None => None,
                Some(layout) => {
                    Some(Arena::join(next()?, layout, place).map_err(|error| explain(&error))?)
                }
            };
            Ok((memory, arena))
        };
        let (memory, arena) = mesh.share(create, join, patience.deadline)?;
        let endpoints = endpoints(mesh, memory, pipes, group)?;
        Ok(Node { arena, endpoints })
    }

    /// Makes the arena that `layout` describes for the ranks `members` (this one among them) of a
    /// group, who have other connections already. A member's number in the arena is its place in
    /// `members`.
    ///
    /// # Errors
    /// As for [`ShmTransport::connect_node`].
    pub fn share_arena(
        self,
        group: &Group<'_>,
        members: &[u32],
        layout: ArenaLayout,
        patience: &Patience<'_>,
    ) -> Result<Arena, EstablishError> {
        let mut mesh = self.mesh(group, members, patience)?;
        let place = u32::try_from(mesh.place).expect("members are counted in u32");
        let create = || {
            let arena = Arena::create(layout, place).map_err(|error| explain(&error))?;
            let descriptor = arena.as_fd().try_clone_to_owned().map_err(text)?;
            Ok((arena, vec![descriptor]))
        };
        let join = |descriptors: Vec<_>| {
            let descriptor = descriptors.into_iter().next().ok_or_else(refused)?;
            Arena::join(descriptor, layout, place).map_err(|error| explain(&error))
        };
        mesh.share(create, join, patience.deadline)
    }

    fn mesh(
        &self,
        group: &Group<'_>,
        members: &[u32],
        patience: &Patience<'_>,
    ) -> Result<Mesh, EstablishError> {
        let name_of = |rank: &u32| decode(*rank, &group.addresses[*rank as usize]);
        let names = members.iter().map(name_of).collect::<Result<Vec<_>, _>>()?;
        Mesh::connect(&self.listener, &names, members, group, patience)
    }
}

fn endpoints(
    mesh: Mesh,
    memory: SharedMemory,
    pipes: PipeLayout,
    group: &Group<'_>,
) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
    let mut endpoints: Vec<Option<Box<dyn Endpoint>>> =
        group.addresses.iter().map(|_| None).collect();
    let memory = Arc::new(memory);
    let ready = always_ready()?;
    for (theirs, (rank, stream)) in mesh.members.iter().zip(mesh.streams).enumerate() {
        let Some(stream) = stream else { continue };
        stream.set_nonblocking(true).map_err(|source| EstablishError::Os {
            what: "make a unix socket non-blocking",
            source,
        })?;
        let out = pipes.pipe(&memory, mesh.place, theirs);
        let into = pipes.pipe(&memory, theirs, mesh.place);
        let stream = ShmStream::new(stream, out, into, Arc::clone(&ready));
        let address = "this node".to_owned();
        let endpoint = StreamEndpoint::new(*rank, address, group.into(), vec![stream]);
        endpoints[*rank as usize] = Some(Box::new(endpoint));
    }
    Ok(endpoints)
}

/// A descriptor that is always readable.
fn always_ready() -> Result<Arc<OwnedFd>, EstablishError> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let ready = eventfd(1, flags).map_err(|errno| EstablishError::Os {
        what: "make an event descriptor",
        source: errno.into(),
    })?;
    Ok(Arc::new(ready))
}

/// The kernel drops descriptors that a process has no room for.
fn refused() -> String {
    "no memory was sent, or too many files are open".to_owned()
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

pub(super) fn decode(peer: u32, bytes: &[u8]) -> Result<String, EstablishError> {
    let text = String::from_utf8_lossy(bytes);
    match text.strip_prefix(PREFIX) {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(EstablishError::Address {
            peer,
            what: format!("{text:?} is no shared-memory address of version 1"),
        }),
    }
}

impl Transport for ShmTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Shm
    }

    fn capabilities(&self) -> Capabilities {
        stream_capabilities(true)
    }

    fn address(&self) -> Vec<u8> {
        format!("{PREFIX}{}", self.name).into_bytes()
    }

    fn connect(
        self: Box<Self>,
        group: &Group<'_>,
        patience: &Patience<'_>,
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
        let members: Vec<u32> = (0..).take(group.addresses.len()).collect();
        Ok(self.connect_node(group, &members, None, patience)?.endpoints)
    }
}
