use super::super::diagnosis::Status;
use super::*;

fn good(p50_ns: u64, mtu: u32) -> WayDiagnosis {
    let address = "10.0.0.2".parse().expect("an address");
    WayDiagnosis {
        address,
        interface: "eth0".into(),
        local_interface: Some("eth0".into()),
        interface_mtu: Some(9000),
        outcome: WayOutcome::Way(Way {
            local_address: "10.0.0.1".parse().expect("an address"),
            p50_ns,
            p99_ns: 2 * p50_ns,
            round_trips: 200,
            mtu: Some(mtu),
            burst_bytes: 16 << 20,
            burst_ns: 16 << 20,
        }),
    }
}

fn bad(error: ProbeError) -> WayDiagnosis {
    WayDiagnosis { outcome: WayOutcome::Error(error), ..good(0, 0) }
}

fn statuses(ways: &[WayDiagnosis]) -> Vec<Status> {
    let checks = judge("a", "b", ways);
    for check in checks.iter().filter(|check| check.status != Status::Ok) {
        assert!(check.remedy.is_some(), "{check:?}");
    }
    checks.iter().map(|check| check.status).collect()
}

#[test]
fn one_way_is_enough_and_none_is_a_failure() {
    let refused = || bad(ProbeError::Refused);
    let stranger = || bad(ProbeError::Stranger { reason: "the peer is rank 2".into() });
    assert_eq!(statuses(&[good(30_000, 9000)]), [Status::Ok]);
    assert_eq!(statuses(&[good(30_000, 9000), refused()]), [Status::Warning]);
    assert_eq!(statuses(&[stranger(), refused()]), [Status::Failed; 2]);
    assert_eq!(statuses(&[]), [Status::Failed]);
}

#[test]
fn packets_smaller_than_the_interfaces_allow_are_a_warning() {
    assert_eq!(statuses(&[good(30_000, 1500)]), [Status::Warning]);
    let mut nothing = good(30_000, 9000);
    if let WayOutcome::Way(way) = &mut nothing.outcome {
        way.burst_bytes = 0;
    }
    assert_eq!(statuses(&[nothing]), [Status::Warning]);
}

#[test]
fn the_rule_for_remote_gpus_never_fails() {
    let pair = |ways| PairDiagnosis { from: "a".into(), to: "b".into(), ways, checks: Vec::new() };
    assert_eq!(remote_gpus(&[pair(Vec::new())]), None);
    let quick = pair(vec![good(80_000, 9000), good(50_000, 9000)]);
    let check = remote_gpus(std::slice::from_ref(&quick)).expect("one way");
    assert_eq!(check.status, Status::Ok);
    assert_eq!(
        check.found,
        "round trips of 50.0 us from a to b (VMware Bitfusion 4.0: at most 50 us)"
    );
    let slow = remote_gpus(&[quick, pair(vec![good(130_250, 9000)])]).expect("two");
    assert_eq!(slow.status, Status::Warning);
    assert!(slow.found.contains("130.2 us"), "{slow:?}");
}
