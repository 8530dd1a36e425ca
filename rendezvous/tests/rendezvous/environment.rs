use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::time::Duration;

use paceline_rendezvous::env::{self, EnvironmentError, PortRange, Scope};
use paceline_rendezvous::{DeviceAssignment, Dialect, Fraction, RankInfo, RunId, Warning};
use proptest::prelude::*;

fn variables(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .map(|pair| pair.split_once('=').expect("K=V"))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn read(text: &str) -> (RankInfo, Vec<Warning>) {
    RankInfo::from_environment(&variables(text)).unwrap()
}

fn read_error(text: &str) -> EnvironmentError {
    RankInfo::from_environment(&variables(text)).unwrap_err()
}

fn place(info: &RankInfo) -> [u32; 6] {
    [info.rank, info.world_size, info.local_rank, info.local_size, info.node_rank, info.node_count]
}

#[test]
fn without_variables_a_process_is_alone() {
    assert_eq!(read(""), (RankInfo::alone(), Vec::new()));
}

#[test]
fn every_dialect_is_understood() {
    let cases = [
        (
            "PACELINE_RANK=5 PACELINE_WORLD_SIZE=8 PACELINE_LOCAL_RANK=1 PACELINE_LOCAL_SIZE=4 \
             PACELINE_NODE_RANK=1 PACELINE_NODE_COUNT=2",
            Dialect::Paceline,
            [5, 8, 1, 4, 1, 2],
        ),
        (
            "HOROVOD_RANK=5 HOROVOD_SIZE=8 HOROVOD_LOCAL_RANK=1 HOROVOD_LOCAL_SIZE=4 \
             HOROVOD_CROSS_RANK=1 HOROVOD_CROSS_SIZE=2",
            Dialect::Horovod,
            [5, 8, 1, 4, 1, 2],
        ),
        (
            "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 GROUP_WORLD_SIZE=2",
            Dialect::Torch,
            [5, 8, 1, 4, 1, 2],
        ),
        (
            "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 \
             OMPI_COMM_WORLD_LOCAL_SIZE=4 OMPI_COMM_WORLD_NODE_RANK=3",
            Dialect::OpenMpi,
            [5, 8, 1, 4, 1, 2],
        ),
        (
            // Laid out round robin: rank 5 of 8 on 2 nodes is the third of the second node.
            "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=2 \
             OMPI_COMM_WORLD_LOCAL_SIZE=4",
            Dialect::OpenMpi,
            [5, 8, 2, 4, 1, 2],
        ),
        (
            "PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2",
            Dialect::Pmi,
            [1, 2, 1, 2, 0, 1],
        ),
        ("PMI_RANK=1 PMI_SIZE=2", Dialect::Pmi, [1, 2, 0, 1, 1, 2]),
        (
            "SLURM_STEP_ID=0 SLURM_PROCID=6 SLURM_STEP_NUM_TASKS=7 SLURM_NTASKS=99 \
             SLURM_LOCALID=0 SLURM_NODEID=3 SLURM_STEP_NUM_NODES=4 \
             SLURM_STEP_TASKS_PER_NODE=2(x3),1",
            Dialect::Slurm,
            [6, 7, 0, 1, 3, 4],
        ),
        (
            "SLURM_STEPID=2 SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 SLURM_NODEID=0 \
             SLURM_NNODES=1",
            Dialect::Slurm,
            [1, 2, 1, 2, 0, 1],
        ),
    ];
    for (text, dialect, expected) in cases {
        let (info, warnings) = read(text);
        assert_eq!((info.dialect, place(&info)), (dialect, expected), "{text}");
        assert_eq!(warnings, Vec::new(), "{text}");
    }
}

#[test]
fn slurm_counts_only_inside_a_step() {
    let outside = [
        "SLURM_JOB_ID=1 SLURM_NTASKS=4 SLURM_PROCID=0",
        "SLURM_STEP_ID=0 SLURM_NTASKS=4",
        // The interactive and the batch step.
        "SLURM_STEP_ID=4294967290 SLURM_PROCID=0 SLURM_NTASKS=4",
        "SLURM_STEP_ID=4294967291 SLURM_PROCID=0 SLURM_NTASKS=4",
    ];
    for text in outside {
        assert_eq!(read(text).0, RankInfo::alone(), "{text}");
    }
}

#[test]
fn precedence_and_disagreement() {
    let all = [
        ("PACELINE_RANK=0 PACELINE_WORLD_SIZE=10", Dialect::Paceline),
        ("HOROVOD_RANK=1 HOROVOD_SIZE=10", Dialect::Horovod),
        ("RANK=2 WORLD_SIZE=10", Dialect::Torch),
        ("OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=10", Dialect::OpenMpi),
        ("PMI_RANK=4 PMI_SIZE=10", Dialect::Pmi),
        ("SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_NTASKS=10", Dialect::Slurm),
    ];
    for first in 0..all.len() {
        let text: Vec<_> = all[first..].iter().map(|(text, _)| *text).collect();
        let (info, warnings) = read(&text.join(" "));
        assert_eq!(info.dialect, all[first].1);
        assert_eq!(usize::try_from(info.rank), Ok(first));
        let ignored: Vec<_> = warnings
            .iter()
            .map(|warning| match warning {
                Warning::Disagreement { chosen, ignored, .. } => {
                    assert_eq!(*chosen, info.dialect);
                    *ignored
                }
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(ignored, all[first + 1..].iter().map(|(_, d)| *d).collect::<Vec<_>>());
    }
    let (_, warnings) = read("PACELINE_RANK=1 PACELINE_WORLD_SIZE=2 RANK=0 WORLD_SIZE=4");
    assert_eq!(
        warnings[0].to_string(),
        "PACELINE variables say rank 1 of 2, torch variables say rank 0 of 4; PACELINE counts"
    );
}

#[test]
fn half_a_pair_is_an_error_that_names_both() {
    let cases = [
        ("PACELINE_RANK=0", "PACELINE_RANK", "PACELINE_WORLD_SIZE"),
        ("PACELINE_WORLD_SIZE=2", "PACELINE_WORLD_SIZE", "PACELINE_RANK"),
        ("HOROVOD_SIZE=2", "HOROVOD_SIZE", "HOROVOD_RANK"),
        ("WORLD_SIZE=2", "WORLD_SIZE", "RANK"),
        ("OMPI_COMM_WORLD_RANK=2", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_SIZE=2", "PMI_SIZE", "PMI_RANK"),
        ("SLURM_STEP_ID=0 SLURM_PROCID=0", "SLURM_PROCID", "SLURM_NTASKS"),
        ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ];
    for (text, present, missing) in cases {
        let error = read_error(text);
        assert_eq!(error, EnvironmentError::HalfPair { present, missing });
        assert!(error.hint().unwrap().contains(missing));
    }
    // An incomplete dialect that would not have counted does not stop the job.
    let (info, warnings) = read("PACELINE_RANK=0 PACELINE_WORLD_SIZE=2 WORLD_SIZE=8");
    assert_eq!(info.dialect, Dialect::Paceline);
    assert!(matches!(&warnings[..], [Warning::Unusable { ignored: Dialect::Torch, .. }]));
}

#[test]
fn nonsense_is_refused_by_name() {
    let cases = [
        ("RANK=x WORLD_SIZE=2", "RANK=\"x\" is invalid"),
        ("RANK=-1 WORLD_SIZE=2", "RANK=\"-1\" is invalid"),
        ("RANK=0 WORLD_SIZE=0", "WORLD_SIZE=\"0\" is invalid"),
        ("RANK=2 WORLD_SIZE=2", "RANK=2 is not below WORLD_SIZE=2"),
        (
            "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=3",
            "LOCAL_WORLD_SIZE=3 exceeds WORLD_SIZE=2",
        ),
        ("PACELINE_RUN_ID=xyz", "PACELINE_RUN_ID=\"xyz\" is invalid"),
        ("PACELINE_DEVICE=gpu", "PACELINE_DEVICE=\"gpu\" is invalid"),
        (
            "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_TASKS_PER_NODE=2(x",
            "SLURM_STEP_TASKS_PER_NODE=\"2(x\" is invalid",
        ),
    ];
    for (text, expected) in cases {
        let error = read_error(text);
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn settings_are_parsed() {
    let environment = variables("PACELINE_TIMEOUT=1.5 PACELINE_PORT_RANGE=40000-40100");
    assert_eq!(env::TIMEOUT.seconds(&environment), Ok(Some(Duration::from_millis(1500))));
    assert_eq!(env::PORT_RANGE.parse(&environment), Ok(PortRange::new(40000, 40100)));
    assert_eq!(env::START_TIMEOUT.seconds(&environment), Ok(None));
    for bad in ["0", "-1", "nan", "inf", "1e300", "soon"] {
        let environment = BTreeMap::from([("PACELINE_TIMEOUT", bad)]);
        assert!(env::TIMEOUT.seconds(&environment).is_err(), "{bad}");
    }
    for bad in ["x", "1-", "-1", "5-4", "0-4", "1-70000", ""] {
        assert!(bad.parse::<PortRange>().is_err(), "{bad}");
    }
}

#[test]
fn horovods_variable_counts_where_ours_is_not_set() {
    let horovod = "HOROVOD_GLOO_TIMEOUT_SECONDS";
    let seconds = |text| env::TIMEOUT.seconds(&variables(text));
    assert_eq!(seconds("HOROVOD_GLOO_TIMEOUT_SECONDS=7"), Ok(Some(Duration::from_secs(7))));
    let both = "HOROVOD_GLOO_TIMEOUT_SECONDS=7 PACELINE_TIMEOUT=8";
    assert_eq!(seconds(both), Ok(Some(Duration::from_secs(8))));
    let error = seconds("HOROVOD_GLOO_TIMEOUT_SECONDS=soon").unwrap_err();
    assert!(error.to_string().starts_with(horovod), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.starts_with(horovod)), "{error}");
}

#[test]
fn misspelled_variables_are_found() {
    let names = [
        "PACELINE_TRANSPROT",
        "PATH",
        "PACELINE_TIMEOUT",
        "PACELINE_COLOUR",
        "MY_RANK",
        "PACELINE_OP_TIMEOUT",
        "PACELINE_LOG_DIR",
    ];
    let unknown = env::unknown(names.map(OsStr::new));
    let said: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "PACELINE_COLOUR means nothing to paceline",
            "PACELINE_LOG_DIR means nothing to paceline; did you mean PACELINE_OUTPUT_DIRECTORY?",
            "PACELINE_OP_TIMEOUT means nothing to paceline; did you mean PACELINE_TIMEOUT?",
            "PACELINE_TRANSPROT means nothing to paceline; did you mean PACELINE_TRANSPORT?",
        ]
    );
}

#[test]
fn options_are_sound() {
    let options: Vec<_> = env::ALL.iter().filter_map(|variable| variable.option).collect();
    let mut names = HashSet::new();
    for option in &options {
        assert!(!option.name.is_empty() && !option.name.contains('_'), "{option:?}");
        for name in option.aliases.iter().chain([&option.name]) {
            assert!(names.insert(*name), "{name} is declared twice");
        }
    }
    for variable in env::ALL {
        if let (Some(option), Some(default)) = (variable.option, variable.default) {
            assert!(option.form.accepts(default), "{}: {default}", variable.name);
        }
        assert!(variable.option.is_none() || variable.scope == Scope::Setting);
        assert!(variable.horovod.is_none_or(|name| env::find(name).is_none()));
    }
}

#[test]
fn the_table_is_sound() {
    let names: HashSet<_> = env::ALL.iter().map(|variable| variable.name).collect();
    assert_eq!(names.len(), env::ALL.len(), "a name is declared twice");
    for variable in env::ALL {
        assert!(!variable.doc.trim().is_empty());
        assert_eq!(variable.scope == Scope::Identity, env::identifies_rank(variable.name.as_ref()));
    }
    let inherited = ["PMIX_SERVER_URI41", "OMPI_COMM_WORLD_NODE_RANK", "PMI_FD", "RANK"];
    assert!(inherited.iter().all(|name| env::identifies_rank(OsStr::new(name))));
    let kept = ["PATH", "OMPI_MCA_btl", "PMIX_MCA_gds", "SLURM_JOB_ID", "PACELINE_TIMEOUT"];
    assert!(!kept.iter().any(|name| env::identifies_rank(OsStr::new(name))));
}

fn devices() -> impl Strategy<Value = DeviceAssignment> {
    let fraction = (1..=1_000_000_u32).prop_map(|n| Fraction::from_millionths(n).unwrap());
    let name = "[a-zA-Z0-9:/.-]{1,40}";
    prop_oneof![
        Just(DeviceAssignment::None),
        (name, fraction.clone())
            .prop_map(|(uuid, fraction)| DeviceAssignment::Local { uuid, fraction }),
        (name, fraction).prop_map(|(lease, fraction)| DeviceAssignment::Remote { lease, fraction }),
    ]
}

prop_compose! {
    fn infos()(
        world_size in 1..5000_u32,
        rank in any::<prop::sample::Index>(),
        local_size in any::<prop::sample::Index>(),
        local_rank in any::<prop::sample::Index>(),
        node_count in 1..500_u32,
        node_rank in any::<prop::sample::Index>(),
        run_id in any::<Option<[u8; 16]>>(),
        epoch in any::<u32>(),
        device in devices(),
    ) -> RankInfo {
        let below = |index: prop::sample::Index, count: u32| {
            u32::try_from(index.index(count as usize)).unwrap()
        };
        let local_size = below(local_size, world_size) + 1;
        RankInfo {
            rank: below(rank, world_size),
            world_size,
            local_rank: below(local_rank, local_size),
            local_size,
            node_rank: below(node_rank, node_count),
            node_count,
            run_id: run_id.map(RunId::from_bytes),
            epoch,
            device,
            dialect: Dialect::Paceline,
        }
    }
}

proptest! {
    #[test]
    fn what_we_set_is_what_we_read(info in infos()) {
        let environment: BTreeMap<_, _> = info.variables().into_iter().collect();
        prop_assert!(environment.keys().all(|name| env::find(name).is_some()));
        let (read, warnings) = RankInfo::from_environment(&environment).unwrap();
        prop_assert_eq!(&read, &info);
        prop_assert_eq!(warnings, Vec::new());
        let open_mpi: BTreeMap<_, _> = info.open_mpi_variables().into_iter().collect();
        let (read, _) = RankInfo::from_environment(&open_mpi).unwrap();
        prop_assert_eq!(
            (read.rank, read.world_size, read.local_rank, read.local_size),
            (info.rank, info.world_size, info.local_rank, info.local_size)
        );
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<DeviceAssignment>();
        let _ = text.parse::<Fraction>();
        let _ = text.parse::<PortRange>();
        let _ = text.parse::<RunId>();
        for variable in ["SLURM_STEP_TASKS_PER_NODE", "RANK", "PACELINE_DEVICE"] {
            let environment = BTreeMap::from([
                ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"),
                ("WORLD_SIZE", "1"), (variable, text.as_str()),
            ]);
            let _ = RankInfo::from_environment(&environment);
        }
    }
}

#[test]
fn fractions_are_exact() {
    let parse = |text: &str| text.parse::<Fraction>().ok().map(Fraction::millionths);
    assert_eq!(parse("0.5"), Some(500_000));
    assert_eq!(parse(".25"), Some(250_000));
    assert_eq!(parse("1.000000"), Some(1_000_000));
    assert_eq!(parse("0.000001"), Some(1));
    for bad in ["0", "1.1", "0.0000001", "-0.5", "", ".", "1e-1", "99999999999"] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}
