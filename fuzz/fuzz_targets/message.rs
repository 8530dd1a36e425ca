//! Whatever an authenticated but broken rank says, the coordinator goes on; what can be decoded
//! survives encoding.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use paceline_rendezvous::coordinator::{Coordinator, CoordinatorConfig};
use paceline_rendezvous::frame::{Frame, FrameKind};
use paceline_rendezvous::message::{ToCoordinator, ToRank};

fuzz_target!(|bytes: &[u8]| {
    let now = Instant::now();
    let mut coordinator = Coordinator::new(CoordinatorConfig {
        world_size: 3,
        epoch: 0,
        join_timeout: None,
        lost_grace: Duration::ZERO,
    });
    coordinator.joined(0, now);
    coordinator.joined(1, now);
    for line in bytes.split(|byte| *byte == b'\n') {
        let frame = Frame { kind: FrameKind::CONTROL, payload: line.to_vec() };
        if let Ok(message) = ToRank::decode(&frame) {
            let again = Frame { kind: FrameKind::CONTROL, payload: message.encode() };
            assert_eq!(ToRank::decode(&again).expect("our own encoding"), message);
        }
        if let Ok(message) = ToCoordinator::decode(&frame) {
            let again = Frame { kind: FrameKind::CONTROL, payload: message.encode() };
            assert_eq!(ToCoordinator::decode(&again).expect("our own encoding"), message);
            for (rank, _) in coordinator.handle(0, message, now) {
                assert!(rank < 2, "a message to a rank that has not joined");
            }
        }
    }
});
