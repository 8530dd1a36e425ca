use super::super::diagnosis::Status;
use super::super::examination::{Gid, Machine, RdmaPort};
use super::*;
use crate::machine::gpus::GpuPart;

fn timed<T>(found: T) -> Timed<T> {
    Timed { took_us: 7, found }
}

/// A host on which everything is as it should be.
fn sound() -> Examination {
    Examination {
        version: VERSION.into(),
        build: Some("ab".into()),
        machine: timed(Machine {
            cores: 8,
            processors: 8,
            cpu: Some("Example 9".into()),
            memory_bytes: Some(64 << 30),
            available_bytes: Some(3 << 29),
            kernel: "6.18.1".into(),
        }),
        limits: timed(Limits {
            locked_memory: None,
            open_files: Some(1024),
            open_files_max: Some(524_288),
        }),
        shared_memory: timed(Some(Space { bytes: 32 << 30, free_bytes: 32 << 30 })),
        interfaces: timed(vec![Interface {
            name: "eth0".into(),
            state: "up".into(),
            megabits_per_second: Some(25_000),
            mtu: Some(9000),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
        }]),
        rdma: timed(Vec::new()),
        gpus: timed(Gpus::default()),
    }
}

fn worst(checks: &[Check]) -> Vec<(&str, &str)> {
    let bad = checks.iter().filter(|check| check.status != Status::Ok);
    bad.inspect(|check| assert!(check.remedy.is_some(), "{check:?}"))
        .map(|check| (check.name.as_str(), check.found.as_str()))
        .collect()
}

#[test]
fn a_sound_host_is_ok_in_every_line() {
    let checks = host(&sound());
    assert_eq!(worst(&checks), []);
    let found = |name: &str| {
        let check = checks.iter().find(|check| check.name == name).expect(name);
        check.found.clone()
    };
    assert_eq!(found("cores"), "8, Example 9");
    assert_eq!(found("memory"), "64 GiB, 1.5 GiB available");
    assert_eq!(found("open files"), "1024, may be raised to 524288");
    assert_eq!(found("eth0"), "up, 25 Gbit/s, MTU 9000, 10.0.0.1");
    assert_eq!((found("RDMA"), found("GPUs")), ("none found".into(), "none found".into()));
}

#[test]
fn what_is_scarce_is_a_warning() {
    let mut found = sound();
    found.limits.found.locked_memory = Some(64 << 10);
    found.limits.found.open_files = Some(256);
    found.shared_memory.found = Some(Space { bytes: 64 << 20, free_bytes: 64 << 20 });
    found.interfaces.found[0].state = "down".into();
    let checks = host(&found);
    let names: Vec<&str> = worst(&checks).iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["locked memory", "open files", "/dev/shm", "network"]);
    assert!(checks.iter().all(|check| check.status != Status::Failed));
}

#[test]
fn other_versions_fail_and_other_builds_are_pointed_out() {
    let mut found = sound();
    assert_eq!(agent("n1", &found, Some("ab")).status, Status::Ok);
    assert_eq!(agent("n1", &found, None).status, Status::Ok);
    assert_eq!(agent("n1", &found, Some("cd")).status, Status::Warning);
    found.version = "0.0.1".into();
    assert_eq!(agent("n1", &found, Some("ab")).status, Status::Failed);
}

#[test]
fn clocks_may_differ_by_a_tenth_of_a_second() {
    let check = |offset_ns, uncertainty_ns| clock("n1", ClockOffset { offset_ns, uncertainty_ns });
    assert_eq!(check(-99_000_000, 1000).status, Status::Ok);
    let late = check(-101_500_000, 1_250_000);
    assert_eq!(late.status, Status::Warning);
    assert_eq!(late.found, "101.500 ms behind, give or take 1.250 ms");
    // It may as well be right.
    assert_eq!(check(101_000_000, 200_000_000).status, Status::Ok);
}

#[test]
fn rdma_devices_want_an_active_port_and_a_file() {
    let gid = Gid {
        index: 3,
        gid: "::ffff:10.0.0.1".into(),
        kind: Some("RoCE v2".into()),
        interface: Some("eth1".into()),
    };
    let port = RdmaPort {
        number: 1,
        state: "ACTIVE".into(),
        link_layer: "Ethernet".into(),
        rate: Some("100 Gb/sec (4X EDR)".into()),
        gids: vec![gid],
    };
    let device = RdmaDevice {
        name: "mlx5_0".into(),
        firmware: None,
        ports: vec![port],
        verbs: Some("/dev/infiniband/uverbs0".into()),
        verbs_error: None,
    };
    let check = rdma_device(&device);
    assert_eq!(check.status, Status::Ok);
    assert_eq!(
        check.found,
        "port 1 ACTIVE, Ethernet, 100 Gb/sec (4X EDR); GIDs 3 RoCE v2 eth1 ::ffff:10.0.0.1"
    );
    let closed = RdmaDevice { verbs_error: Some("Permission denied".into()), ..device.clone() };
    let missing = RdmaDevice { verbs: None, ..device.clone() };
    let mut down = device;
    down.ports[0].state = "DOWN".into();
    for (device, said) in [(closed, "denied"), (missing, "no file"), (down, "no port is active")] {
        let check = rdma_device(&device);
        assert_eq!(check.status, Status::Warning);
        assert!(check.found.contains(said), "{check:?}");
    }
}

#[test]
fn gpus_are_named_and_a_driver_without_one_is_a_warning() {
    let gpu = Gpu {
        name: "NVIDIA A100".into(),
        uuid: Some("GPU-1".into()),
        memory_bytes: Some(40 << 30),
        virtualization: Some("VGPU".into()),
        parts: vec![GpuPart { profile: "3g.20gb".into(), uuid: None }],
    };
    let driver = Some("535.104".to_owned());
    let found = Gpus { driver: driver.clone(), devices: vec![gpu], problem: None };
    let text = "NVIDIA A100, 40 GiB, virtual (VGPU), MIG 3g.20gb, driver 535.104, GPU-1";
    assert_eq!(gpus(&found), [Check::ok("GPU 0", text)]);
    let none = Gpus { driver: driver.clone(), ..Gpus::default() };
    assert_eq!(worst(&gpus(&none)).len(), 1);
    let broken = Gpus { driver, problem: Some("no answer".into()), ..Gpus::default() };
    assert_eq!(worst(&gpus(&broken)), [("GPUs", "no answer")]);
}
