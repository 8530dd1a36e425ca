//! Which way into the job the environment describes; pure but for the user id and the parent.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::BootstrapError;
use crate::env::{self, Environment, EnvironmentError, Variable};
use crate::hex;
use crate::rank_info::{Dialect, RankInfo};

/// A way into a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nobody to meet.
    Alone,
    /// A launcher of ours runs the coordinator.
    Launcher { address: String, secret_file: PathBuf },
    /// Rank 0 runs the coordinator at this address. `job` tells jobs with one secret apart.
    Address { address: String, secret_file: PathBuf, job: String },
    /// Rank 0 runs the coordinator and leaves its address in this directory.
    Directory { path: PathBuf },
}

pub(super) fn plan(
    environment: &(impl Environment + ?Sized),
    info: &RankInfo,
) -> Result<Plan, BootstrapError> {
    let rendezvous = env::RENDEZVOUS.text(environment)?;
    let has_agent = env::AGENT_PID.text(environment)?.is_some();
    let Some(rendezvous) = rendezvous else {
        if has_agent {
            return Err(BootstrapError::NoLauncher);
        }
        if info.world_size == 1 {
            return Ok(Plan::Alone);
        }
        return automatic_directory(environment, info);
    };
    if let Some(path) = rendezvous.strip_prefix("file:") {
        if path.is_empty() {
            return Err(env::RENDEZVOUS.invalid(rendezvous).into());
        }
        return Ok(Plan::Directory { path: PathBuf::from(path) });
    }
    let has_port = rendezvous
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if !has_port {
        return Err(env::RENDEZVOUS.invalid(rendezvous).into());
    }
    if info.world_size == 1 && !has_agent {
        return Ok(Plan::Alone);
    }
    let secret_file =
        env::SECRET_FILE.text(environment)?.map(PathBuf::from).ok_or(BootstrapError::NoSecret)?;
    if has_agent {
        return Ok(Plan::Launcher { address: rendezvous, secret_file });
    }
    let job = job_name(environment, info.dialect)?.unwrap_or_default();
    Ok(Plan::Address { address: rendezvous, secret_file, job })
}

/// A directory that the ranks of this job, and no other job of this user, arrive at on their own.
fn automatic_directory(
    environment: &(impl Environment + ?Sized),
    info: &RankInfo,
) -> Result<Plan, BootstrapError> {
    let unknown = BootstrapError::NoRendezvous { rank: info.rank, world_size: info.world_size };
    if !info.is_on_one_node() {
        return Err(unknown);
    }
    let job = match job_name(environment, info.dialect)? {
        Some(job) => job,
        None => match (info.dialect, rustix::process::getppid()) {
            // Hydra does not name its job, but all its processes of a node have one parent.
            (Dialect::Pmi, Some(parent)) => format!("parent {}", parent.as_raw_nonzero()),
            _ => return Err(unknown),
        },
    };
    let user = rustix::process::geteuid().as_raw();
    let digest = Sha256::digest(format!("{user} {} {job}", info.dialect).as_bytes());
    let base = environment
        .get(env::XDG_RUNTIME_DIR.name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    Ok(Plan::Directory {
        path: base.join(format!("paceline-{user}-{}", hex::encode(&digest[..8]))),
    })
}

/// What tells this job apart from others of the same launcher, equal on all its ranks; `None`
/// when the launcher says nothing of that kind.
fn job_name(
    environment: &(impl Environment + ?Sized),
    dialect: Dialect,
) -> Result<Option<String>, EnvironmentError> {
    // Of each group all that is set counts, and the first group of which anything is set.
    let groups: &[&[Variable]] = match dialect {
        Dialect::Paceline => &[&[env::RUN_ID, env::EPOCH]],
        Dialect::Horovod => {
            &[&[env::HOROVOD_GLOO_RENDEZVOUS_ADDR, env::HOROVOD_GLOO_RENDEZVOUS_PORT]]
        }
        Dialect::Torch => &[&[
            env::TORCHELASTIC_RUN_ID,
            env::TORCH_MASTER_ADDR,
            env::TORCH_MASTER_PORT,
            env::TORCHELASTIC_RESTART_COUNT,
        ]],
        Dialect::OpenMpi => &[&[env::PMIX_NAMESPACE], &[env::OMPI_JOB_ID]],
        Dialect::Pmi => &[&[env::PMI_JOB_ID], &[env::PMIX_NAMESPACE]],
        Dialect::Slurm => &[&[env::SLURM_JOB_ID, env::SLURM_STEP_ID, env::SLURM_STEPID]],
        Dialect::None => &[],
    };
    for group in groups {
        let mut parts = Vec::new();
        for variable in *group {
            if let Some(value) = variable.text(environment)? {
                parts.push(format!("{}={value}", variable.name));
            }
        }
        // The number of a step or of a restart alone, without a job, names nothing.
        let names_job =
            !parts.is_empty() && group[0].text(environment)?.is_some() || parts.len() > 1;
        if names_job {
            return Ok(Some(parts.join(" ")));
        }
    }
    Ok(None)
}
