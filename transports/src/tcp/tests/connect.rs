//! Who is let in, and what the others hear.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use paceline_rendezvous::HelloError;
use paceline_rendezvous::hello::{self, Identity, Purpose, Refusal};

use super::*;
use crate::{Checksum, EndpointError, Event};

/// Until when a group waits for somebody who never comes. Tests that expect success wait longer.
fn soon() -> Instant {
    Instant::now() + Duration::from_millis(400)
}

fn bind() -> TcpTransport {
    TcpTransport::bind(&config(V4, 1)).unwrap()
}

fn socket_address(transport: &TcpTransport) -> SocketAddr {
    address::decode(0, &transport.address()).unwrap()
}

fn identity(rank: u32) -> Identity {
    Identity { run_id: RunId::from_bytes([9; 16]), epoch: EPOCH, rank, features: 0 }
}

/// Runs `stranger` against rank 0 of a group of two while the group comes together.
fn with_stranger<T: Send>(stranger: impl FnOnce(SocketAddr) -> T + Send) -> (Vec<Endpoints>, T) {
    let transports = vec![bind(), bind()];
    let at = socket_address(&transports[0]);
    std::thread::scope(|scope| {
        // It connects first: the backlog keeps the order.
        let result = stranger(at);
        let joined = scope.spawn(move || join_all(transports, limit()));
        let joined = joined.join().unwrap().into_iter().map(Result::unwrap).collect();
        (joined, result)
    })
}

fn assert_works(mut joined: Vec<Endpoints>) {
    let mut one = joined.pop().unwrap().remove(0).unwrap();
    let zero = joined.pop().unwrap().remove(1).unwrap();
    drop(zero);
    let error = loop {
        if let Err(error) = one.poll(&mut Vec::<Event>::new()) {
            break error;
        }
    };
    assert!(matches!(error, EndpointError::Closed { peer: 0, orderly: true, .. }), "{error}");
}

#[test]
fn a_group_of_five_is_fully_connected() {
    let bind = |_| TcpTransport::bind(&config(V4, 2)).unwrap();
    for (rank, joined) in (0..5).zip(join_all((0..5).map(bind).collect(), limit())) {
        let peers: Vec<Option<u32>> = joined
            .unwrap()
            .iter()
            .map(|endpoint| endpoint.as_ref().map(|endpoint| endpoint.peer()))
            .collect();
        let expected: Vec<Option<u32>> =
            (0..5).map(|peer| (peer != rank).then_some(peer)).collect();
        assert_eq!(peers, expected);
    }
}

/// Whom a rank has let in last is not hung up on with those who were still shaking hands.
#[test]
fn who_has_met_stays_connected() {
    for _ in 0..300 {
        let joined = join_all(vec![bind(), bind(), bind()], limit());
        let mut ranks: Vec<Endpoints> = joined.into_iter().map(Result::unwrap).collect();
        for endpoint in ranks.iter_mut().flatten().flatten() {
            // Nobody sends anything.
            assert!(!endpoint.poll(&mut Vec::new()).unwrap());
        }
    }
}

#[test]
fn silent_strangers_do_not_delay_the_group() {
    let started = Instant::now();
    let (joined, strangers) = with_stranger(|at| {
        let connect = |_| TcpStream::connect(at).unwrap();
        (0..5).map(connect).collect::<Vec<_>>()
    });
    // Far below the time that a handshake may take; the group itself needs milliseconds.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_works(joined);
    for mut stranger in strangers {
        stranger.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // Hung up on: the end or a reset, but not silence.
        let end = stranger.read(&mut [0; 8]);
        let kind = end.as_ref().map_err(std::io::Error::kind);
        assert!(matches!(kind, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
    }
}

#[test]
fn garbage_instead_of_a_hello_is_ignored() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 500], b"PACELINE", b"PACELINE\xff\xff"]
    {
        let (joined, stranger) = with_stranger(|at| {
            let mut stranger = TcpStream::connect(at).unwrap();
            stranger.write_all(garbage).unwrap();
            stranger
        });
        assert_works(joined);
        drop(stranger);
    }
}

#[test]
fn a_replayed_hello_gets_no_further_than_the_reply() {
    let secret = Secret::from_bytes(SECRET);
    let initiator = hello::Initiator::new(identity(1), Purpose::Data { channel: 0 }, 0, &secret);
    let recorded = *initiator.unwrap().hello();
    let (joined, stranger) = with_stranger(|at| {
        let mut stranger = TcpStream::connect(at).unwrap();
        // A hello that rank 1 once sent, and a finish that belongs to another nonce.
        stranger.write_all(&recorded).unwrap();
        stranger.write_all(b"PACELINE0123456789abcdef0123456789abcdef").unwrap();
        stranger
    });
    assert_works(joined);
    drop(stranger);
}

#[test]
fn a_wrong_secret_is_named_by_the_caller_and_missed_by_the_listener() {
    let transports = [bind(), bind()];
    let addresses: Vec<Vec<u8>> = transports.iter().map(Transport::address).collect();
    let [zero, one] = transports;
    let (zero, one) = std::thread::scope(|scope| {
        let addresses = &addresses;
        let zero = scope.spawn(move || join(zero, 0, addresses, soon()));
        let wrong = Secret::from_bytes([1; 32]);
        let run_id = RunId::from_bytes([9; 16]);
        let group = Group {
            rank: 1,
            run_id,
            epoch: EPOCH,
            checksum: Checksum::None,
            secret: &wrong,
            addresses,
        };
        let one = Box::new(one).connect(&group, &Patience::until(limit()));
        (zero.join().unwrap().unwrap_err(), one.unwrap_err())
    });
    assert!(matches!(&zero, EstablishError::Missing { missing, .. } if *missing == [1]), "{zero}");
    let EstablishError::Handshake { peer: 0, source, .. } = one else { panic!("{one}") };
    assert!(source.to_string().contains("secret"), "{source}");
}

#[test]
fn ranks_that_never_come_are_named() {
    let transports = [bind(), bind(), bind(), bind()];
    let addresses: Vec<Vec<u8>> = transports.iter().map(Transport::address).collect();
    let [zero, one, two, three] = transports;
    let errors: Vec<EstablishError> = std::thread::scope(|scope| {
        let addresses = &addresses;
        let zero = scope.spawn(move || join(zero, 0, addresses, soon()));
        let two = scope.spawn(move || join(two, 2, addresses, limit()));
        // Rank 1 and rank 3 have published an address, and then nothing.
        drop(one);
        drop(three);
        [zero, two].map(|rank| rank.join().unwrap().unwrap_err()).into()
    });
    let zero = &errors[0];
    assert!(
        matches!(zero, EstablishError::Missing { missing, .. } if *missing == [1, 3]),
        "{zero}"
    );
    assert!(zero.to_string().contains("1, 3") && zero.hint().is_some(), "{zero}");
    let two = &errors[1];
    // Somebody else's test may have got the port meanwhile.
    let failed = matches!(
        two,
        EstablishError::Connect { peer: 1, .. } | EstablishError::Handshake { peer: 1, .. }
    );
    assert!(failed, "{two}");
}

#[test]
fn a_second_process_of_the_same_rank_does_not_take_the_place_of_the_first() {
    let zero = bind();
    let at = socket_address(&zero);
    // The third rank lets rank 0 go on listening while the second rank 1 tries.
    let addresses = [zero.address(), bind().address(), bind().address()];
    let secret = Secret::from_bytes(SECRET);
    let call = |rank| {
        let mut stream = TcpStream::connect(at).unwrap();
        let purpose = Purpose::Data { channel: 0 };
        hello::initiate(&mut stream, identity(rank), purpose, 0, &secret, limit()).map(|_| stream)
    };
    let addresses = &addresses;
    let (mut endpoints, first, _third) = std::thread::scope(|scope| {
        let zero = scope.spawn(move || join(zero, 0, addresses, limit()));
        let first = call(1).unwrap();
        // The first one's seat is taken a moment after it has sent its proof.
        let refusal = loop {
            match call(1) {
                Ok(mut second) => {
                    second.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    assert_eq!(second.read(&mut [0; 8]).unwrap_or(0), 0, "it is hung up on");
                }
                Err(error) => break error,
            }
        };
        let told = matches!(refusal, HelloError::Refused { reason: Refusal::Duplicate });
        assert!(told, "{refusal}");
        let third = call(2).unwrap();
        (zero.join().unwrap().unwrap(), first, third)
    });
    // The first is still the one: what ends its connection is seen.
    let one = endpoints[1].as_mut().unwrap();
    assert!(!one.poll(&mut Vec::new()).unwrap());
    drop(first);
    let error = loop {
        if let Err(error) = one.poll(&mut Vec::new()) {
            break error;
        }
    };
    assert!(matches!(error, EndpointError::Closed { peer: 1, orderly: false, .. }), "{error}");
}

#[test]
fn who_waits_in_vain_is_told_so_before_the_deadline() {
    let transports = [bind(), bind()];
    let addresses: Vec<Vec<u8>> = transports.iter().map(Transport::address).collect();
    let [zero, _one] = transports;
    let secret = Secret::from_bytes(SECRET);
    let run_id = RunId::from_bytes([9; 16]);
    let group = Group {
        rank: 0,
        run_id,
        epoch: EPOCH,
        checksum: Checksum::None,
        secret: &secret,
        addresses: &addresses,
    };
    let patience = Patience { deadline: limit(), in_vain: &|| true };
    let error = Box::new(zero).connect(&group, &patience).unwrap_err();
    assert!(matches!(error, EstablishError::InVain), "{error}");
    assert_eq!(error.weight(), Weight::Consequence);
}

#[test]
fn an_exhausted_port_range_is_named() {
    let taken = bind();
    let port = socket_address(&taken).port();
    let port_range = PortRange::new(port, port).unwrap();
    let error = TcpTransport::bind(&TcpConfig { port_range, ..config(V4, 1) }).unwrap_err();
    assert!(matches!(&error, EstablishError::Listen { .. }), "{error:?}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("for each rank of a host, from 1024 on"))
    );
}

#[test]
fn bad_frames_after_the_handshake_end_the_connection() {
    let mut oversize = b"P\x02\xff\xff\xff".to_vec();
    oversize.resize(64, 0);
    // Of this epoch, 16 MiB long, in a message of 4 GiB.
    oversize[12] = 4;
    oversize[50..54].fill(0xff);
    for bad in [vec![0xab; 64], oversize] {
        let zero = bind();
        let at = socket_address(&zero);
        let addresses = [zero.address(), bind().address()];
        let addresses = &addresses;
        let secret = Secret::from_bytes(SECRET);
        let (mut endpoints, _stream) = std::thread::scope(|scope| {
            let zero = scope.spawn(move || join(zero, 0, addresses, limit()));
            let mut stream = TcpStream::connect(at).unwrap();
            let purpose = Purpose::Data { channel: 0 };
            hello::initiate(&mut stream, identity(1), purpose, 0, &secret, limit()).unwrap();
            stream.write_all(&bad).unwrap();
            (zero.join().unwrap().unwrap(), stream)
        });
        let one = endpoints[1].as_mut().unwrap();
        let error = loop {
            if let Err(error) = one.poll(&mut Vec::new()) {
                break error;
            }
        };
        assert!(matches!(error, EndpointError::Protocol { peer: 1, .. }), "{error}");
        assert!(!error.is_peer_lost());
    }
}
