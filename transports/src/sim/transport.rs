use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use paceline_rendezvous::hello::{Admission, HelloError, Identity, Initiator, Purpose, Responder};
use paceline_rendezvous::{RunId, Secret};

use super::network::{PipeId, SimNetwork};
use crate::messaging::{ByteStream, StreamEndpoint, stream_capabilities};
use crate::{Capabilities, Endpoint, EstablishError, Group, Patience, Transport, TransportKind};

/// A rank that has connected, as it proved itself to the others.
#[derive(Clone, Debug)]
pub(super) struct Member {
    run_id: RunId,
    epoch: u32,
    secret: Secret,
}

/// The simulated transport of one rank.
///
/// [`Transport::connect`] does not wait: the handshake with each rank is run when the later of the
/// two connects, and whoever is there already keeps its place.
#[derive(Debug)]
pub struct SimTransport {
    network: SimNetwork,
    rank: u32,
}

impl SimTransport {
    pub(super) fn new(network: SimNetwork, rank: u32) -> Self {
        Self { network, rank }
    }
}

impl Transport for SimTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Sim
    }

    fn capabilities(&self) -> Capabilities {
        stream_capabilities(false)
    }

    fn address(&self) -> Vec<u8> {
        describe(self.rank).into_bytes()
    }

    fn connect(
        self: Box<Self>,
        group: &Group<'_>,
        _patience: &Patience<'_>,
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
        let world_size = self.network.world_size();
        if group.addresses.len() != world_size as usize || group.rank != self.rank {
            let (rank, ranks) = (group.rank, group.addresses.len());
            return Err(EstablishError::Unusable {
                transport: TransportKind::Sim.name(),
                reason: format!(
                    "rank {rank} of {ranks} in the place of rank {} of {world_size}",
                    self.rank
                ),
            });
        }
        let mut state = self.network.lock();
        if !state.absent.is_empty() {
            let missing = state.absent.clone();
            return Err(EstablishError::Missing { missing, waited_ms: 0 });
        }
        let peers = || (0..world_size).filter(|peer| *peer != self.rank);
        let refused = |peer, error| EstablishError::Handshake {
            peer,
            address: describe(peer),
            source: Box::new(error),
        };
        if state.members[self.rank as usize].is_some()
            && let Some(peer) = peers().next()
        {
            return Err(refused(peer, HelloError::Duplicate { rank: self.rank }));
        }
        let joining =
            Member { run_id: group.run_id, epoch: group.epoch, secret: group.secret.clone() };
        for peer in peers() {
            if let Some(member) = &state.members[peer as usize] {
                shake_hands((self.rank, &joining), (peer, member), world_size)
                    .map_err(|error| refused(peer, error))?;
            }
        }
        state.members[self.rank as usize] = Some(joining);
        let channels = state.streams_per_peer();
        drop(state);
        let endpoint = |peer| -> Option<Box<dyn Endpoint>> {
            let stream = |channel| SimStream {
                network: self.network.clone(),
                rank: self.rank,
                peer,
                channel,
            };
            let streams = (0..channels).map(stream).collect();
            (peer != self.rank).then(|| {
                let endpoint = StreamEndpoint::new(peer, describe(peer), group.into(), streams);
                Box::new(endpoint) as Box<dyn Endpoint>
            })
        };
        Ok((0..world_size).map(endpoint).collect())
    }
}

fn describe(rank: u32) -> String {
    format!("simulated host {rank}")
}

/// Runs the handshake that real connections begin with, as the rank that joins sees it.
fn shake_hands(
    (rank, joining): (u32, &Member),
    (peer, member): (u32, &Member),
    world_size: u32,
) -> Result<(), HelloError> {
    let identity =
        |rank, of: &Member| Identity { run_id: of.run_id, epoch: of.epoch, rank, features: 0 };
    let purpose = Purpose::Data { channel: 0 };
    let initiator = Initiator::new(identity(rank, joining), purpose, peer, &joining.secret)?;
    let admission = Admission { world_size, rank: None };
    let responder = Responder::new(identity(peer, member), admission, &member.secret)?;
    let (reply, pending) = match responder.on_hello(initiator.hello(), |_, _| Ok(())) {
        Ok((reply, pending)) => (reply, Some(pending)),
        Err(turned) => match turned.reply {
            Some(reply) => (reply, None),
            None => return Err(turned.error),
        },
    };
    let (finish, _) = initiator.on_reply(&reply)?;
    pending.map_or(Ok(()), |pending| pending.on_finish(&finish).map(|_| ()))
}

/// One end of one simulated stream.
#[derive(Debug)]
struct SimStream {
    network: SimNetwork,
    rank: u32,
    peer: u32,
    channel: u16,
}

impl SimStream {
    fn outgoing(&self) -> PipeId {
        PipeId { from: self.rank, to: self.peer, channel: self.channel }
    }
}

impl ByteStream for SimStream {
    const KIND: TransportKind = TransportKind::Sim;

    const MAY_WAIT: bool = true;

    const WAKES: bool = false;

    fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize> {
        self.network.lock().write(self.outgoing(), parts)
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        let id = PipeId { from: self.peer, to: self.rank, channel: self.channel };
        self.network.lock().read(id, first, second)
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn wait_for_room(&mut self, _limit: Duration) {
        self.network.lock().pipe(self.outgoing()).writer_waits = true;
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.network.lock().close(self.rank, self.peer, self.channel);
    }
}
