//! Whatever a stranger sends instead of a handshake, nobody panics and nobody is let in.

use paceline_rendezvous::hello::{
    Admission, FINISH_LEN, HELLO_LEN, Identity, Initiator, Purpose, REPLY_LEN, Responder,
    check_hello_prefix,
};
use paceline_rendezvous::{RunId, Secret};

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    let length = bytes.len().min(N);
    padded[..length].copy_from_slice(&bytes[..length]);
    padded
}

/// Zeros, so that random bytes get past the checks of run, epoch and rank.
fn identity() -> Identity {
    Identity { run_id: RunId::from_bytes([0; 16]), epoch: 0, rank: 0, features: u64::MAX }
}

/// A hello and a finish, or a reply, from somebody who does not know the secret.
pub fn run(bytes: &[u8]) {
    let secret = Secret::from_bytes([1; 32]);
    let admission = Admission { world_size: 4, rank: None };
    let responder = Responder::new(identity(), admission, &secret).expect("random bytes");
    let initiator = Initiator::new(identity(), Purpose::Control, 0, &secret).expect("random bytes");
    let _ = check_hello_prefix(bytes);
    if let Ok((_, pending)) = responder.on_hello(&padded::<HELLO_LEN>(bytes), |_, _| Ok(())) {
        let rest = bytes.get(HELLO_LEN..).unwrap_or_default();
        assert!(pending.on_finish(&padded::<FINISH_LEN>(rest)).is_err(), "a stranger got in");
    }
    assert!(initiator.on_reply(&padded::<REPLY_LEN>(bytes)).is_err(), "a stranger got in");
}

/// The hello of a stranger for each purpose, with a finish; and a reply.
pub fn seeds() -> Vec<Vec<u8>> {
    let secret = Secret::from_bytes([2; 32]);
    let hello = |purpose| {
        let initiator = Initiator::new(identity(), purpose, 0, &secret).expect("random bytes");
        [&initiator.hello()[..], &[7; FINISH_LEN]].concat()
    };
    vec![hello(Purpose::Control), hello(Purpose::Data { channel: 0 }), vec![0; REPLY_LEN]]
}
