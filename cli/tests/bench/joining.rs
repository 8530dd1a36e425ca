//! Ranks that somebody else started.

use paceline_benches::schema::Report;

use crate::support::{SHORT, finish, paceline, start};

const MEASUREMENT: [&str; 7] = ["bench", "--transport", "tcp", "-s", "4,64K", "--json", "-"];

#[test]
fn under_paceline_run_it_is_one_of_the_ranks() {
    let program = env!("CARGO_BIN_EXE_paceline");
    let launcher = ["run", "-np", "3", "--no-prefix", "--", program];
    let arguments = [&launcher[..], &MEASUREMENT, &SHORT].concat();
    let finished = finish(start(&mut paceline(&arguments)));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report = Report::from_json(&finished.stdout).expect("only rank 0 prints");
    assert_eq!((report.ranks.len(), report.results.len()), (3, 2));
}

#[test]
fn ranks_of_any_launcher_meet_where_they_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let place = format!("file:{}", directory.path().join("meeting").display());
    let rank = |rank: &str| {
        let mut command = paceline(&[&MEASUREMENT[..], &SHORT].concat());
        command.env("RANK", rank).env("WORLD_SIZE", "2").env("PACELINE_RENDEZVOUS", &place);
        command.env("LOCAL_RANK", rank).env("LOCAL_WORLD_SIZE", "2");
        start(&mut command)
    };
    let (second, first) = (rank("1"), rank("0"));
    let (first, second) = (finish(first), finish(second));
    assert_eq!((first.code, second.code), (Some(0), Some(0)), "{first:?} {second:?}");
    let report = Report::from_json(&first.stdout).unwrap();
    assert_eq!(report.ranks.len(), 2);
    assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("", ""));
}

#[test]
fn a_launcher_that_started_another_number_is_contradicted() {
    let mut command = paceline(&["bench", "-np", "4"]);
    command.env("RANK", "0").env("WORLD_SIZE", "2");
    let finished = finish(start(&mut command));
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("-np 4, but the launcher started 2 ranks"), "{finished:?}");
}

#[test]
fn ranks_that_never_come_are_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = paceline(&["bench", "-s", "4", "--start-timeout", "0.5"]);
    command.env("RANK", "0").env("WORLD_SIZE", "2");
    command.env("LOCAL_RANK", "0").env("LOCAL_WORLD_SIZE", "2");
    command.env("PACELINE_RENDEZVOUS", format!("file:{}", directory.path().join("x").display()));
    let finished = finish(start(&mut command));
    assert!(matches!(finished.code, Some(124 | 125)), "{finished:?}");
    assert!(finished.stderr.contains("rank 1"), "{finished:?}");
}
