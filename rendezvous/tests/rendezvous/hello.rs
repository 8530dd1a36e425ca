use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use paceline_rendezvous::hello::{
    self, Admission, FINISH_LEN, HELLO_LEN, Identity, Initiator, MAGIC, PROTOCOL_VERSION, Purpose,
    REPLY_LEN, Refusal, Responder, Session, Stage,
};
use paceline_rendezvous::{HelloError, RunId, Secret};
use proptest::prelude::*;

use crate::support::{RUN, generous, identity, secret, soon};

const WORLD: Admission = Admission { world_size: 4, rank: None };
const DATA: Purpose = Purpose::Data { channel: 5 };

fn anybody(_rank: u32, _purpose: Purpose) -> Result<(), HelloError> {
    Ok(())
}

/// Both ends of a handshake between rank 1, which connects expecting rank 2, and `responder`.
fn shake(
    initiator: (Identity, Secret),
    responder: (Identity, Secret),
    admission: Admission,
) -> (Result<Session, HelloError>, Result<Session, HelloError>) {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let accepting = std::thread::Builder::new()
        .spawn(move || {
            hello::accept(&mut far, responder.0, admission, &responder.1, generous(), anybody)
        })
        .unwrap();
    let initiated = hello::initiate(&mut near, initiator.0, DATA, 2, &initiator.1, generous());
    drop(near);
    (initiated, accepting.join().unwrap())
}

fn good(rank: u32) -> (Identity, Secret) {
    (identity(rank), secret())
}

#[test]
fn both_sides_agree() {
    let (mut ours, mut theirs) = (good(1), good(2));
    ours.0.features = 0b0110;
    theirs.0.features = 0b0011;
    let (initiated, accepted) = shake(ours, theirs, WORLD);
    let (initiated, accepted) = (initiated.unwrap(), accepted.unwrap());
    assert_eq!((initiated.peer_rank, accepted.peer_rank), (2, 1));
    assert_eq!((initiated.purpose, accepted.purpose), (DATA, DATA));
    assert_eq!((initiated.features, accepted.features), (0b0010, 0b0010));
    assert_eq!(format!("{:?}", initiated.send_key), "MacKey(..)");
}

#[test]
fn tcp_in_both_families_and_both_modes() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let accepting = std::thread::Builder::new()
            .spawn(move || {
                hello::accept(&mut far, identity(2), WORLD, &secret(), generous(), anybody)
            })
            .unwrap();
        hello::initiate(&mut near, identity(1), DATA, 2, &secret(), generous()).unwrap();
        assert_eq!(accepting.join().unwrap().unwrap().peer_rank, 1);
    }
}

#[test]
fn wrong_secret_fails_on_both_sides() {
    let (initiated, accepted) = shake(good(1), (identity(2), Secret::from_bytes([1; 32])), WORLD);
    assert!(matches!(initiated, Err(HelloError::WrongSecret)), "{initiated:?}");
    assert!(matches!(accepted, Err(HelloError::Closed { stage: Stage::Finish })), "{accepted:?}");
}

#[test]
fn wrong_run_epoch_and_rank_are_named_on_both_sides() {
    let other_run = RunId::from_bytes([9; 16]);
    let theirs = Identity { run_id: other_run, ..identity(2) };
    let (initiated, accepted) = shake(good(1), (theirs, secret()), WORLD);
    assert!(
        matches!(initiated, Err(HelloError::WrongRun { ours: RUN, theirs }) if theirs == other_run)
    );
    assert!(
        matches!(accepted, Err(HelloError::WrongRun { theirs: RUN, ours }) if ours == other_run)
    );

    let stale = Identity { epoch: 2, ..identity(1) };
    let (initiated, accepted) = shake((stale, secret()), good(2), WORLD);
    assert!(matches!(initiated, Err(HelloError::EpochMismatch { ours: 2, theirs: 3 })));
    assert!(matches!(accepted, Err(HelloError::EpochMismatch { ours: 3, theirs: 2 })));

    // The initiator reached another rank than it wanted.
    let (initiated, _) = shake(good(1), good(3), WORLD);
    assert!(matches!(initiated, Err(HelloError::WrongRank { expected: 2, actual: 3 })));

    // The responder expected another rank.
    let only = Admission { world_size: 4, rank: Some(0) };
    let (initiated, accepted) = shake(good(1), good(2), only);
    assert!(matches!(initiated, Err(HelloError::Refused { reason: Refusal::Rank })));
    assert!(matches!(accepted, Err(HelloError::WrongRank { expected: 0, actual: 1 })));

    let (initiated, accepted) = shake(good(7), good(2), WORLD);
    assert!(matches!(initiated, Err(HelloError::Refused { reason: Refusal::Rank })));
    assert!(matches!(accepted, Err(HelloError::RankOutOfRange { rank: 7, world_size: 4 })));
}

fn initiator() -> Initiator {
    Initiator::new(identity(1), DATA, 2, &secret()).unwrap()
}

fn responder() -> Responder {
    Responder::new(identity(2), WORLD, &secret()).unwrap()
}

#[test]
fn a_replayed_finish_or_reply_proves_nothing() {
    let first = initiator();
    let hello = *first.hello();
    let (reply, pending) = responder().on_hello(&hello, |_, _| Ok(())).unwrap();
    let (finish, _) = first.on_reply(&reply).unwrap();
    pending.on_finish(&finish).unwrap();
    // A stranger who recorded all of it plays it back to a new connection.
    let (_, pending) = responder().on_hello(&hello, |_, _| Ok(())).unwrap();
    assert!(matches!(pending.on_finish(&finish), Err(HelloError::WrongSecret)));
    // And to a process that connects to him.
    assert!(matches!(initiator().on_reply(&reply), Err(HelloError::WrongSecret)));
    // And reflects an initiator's own proof.
    let mut reflected = [0; REPLY_LEN];
    reflected[..HELLO_LEN].copy_from_slice(initiator().hello());
    reflected[HELLO_LEN..].copy_from_slice(&finish[8..]);
    assert!(matches!(initiator().on_reply(&reflected), Err(HelloError::WrongSecret)));
}

/// Sends `bytes` to an accepting process; gives its error and what it answered.
fn send_to_acceptor(bytes: &[u8], deadline: Instant) -> (HelloError, Vec<u8>) {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    near.write_all(bytes).unwrap();
    let error =
        hello::accept(&mut far, identity(2), WORLD, &secret(), deadline, anybody).unwrap_err();
    drop(far);
    let mut answer = Vec::new();
    // The rest of a long greeting was never read, which resets the connection after the answer.
    let _ = near.read_to_end(&mut answer);
    (error, answer)
}

#[test]
fn versions_are_told_apart_in_both_directions() {
    let mut newer = *initiator().hello();
    let version = u8::try_from(PROTOCOL_VERSION).unwrap();
    newer[8] = version + 1;
    // Even if the hello of the other version is shorter than ours.
    for length in [HELLO_LEN, 16] {
        let (error, answer) = send_to_acceptor(&newer[..length], generous());
        let is_newer = |theirs| theirs == PROTOCOL_VERSION + 1;
        let named = matches!(error, HelloError::VersionMismatch { theirs } if is_newer(theirs));
        assert!(named, "{error}");
        assert!(error.hint().is_some());
        // The other side finds our version at the same place.
        assert_eq!(
            (answer.len(), &answer[..10]),
            (REPLY_LEN, &[&MAGIC[..], &[version, 0]].concat()[..])
        );
    }
    let first = initiator();
    let (mut reply, _) = responder().on_hello(first.hello(), |_, _| Ok(())).unwrap();
    reply[8] = 9;
    assert!(matches!(first.on_reply(&reply), Err(HelloError::VersionMismatch { theirs: 9 })));
}

#[test]
fn garbage_truncation_and_silence() {
    let (error, answer) = send_to_acceptor(b"GET / HTTP/1.1\r\n\r\n", generous());
    assert!(matches!(&error, HelloError::NotPaceline { .. }));
    assert!(error.to_string().contains("GET / HTTP/1.1"), "{error}");
    assert_eq!(answer, b"", "a stranger learns nothing");
    // One wrong byte is enough, without waiting for the rest.
    assert!(matches!(send_to_acceptor(b"X", generous()).0, HelloError::NotPaceline { .. }));

    let (mut near, mut far) = UnixStream::pair().unwrap();
    near.write_all(&initiator().hello()[..50]).unwrap();
    drop(near);
    let error =
        hello::accept(&mut far, identity(2), WORLD, &secret(), generous(), anybody).unwrap_err();
    assert!(matches!(error, HelloError::Closed { stage: Stage::Hello }), "{error}");

    let (error, _) = send_to_acceptor(&initiator().hello()[..50], soon());
    assert!(matches!(error, HelloError::TimedOut { stage: Stage::Hello }), "{error}");
    assert!(error.is_timeout());
    let (error, _) = send_to_acceptor(initiator().hello(), soon());
    assert!(matches!(error, HelloError::TimedOut { stage: Stage::Finish }), "{error}");

    let (mut near, _far) = UnixStream::pair().unwrap();
    let error = hello::initiate(&mut near, identity(1), DATA, 2, &secret(), soon()).unwrap_err();
    assert!(matches!(error, HelloError::TimedOut { stage: Stage::Reply }), "{error}");
}

#[test]
fn unknown_purposes_and_reserved_bits_are_refused() {
    for (offset, value) in [(10, 99), (11, 1), (14, 1), (15, 1)] {
        let mut hello = *initiator().hello();
        hello[offset] = value;
        let turned = responder().on_hello(&hello, |_, _| Ok(())).unwrap_err();
        let expected = match offset {
            10 => matches!(turned.error, HelloError::UnknownPurpose { code: 99 }),
            _ => matches!(turned.error, HelloError::ReservedBits { stage: Stage::Hello }),
        };
        assert!(expected, "{}", turned.error);
    }
}

proptest! {
    /// Whatever is changed on the way, nobody is let in.
    #[test]
    fn any_flipped_bit_breaks_the_handshake(
        message in 0..3,
        position in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let flip = |bytes: &mut [u8]| bytes[position.index(bytes.len())] ^= 1 << bit;
        let first = initiator();
        let mut hello = *first.hello();
        if message == 0 {
            flip(&mut hello);
        }
        let Ok((mut reply, pending)) = responder().on_hello(&hello, |_, _| Ok(())) else {
            return Ok(());
        };
        if message == 1 {
            flip(&mut reply);
        }
        let Ok((mut finish, _)) = first.on_reply(&reply) else { return Ok(()) };
        prop_assert_eq!(message, 2, "the initiator accepted a changed transcript");
        flip(&mut finish);
        prop_assert!(pending.on_finish(&finish).is_err());
    }

    #[test]
    fn no_bytes_panic(
        hello in prop::array::uniform32(any::<u8>()),
        magic in any::<bool>(),
        tail in prop::collection::vec(any::<u8>(), REPLY_LEN),
    ) {
        let mut bytes = [0; REPLY_LEN];
        bytes.copy_from_slice(&tail);
        bytes[..32].copy_from_slice(&hello);
        if magic {
            bytes[..10].copy_from_slice(b"PACELINE\x01\x00");
        }
        let first = bytes.first_chunk::<HELLO_LEN>().unwrap();
        prop_assert!(responder().on_hello(first, |_, _| Ok(())).is_err());
        prop_assert!(initiator().on_reply(&bytes).is_err());
        let (_, pending) = responder().on_hello(initiator().hello(), |_, _| Ok(())).unwrap();
        prop_assert!(pending.on_finish(bytes.first_chunk::<FINISH_LEN>().unwrap()).is_err());
    }
}
