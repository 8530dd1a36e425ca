//! Authentic frames survive any cut; bytes that were changed never come out as a frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paceline_rendezvous::frame::{Decoder, Encoder, FrameKind};
use paceline_rendezvous::hello::MacKey;

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<u8>, u8, u16)| {
    let (payloads, stranger, cut, flip) = input;
    let key = MacKey::from_bytes([1; 32]);

    let mut decoder = Decoder::new(key.clone());
    decoder.push(&stranger);
    assert!(!matches!(decoder.pull(), Ok(Some(_))), "a forged frame was accepted");

    let mut encoder = Encoder::new(key.clone());
    let mut wire = Vec::new();
    for payload in &payloads {
        encoder.encode(FrameKind(3), payload, &mut wire).expect("fuzz payloads are short");
    }
    let mut decoder = Decoder::new(key.clone());
    let mut received = Vec::new();
    for piece in wire.chunks(usize::from(cut) + 1) {
        decoder.push(piece);
        while let Some(frame) = decoder.pull().expect("the stream is authentic") {
            received.push(frame.payload);
        }
    }
    assert_eq!(received, payloads);

    if !wire.is_empty() {
        let position = usize::from(flip) % wire.len();
        wire[position] ^= 1 << (flip % 8);
        let mut decoder = Decoder::new(key);
        decoder.push(&wire);
        let mut count = 0;
        while let Ok(Some(frame)) = decoder.pull() {
            assert_eq!(frame.payload, payloads[count]);
            count += 1;
        }
        assert!(count < payloads.len(), "a changed frame was accepted");
    }
});
