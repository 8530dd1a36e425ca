use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use paceline_rendezvous::hello::{self, Identity, Purpose};
use paceline_rendezvous::{RunId, Secret};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{ArenaLayout, Counter, Node, ShmTransport};
use crate::conformance::{Doomed, Harness, doomed_posts};
use crate::messaging::stream_capabilities;
use crate::{
    Capabilities, Checksum, Endpoint, EndpointError, EstablishError, Event, Group, MessageId,
    Patience, RecvPost, Region, SendPost, Signature, Transport, Weight,
};

const LAYOUT: fn(u32) -> ArenaLayout =
    |members| ArenaLayout { members, input_ring_bytes: 8192, result_ring_bytes: 4096 };

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Connects `world` ranks, each in its own thread; `secret_of` may give some another secret.
fn connect(
    world: u32,
    secret_of: impl Fn(u32) -> Secret + Sync,
    deadline: Instant,
) -> Vec<Result<Node, EstablishError>> {
    let run_id = RunId::random().unwrap();
    let transports: Vec<_> = (0..world).map(|_| ShmTransport::bind().unwrap()).collect();
    let addresses: Vec<_> = transports.iter().map(Transport::address).collect();
    let members: Vec<u32> = (0..world).collect();
    std::thread::scope(|scope| {
        let (addresses, members, secret_of) = (&addresses, &members, &secret_of);
        let start = |(rank, transport): (u32, ShmTransport)| {
            scope.spawn(move || {
                let secret = secret_of(rank);
                let group = Group {
                    rank,
                    run_id,
                    epoch: 3,
                    checksum: Checksum::None,
                    secret: &secret,
                    addresses,
                };
                let patience = Patience::until(deadline);
                transport.connect_node(&group, members, Some(LAYOUT(world)), &patience)
            })
        };
        let threads: Vec<_> = (0..).zip(transports).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn connected(world: u32) -> Vec<Node> {
    let secret = Secret::random().unwrap();
    connect(world, |_| secret.clone(), soon()).into_iter().map(Result::unwrap).collect()
}

#[test]
fn all_members_share_one_arena() {
    let nodes = connected(4);
    for (rank, node) in nodes.iter().enumerate() {
        let arena = node.arena.as_ref().unwrap();
        assert_eq!((arena.member(), arena.members()), (rank, 4));
        arena.publish(Counter::Staged, rank as u64 + 10);
        assert!(node.endpoints[rank].is_none());
        assert_eq!(node.endpoints.iter().flatten().count(), 3);
    }
    for node in &nodes {
        let seen =
            (0..4).map(|member| node.arena.as_ref().unwrap().published(member, Counter::Staged));
        assert_eq!(seen.collect::<Vec<_>>(), [10, 11, 12, 13]);
    }
}

#[test]
fn another_secret_is_refused_by_name_and_nobody_waits_beyond_the_deadline() {
    let (secret, other) = (Secret::random().unwrap(), Secret::random().unwrap());
    let deadline = Instant::now() + Duration::from_secs(3);
    let of = |rank| if rank == 1 { other.clone() } else { secret.clone() };
    let outcomes = connect(2, of, deadline);
    let errors: Vec<_> = outcomes.into_iter().map(Result::unwrap_err).collect();
    assert!(
        matches!(&errors[0], EstablishError::Missing { missing, .. } if *missing == [1]),
        "{:?}",
        errors[0]
    );
    assert!(matches!(&errors[1], EstablishError::Handshake { peer: 0, .. }), "{:?}", errors[1]);
}

#[test]
fn strangers_are_dropped_and_disturb_nobody() {
    let secret = Secret::random().unwrap();
    let run_id = RunId::random().unwrap();
    let transports: Vec<_> = (0..2).map(|_| ShmTransport::bind().unwrap()).collect();
    let addresses: Vec<_> = transports.iter().map(Transport::address).collect();
    let name = transports[0].name.clone();
    let stranger = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap());
    let silent: Vec<UnixStream> = (0..5).map(|_| stranger().unwrap()).collect();
    let mut garbage = stranger().unwrap();
    garbage.write_all(&[0xff; 200]).unwrap();
    drop(stranger().unwrap());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let (addresses, secret) = (&addresses, &secret);
        for (rank, transport) in (0..).zip(transports) {
            scope.spawn(move || {
                let group =
                    Group { rank, run_id, epoch: 0, checksum: Checksum::None, secret, addresses };
                Box::new(transport).connect(&group, &Patience::until(soon())).unwrap()
            });
        }
    });
    // Far below the time that one handshake may take; the group itself needs milliseconds.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    for mut stranger in silent {
        stranger.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(stranger.read(&mut [0; 8]).unwrap_or(0), 0, "it is hung up on");
    }
}

#[test]
fn a_second_process_of_the_same_rank_is_told_so() {
    let secret = Secret::random().unwrap();
    let run_id = RunId::random().unwrap();
    let transports: Vec<_> = (0..3).map(|_| ShmTransport::bind().unwrap()).collect();
    let addresses: Vec<_> = transports.iter().map(Transport::address).collect();
    // The third rank, which never comes, lets rank 0 go on listening while the second rank 1 tries.
    let [zero, second, _third] = transports.try_into().unwrap();
    let zero_at = SocketAddr::from_abstract_name(&zero.name).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (addresses, secret, over) = (&addresses, &secret, &over);
        let join = move |rank, transport: ShmTransport| {
            let group =
                Group { rank, run_id, epoch: 0, checksum: Checksum::None, secret, addresses };
            let in_vain = || over.load(Ordering::Relaxed);
            let patience = Patience { deadline: soon(), in_vain: &in_vain };
            Box::new(transport).connect(&group, &patience).unwrap_err()
        };
        let called = scope.spawn(move || join(0, zero));
        let first = || {
            let mut stream = UnixStream::connect_addr(&zero_at).unwrap();
            let one = Identity { run_id, epoch: 0, rank: 1, features: 0 };
            hello::initiate(&mut stream, one, Purpose::Arena, 0, secret, soon()).map(|_| stream)
        };
        // Its seat is taken a moment after it has sent its proof.
        let _kept = first().unwrap();
        while first().is_ok() {}
        let error = join(1, second).explain();
        over.store(true, Ordering::Relaxed);
        assert!(error.contains("another process has connected as this rank already"), "{error}");
        let error = called.join().unwrap();
        assert!(matches!(error, EstablishError::InVain), "{error}");
    });
}

#[test]
fn an_arena_that_cannot_be_had_is_an_error_on_all_members() {
    let secret = Secret::random().unwrap();
    let run_id = RunId::random().unwrap();
    let transports: Vec<_> = (0..3).map(|_| ShmTransport::bind().unwrap()).collect();
    let addresses: Vec<_> = transports.iter().map(Transport::address).collect();
    std::thread::scope(|scope| {
        let (addresses, secret) = (&addresses, &secret);
        for (rank, transport) in (0..).zip(transports) {
            scope.spawn(move || {
                let group =
                    Group { rank, run_id, epoch: 0, checksum: Checksum::None, secret, addresses };
                // Member 1 expects an arena of another form.
                let mut layout = LAYOUT(3);
                layout.input_ring_bytes *= if rank == 1 { 2 } else { 1 };
                let error = transport
                    .connect_node(&group, &[0, 1, 2], Some(layout), &Patience::until(soon()))
                    .unwrap_err();
                let text = error.to_string();
                assert!(text.starts_with("rank 1: "), "{text}");
                assert!(text.contains("not the shared memory agreed on"), "{text}");
                assert_eq!(error.weight(), Weight::Own);
            });
        }
    });
}

fn post(
    endpoint: &mut dyn Endpoint,
    token: u64,
    op_seq: u64,
    region: &std::sync::Arc<Region>,
    to_send: bool,
) {
    let id = MessageId { communicator: 1, tag: 0, op_seq };
    let signature = Signature([7; 16]);
    let all = 0..region.len();
    if to_send {
        // SAFETY: the tests write to regions only before they post them.
        let slice = unsafe { region.slice(all) };
        endpoint.post_send(SendPost { token, id, signature, slice }).unwrap();
    } else {
        // SAFETY: the tests read regions only after they have been received.
        let slice = unsafe { region.slice_mut(all) };
        endpoint.post_recv(RecvPost { token, id, signature, slice }).unwrap();
    }
}

fn filled(len: usize, seed: u8) -> std::sync::Arc<Region> {
    let region = Region::allocate(len).unwrap();
    // SAFETY: nobody else has the region yet.
    let mut slice = unsafe { region.slice_mut(0..len) };
    for (byte, pattern) in slice.bytes_mut(0..len).iter_mut().zip((0..=240).cycle()) {
        *byte = pattern ^ seed;
    }
    drop(slice);
    region
}

fn bytes(region: &std::sync::Arc<Region>) -> Vec<u8> {
    // SAFETY: nobody writes to the region any more.
    unsafe { region.slice(0..region.len()) }.bytes(0).to_vec()
}

/// Polls with sleep in between, as an engine does, until `count` posts have ended.
fn drive(endpoint: &mut dyn Endpoint, mut count: usize) {
    let mut events = Vec::new();
    let give_up = soon();
    while count > 0 {
        assert!(Instant::now() < give_up, "nothing moves");
        let moved = endpoint.poll(&mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Sent { .. } | Event::Received { .. } => count -= 1,
                Event::Early { .. } => {}
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
        if !moved {
            sleep(endpoint, Duration::from_secs(20));
        }
    }
}

fn sleep(endpoint: &dyn Endpoint, at_most: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut wakeups = Vec::new();
    endpoint.wakeups(&mut wakeups);
    let interest = |writable| if writable { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut fds: Vec<_> = wakeups
        .iter()
        .map(|wakeup| PollFd::from_borrowed_fd(wakeup.fd, interest(wakeup.writable)))
        .collect();
    let timeout = Timespec::try_from(at_most).unwrap();
    let _ = poll(&mut fds, Some(&timeout));
}

#[test]
fn messages_of_all_sizes_cross_both_ways_with_sleeping_ends() {
    let sizes = [0, 1, 63, 64, 65, 4096, 70_000, 200_000, 3_000_001];
    let mut nodes = connected(2);
    std::thread::scope(|scope| {
        for (rank, node) in (0..2_u8).zip(nodes.iter_mut()) {
            scope.spawn(move || {
                let endpoint = node.endpoints[usize::from(1 - rank)].as_mut().unwrap().as_mut();
                for (op_seq, size) in (0..).zip(sizes) {
                    let out = filled(size, rank);
                    let into = Region::allocate(size).unwrap();
                    post(endpoint, 0, op_seq, &out, true);
                    post(endpoint, 1, op_seq, &into, false);
                    drive(endpoint, 2);
                    assert_eq!(bytes(&into), bytes(&filled(size, 1 - rank)));
                }
            });
        }
    });
}

#[test]
fn a_peer_that_leaves_is_told_from_one_that_dies() {
    let mut nodes = connected(2);
    let second = nodes.pop().unwrap();
    drop(second);
    let endpoint = nodes[0].endpoints[1].as_mut().unwrap().as_mut();
    let into = Region::allocate(8).unwrap();
    post(endpoint, 1, 0, &into, false);
    let give_up = soon();
    let error = loop {
        match endpoint.poll(&mut Vec::new()) {
            Ok(_) => sleep(endpoint, Duration::from_secs(20)),
            Err(error) => break error,
        }
        assert!(Instant::now() < give_up, "the end goes unnoticed");
    };
    assert!(matches!(error, EndpointError::Closed { peer: 1, orderly: true, .. }), "{error}");
}

#[test]
fn the_last_message_of_a_peer_that_leaves_arrives() {
    let mut nodes = connected(2);
    let mut second = nodes.pop().unwrap();
    let out = filled(5000, 9);
    let sender = second.endpoints[0].as_mut().unwrap().as_mut();
    post(sender, 0, 0, &out, true);
    drive(sender, 1);
    drop(second);
    let endpoint = nodes[0].endpoints[1].as_mut().unwrap().as_mut();
    let into = Region::allocate(5000).unwrap();
    post(endpoint, 1, 0, &into, false);
    drive(endpoint, 1);
    assert_eq!(bytes(&into), bytes(&out));
}

struct ShmHarness;

/// The identity of the group that a process of [`ShmHarness::doomed`] joins.
fn join_doomed(transport: ShmTransport, rank: u32, addresses: &[Vec<u8>]) -> Box<dyn Endpoint> {
    let (run_id, secret) = (RunId::from_bytes([9; 16]), Secret::from_bytes([0x5e; 32]));
    let group =
        Group { rank, run_id, epoch: 4, checksum: Checksum::None, secret: &secret, addresses };
    let mut endpoints = Box::new(transport).connect(&group, &Patience::until(soon())).unwrap();
    endpoints[1 - rank as usize].take().unwrap()
}

impl Harness for ShmHarness {
    fn describe(&self) -> String {
        "shm".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        stream_capabilities(true)
    }

    fn pair(&self) -> [Box<dyn Endpoint>; 2] {
        let ends: Vec<_> = connected(2).into_iter().flat_map(|node| node.endpoints).collect();
        ends.into_iter().flatten().collect::<Vec<_>>().try_into().unwrap()
    }

    fn doomed(&self) -> Option<Doomed> {
        let transport = ShmTransport::bind().unwrap();
        let address = transport.address();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["shm::tests::doomed_process", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let own = String::from_utf8(address.clone()).unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{own}").unwrap();
        // Rank 0 is called and calls nobody: any address will do for rank 1.
        let endpoint = join_doomed(transport, 0, &[address.clone(), address]);
        let kill = move || {
            child.kill().unwrap();
            child.wait().unwrap();
        };
        Some(Doomed { endpoint, drive: Box::new(|| ()), kill: Box::new(kill) })
    }

    fn header_bytes(&self) -> Option<u64> {
        Some(64)
    }
}

/// Rank 1 of [`ShmHarness::doomed`], told on its standard input whom to join.
#[test]
#[ignore = "a process of another test"]
fn doomed_process() {
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let mut line = String::new();
    BufReader::new(std::io::stdin()).read_line(&mut line).unwrap();
    let transport = ShmTransport::bind().unwrap();
    let addresses = [line.trim_end().as_bytes().to_vec(), transport.address()];
    let mut endpoint = join_doomed(transport, 1, &addresses);
    doomed_posts(endpoint.as_mut());
    while Instant::now() < soon() {
        if !endpoint.poll(&mut Vec::new()).unwrap() {
            std::thread::yield_now();
        }
    }
}

crate::conformance_suite!(conformance, ShmHarness);
