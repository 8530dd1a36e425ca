use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::hello::Purpose;
use paceline_rendezvous::interface::InterfaceChoice;

use super::socket::Socket;
use super::{address, interface};
use crate::messaging::{StreamEndpoint, stream_capabilities};
use crate::reception::{Entrance, Seats, introduce, receive_all};
use crate::{Capabilities, Endpoint, EstablishError, Group, Patience, Transport, TransportKind};

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

impl TcpTransport {
    /// Opens the listening socket.
    ///
    /// # Errors
    /// [`EstablishError::Interface`] and [`EstablishError::Listen`].
    pub fn bind(config: &TcpConfig) -> Result<Self, EstablishError> {
        let ip = interface::resolve(&config.interface, config.one_node, config.towards)?;
        let failed =
            |source| EstablishError::Listen { address: describe(ip, config.port_range), source };
        let listener = config.port_range.listen(ip).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, sockets_per_peer: config.sockets_per_peer.clamp(1, 16) })
    }
}

fn describe(ip: IpAddr, ports: PortRange) -> String {
    if ports == PortRange::ANY { ip.to_string() } else { format!("{ip} ports {ports}") }
}

impl Entrance for TcpListener {
    type Stream = TcpStream;

    fn accept_caller(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
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
    introduce(&mut stream, peer, || at.to_string(), purpose, group, deadline)?;
    Ok(stream)
}

/// The connections as they come in: one slot per peer and channel.
struct Mesh {
    rank: u32,
    slots: Vec<Vec<Option<TcpStream>>>,
}

impl Mesh {
    /// Has a slot for every channel to each peer that has an address.
    fn new(group: &Group<'_>, channels: u16) -> Self {
        let slots = |(rank, address): (u32, &Vec<u8>)| {
            let wanted = if rank == group.rank || address.is_empty() { 0 } else { channels };
            (0..wanted).map(|_| None).collect()
        };
        Self { rank: group.rank, slots: (0..).zip(group.addresses).map(slots).collect() }
    }
}

impl Seats for Mesh {
    type Stream = TcpStream;

    fn seat(&mut self, rank: u32, purpose: Purpose) -> Option<&mut Option<TcpStream>> {
        let Purpose::Data { channel } = purpose else { return None };
        if rank == self.rank {
            return None;
        }
        self.slots.get_mut(rank as usize)?.get_mut(channel as usize)
    }

    fn missing(&self) -> Vec<u32> {
        let peers = (0..).zip(&self.slots).filter(|(peer, _)| *peer != self.rank);
        let incomplete = peers.filter(|(_, slots)| slots.iter().any(Option::is_none));
        incomplete.map(|(peer, _)| peer).collect()
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
        patience: &Patience<'_>,
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
        let mut mesh = Mesh::new(group, self.sockets_per_peer);
        for (peer, slots) in (0..group.rank).zip(&mut mesh.slots) {
            for (channel, slot) in (0..).zip(slots) {
                *slot = Some(call(peer, channel, group, patience.deadline)?);
            }
        }
        receive_all(&self.listener, &mut mesh, group, patience)?;
        let mut endpoints: Vec<Option<Box<dyn Endpoint>>> = Vec::new();
        for (peer, slots) in (0..).zip(mesh.slots) {
            if slots.is_empty() {
                endpoints.push(None);
                continue;
            }
            let sockets = slots.into_iter().flatten().map(Socket::new);
            let sockets = sockets
                .collect::<io::Result<Vec<_>>>()
                .map_err(|source| EstablishError::Os { what: "set TCP_NODELAY", source })?;
            let at = address::decode(peer, &group.addresses[peer as usize])?;
            let endpoint = StreamEndpoint::new(peer, at.to_string(), group.into(), sockets);
            endpoints.push(Some(Box::new(endpoint)));
        }
        Ok(endpoints)
    }
}
