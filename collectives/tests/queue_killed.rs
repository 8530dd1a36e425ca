//! A rank that is killed while the others wait for it in their queues.
//!
//! The rank program is this test binary itself: it runs [`rank_program`] alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use paceline_collectives::queue::{Queue, QueueError, QueueOptions};
use paceline_collectives::{Context, ReduceOp};
use paceline_rendezvous::{Environment, ProcessEnvironment};
use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};

const RANK: &str = "PACELINE_RANK";
const ROLE: &str = "PACELINE_TEST_ROLE";
const WORLD_SIZE: u32 = 3;
const VICTIM: u32 = 2;

/// Far below the deadline of an operation, which the ranks are given.
const SOON: Duration = Duration::from_secs(100);
const TIMEOUT_SECONDS: &str = "300";

/// Does nothing unless it was started as a rank.
#[test]
fn rank_program() {
    if ProcessEnvironment.get(ROLE).is_none() {
        return;
    }
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let context = Context::from_environment().unwrap();
    let options = QueueOptions::from_environment(&ProcessEnvironment).unwrap();
    let queue = Queue::new(context.communicator().unwrap(), &options).unwrap();
    let submit = |name: &str| queue.all_reduce(name, vec![1f32; 1000], ReduceOp::Sum);
    assert_eq!(submit("first").wait().unwrap(), [3.0; 1000]);
    if context.rank() == VICTIM {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    for handle in [submit("second"), submit("third")] {
        let failed = handle.wait().unwrap_err();
        assert!(matches!(failed.error, QueueError::Communicator(_)), "{failed}");
        println!("failed: {}", with_causes(&failed));
    }
}

fn with_causes(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Ranks that do not outlive the test.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            // It may have ended already.
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

fn start(transport: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(&secret).unwrap();
    file.write_all("5a".repeat(32).as_bytes()).unwrap();
    let output = |rank: u32| directory.path().join(rank.to_string());
    let rank = |rank: u32| {
        Command::new(std::env::current_exe().unwrap())
            .args(["rank_program", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, "rank")
            .env(RANK, rank.to_string())
            .env("PACELINE_WORLD_SIZE", WORLD_SIZE.to_string())
            .env("PACELINE_LOCAL_RANK", rank.to_string())
            .env("PACELINE_LOCAL_SIZE", WORLD_SIZE.to_string())
            .env("PACELINE_NODE_RANK", "0")
            .env("PACELINE_NODE_COUNT", "1")
            .env("PACELINE_RENDEZVOUS", format!("file:{}", directory.path().join("m").display()))
            .env("PACELINE_SECRET_FILE", &secret)
            .env("PACELINE_TRANSPORT", transport)
            .env("PACELINE_TIMEOUT", TIMEOUT_SECONDS)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(output(rank)).unwrap())
            .spawn()
            .unwrap()
    };
    let started = Instant::now();
    let mut ranks = Ranks((0..WORLD_SIZE).map(rank).collect());
    let statuses: Vec<_> = ranks.0.iter_mut().map(|rank| rank.wait().unwrap()).collect();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let said = |rank: u32| std::fs::read_to_string(output(rank)).unwrap();
    (0..WORLD_SIZE).filter(|rank| *rank != VICTIM).for_each(|rank| {
        assert!(statuses[rank as usize].success(), "{transport}, rank {rank}: {}", said(rank));
    });
    (0..WORLD_SIZE).filter(|rank| *rank != VICTIM).map(said).collect()
}

#[test]
fn the_others_fail_soon_and_name_it() {
    for transport in ["tcp", "shm"] {
        for said in start(transport) {
            let failures: Vec<_> =
                said.lines().filter_map(|line| line.split_once("failed: ")).collect();
            assert_eq!(failures.len(), 2, "{said}");
            for (_, failure) in failures {
                assert!(failure.contains("rank 2"), "{transport}: {failure}");
            }
        }
    }
}
