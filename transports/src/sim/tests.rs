use std::time::Instant;

use paceline_rendezvous::{RunId, Secret};

use super::*;
use crate::conformance::{Doomed, Harness, doomed_posts};
use crate::{Capabilities, Endpoint, EstablishError, Group, Transport};

/// Connects every rank of a network; the endpoints by rank and peer.
fn connect_all(network: &SimNetwork) -> Vec<Vec<Option<Box<dyn Endpoint>>>> {
    let connect = |rank| connect(network, rank, 3, 5).unwrap();
    (0..network.world_size()).map(connect).collect()
}

fn connect(
    network: &SimNetwork,
    rank: u32,
    epoch: u32,
    secret: u8,
) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
    let secret = Secret::from_bytes([secret; 32]);
    let addresses: Vec<Vec<u8>> =
        (0..network.world_size()).map(|rank| network.transport(rank).address()).collect();
    let run_id = RunId::from_bytes([8; 16]);
    let group = Group { rank, run_id, epoch, secret: &secret, addresses: &addresses };
    Box::new(network.transport(rank)).connect(&group, Instant::now())
}

fn network(seed: u64, world_size: u32, profile: LinkProfile) -> SimNetwork {
    SimNetwork::new(SimConfig { seed, world_size, streams_per_peer: 1, profile })
}

/// Networks of two ranks, a new one for each pair, from consecutive seeds.
struct SimHarness {
    seed: u64,
    profile: LinkProfile,
    streams: u16,
    message_bytes_max: usize,
    current: std::cell::RefCell<Option<SimNetwork>>,
}

impl SimHarness {
    fn new(seed: u64, profile: LinkProfile, streams: u16) -> Self {
        let current = std::cell::RefCell::new(None);
        Self { seed, profile, streams, message_bytes_max: 16 << 20, current }
    }

    fn up_to(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    fn next_pair(&self) -> (SimNetwork, [Box<dyn Endpoint>; 2]) {
        let network = SimNetwork::new(SimConfig {
            seed: self.seed,
            world_size: 2,
            streams_per_peer: self.streams,
            profile: self.profile.clone(),
        });
        let ends: Vec<_> = connect_all(&network).into_iter().flatten().flatten().collect();
        *self.current.borrow_mut() = Some(network.clone());
        (network, ends.try_into().unwrap())
    }
}

impl Harness for SimHarness {
    fn describe(&self) -> String {
        let Self { seed, profile, streams, .. } = self;
        format!("sim, seed {seed}, {streams} streams, {profile:?}")
    }

    fn capabilities(&self) -> Capabilities {
        network(0, 2, LinkProfile::perfect()).transport(0).capabilities()
    }

    fn pair(&self) -> [Box<dyn Endpoint>; 2] {
        self.next_pair().1
    }

    fn idle(&self) {
        if let Some(network) = &*self.current.borrow() {
            network.tick();
        }
    }

    fn doomed(&self) -> Option<Doomed> {
        let (network, [survivor, mut doomed]) = self.next_pair();
        doomed_posts(doomed.as_mut());
        let drive = move || {
            let _ = doomed.poll(&mut Vec::new());
        };
        let kill = move || network.inject(Fault::Kill { rank: 1 });
        Some(Doomed { endpoint: survivor, drive: Box::new(drive), kill: Box::new(kill) })
    }

    fn header_bytes(&self) -> Option<u64> {
        Some(64)
    }

    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }
}

crate::conformance_suite!(perfect, SimHarness::new(1, LinkProfile::perfect(), 1));
crate::conformance_suite!(perfect_4_streams, SimHarness::new(2, LinkProfile::perfect(), 4));
crate::conformance_suite!(choppy, SimHarness::new(3, LinkProfile::choppy(), 1).up_to(1 << 20));
crate::conformance_suite!(choppy_3, SimHarness::new(4, LinkProfile::choppy(), 3).up_to(1 << 20));
crate::conformance_suite!(slow, SimHarness::new(5, LinkProfile::slow(), 2).up_to(1 << 20));
crate::conformance_suite!(bytewise, SimHarness::new(6, LinkProfile::bytewise(), 1).up_to(5000));
