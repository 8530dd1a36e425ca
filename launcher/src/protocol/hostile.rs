//! What a broken launcher or agent can say: for tests.

use super::codec::Decoder;
use super::messages::{Order, Report};

/// Lets both ends read `bytes`, in pieces as long as the first of them says.
///
/// # Panics
/// When what was understood does not survive encoding: never, whatever the bytes.
pub fn check_agent_protocol(bytes: &[u8]) {
    let (piece, bytes) = bytes.split_first().map_or((1, bytes), |(piece, rest)| (*piece, rest));
    let mut decoder = Decoder::default();
    let mut again = super::codec::PREAMBLE.to_vec();
    let (mut orders, mut reports) = (Vec::new(), Vec::new());
    'stream: for piece in bytes.chunks(usize::from(piece).max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    orders.extend(Order::decode(&frame));
                    reports.extend(Report::decode(frame));
                }
                Ok(None) => break,
                Err(_) => break 'stream,
            }
        }
    }
    for order in &orders {
        order.encode(&mut again).expect("it came in a frame");
    }
    let mut decoder = Decoder::default();
    decoder.push(&again);
    for order in orders {
        let frame = decoder.next().expect("our own encoding").expect("a whole frame");
        assert_eq!(Order::decode(&frame).expect("our own encoding"), order);
    }
    for report in reports {
        let mut bytes = super::codec::PREAMBLE.to_vec();
        report.encode(&mut bytes).expect("it came in a frame");
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        let frame = decoder.next().expect("our own encoding").expect("a whole frame");
        assert_eq!(Report::decode(frame).expect("our own encoding"), report);
    }
}
