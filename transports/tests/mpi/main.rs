//! The conformance suite over MPI: this program starts itself under `mpirun`, over shared memory and
//! over TCP, with two, three and four processes.
//!
//! MPI's rank 0 runs the cases. One end of each connection is its own; the other end lives in rank 1,
//! which does what it is told over a unix socket, as all other ranks do ([`far`]).

#![expect(clippy::print_stdout, reason = "it is a test runner")]

mod everybody;
mod far;
mod near;
mod words;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use paceline_transports::conformance::CASES;
use paceline_transports::mpi::{MpiConfig, MpiTransport, World};

/// The one test of this program, as test runners know it.
const NAME: &str = "conformance_under_mpirun";

/// What the processes are told.
const WORKER: &str = "--worker";

/// Longest time of one run. Only a hang reaches it.
const LIMIT_SECONDS: u32 = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(WORKER) => worker(Path::new(&arguments[1])),
        // What cargo-nextest asks first.
        _ if arguments.iter().any(|word| word == "--list") => {
            if !arguments.iter().any(|word| word == "--ignored") {
                println!("{NAME}: test");
            }
        }
        _ => run_all(),
    }
}

fn run_all() {
    let shared_memory = ["--mca", "btl", "^tcp"];
    let tcp = ["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"];
    for (ranks, over) in
        [(2, &shared_memory[..]), (2, &tcp), (3, &shared_memory), (4, &tcp), (4, &shared_memory)]
    {
        println!("mpirun -np {ranks} {}", over.join(" "));
        run(ranks, over);
    }
}

fn run(ranks: u32, over: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let mut command = Command::new("mpirun");
    command.args(["-np", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"]);
    command.args(["--timeout", &LIMIT_SECONDS.to_string(), "--mca", "pml", "ob1"]).args(over);
    // It refuses to work for root otherwise, as whom tests run in containers.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.arg(std::env::current_exe().expect("this program has a path"));
    command.arg(WORKER).arg(directory.path());
    let status = command.status().expect("mpirun can be run; Debian has it in openmpi-bin");
    assert!(status.success(), "mpirun: {status}");
}

/// One process under `mpirun`.
fn worker(directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let stranger = MpiTransport::join(&MpiConfig { is_launched: false, deadline });
    assert!(stranger.is_err(), "MPI is not started where no launcher of MPI has started us");
    let world = World::join(deadline).expect("MPI starts");
    if world.rank() != 0 {
        return far::serve(directory, world);
    }
    let harness = near::MpiHarness::meet(directory, world, deadline);
    for (name, case) in CASES {
        let before = Instant::now();
        case(&harness);
        println!("  {name} {:.2} s", before.elapsed().as_secs_f64());
    }
    for round in 0..3 {
        harness.everybody(round);
    }
    println!("  everybody to everybody");
}
