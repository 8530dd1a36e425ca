//! Whatever a stranger sends instead of a handshake, nobody panics and nobody is let in.
#![no_main]

use libfuzzer_sys::fuzz_target;
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

fuzz_target!(|bytes: &[u8]| {
    let secret = Secret::from_bytes([1; 32]);
    // Zeros, so that the fuzzer gets past the checks of run, epoch and rank.
    let identity =
        Identity { run_id: RunId::from_bytes([0; 16]), epoch: 0, rank: 0, features: u64::MAX };
    let responder = || {
        let admission = Admission { world_size: 4, rank: None };
        Responder::new(identity, admission, &secret).expect("random bytes")
    };
    let initiator =
        || Initiator::new(identity, Purpose::Control, 0, &secret).expect("random bytes");

    let _ = check_hello_prefix(bytes);
    if let Ok((_, pending)) = responder().on_hello(&padded::<HELLO_LEN>(bytes), |_, _| Ok(())) {
        let rest = bytes.get(HELLO_LEN..).unwrap_or_default();
        assert!(pending.on_finish(&padded::<FINISH_LEN>(rest)).is_err(), "a stranger got in");
    }
    assert!(initiator().on_reply(&padded::<REPLY_LEN>(bytes)).is_err(), "a stranger got in");
});
