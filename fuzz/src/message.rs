//! Whatever an authenticated but broken rank says, the coordinator goes on; what can be decoded survives
//! encoding.

use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Coordinator, CoordinatorConfig};
use paceline_rendezvous::frame::{Frame, FrameKind};
use paceline_rendezvous::message::{ToCoordinator, ToRank};

/// A message in each line.
pub fn run(bytes: &[u8]) {
    let now = Instant::now();
    let mut coordinator = Coordinator::new(CoordinatorConfig {
        world_size: 3,
        epoch: 0,
        join_timeout: None,
        lost_grace: Duration::ZERO,
        stall_report: Some(Duration::ZERO),
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
            coordinator.take_stalls();
        }
    }
}

/// A message of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let report = |state: &str| {
        format!(
            "{{\"type\":\"report\",\"epoch\":0,\"report\":{{\"context\":0,\"communicator\":1,\
             \"members\":[0,1],\"op_seq\":9223372036854775808,\"kind\":\"all_reduce\",\
             \"name\":null,\"details\":\"\",\"signature\":\"s\",\"bytes\":8,\"state\":{state},\"since_ms\":1,\"idle_ms\":1}}}}"
        )
    };
    let plain = [
        "{\"type\":\"set\",\"request\":1,\"key\":\"a\",\"value\":\"00ff\"}",
        "{\"type\":\"get\",\"request\":2,\"key\":\"a\"}",
        "{\"type\":\"get\",\"request\":3,\"key\":\"b\"}",
        "{\"type\":\"cancel\",\"request\":3}",
        "{\"type\":\"introduction\",\"host\":\"h\",\"pid\":1}",
        "{\"type\":\"heartbeat\",\"epoch\":0,\
         \"progress\":[{\"context\":0,\"communicator\":0,\"entered\":5}]}",
        "{\"type\":\"next_epoch\",\"epoch\":0,\"timeout_ms\":1000}",
        "{\"type\":\"new_epoch\",\"epoch\":1}",
        "{\"type\":\"no_epoch\",\"abort\":{\"epoch\":0,\"culprit\":1,\"timed_out\":true,\
         \"reason\":\"r\"}}",
        "{\"type\":\"goodbye\"}",
        "{\"type\":\"stored\",\"request\":1}",
        "{\"type\":\"value\",\"request\":1,\"value\":\"00\"}",
        "{\"type\":\"refused\",\"request\":1,\"reason\":\"no\"}",
        "{\"type\":\"abort\",\"abort\":{\"epoch\":0,\"culprit\":1,\"timed_out\":true,\
         \"reason\":\"r\"}}",
    ];
    let reports = [
        report("{\"state\":\"waiting\",\"on\":[1]}"),
        report("{\"state\":\"timed_out\",\"on\":[0,1]}"),
        report("{\"state\":\"failed\",\"reason\":\"r\",\"culprit\":1}"),
    ];
    let mut seeds: Vec<Vec<u8>> = plain.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend(reports.map(String::into_bytes));
    seeds.push(seeds.join(&b'\n'));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_messages() {
        let mut seeds = seeds();
        seeds.pop();
        for payload in seeds {
            let frame = Frame { kind: FrameKind::CONTROL, payload };
            let known = ToRank::decode(&frame).is_ok() || ToCoordinator::decode(&frame).is_ok();
            assert!(known, "{}", frame.payload.escape_ascii());
        }
    }
}
