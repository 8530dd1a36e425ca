use paceline_launcher::doctor::{ClockOffset, HostDiagnosis, SCHEMA};
use paceline_launcher::probe::{ProbeError, Way};

use super::*;

fn took(check: Check, took_us: u64) -> Check {
    Check { took_us: Some(took_us), ..check }
}

fn host(name: &str, is_this_host: bool, checks: Vec<Check>) -> HostDiagnosis {
    let clock = Some(ClockOffset { offset_ns: -1_500_000, uncertainty_ns: 200_000 });
    HostDiagnosis { host: name.into(), is_this_host, checks, clock, examination: None }
}

/// Two hosts that see each other, and one that nobody gets to.
fn made_up() -> Diagnosis {
    let n1 = vec![
        took(Check::ok("name", "10.0.0.1"), 412),
        took(Check::ok("ssh", "logged in"), 212_400),
        took(Check::ok("agent", "paceline 0.1.0"), 8_120),
        took(Check::warning("locked memory", "64 KiB", "raise memlock"), 12),
        Check::ok("open files", "1024, may be raised to 524288"),
        // Nothing that another host says moves the cursor.
        Check::ok("eth0", "up, MTU 9000, 10.0.0.1\u{1b}[2J"),
    ];
    let n3 = vec![
        took(Check::ok("name", "10.0.0.3"), 390),
        took(Check::failed("ssh", "Connection refused", "start sshd on n3"), 4_210),
    ];
    let way = Way {
        local_address: "10.0.0.2".parse().unwrap(),
        p50_ns: 31_200,
        p99_ns: 64_800,
        round_trips: 200,
        mtu: Some(1500),
        burst_bytes: 16 << 20,
        burst_ns: 14_100_000,
    };
    let tried = |interface: &str, address: &str, outcome| WayDiagnosis {
        address: address.parse().unwrap(),
        interface: interface.into(),
        local_interface: Some("eth0".into()),
        interface_mtu: Some(1500),
        outcome,
    };
    let ways = vec![
        tried("eth0", "10.0.0.1", WayOutcome::Way(way.clone())),
        tried("bond0", "192.168.0.1", WayOutcome::Way(Way { mtu: None, ..way })),
        tried("eth0", "fd00::1", WayOutcome::Error(ProbeError::Refused)),
    ];
    let checks = vec![Check::warning("n2 to n1", "fd00::1 (eth0): refused", "let n2 connect")];
    Diagnosis {
        schema: SCHEMA,
        paceline: "0.1.0",
        hosts: vec![
            host("n1", false, n1),
            host("n2", true, vec![took(Check::ok("agent", "paceline 0.1.0"), 7_000)]),
            host("n3", false, n3),
        ],
        pairs: vec![PairDiagnosis { from: "n2".into(), to: "n1".into(), ways, checks }],
        overall: vec![Check::ok("remote GPUs", "round trips of 31.2 us")],
    }
}

#[test]
fn a_diagnosis_is_a_page() {
    insta::assert_snapshot!(text(&made_up()));
}

#[test]
fn json_has_the_name_of_its_form() {
    let json = serde_json::to_value(made_up()).unwrap();
    assert_eq!(json["schema"], "paceline.doctor/1");
    assert_eq!(json["hosts"][0]["checks"][3]["status"], "warning");
    assert_eq!(json["hosts"][0]["clock"]["offset_ns"], -1_500_000);
    assert_eq!(json["pairs"][0]["ways"][0]["way"]["p50_ns"], 31_200);
    assert_eq!(json["pairs"][0]["ways"][2]["error"], "refused");
}
