use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::hello::{self, Admission, Identity, Purpose};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::socket::Socket;
use super::{InterfaceChoice, address};
use crate::messaging::{StreamEndpoint, stream_capabilities};
use crate::{Capabilities, Endpoint, EstablishError, Group, Transport, TransportKind};

/// How long a stranger may take over its handshake; members of the group answer in milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at the same time; beyond it connections wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 64;

/// How long a handshake may take when others wait for its place.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);

/// How to listen and connect.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Which address to listen on.
    pub interface: InterfaceChoice,
    /// Which ports are allowed; [`PortRange::ANY`] lets the kernel choose.
    pub port_range: PortRange,
    /// Sockets to each peer, 1 to 16. The same on all ranks.
    pub sockets_per_peer: u16,
    /// Whether all ranks are on this node.
    pub one_node: bool,
    /// This host's address on a connection that is known to reach the others' hosts.
    pub towards: Option<IpAddr>,
}

/// One listening socket, to become connections to every peer.
#[derive(Debug)]
pub struct TcpTransport {
    listener: TcpListener,
    address: SocketAddr,
    sockets_per_peer: u16,
}

/// A handshake that ended well: who, on which channel, over what.
type Arrival = (u32, u16, TcpStream);

/// The connections whose handshake is under way, by number. Dropping it hangs up on them, so that
/// nobody who connects and says nothing delays the threads' end.
#[derive(Debug, Default)]
struct Shaking {
    streams: Vec<Handshake>,
    next: u64,
}

#[derive(Debug)]
struct Handshake {
    number: u64,
    begun: Instant,
    stream: TcpStream,
}

impl Shaking {
    /// Returns the connection's number.
    fn begin(&mut self, stream: &TcpStream) -> io::Result<u64> {
        let number = self.next;
        self.streams.push(Handshake { number, begun: Instant::now(), stream: stream.try_clone()? });
        self.next += 1;
        Ok(number)
    }

    fn end(&mut self, number: u64) {
        self.streams.retain(|handshake| handshake.number != number);
    }

    /// Waits a little for room. Members of the group make room by themselves within milliseconds;
    /// on strangers that stay silent it hangs up.
    fn make_room(&self) {
        for handshake in &self.streams {
            if handshake.begun.elapsed() > HANDSHAKE_PATIENCE {
                hang_up(&handshake.stream);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn hang_up(stream: &TcpStream) {
    // It may have hung up itself, which is as good.
    let _ = stream.shutdown(Shutdown::Both);
}

impl Drop for Shaking {
    fn drop(&mut self) {
        for handshake in &self.streams {
            hang_up(&handshake.stream);
        }
    }
}

impl TcpTransport {
    /// Opens the listening socket.
    ///
    /// # Errors
    /// [`EstablishError::Interface`] and [`EstablishError::Listen`].
    pub fn bind(config: &TcpConfig) -> Result<Self, EstablishError> {
        let ip = config.interface.resolve(config.one_node, config.towards)?;
        let failed =
            |source| EstablishError::Listen { address: describe(ip, config.port_range), source };
        let listener = config.port_range.listen(ip).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, sockets_per_peer: config.sockets_per_peer.clamp(1, 16) })
    }

    fn accept_all(
        &self,
        group: &Group<'_>,
        mesh: &mut Mesh,
        deadline: Instant,
    ) -> Result<(), EstablishError> {
        let started = Instant::now();
        self.listener.set_nonblocking(true).map_err(|source| EstablishError::Os {
            what: "make the listening socket non-blocking",
            source,
        })?;
        let (arrived, arrivals) = mpsc::channel::<(u64, Option<Arrival>)>();
        std::thread::scope(|scope| {
            let mut shaking = Shaking::default();
            while !mesh.is_complete() {
                while let Ok((number, outcome)) = arrivals.try_recv() {
                    shaking.end(number);
                    // A stranger, or a second connection of somebody who is here: dropped.
                    if let Some((peer, channel, stream)) = outcome {
                        mesh.add(peer, channel, stream);
                    }
                }
                if mesh.is_complete() {
                    break;
                }
                if Instant::now() >= deadline {
                    let waited_ms = started.elapsed().as_millis();
                    return Err(EstablishError::Missing { missing: mesh.missing(), waited_ms });
                }
                if shaking.streams.len() >= HANDSHAKES_MAX {
                    shaking.make_room();
                    continue;
                }
                if !self.wait_for_connection(!shaking.streams.is_empty())? {
                    continue;
                }
                let Ok((stream, _)) = self.listener.accept() else { continue };
                let Ok(number) = shaking.begin(&stream) else { continue };
                let arrived = arrived.clone();
                let until = deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
                let handshake = move || {
                    let _ = arrived.send((number, welcome(stream, group, until)));
                };
                std::thread::Builder::new()
                    .name("paceline-hello".to_owned())
                    .spawn_scoped(scope, handshake)
                    .map_err(|source| EstablishError::Os { what: "start a thread", source })?;
            }
            Ok(())
        })
    }

    /// Waits a little for somebody to connect; less while handshakes are under way, whose end is
    /// not seen here.
    fn wait_for_connection(&self, shaking: bool) -> Result<bool, EstablishError> {
        let wait = Duration::from_millis(if shaking { 1 } else { 20 });
        let timeout = Timespec::try_from(wait).expect("a short wait fits");
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => {
                Err(EstablishError::Os { what: "wait for connections", source: error.into() })
            }
        }
    }
}

fn describe(ip: IpAddr, ports: PortRange) -> String {
    if ports == PortRange::ANY { ip.to_string() } else { format!("{ip} ports {ports}") }
}

fn identity(group: &Group<'_>) -> Identity {
    Identity { run_id: group.run_id, epoch: group.epoch, rank: group.rank, features: 0 }
}

fn world_size(group: &Group<'_>) -> u32 {
    u32::try_from(group.addresses.len()).expect("world sizes are below 2^32")
}

fn welcome(mut stream: TcpStream, group: &Group<'_>, deadline: Instant) -> Option<Arrival> {
    stream.set_nonblocking(true).ok()?;
    let admission = Admission { world_size: world_size(group), rank: None };
    let session =
        hello::accept(&mut stream, identity(group), admission, group.secret, deadline).ok()?;
    match session.purpose {
        Purpose::Data { channel } => Some((session.peer_rank, channel, stream)),
        _ => None,
    }
}

fn call(
    peer: u32,
    channel: u16,
    group: &Group<'_>,
    deadline: Instant,
) -> Result<TcpStream, EstablishError> {
    let at = address::decode(peer, &group.addresses[peer as usize])?;
    let failed = |source| EstablishError::Connect { peer, address: at.to_string(), source };
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return Err(failed(io::ErrorKind::TimedOut.into()));
    }
    let mut stream = TcpStream::connect_timeout(&at, remaining).map_err(failed)?;
    stream.set_nonblocking(true).map_err(failed)?;
    let purpose = Purpose::Data { channel };
    hello::initiate(&mut stream, identity(group), purpose, peer, group.secret, deadline).map_err(
        |source| EstablishError::Handshake {
            peer,
            address: at.to_string(),
            source: Box::new(source),
        },
    )?;
    Ok(stream)
}

/// The connections as they come in: one slot per peer and channel.
struct Mesh {
    rank: u32,
    slots: Vec<Vec<Option<TcpStream>>>,
}

impl Mesh {
    fn new(rank: u32, world_size: u32, channels: u16) -> Self {
        let empty = || (0..channels).map(|_| None).collect();
        Self { rank, slots: (0..world_size).map(|_| empty()).collect() }
    }

    /// Keeps the first connection of each peer and channel.
    fn add(&mut self, peer: u32, channel: u16, stream: TcpStream) {
        let slot =
            self.slots.get_mut(peer as usize).and_then(|slots| slots.get_mut(channel as usize));
        if let Some(slot @ None) = slot
            && peer != self.rank
        {
            *slot = Some(stream);
        }
    }

    fn missing(&self) -> Vec<u32> {
        let peers = 0..u32::try_from(self.slots.len()).expect("world sizes are below 2^32");
        peers
            .filter(|peer| *peer != self.rank)
            .filter(|peer| self.slots[*peer as usize].iter().any(Option::is_none))
            .collect()
    }

    fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }
}

impl Transport for TcpTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    fn capabilities(&self) -> Capabilities {
        stream_capabilities(true)
    }

    fn address(&self) -> Vec<u8> {
        address::encode(self.address)
    }

    /// Higher ranks call lower ones, so that each pair meets once; every rank first makes its
    /// calls, then answers, which by induction from rank 0 cannot deadlock.
    fn connect(
        self: Box<Self>,
        group: &Group<'_>,
        deadline: Instant,
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
        let mut mesh = Mesh::new(group.rank, world_size(group), self.sockets_per_peer);
        for peer in 0..group.rank {
            for channel in 0..self.sockets_per_peer {
                mesh.add(peer, channel, call(peer, channel, group, deadline)?);
            }
        }
        self.accept_all(group, &mut mesh, deadline)?;
        let mut endpoints: Vec<Option<Box<dyn Endpoint>>> = Vec::new();
        for (peer, slots) in (0..).zip(mesh.slots) {
            if peer == group.rank {
                endpoints.push(None);
                continue;
            }
            let sockets = slots.into_iter().flatten().map(Socket::new);
            let sockets = sockets
                .collect::<io::Result<Vec<_>>>()
                .map_err(|source| EstablishError::Os { what: "set TCP_NODELAY", source })?;
            let at = address::decode(peer, &group.addresses[peer as usize])?;
            let endpoint = StreamEndpoint::new(peer, at.to_string(), group.epoch, sockets);
            endpoints.push(Some(Box::new(endpoint)));
        }
        Ok(endpoints)
    }
}
