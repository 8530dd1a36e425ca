use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::interface::InterfaceChoice;
use paceline_rendezvous::{RunId, Secret};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::*;
use crate::conformance::{Doomed, Harness, doomed_posts};
use crate::messaging::stream_capabilities;
use crate::{Capabilities, Checksum, Endpoint, EstablishError, Group, Patience, Transport, Weight};

mod connect;

const EPOCH: u32 = 4;
const SECRET: [u8; 32] = [0x5e; 32];

/// Generous: reaching it means a hang.
pub(super) fn limit() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(super) fn config(ip: IpAddr, sockets_per_peer: u16) -> TcpConfig {
    let prefix = if ip.is_ipv4() { 32 } else { 128 };
    TcpConfig {
        interface: InterfaceChoice::Cidr { network: ip, prefix },
        port_range: PortRange::ANY,
        sockets_per_peer,
        one_node: true,
        towards: None,
    }
}

pub(super) type Endpoints = Vec<Option<Box<dyn Endpoint>>>;

/// Joins the group of `addresses` as one of its ranks, with the secret that all members know.
pub(super) fn join(
    transport: TcpTransport,
    rank: u32,
    addresses: &[Vec<u8>],
    deadline: Instant,
) -> Result<Endpoints, EstablishError> {
    join_with(transport, rank, addresses, Checksum::None, deadline)
}

fn join_with(
    transport: TcpTransport,
    rank: u32,
    addresses: &[Vec<u8>],
    checksum: Checksum,
    deadline: Instant,
) -> Result<Endpoints, EstablishError> {
    let secret = Secret::from_bytes(SECRET);
    let run_id = RunId::from_bytes([9; 16]);
    let group = Group { rank, run_id, epoch: EPOCH, checksum, secret: &secret, addresses };
    Box::new(transport).connect(&group, &Patience::until(deadline))
}

/// Connects as many ranks as there are transports, each in a thread.
pub(super) fn join_all(
    transports: Vec<TcpTransport>,
    deadline: Instant,
) -> Vec<Result<Endpoints, EstablishError>> {
    join_all_with(transports, Checksum::None, deadline)
}

fn join_all_with(
    transports: Vec<TcpTransport>,
    checksum: Checksum,
    deadline: Instant,
) -> Vec<Result<Endpoints, EstablishError>> {
    let addresses: Vec<Vec<u8>> = transports.iter().map(Transport::address).collect();
    std::thread::scope(|scope| {
        let joining: Vec<_> = (0..)
            .zip(transports)
            .map(|(rank, transport)| {
                let addresses = &addresses;
                scope.spawn(move || join_with(transport, rank, addresses, checksum, deadline))
            })
            .collect();
        joining.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

struct TcpHarness {
    ip: IpAddr,
    sockets: u16,
    checksum: Checksum,
}

impl Harness for TcpHarness {
    fn describe(&self) -> String {
        format!("tcp, {}, {} sockets, checksum {}", self.ip, self.sockets, self.checksum)
    }

    fn capabilities(&self) -> Capabilities {
        stream_capabilities(true)
    }

    fn pair(&self) -> [Box<dyn Endpoint>; 2] {
        let bind = |_| TcpTransport::bind(&config(self.ip, self.sockets)).unwrap();
        let joined = join_all_with((0..2).map(bind).collect(), self.checksum, limit());
        let ends: Vec<_> = joined.into_iter().flat_map(Result::unwrap).flatten().collect();
        ends.try_into().unwrap()
    }

    fn doomed(&self) -> Option<Doomed> {
        let transport = TcpTransport::bind(&config(self.ip, self.sockets)).unwrap();
        let address = transport.address();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tcp::tests::doomed_process", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let own = String::from_utf8(address.clone()).unwrap();
        let Self { ip, sockets, checksum } = self;
        writeln!(child.stdin.as_mut().unwrap(), "{ip} {sockets} {checksum} {own}").unwrap();
        // The caller's listening address is only for messages.
        let addresses = [address.clone(), address];
        let mut endpoints = join_with(transport, 0, &addresses, *checksum, limit()).unwrap();
        let kill = move || {
            child.kill().unwrap();
            child.wait().unwrap();
        };
        Some(Doomed {
            endpoint: endpoints[1].take().unwrap(),
            drive: Box::new(|| ()),
            kill: Box::new(kill),
        })
    }

    fn header_bytes(&self) -> Option<u64> {
        Some(64)
    }
}

/// Rank 1 of [`TcpHarness::doomed`], told on its standard input whom to join.
#[test]
#[ignore = "a process of another test"]
fn doomed_process() {
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let mut line = String::new();
    BufReader::new(std::io::stdin()).read_line(&mut line).unwrap();
    let mut words = line.trim_end().splitn(4, ' ');
    let mut word = || words.next().expect("started by the test that this is part of");
    let (ip, sockets): (IpAddr, u16) = (word().parse().unwrap(), word().parse().unwrap());
    let checksum: Checksum = word().parse().unwrap();
    let other = word().as_bytes().to_vec();
    let transport = TcpTransport::bind(&config(ip, sockets)).unwrap();
    let own = transport.address();
    let mut endpoints = join_with(transport, 1, &[other, own], checksum, limit()).unwrap();
    let endpoint = endpoints[0].as_mut().unwrap();
    doomed_posts(endpoint.as_mut());
    while Instant::now() < limit() {
        if !endpoint.poll(&mut Vec::new()).unwrap() {
            std::thread::yield_now();
        }
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

const fn plain(ip: IpAddr, sockets: u16) -> TcpHarness {
    TcpHarness { ip, sockets, checksum: Checksum::None }
}

const fn checked(ip: IpAddr, sockets: u16) -> TcpHarness {
    TcpHarness { ip, sockets, checksum: Checksum::Crc32c }
}

crate::conformance_suite!(ipv4, plain(V4, 1));
crate::conformance_suite!(ipv4_4_sockets, plain(V4, 4));
crate::conformance_suite!(ipv6, plain(V6, 1));
crate::conformance_suite!(ipv6_4_sockets, plain(V6, 4));
crate::conformance_suite!(ipv4_checked, checked(V4, 1));
crate::conformance_suite!(ipv4_4_sockets_checked, checked(V4, 4));
