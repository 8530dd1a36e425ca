//! Ranks that need MPI around them are started by its own launcher, which this process becomes.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use paceline_collectives::{TransportChoice, TransportKind};
use paceline_launcher::ExitCode;

use super::arguments::{PeerName, TransportSelection};
use super::plan::Plan;
use crate::console;

/// The launcher's name.
const MPIRUN: &str = "mpirun";

/// Whether the plan needs MPI.
pub(super) fn is_needed(plan: &Plan) -> bool {
    let over_mpi = TransportSelection::One(TransportChoice::Only(TransportKind::Mpi));
    plan.transports == over_mpi || matches!(plan.peer, Some((PeerName::Mpi, _)))
}

/// Becomes `mpirun` with `ranks` copies of this program. Returns only if that fails.
pub(super) fn launch(plan: &Plan, words: &[OsString]) -> ExitCode {
    let Some(ranks) = plan.ranks else {
        console::failure(&Trouble::Ranks, Some("give -np N".to_owned()));
        return ExitCode::Usage;
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(source) => {
            console::failure(&Trouble::Start(source), None);
            return ExitCode::LauncherFailed;
        }
    };
    let mut command = Command::new(MPIRUN);
    // As paceline starts ranks: none is bound to a core, and they may outnumber the cores.
    command.args(["-np", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"]);
    command.args(over(plan.transports));
    // It refuses to work for root otherwise, as whom one works in containers.
    if rustix::process::geteuid().is_root() {
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    let source = command.arg(program).args(words).exec();
    let hint =
        "install Open MPI (Debian: openmpi-bin), or start the ranks with another launcher of MPI";
    console::failure(&Trouble::Start(source), Some(hint.to_owned()));
    ExitCode::LauncherFailed
}

/// What makes Open MPI use what ours uses, so that equals are compared.
fn over(transports: TransportSelection) -> &'static [&'static str] {
    match transports {
        TransportSelection::One(TransportChoice::Only(TransportKind::Tcp)) => &[
            "--mca",
            "pml",
            "ob1",
            "--mca",
            "btl",
            "self,tcp",
            "--mca",
            "btl_tcp_if_include",
            "lo",
        ],
        TransportSelection::One(TransportChoice::Only(TransportKind::Shm)) => {
            &["--mca", "pml", "ob1", "--mca", "btl", "^tcp"]
        }
        _ => &[],
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot run {MPIRUN}")]
    Start(#[source] std::io::Error),
    #[error("{MPIRUN} must be told how many ranks to start")]
    Ranks,
}
