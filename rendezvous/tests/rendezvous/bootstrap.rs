use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use paceline_rendezvous::{
    BootstrapError, BootstrapOptions, ControlError, FileStore, HelloError, Rendezvous, Secret,
    Store, bootstrap,
};

use crate::support::{config, free_address, generous, start};

type Variables = BTreeMap<String, String>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The environment of each rank of a job of torchrun on one node.
fn torch_job(world_size: u32, more: &[(&str, &str)]) -> Vec<Variables> {
    (0..world_size)
        .map(|rank| {
            let (rank, world_size) = (rank.to_string(), world_size.to_string());
            let mut variables = variables(more);
            for (name, value) in [
                ("RANK", &rank),
                ("WORLD_SIZE", &world_size),
                ("LOCAL_RANK", &rank),
                ("LOCAL_WORLD_SIZE", &world_size),
            ] {
                variables.insert(name.to_owned(), value.clone());
            }
            variables
        })
        .collect()
}

fn options(timeout: Duration) -> BootstrapOptions {
    BootstrapOptions { start_timeout: Some(timeout), ..BootstrapOptions::default() }
}

/// Runs `program` as every rank, each on a thread, rank 0 last: the others must wait for it.
fn run_job(
    environments: Vec<Variables>,
    program: impl Fn(Rendezvous) + Clone + Send + 'static,
) -> Vec<Result<(), BootstrapError>> {
    let threads: Vec<_> = environments
        .into_iter()
        .enumerate()
        .rev()
        .map(|(rank, environment)| {
            let program = program.clone();
            std::thread::Builder::new()
                .spawn(move || {
                    if rank == 0 {
                        std::thread::sleep(Duration::from_millis(30));
                    }
                    let options = options(Duration::from_secs(60));
                    bootstrap(&environment, &options).map(program)
                })
                .unwrap()
        })
        .collect();
    threads.into_iter().rev().map(|thread| thread.join().unwrap()).collect()
}

/// What a program does: tells everybody its rank, hears from everybody, leaves.
fn greet(rendezvous: Rendezvous) {
    let info = rendezvous.rank_info.clone();
    let store = &rendezvous.store;
    store.set(&format!("hello/{}", info.rank), &[1]).unwrap();
    for rank in 0..info.world_size {
        store.get(&format!("hello/{rank}"), generous()).unwrap();
    }
    assert_eq!(info.run_id, Some(rendezvous.run_id));
    assert_eq!(rendezvous.is_hosting(), info.rank == 0);
    assert_eq!(rendezvous.control.as_ref().unwrap().poll_abort(), None);
    rendezvous.finish(generous()).unwrap();
}

fn assert_all_ok(results: Vec<Result<(), BootstrapError>>) {
    for (rank, result) in results.into_iter().enumerate() {
        assert!(result.is_ok(), "rank {rank}: {result:?}");
    }
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn alone_without_variables() {
    let rendezvous = bootstrap(&Variables::new(), &BootstrapOptions::default()).unwrap();
    assert_eq!((rendezvous.rank_info.rank, rendezvous.rank_info.world_size), (0, 1));
    assert!(rendezvous.control.is_none() && !rendezvous.is_hosting());
    rendezvous.store.set("a", b"b").unwrap();
    assert_eq!(rendezvous.store.get("a", Instant::now()).unwrap(), b"b");
    rendezvous.finish(generous()).unwrap();
}

#[test]
fn one_node_meets_in_an_automatic_directory_and_leaves_nothing() {
    let runtime = tempfile::tempdir().unwrap();
    let path = runtime.path().to_str().unwrap();
    let more = [("XDG_RUNTIME_DIR", path), ("TORCHELASTIC_RUN_ID", "x"), ("MASTER_PORT", "1")];
    assert_all_ok(run_job(torch_job(4, &more), greet));
    assert_eq!(entries(runtime.path()), 0);
    // Again under the same name, as a second program in the same job would.
    assert_all_ok(run_job(torch_job(2, &more), greet));
    assert_eq!(entries(runtime.path()), 0);
}

#[test]
fn the_card_is_gone_as_soon_as_all_have_met() {
    let runtime = tempfile::tempdir().unwrap();
    let path = runtime.path().to_str().unwrap().to_owned();
    let watched = path.clone();
    let more = [("XDG_RUNTIME_DIR", path.as_str()), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")];
    let results = run_job(torch_job(2, &more), move |rendezvous| {
        crate::support::eventually(|| (entries(Path::new(&watched)) == 0).then_some(()));
        rendezvous.finish(generous()).unwrap();
    });
    assert_all_ok(results);
}

#[test]
fn a_stale_card_is_overcome() {
    let parent = tempfile::tempdir().unwrap();
    let meeting = parent.path().join("meeting");
    // A killed job left its card; its port now belongs to somebody who never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let card = format!(
        r#"{{"address":"{}","run_id":"{}","secret":"{}"}}"#,
        silent.local_addr().unwrap(),
        "ab".repeat(16),
        "cd".repeat(32),
    );
    FileStore::open(&meeting).unwrap().set("coordinator", card.as_bytes()).unwrap();
    let rendezvous = format!("file:{}", meeting.display());
    let more = [("PACELINE_RENDEZVOUS", rendezvous.as_str())];
    assert_all_ok(run_job(torch_job(3, &more), greet));
    assert_eq!(entries(parent.path()), 0);
}

#[test]
fn an_absent_rank_zero_is_named_and_nothing_is_left() {
    let parent = tempfile::tempdir().unwrap();
    let rendezvous = format!("file:{}", parent.path().join("meeting").display());
    let job = torch_job(2, &[("PACELINE_RENDEZVOUS", &rendezvous)]);
    let error = bootstrap(&job[1], &options(Duration::from_millis(100))).unwrap_err();
    assert!(matches!(error, BootstrapError::RankZeroAbsent { .. }), "{error}");
    assert!(error.to_string().contains("meeting within 0."), "{error}");
    assert_eq!(entries(parent.path()), 0);
}

fn secret_file(directory: &Path) -> String {
    let path = directory.join("secret");
    Secret::random().unwrap().to_file(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_address_and_a_secret_file() {
    let directory = tempfile::tempdir().unwrap();
    let secret = secret_file(directory.path());
    let address = free_address("127.77.0.1").to_string();
    let more = [("PACELINE_RENDEZVOUS", address.as_str()), ("PACELINE_SECRET_FILE", &secret)];
    assert_all_ok(run_job(torch_job(3, &more), greet));
}

#[test]
fn ranks_with_another_secret_are_told_so() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let address = free_address("127.77.0.2").to_string();
    let run_id = "ab".repeat(16);
    let environment = |rank: usize| {
        let secret = secret_file(directories[rank].path());
        let more = [
            ("PACELINE_RENDEZVOUS", address.as_str()),
            ("PACELINE_SECRET_FILE", &secret),
            ("PACELINE_RUN_ID", &run_id),
        ];
        torch_job(2, &more).swap_remove(rank)
    };
    let zero = bootstrap(&environment(0), &options(Duration::from_secs(60))).unwrap();
    let error = bootstrap(&environment(1), &options(Duration::from_secs(60))).unwrap_err();
    assert!(
        matches!(
            error,
            BootstrapError::Control(ControlError::Hello { source: HelloError::WrongSecret, .. })
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("PACELINE_SECRET_FILE"));
    drop(zero);
}

#[test]
fn a_launcher_of_ours_runs_the_coordinator() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    crate::support::secret().to_file(&path).unwrap();
    let (server, _events) = start(config(2));
    let environments: Vec<_> = (0..2)
        .map(|rank| {
            variables(&[
                ("PACELINE_RANK", &rank.to_string()),
                ("PACELINE_WORLD_SIZE", "2"),
                ("PACELINE_EPOCH", "3"),
                ("PACELINE_RUN_ID", &crate::support::RUN.to_string()),
                ("PACELINE_AGENT_PID", "1"),
                ("PACELINE_RENDEZVOUS", &server.local_addr().to_string()),
                ("PACELINE_SECRET_FILE", path.to_str().unwrap()),
            ])
        })
        .collect();
    let results = run_job(environments, |rendezvous| {
        assert!(!rendezvous.is_hosting());
        rendezvous.finish(generous()).unwrap();
    });
    assert_all_ok(results);
    assert!(server.wait_all_gone(generous()));
}

#[test]
fn whatever_is_missing_is_named() {
    type Check = fn(&BootstrapError) -> bool;
    let two = [("RANK", "0"), ("WORLD_SIZE", "2")];
    let cases: [(&[(&str, &str)], Check); 7] = [
        // Several nodes, as far as anybody knows.
        (&[], |error| matches!(error, BootstrapError::NoRendezvous { rank: 0, world_size: 2 })),
        // One node, but no name for the job.
        (&[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")], |error| {
            matches!(error, BootstrapError::NoRendezvous { .. })
        }),
        (&[("PACELINE_RENDEZVOUS", "127.0.0.1:1")], |error| {
            matches!(error, BootstrapError::NoSecret)
        }),
        (&[("PACELINE_RENDEZVOUS", "nonsense")], |error| {
            matches!(error, BootstrapError::Environment(_))
        }),
        (&[("PACELINE_RENDEZVOUS", "file:/nonexistent/a/b")], |error| {
            matches!(error, BootstrapError::NoBindAddress)
        }),
        (&[("PACELINE_AGENT_PID", "1")], |error| matches!(error, BootstrapError::NoLauncher)),
        (&[("LOCAL_RANK", "0")], |error| matches!(error, BootstrapError::Environment(_))),
    ];
    for (more, check) in cases {
        let environment = variables(&[&two, more].concat());
        let error = bootstrap(&environment, &options(Duration::from_millis(100))).unwrap_err();
        assert!(check(&error), "{more:?}: {error:?}");
        assert!(error.hint().is_some() || matches!(error, BootstrapError::NoLauncher), "{error}");
    }
}
