//! The two sides of the handshake without I/O.

use super::error::{HelloError, Refusal, Stage};
use super::wire::{
    self, FINISH_LEN, Fields, HELLO_LEN, MAGIC, NONCE_LEN, REPLY_LEN, check_hello_prefix,
};
use super::{Admission, Identity, MacKey, Purpose, Session};
use crate::run::{self, Secret, SecretError};

const ROLE_INITIATOR: &[u8] = b"paceline hello initiator";
const ROLE_RESPONDER: &[u8] = b"paceline hello responder";
const KEY_INITIATOR: &[u8] = b"paceline key initiator";
const KEY_RESPONDER: &[u8] = b"paceline key responder";

/// The side that connected, waiting for the reply.
#[derive(Debug)]
pub struct Initiator {
    identity: Identity,
    purpose: Purpose,
    expected_rank: u32,
    secret: Secret,
    hello: [u8; HELLO_LEN],
}

impl Initiator {
    /// Starts a handshake with `expected_rank` (or [`COORDINATOR_RANK`](super::COORDINATOR_RANK)).
    ///
    /// # Errors
    /// When there is no random nonce.
    pub fn new(
        identity: Identity,
        purpose: Purpose,
        expected_rank: u32,
        secret: &Secret,
    ) -> Result<Self, SecretError> {
        let nonce = run::random_bytes::<NONCE_LEN>()?;
        let hello = Fields::new(identity, wire::encode_purpose(purpose), 0, nonce).encode();
        Ok(Self { identity, purpose, expected_rank, secret: secret.clone(), hello })
    }

    /// The first message, to be sent.
    pub const fn hello(&self) -> &[u8; HELLO_LEN] {
        &self.hello
    }

    /// Takes the second message; gives the third, to be sent, and the session.
    ///
    /// # Errors
    /// [`HelloError`]: nothing must be sent then, the connection is to be closed.
    pub fn on_reply(
        self,
        reply: &[u8; REPLY_LEN],
    ) -> Result<([u8; FINISH_LEN], Session), HelloError> {
        let (fields_bytes, mac) = split_reply(reply);
        let fields = Fields::decode(fields_bytes)?;
        let (ours, theirs) = (self.identity, fields.identity);
        // Runs have different secrets, so this must be said before the MAC is looked at. A forger
        // gains nothing: all he could do is to make the connection fail, which he can anyway.
        if theirs.run_id != ours.run_id {
            return Err(HelloError::WrongRun { ours: ours.run_id, theirs: theirs.run_id });
        }
        if !self.secret.verify(&[ROLE_RESPONDER, &self.hello, fields_bytes], mac) {
            return Err(HelloError::WrongSecret);
        }
        if theirs.epoch != ours.epoch {
            return Err(HelloError::EpochMismatch { ours: ours.epoch, theirs: theirs.epoch });
        }
        if let Some(reason) = wire::decode_refusal(fields.status) {
            return Err(HelloError::Refused { reason });
        }
        if theirs.rank != self.expected_rank {
            return Err(HelloError::WrongRank {
                expected: self.expected_rank,
                actual: theirs.rank,
            });
        }
        if fields.reserved_bits {
            return Err(HelloError::ReservedBits { stage: Stage::Reply });
        }
        let mut finish = [0; FINISH_LEN];
        finish[..8].copy_from_slice(&MAGIC);
        finish[8..].copy_from_slice(&self.secret.authenticate(&[
            ROLE_INITIATOR,
            &self.hello,
            reply,
        ]));
        let session = Session {
            peer_rank: theirs.rank,
            purpose: self.purpose,
            features: ours.features & theirs.features,
            send_key: derive(&self.secret, KEY_INITIATOR, &self.hello, reply),
            receive_key: derive(&self.secret, KEY_RESPONDER, &self.hello, reply),
        };
        Ok((finish, session))
    }
}

/// The side that accepted a connection, waiting for the hello.
#[derive(Debug)]
pub struct Responder {
    identity: Identity,
    admission: Admission,
    secret: Secret,
    nonce: [u8; NONCE_LEN],
}

/// The initiator was turned away.
#[derive(Debug)]
pub struct Turned {
    /// Why.
    pub error: HelloError,
    /// What to send before the connection is closed, so that an honest peer learns the reason;
    /// `None` for a stranger.
    pub reply: Option<[u8; REPLY_LEN]>,
}

impl Responder {
    /// Waits for a handshake.
    ///
    /// # Errors
    /// When there is no random nonce.
    pub fn new(
        identity: Identity,
        admission: Admission,
        secret: &Secret,
    ) -> Result<Self, SecretError> {
        let nonce = run::random_bytes::<NONCE_LEN>()?;
        Ok(Self { identity, admission, secret: secret.clone(), nonce })
    }

    /// Takes the first message. `admit` may refuse a purpose or a rank, for reasons that only the
    /// caller knows, with [`HelloError::UnservedPurpose`], [`HelloError::Duplicate`] or
    /// [`HelloError::Gone`]. Gives the second message, to be sent, and the state that waits for the
    /// third.
    ///
    /// # Errors
    /// [`Turned`], when the peer is not let in.
    pub fn on_hello(
        self,
        hello: &[u8; HELLO_LEN],
        admit: impl FnOnce(u32, Purpose) -> Result<(), HelloError>,
    ) -> Result<([u8; REPLY_LEN], PendingFinish), Box<Turned>> {
        let admitted = self.check(hello).and_then(|(fields, purpose)| {
            admit(fields.identity.rank, purpose)?;
            Ok((fields, purpose))
        });
        let (fields, purpose) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                let reply = refusal(&error).map(|refusal| self.reply(hello, refusal));
                return Err(Box::new(Turned { error, reply }));
            }
        };
        let reply = self.reply(hello, 0);
        let session = Session {
            peer_rank: fields.identity.rank,
            purpose,
            features: self.identity.features & fields.identity.features,
            send_key: derive(&self.secret, KEY_RESPONDER, hello, &reply),
            receive_key: derive(&self.secret, KEY_INITIATOR, hello, &reply),
        };
        let pending = PendingFinish { session, secret: self.secret, hello: *hello, reply };
        Ok((reply, pending))
    }

    /// The reply to a peer whose first message cannot be read to its end because it speaks
    /// another version; see [`check_hello_prefix`].
    pub fn version_reply(&self) -> [u8; REPLY_LEN] {
        self.reply(&[0; HELLO_LEN], wire::encode_refusal(Refusal::Version))
    }

    fn check(&self, hello: &[u8; HELLO_LEN]) -> Result<(Fields, Purpose), HelloError> {
        check_hello_prefix(hello)?;
        let fields = Fields::decode(hello)?;
        let (ours, theirs) = (self.identity, fields.identity);
        if fields.reserved_bits || fields.status != 0 {
            return Err(HelloError::ReservedBits { stage: Stage::Hello });
        }
        if theirs.run_id != ours.run_id {
            return Err(HelloError::WrongRun { ours: ours.run_id, theirs: theirs.run_id });
        }
        if theirs.epoch != ours.epoch {
            return Err(HelloError::EpochMismatch { ours: ours.epoch, theirs: theirs.epoch });
        }
        let Admission { world_size, rank } = self.admission;
        if theirs.rank >= world_size {
            return Err(HelloError::RankOutOfRange { rank: theirs.rank, world_size });
        }
        match rank {
            Some(expected) if expected != theirs.rank => {
                return Err(HelloError::WrongRank { expected, actual: theirs.rank });
            }
            _ => {}
        }
        let purpose = wire::decode_purpose(fields.purpose, fields.channel)?;
        Ok((fields, purpose))
    }

    fn reply(&self, hello: &[u8; HELLO_LEN], status: u8) -> [u8; REPLY_LEN] {
        let fields = Fields::new(self.identity, (0, 0), status, self.nonce).encode();
        let mut reply = [0; REPLY_LEN];
        reply[..HELLO_LEN].copy_from_slice(&fields);
        reply[HELLO_LEN..].copy_from_slice(&self.secret.authenticate(&[
            ROLE_RESPONDER,
            hello,
            &fields,
        ]));
        reply
    }
}

/// The side that accepted a connection, waiting for the proof of the initiator.
#[derive(Debug)]
pub struct PendingFinish {
    session: Session,
    secret: Secret,
    hello: [u8; HELLO_LEN],
    reply: [u8; REPLY_LEN],
}

impl PendingFinish {
    /// The rank that the peer claims to be; not proven yet.
    pub const fn claimed_rank(&self) -> u32 {
        self.session.peer_rank
    }

    /// Takes the third message.
    ///
    /// # Errors
    /// [`HelloError::NotPaceline`], [`HelloError::WrongSecret`].
    pub fn on_finish(self, finish: &[u8; FINISH_LEN]) -> Result<Session, HelloError> {
        let mut mac = [0; 32];
        mac.copy_from_slice(&finish[8..]);
        if finish[..8] != MAGIC {
            return Err(HelloError::NotPaceline { received: finish[..16].to_vec() });
        }
        if !self.secret.verify(&[ROLE_INITIATOR, &self.hello, &self.reply], &mac) {
            return Err(HelloError::WrongSecret);
        }
        Ok(self.session)
    }
}

/// The status that tells an honest peer why it was turned away.
fn refusal(error: &HelloError) -> Option<u8> {
    let refusal = match error {
        HelloError::VersionMismatch { .. } => Refusal::Version,
        HelloError::WrongRun { .. } => Refusal::Run,
        HelloError::EpochMismatch { .. } => Refusal::Epoch,
        HelloError::WrongRank { .. } | HelloError::RankOutOfRange { .. } => Refusal::Rank,
        HelloError::UnknownPurpose { .. } | HelloError::UnservedPurpose => Refusal::Purpose,
        HelloError::Duplicate { .. } => Refusal::Duplicate,
        HelloError::Gone { .. } => Refusal::Gone,
        _ => return None,
    };
    Some(wire::encode_refusal(refusal))
}

fn derive(
    secret: &Secret,
    label: &[u8],
    hello: &[u8; HELLO_LEN],
    reply: &[u8; REPLY_LEN],
) -> MacKey {
    MacKey::from_bytes(secret.authenticate(&[label, hello, reply]))
}

fn split_reply(reply: &[u8; REPLY_LEN]) -> (&[u8; HELLO_LEN], &[u8; 32]) {
    let (fields, mac) = reply.split_first_chunk().expect("a reply is longer than its fields");
    (fields, mac.first_chunk().expect("a MAC follows the fields"))
}
