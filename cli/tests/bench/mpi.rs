//! Ranks under `mpirun`. Its programs need Open MPI (Debian: openmpi-bin).

use std::process::{Command, Stdio};

use paceline_benches::schema::Report;

use crate::support::{Finished, SHORT, bench, finish, paceline, record, start};

/// `mpirun` with `ranks` copies of the program.
fn mpirun(ranks: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new("mpirun");
    command.args(["-np", ranks, "--oversubscribe", "--bind-to", "none", "--timeout", "120"]);
    // It refuses to work for root otherwise, as whom tests run in containers.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.arg(env!("CARGO_BIN_EXE_paceline")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(start(&mut command))
}

#[track_caller]
fn report(finished: &Finished) -> Report {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    Report::from_json(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[test]
fn every_collective_is_right_over_mpi() {
    for (collective, ranks) in [
        ("all_reduce", "4"),
        ("reduce_scatter", "3"),
        ("all_gather", "2"),
        ("broadcast", "3"),
        ("reduce", "3"),
        ("all_to_all", "4"),
        ("gather", "3"),
        ("scatter", "3"),
    ] {
        let what = ["bench", collective, "--transport", "mpi", "-s", "12,70K,3M", "--json", "-"];
        let report = report(&mpirun(ranks, &[&what[..], &SHORT].concat()));
        assert_eq!(report.results.len(), 3, "{collective}");
        for result in &report.results {
            assert_eq!((result.transport.as_str(), result.wrong), ("mpi", Some(0)), "{result:?}");
            assert_eq!(result.world_size.to_string(), ranks);
        }
    }
}

#[test]
fn several_transports_live_beside_mpi() {
    let all = ["bench", "--transport", "all", "-s", "4,100K", "--json", "-"];
    let report = report(&mpirun("2", &[&all[..], &SHORT].concat()));
    let transports: Vec<&str> = report.results.iter().map(|one| one.transport.as_str()).collect();
    assert_eq!(transports, ["tcp", "tcp", "shm", "shm"], "mpi only where it is asked for");
}

#[test]
fn mpi_is_measured_between_the_rounds() {
    for (collective, transport) in [
        ("all_reduce", "shm"),
        ("all_reduce", "mpi"),
        ("reduce_scatter", "shm"),
        ("all_gather", "tcp"),
        ("broadcast", "shm"),
        ("reduce", "shm"),
        ("all_to_all", "shm"),
        ("gather", "shm"),
        ("scatter", "shm"),
        ("barrier", "shm"),
    ] {
        for place in [&[][..], &["--out-of-place"]] {
            // It becomes mpirun by itself.
            let what = [collective, "-np", "2", "--transport", transport, "--peer", "mpi"];
            let report = record(&[&what[..], &["-s", "60K"], place].concat());
            assert!(!report.results.is_empty());
            for result in &report.results {
                assert_eq!((result.transport.as_str(), result.wrong), (transport, Some(0)));
                let peer = result.peer.as_ref().expect("MPI beside it");
                assert_eq!((peer.rounds_us.len(), peer.wrong), (2, 0), "{collective}: {peer:?}");
                assert!(peer.low <= peer.ratio && peer.ratio <= peer.high, "{peer:?}");
                assert!(peer.ratio > 0.0 && !peer.version.is_empty(), "{peer:?}");
            }
            if ["all_to_all", "gather", "scatter", "barrier"].contains(&collective) {
                // These have no other form.
                break;
            }
        }
    }
}

#[test]
fn what_mpi_has_not_is_refused() {
    for (arguments, word) in [
        (&["-np", "2", "--peer", "mpi", "--dtype", "bf16"][..], "MPI has no type bf16"),
        (&["-np", "2", "--peer", "mpi", "--op", "avg"], "MPI has no operator avg"),
        (&["-np", "2", "--peer", "mpi", "--model", "resnet50"], "--peer horovod"),
    ] {
        let finished = bench(arguments);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(word), "{finished:?}");
    }
}

#[test]
fn ranks_of_another_launcher_are_told_to_use_mpirun() {
    let program = env!("CARGO_BIN_EXE_paceline");
    for what in [["--transport", "mpi"], ["--peer", "mpi"]] {
        let run = ["run", "-np", "2", "--", program, "bench", "-s", "4"];
        let finished = finish(start(&mut paceline(&[&run[..], &what].concat())));
        assert_eq!(finished.code, Some(125), "{finished:?}");
        assert!(finished.stderr.contains("launcher of MPI"), "{finished:?}");
        assert!(finished.stderr.contains("mpirun"), "{finished:?}");
    }
}
