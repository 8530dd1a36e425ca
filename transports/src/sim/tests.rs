use std::time::Instant;

use paceline_rendezvous::{RunId, Secret};

use super::*;
use crate::conformance::{Doomed, Harness, doomed_posts};
use crate::{
    Capabilities, Checksum, Endpoint, EndpointError, EstablishError, Event, Group, MessageId,
    Patience, RecvPost, Region, SendPost, Signature, Transport,
};

/// Connects every rank of a network; the endpoints by rank and peer.
fn connect_all(network: &SimNetwork) -> Vec<Vec<Option<Box<dyn Endpoint>>>> {
    connect_all_with(network, Checksum::None)
}

fn connect_all_with(
    network: &SimNetwork,
    checksum: Checksum,
) -> Vec<Vec<Option<Box<dyn Endpoint>>>> {
    let connect = |rank| connect_with(network, rank, checksum, 3, 5).unwrap();
    (0..network.world_size()).map(connect).collect()
}

fn connect(
    network: &SimNetwork,
    rank: u32,
    epoch: u32,
    secret: u8,
) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
    connect_with(network, rank, Checksum::None, epoch, secret)
}

fn connect_with(
    network: &SimNetwork,
    rank: u32,
    checksum: Checksum,
    epoch: u32,
    secret: u8,
) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError> {
    let secret = Secret::from_bytes([secret; 32]);
    let addresses: Vec<Vec<u8>> =
        (0..network.world_size()).map(|rank| network.transport(rank).address()).collect();
    let run_id = RunId::from_bytes([8; 16]);
    let group = Group { rank, run_id, epoch, checksum, secret: &secret, addresses: &addresses };
    Box::new(network.transport(rank)).connect(&group, &Patience::until(Instant::now()))
}

fn network(seed: u64, world_size: u32, profile: LinkProfile) -> SimNetwork {
    SimNetwork::new(SimConfig { seed, world_size, streams_per_peer: 1, profile })
}

/// Networks of two ranks, a new one for each pair, from consecutive seeds.
struct SimHarness {
    seed: u64,
    profile: LinkProfile,
    streams: u16,
    checksum: Checksum,
    message_bytes_max: usize,
    current: std::cell::RefCell<Option<SimNetwork>>,
}

impl SimHarness {
    fn new(seed: u64, profile: LinkProfile, streams: u16) -> Self {
        let current = std::cell::RefCell::new(None);
        let (checksum, message_bytes_max) = (Checksum::None, 16 << 20);
        Self { seed, profile, streams, checksum, message_bytes_max, current }
    }

    fn checked(mut self) -> Self {
        self.checksum = Checksum::Crc32c;
        self
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
        let ranks = connect_all_with(&network, self.checksum);
        let ends: Vec<_> = ranks.into_iter().flatten().flatten().collect();
        *self.current.borrow_mut() = Some(network.clone());
        (network, ends.try_into().unwrap())
    }
}

impl Harness for SimHarness {
    fn describe(&self) -> String {
        let Self { seed, profile, streams, checksum, .. } = self;
        format!("sim, seed {seed}, {streams} streams, checksum {checksum}, {profile:?}")
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
crate::conformance_suite!(
    choppy_3_checked,
    SimHarness::new(4, LinkProfile::choppy(), 3).up_to(1 << 20).checked()
);
crate::conformance_suite!(
    bytewise_checked,
    SimHarness::new(6, LinkProfile::bytewise(), 1).up_to(5000).checked()
);

/// Everybody sends to everybody; the hash of the trace and the ticks that it took.
fn all_to_all(seed: u64) -> (u64, u64) {
    let network = network(seed, 3, LinkProfile::choppy());
    let mut ranks = connect_all(&network);
    let region = Region::allocate(9 * 50_000).unwrap();
    let mut open = 0;
    for endpoint in ranks.iter_mut().flatten().flatten() {
        for (tag, length) in [(0, 10), (1, 50_000)] {
            let id = MessageId { communicator: 0, tag, op_seq: 0 };
            let signature = Signature::default();
            // SAFETY: what is sent matters to nobody.
            let slice = unsafe { region.slice(0..length) };
            endpoint.post_send(SendPost { token: 0, id, signature, slice }).unwrap();
            let start = 50_000 * (1 + endpoint.peer() as usize);
            // SAFETY: nobody looks at what lands.
            let slice = unsafe { region.slice_mut(start..start + length) };
            endpoint.post_recv(RecvPost { token: 0, id, signature, slice }).unwrap();
            open += 2;
        }
    }
    let mut events = Vec::new();
    while events.len() < open {
        assert!(network.now() < 100_000, "hangs: {:?}", network.recent_transfers());
        for endpoint in ranks.iter_mut().flatten().flatten() {
            endpoint.poll(&mut events).unwrap();
            events.retain(|event| !matches!(event, Event::Early { .. }));
        }
        network.tick();
    }
    (network.trace_hash(), network.now())
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..10 {
        assert_eq!(all_to_all(seed), all_to_all(seed), "seed {seed}");
        assert_ne!(all_to_all(seed).0, all_to_all(seed + 1).0, "seed {seed}");
    }
}

#[test]
fn the_handshake_refuses_what_does_not_belong() {
    let network = network(1, 3, LinkProfile::perfect());
    connect(&network, 0, 3, 5).unwrap();
    let why = |rank, epoch, secret| {
        let error = connect(&network, rank, epoch, secret).unwrap_err();
        let EstablishError::Handshake { source, .. } = error else { panic!("{error}") };
        source.to_string()
    };
    assert!(why(1, 3, 6).contains("secret"));
    assert!(why(1, 4, 5).contains("epoch"));
    assert_eq!(why(0, 3, 5), "a second process connected as rank 0");
    // Refusals have changed nothing.
    connect(&network, 1, 3, 5).unwrap();
    network.set_absent(&[2]);
    let error = connect(&network, 2, 3, 5).unwrap_err();
    assert!(matches!(error, EstablishError::Missing { missing, .. } if missing == [2]));
}

/// Rank 0's endpoint to rank 1 while rank 1 sends it a message under `fault` from byte 20_000 on.
fn receive_under(fault: Fault, ticks: u64) -> (SimNetwork, Result<bool, EndpointError>) {
    let network = network(11, 2, LinkProfile::choppy());
    network.schedule(When::Sent { from: 1, to: 0, bytes: 20_000 }, fault);
    let mut ranks = connect_all(&network);
    let region = Region::allocate(80_000).unwrap();
    let id = MessageId { communicator: 0, tag: 0, op_seq: 0 };
    let signature = Signature::default();
    // SAFETY: what is sent matters to nobody.
    let slice = unsafe { region.slice(0..40_000) };
    let send = SendPost { token: 0, id, signature, slice };
    ranks[1][0].as_mut().unwrap().post_send(send).unwrap();
    // SAFETY: nobody looks at what lands.
    let slice = unsafe { region.slice_mut(40_000..80_000) };
    let receive = RecvPost { token: 0, id, signature, slice };
    ranks[0][1].as_mut().unwrap().post_recv(receive).unwrap();
    let mut received = false;
    while network.now() < ticks {
        let _ = ranks[1][0].as_mut().unwrap().poll(&mut Vec::new());
        let mut events = Vec::new();
        if let Err(error) = ranks[0][1].as_mut().unwrap().poll(&mut events) {
            return (network, Err(error));
        }
        received |= events.iter().any(|event| matches!(event, Event::Received { .. }));
        network.tick();
    }
    (network, Ok(received))
}

#[test]
fn faults_do_what_they_say() {
    let lost = |fault| receive_under(fault, 20_000).1;
    assert!(!lost(Fault::Silence { from: 1, to: 0 }).unwrap());
    assert!(!lost(Fault::Stop { rank: 1 }).unwrap());
    assert!(lost(Fault::Silence { from: 0, to: 1 }).unwrap(), "the other way");
    for fault in [Fault::Kill { rank: 1 }, Fault::Cut { one: 0, other: 1 }] {
        let error = lost(fault).unwrap_err();
        assert!(matches!(error, EndpointError::Closed { peer: 1, orderly: false, .. }), "{error}");
    }
}

#[test]
fn a_stopped_rank_goes_on_when_it_is_resumed() {
    let network = network(12, 2, LinkProfile::perfect());
    let mut ranks = connect_all(&network);
    network.inject(Fault::Stop { rank: 1 });
    network.schedule(When::Tick(50), Fault::Resume { rank: 1 });
    let region = Region::empty();
    let id = MessageId { communicator: 0, tag: 0, op_seq: 0 };
    // SAFETY: the slice has no bytes.
    let slice = unsafe { region.slice(0..0) };
    let send = SendPost { token: 0, id, signature: Signature::default(), slice };
    ranks[0][1].as_mut().unwrap().post_send(send).unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        network.tick();
        ranks[0][1].as_mut().unwrap().poll(&mut Vec::new()).unwrap();
        ranks[1][0].as_mut().unwrap().poll(&mut events).unwrap();
        assert!(network.now() < 100, "nothing came");
    }
    assert_eq!(network.now(), 50);
}

#[test]
fn a_corrupted_header_is_noticed() {
    // One bit of 64 header bytes: without checksums some change what is opaque to the transport.
    let plain = first_error_of_corrupted_headers(Checksum::None);
    assert!(matches!(plain, (EndpointError::Protocol { peer: 1, .. }, _)), "{}", plain.0);
    let checked = first_error_of_corrupted_headers(Checksum::Crc32c);
    assert!(matches!(checked, (EndpointError::Corrupted { peer: 1, .. }, 1)), "{checked:?}");
}

/// How an endpoint dies that receives one corrupted header after the other, and of which.
fn first_error_of_corrupted_headers(checksum: Checksum) -> (EndpointError, u32) {
    let network = network(5, 2, LinkProfile::perfect());
    let mut ranks = connect_all_with(&network, checksum);
    let region = Region::empty();
    for tag in 0..200 {
        network.inject(Fault::Corrupt { from: 1, to: 0 });
        let id = MessageId { communicator: 0, tag, op_seq: 0 };
        // SAFETY: the slice has no bytes.
        let slice = unsafe { region.slice(0..0) };
        let send = SendPost { token: 0, id, signature: Signature::default(), slice };
        ranks[1][0].as_mut().unwrap().post_send(send).unwrap();
        let _ = ranks[1][0].as_mut().unwrap().poll(&mut Vec::new());
        if let Err(error) = ranks[0][1].as_mut().unwrap().poll(&mut Vec::new()) {
            return (error, tag + 1);
        }
    }
    panic!("200 bits were turned round and nobody noticed");
}
