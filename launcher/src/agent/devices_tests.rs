use super::*;

fn gpu(index: usize, gigabytes: u64, profiles: &[&str]) -> Gpu {
    let part = |(place, profile): (usize, &&str)| GpuPart {
        profile: (*profile).to_owned(),
        uuid: Some(format!("MIG-{index}-{place}")),
    };
    Gpu {
        name: "NVIDIA A100".into(),
        uuid: Some(format!("GPU-{index}")),
        memory_bytes: Some(gigabytes << 30),
        parts: profiles.iter().enumerate().map(part).collect(),
        ..Gpu::default()
    }
}

fn host(devices: Vec<Gpu>) -> Gpus {
    Gpus { devices, ..Gpus::default() }
}

fn ranks(devices: &[&str], fraction: &str) -> Vec<RankConfig> {
    let fraction: Fraction = fraction.parse().expect("a fraction");
    let rank = |(rank, name): (u32, &&str)| RankConfig {
        rank,
        has_input: false,
        task: 0,
        device: (!name.is_empty()).then(|| RankDevice::new((*name).to_owned(), fraction)),
        variables: Vec::new(),
    };
    (0..).zip(devices).map(rank).collect()
}

/// The values of each rank's variables, those that are not there left out.
fn given(
    ranks: &[RankConfig],
    visibility: GpuVisibility,
    gpus: &Gpus,
    has_mps: bool,
) -> Result<Vec<String>, DeviceProblem> {
    let value = |given: &Given| {
        let values = given.variables.iter().map(|(_, value)| value.display().to_string());
        values.collect::<Vec<_>>().join(" ")
    };
    Ok(assign(ranks, visibility, gpus, has_mps)?.iter().map(value).collect())
}

#[test]
fn all_ranks_see_the_devices_of_the_host_in_the_order_of_local_ranks() {
    let gpus = host((0..4).map(|index| gpu(index, 40, &[])).collect());
    let of_host = given(&ranks(&["3", "1"], "1"), GpuVisibility::Host, &gpus, false);
    let expected = ["GPU-3,GPU-1 0 local:GPU-3", "GPU-3,GPU-1 1 local:GPU-1"];
    assert_eq!(of_host.expect("sound"), expected);
    let own = given(&ranks(&["3", "GPU-1", ""], "1"), GpuVisibility::Rank, &gpus, false);
    assert_eq!(own.expect("sound"), ["GPU-3 local:GPU-3", "GPU-1 local:GPU-1", ""]);
}

#[test]
fn a_gpu_whose_uuid_is_not_known_is_one_by_its_number() {
    let unknown = Gpu { uuid: None, ..gpu(0, 40, &[]) };
    let gpus = host(vec![unknown.clone(), unknown]);
    let own = given(&ranks(&["1"], "1"), GpuVisibility::Rank, &gpus, false);
    assert_eq!(own.expect("sound"), ["1 PCI_BUS_ID local:1"]);
}

#[test]
fn shares_are_limits_of_mps() {
    let gpus = host(vec![gpu(0, 40, &[]), gpu(1, 40, &[])]);
    let halves = ranks(&["0", "1", "0", "1"], "0.5");
    // Whatever is to be seen: limits are for a rank's own device.
    let shared = given(&halves, GpuVisibility::Host, &gpus, true).expect("sound");
    assert_eq!(shared[2], "GPU-0 50 0=20480M local:GPU-0@0.5");
    assert_eq!(shared[0], shared[2]);
    let third = given(&ranks(&["0"], "0.333333"), GpuVisibility::Rank, &gpus, true);
    assert_eq!(third.expect("sound"), ["GPU-0 33 0=13653M local:GPU-0@0.333333"]);
    let error = given(&halves, GpuVisibility::Host, &gpus, false).expect_err("no MPS");
    let said = "0.5 of GPU 0 cannot be had: it is not divided (MIG), and MPS does not run";
    assert_eq!(error.to_string(), said);
    assert!(error.hint().is_some_and(|hint| hint.contains("nvidia-cuda-mps-control -d")));
}

#[test]
fn shares_of_a_divided_gpu_are_its_smallest_parts_that_are_large_enough() {
    let gpus = host(vec![gpu(0, 40, &["1g.5gb", "3g.20gb", "2g.10gb", "1g.10gb+me"])]);
    let parts = |names: &[&str], fraction: &str| {
        given(&ranks(names, fraction), GpuVisibility::Host, &gpus, false)
    };
    let quarters = parts(&["0", "0", "0"], "0.25").expect("sound");
    assert_eq!(
        quarters,
        ["MIG-0-3 local:MIG-0-3", "MIG-0-2 local:MIG-0-2", "MIG-0-1 local:MIG-0-1"]
    );
    assert_eq!(parts(&["0"], "0.1").expect("sound"), ["MIG-0-0 local:MIG-0-0"]);
    let error = parts(&["0", "0"], "0.5").expect_err("one such part");
    assert!(matches!(&error, DeviceProblem::NoPart { .. }), "{error}");
    // By name, whatever the fraction says.
    assert_eq!(parts(&["MIG-0-0"], "1").expect("sound"), ["MIG-0-0 local:MIG-0-0"]);
    let error = parts(&["0"], "1").expect_err("divided");
    assert!(error.to_string().contains("MIG-0-1 of 3g.20gb"), "{error}");
}

#[test]
fn what_a_host_does_not_have_is_an_error() {
    let none = Gpus { problem: Some("nvidia-smi failed".into()), ..Gpus::default() };
    let problem = |names: &[&str], fraction: &str, gpus: &Gpus| {
        given(&ranks(names, fraction), GpuVisibility::Host, gpus, true).expect_err("refused")
    };
    let said = "GPU 0 was asked for, and there is no GPU of NVIDIA (nvidia-smi failed)";
    assert_eq!(problem(&["0"], "1", &none).to_string(), said);
    let two = host(vec![gpu(0, 40, &[]), gpu(1, 40, &[])]);
    let said = "there is no GPU 2; there are 0 (GPU-0), 1 (GPU-1)";
    assert_eq!(problem(&["2"], "1", &two).to_string(), said);
    let said = "2 ranks were given GPU 0, which has room for 1";
    assert_eq!(problem(&["0", "GPU-0"], "1", &two).to_string(), said);
    let said = "3 ranks were given GPU 0, which has room for 2";
    assert_eq!(problem(&["0", "0", "0"], "0.4", &two).to_string(), said);
    let sizeless = host(vec![Gpu { memory_bytes: None, ..gpu(0, 40, &[]) }]);
    let error = problem(&["0"], "0.5", &sizeless);
    assert!(matches!(error, DeviceProblem::NoMemorySize { .. }), "{error}");
}

#[test]
fn mps_runs_where_its_pipe_is_and_its_daemon_lives() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("written");
    };
    assert!(!mps_runs(directory.path()));
    write("control", "");
    assert!(mps_runs(directory.path()));
    write("nvidia-cuda-mps-control.pid", &format!("{}\n", std::process::id()));
    assert!(mps_runs(directory.path()));
    // No process has the largest number.
    write("nvidia-cuda-mps-control.pid", &i32::MAX.to_string());
    assert!(!mps_runs(directory.path()));
}
