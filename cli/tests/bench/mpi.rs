//! Ranks under `mpirun`. Its programs need Open MPI (Debian: openmpi-bin).

use std::process::{Command, Stdio};

use paceline_benches::schema::Report;

use crate::support::{Finished, SHORT, finish, paceline, start};

/// `mpirun` with `ranks` copies of the program.
pub(crate) fn mpirun(ranks: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new("mpirun");
    command.args(["-np", ranks, "--oversubscribe", "--bind-to", "none", "--timeout", "120"]);
    // It refuses to work for root otherwise, as whom tests run in containers.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.arg(env!("CARGO_BIN_EXE_paceline")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(start(&mut command))
}

#[track_caller]
pub(crate) fn report(finished: &Finished) -> Report {
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
fn ranks_of_another_launcher_are_told_to_use_mpirun() {
    let mut command = paceline(&["bench", "-np", "2", "--transport", "mpi", "-s", "4"]);
    let finished = finish(start(&mut command));
    assert_eq!(finished.code, Some(125), "{finished:?}");
    assert!(finished.stderr.contains("not started by a launcher of MPI"), "{finished:?}");
    assert!(finished.stderr.contains("mpirun -np"), "{finished:?}");
}
