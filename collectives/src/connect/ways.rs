//! The ways to connect: over each transport, and over two where nodes are several.

use paceline_transports::shm::ShmTransport;
use paceline_transports::tcp::{TcpConfig, TcpTransport};
use paceline_transports::{Endpoint, EstablishError, Transport, TransportKind};

#[cfg(not(feature = "mpi"))]
use super::WITHOUT_MPI;
use super::cards::{Card, addresses};
use super::{Connected, Joining};
use crate::context::Sockets;
use crate::engine::Wire;
use crate::error::SetupError;
use crate::node::{NodeGroup, arena_layout};

impl Joining<'_> {
    /// `apart`: whether ranks that were thought to be on one node did not reach each other there.
    pub(super) fn over_tcp(&self, apart: bool) -> Result<Connected, SetupError> {
        let (transport, cards) = self.listen_on_tcp(apart, None)?;
        self.connect_tcp(transport, &cards, |_| true)
    }

    /// Ranks of one node exchange messages in memory, if that works on all nodes; the others over TCP.
    pub(super) fn over_tcp_between_nodes(&self) -> Result<Connected, SetupError> {
        let info = self.job.rank_info();
        let listener = if info.local_size > 1 { ShmTransport::bind().ok() } else { None };
        let (transport, cards) = self.listen_on_tcp(false, listener.as_ref())?;
        let ours = info.node_rank;
        let on = |node: u32| (0..).zip(&cards).filter(move |(_, card)| card.node_rank == node);
        let crowded = cards.iter().any(|card| on(card.node_rank).count() > 1);
        if !crowded {
            return self.connect_tcp(transport, &cards, |_| true);
        }
        let members: Vec<u32> = on(ours).map(|(rank, _)| rank).collect();
        match self.share_on_node(listener, &cards, &members) {
            Ok(endpoints) => {
                let is_elsewhere = |card: &Card| card.node_rank != ours;
                let mut connected = self.connect_tcp(transport, &cards, is_elsewhere)?;
                connected.wire.add(endpoints);
                Ok(Connected { mixed: true, ..connected })
            }
            Err(SetupError::Establish { transport: kind, source }) => {
                let fallback = format!("cannot connect the ranks of a node over {kind}: {source}");
                let connected = self.connect_tcp(transport, &cards, |_| true)?;
                Ok(Connected { fallback: Some(fallback), ..connected })
            }
            Err(error) => Err(error),
        }
    }

    /// Connects the ranks of this node, while the others connect theirs; all or none.
    fn share_on_node(
        &self,
        listener: Option<ShmTransport>,
        cards: &[Card],
        members: &[u32],
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, SetupError> {
        let kind = TransportKind::Shm;
        let own = |card: &Card| card.on_node.clone().unwrap_or_default();
        let addresses: Vec<Vec<u8>> = cards.iter().map(own).collect();
        self.together(kind, |patience| match (listener, members.len()) {
            (_, 0..=1) => Ok(Vec::new()),
            (None, _) => Err(EstablishError::Os {
                what: "listen on a unix socket",
                source: std::io::ErrorKind::AddrNotAvailable.into(),
            }),
            (Some(transport), _) => {
                let group = self.group(&addresses);
                Ok(transport.connect_node(&group, members, None, patience)?.endpoints)
            }
        })
    }

    /// Opens this rank's socket and learns of everybody's.
    fn listen_on_tcp(
        &self,
        apart: bool,
        on_node: Option<&ShmTransport>,
    ) -> Result<(TcpTransport, Vec<Card>), SetupError> {
        let control = self.job.rendezvous().control.as_ref();
        let towards = control.map(|control| control.local_addr().ip());
        // Containers of one host have loopback interfaces of their own.
        let in_containers = apart && towards.is_some_and(|address| !address.is_loopback());
        let transport = TcpTransport::bind(&TcpConfig {
            interface: self.options.interface.clone(),
            port_range: self.options.port_range,
            sockets_per_peer: Sockets::new(self.options, self.job.rank_info()).opened,
            one_node: self.job.rank_info().is_on_one_node() && !in_containers,
            towards,
        });
        let on_node = on_node.map(ShmTransport::address);
        self.exchange(TransportKind::Tcp, transport, TcpTransport::address, on_node)
    }

    /// Connects this rank to those whose card says that it should be.
    fn connect_tcp(
        &self,
        transport: TcpTransport,
        cards: &[Card],
        wanted: impl Fn(&Card) -> bool,
    ) -> Result<Connected, SetupError> {
        let kind = TransportKind::Tcp;
        let mut addresses = addresses(cards);
        for (address, _) in addresses.iter_mut().zip(cards).filter(|(_, card)| !wanted(card)) {
            address.clear();
        }
        let endpoints = self.together(kind, |patience| {
            Box::new(transport).connect(&self.group(&addresses), patience)
        })?;
        let facts = self.facts(kind, cards);
        Ok(Connected {
            facts,
            wire: Wire::new(endpoints),
            node: None,
            mixed: false,
            fallback: None,
        })
    }

    /// Between the processes of a world that MPI's launcher started.
    #[cfg(feature = "mpi")]
    pub(super) fn over_mpi(&self) -> Result<Connected, SetupError> {
        use paceline_rendezvous::rank_info::Dialect;
        use paceline_transports::mpi::{MpiConfig, MpiTransport};

        let kind = TransportKind::Mpi;
        let launchers = [Dialect::OpenMpi, Dialect::Pmi, Dialect::Slurm];
        let transport = MpiTransport::join(&MpiConfig {
            is_launched: launchers.contains(&self.job.rank_info().dialect),
            deadline: self.deadline_of(kind),
        });
        let (transport, cards) = self.exchange(kind, transport, MpiTransport::address, None)?;
        let addresses = addresses(&cards);
        let endpoints = self.together(kind, |patience| {
            Box::new(transport).connect(&self.group(&addresses), patience)
        })?;
        let facts = self.facts(kind, &cards);
        Ok(Connected {
            facts,
            wire: Wire::new(endpoints),
            node: None,
            mixed: false,
            fallback: None,
        })
    }

    #[cfg(not(feature = "mpi"))]
    #[expect(clippy::unused_self, reason = "with the feature it is a method like the others")]
    pub(super) fn over_mpi(&self) -> Result<Connected, SetupError> {
        Err(SetupError::Option(WITHOUT_MPI.to_owned()))
    }

    pub(super) fn over_shared_memory(&self) -> Result<Connected, SetupError> {
        let kind = TransportKind::Shm;
        let (transport, cards) =
            self.exchange(kind, ShmTransport::bind(), ShmTransport::address, None)?;
        let addresses = addresses(&cards);
        let members: Vec<u32> = (0..self.job.rank_info().world_size).collect();
        let layout = arena_layout(self.job.rank_info().world_size);
        let node = self.together(kind, |patience| {
            transport.connect_node(&self.group(&addresses), &members, Some(layout), patience)
        })?;
        let facts = self.facts(kind, &cards);
        let wire = Wire::new(node.endpoints);
        Ok(Connected {
            facts,
            wire,
            node: node.arena.map(NodeGroup::new),
            mixed: false,
            fallback: None,
        })
    }
}
