//! Authentic frames survive any cut; bytes that were changed never come out as a frame.

use paceline_rendezvous::frame::{Decoder, Encoder, FrameKind};
use paceline_rendezvous::hello::MacKey;

use crate::Reader;

/// What a stranger says first, then how authentic frames are cut and changed, then their payloads.
pub fn run(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (stranger, cut, flip) = (reader.piece(), reader.byte(), reader.short());
    let key = MacKey::from_bytes([1; 32]);
    let mut payloads: Vec<&[u8]> = Vec::new();
    while !reader.is_empty() {
        payloads.push(reader.piece());
    }

    let mut decoder = Decoder::new(key.clone());
    decoder.push(stranger);
    assert!(!matches!(decoder.pull(), Ok(Some(_))), "a forged frame was accepted");

    let mut encoder = Encoder::new(key.clone());
    let mut wire = Vec::new();
    for payload in &payloads {
        encoder.encode(FrameKind(3), payload, &mut wire).expect("payloads are short");
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
}

/// Short and empty payloads, and the beginning of a frame.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        b"\x00\x03\x05\x00\x04abcd\x00\x02xy".to_vec(),
        b"\x09PC\x01\x00\x00\x00\x00\x00\x00\x00\x40\x01\x01z".to_vec(),
    ]
}
