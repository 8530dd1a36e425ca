use std::time::Instant;

use super::address::Address;
use super::calls::Party;
use super::stream::{MpiStream, StartError};
use super::world::World;
use crate::messaging::{StreamEndpoint, stream_capabilities};
use crate::{Capabilities, Endpoint, EstablishError, Group, Patience, Transport, TransportKind};

/// What a process knows about MPI before it has started it.
#[derive(Clone, Copy, Debug)]
pub struct MpiConfig {
    /// Whether a launcher of MPI started this process. Started by any other, MPI would make a world
    /// of this process alone.
    pub is_launched: bool,
    /// How long to wait for the other processes of the world.
    pub deadline: Instant,
}

/// This process's place in the MPI world, to become connections to every peer.
#[derive(Debug)]
pub struct MpiTransport {
    world: &'static World,
    tag: i32,
}

impl MpiTransport {
    /// Starts MPI, unless it is started.
    ///
    /// # Errors
    /// [`EstablishError::Unusable`].
    pub fn join(config: &MpiConfig) -> Result<Self, EstablishError> {
        if !config.is_launched {
            return Err(unusable("these ranks were not started by a launcher of MPI".to_owned()));
        }
        let world = World::join(config.deadline).map_err(unusable)?;
        let tag = world.take_tag();
        let tag = tag.ok_or_else(|| unusable("MPI has no more tags".to_owned()))?;
        Ok(Self { world, tag })
    }

    /// The process of a rank, if it is one of this MPI world.
    fn party(&self, peer: u32, address: &[u8], world_size: usize) -> Result<Party, EstablishError> {
        let Address { world, rank, size, tag } = Address::decode(peer, address)?;
        if world != self.world.id() {
            return Err(unusable(format!("rank {peer} is in another MPI world")));
        }
        if rank != peer || size as usize != world_size {
            return Err(unusable(format!(
                "rank {peer} of {world_size} is rank {rank} of {size} in its MPI world"
            )));
        }
        let rank = i32::try_from(rank).expect("MPI counts ranks in such numbers");
        Ok(Party { rank, tag })
    }
}

fn unusable(reason: String) -> EstablishError {
    EstablishError::Unusable { transport: TransportKind::Mpi.name(), reason }
}

impl Transport for MpiTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Mpi
    }

    fn capabilities(&self) -> Capabilities {
        stream_capabilities(false)
    }

    fn address(&self) -> Vec<u8> {
        let (world, tag) = (self.world, self.tag);
        Address { world: world.id(), rank: world.rank(), size: world.size(), tag }.encode()
    }

    /// MPI has connected the processes, or will when they first need it, so nobody is waited for.
    fn connect(
        self: Box<Self>,
        group: &Group<'_>,
        _patience: &Patience<'_>,
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
        let world_size = group.addresses.len();
        let own = group.rank as usize;
        self.party(group.rank, &group.addresses[own], world_size)?;
        // Declared first: streams that are dropped call MPI.
        let mut streams = Vec::new();
        let Some(mut calls) = self.world.enter() else {
            return Err(unusable("MPI has ended".to_owned()));
        };
        for (peer, address) in (0..).zip(group.addresses) {
            if peer == group.rank {
                continue;
            }
            let party = self.party(peer, address, world_size)?;
            let stream = MpiStream::open(self.world, &mut calls, party, self.tag);
            streams.push((
                peer,
                stream.map_err(|error| match error {
                    StartError::Memory(error) => EstablishError::Memory(error),
                    StartError::Mpi(error) => unusable(error.to_string()),
                })?,
            ));
        }
        drop(calls);
        let mut endpoints: Vec<Option<Box<dyn Endpoint>>> =
            group.addresses.iter().map(|_| None).collect();
        for (peer, stream) in streams {
            let address = format!("rank {peer} of the MPI world");
            let endpoint = StreamEndpoint::new(peer, address, group.into(), vec![stream]);
            endpoints[peer as usize] = Some(Box::new(endpoint));
        }
        Ok(endpoints)
    }
}
