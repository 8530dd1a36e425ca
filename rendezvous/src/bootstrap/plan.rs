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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plan_of(pairs: &[(&str, &str)]) -> Result<Plan, BootstrapError> {
        let environment: BTreeMap<_, _> =
            [("XDG_RUNTIME_DIR", "/nonexistent")].iter().chain(pairs).copied().collect();
        let (info, _) = RankInfo::from_environment(&environment)?;
        plan(&environment, &info)
    }

    fn directory_of(pairs: &[(&str, &str)]) -> Option<PathBuf> {
        match plan_of(pairs) {
            Ok(Plan::Directory { path }) => Some(path),
            _ => None,
        }
    }

    const OPEN_MPI: [(&str, &str); 3] = [
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ("PMIX_NAMESPACE", "1234"),
    ];
    const RANK_0: [(&str, &str); 2] =
        [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_LOCAL_RANK", "0")];
    const RANK_1: [(&str, &str); 2] =
        [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];

    #[test]
    fn ranks_of_a_job_arrive_at_one_directory_and_jobs_at_different_ones() {
        let zero = directory_of(&[&OPEN_MPI[..], &RANK_0].concat()).unwrap();
        let one = directory_of(&[&OPEN_MPI[..], &RANK_1].concat()).unwrap();
        assert_eq!(zero, one);
        let user = rustix::process::geteuid().as_raw();
        assert!(zero.starts_with("/tmp") && zero.to_string_lossy().contains(&user.to_string()));
        let other_job = [&OPEN_MPI[..2], &RANK_0, &[("PMIX_NAMESPACE", "1235")]].concat();
        assert_ne!(directory_of(&other_job).unwrap(), zero);
        let older = [&OPEN_MPI[..2], &RANK_0, &[("OMPI_MCA_ess_base_jobid", "1235")]].concat();
        assert!(directory_of(&older).is_some());
    }

    #[test]
    fn every_launcher_names_its_job() {
        let local = |rank: &'static str| {
            [("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", "2")]
        };
        let torch =
            |more: &[(&'static str, &'static str)]| directory_of(&[&local("0")[..], more].concat());
        // The default name of a torchrun job is "none", so the port must count as well.
        let named = [("TORCHELASTIC_RUN_ID", "none"), ("MASTER_PORT", "1")];
        assert_ne!(torch(&named), torch(&[("TORCHELASTIC_RUN_ID", "none"), ("MASTER_PORT", "2")]));
        let restarted = [&named[..], &[("TORCHELASTIC_RESTART_COUNT", "1")]].concat();
        assert_ne!(torch(&named), torch(&restarted));
        assert!(torch(&[("MASTER_ADDR", "h"), ("MASTER_PORT", "2")]).is_some());
        assert_eq!(torch(&[("MASTER_PORT", "2")]), None);

        let slurm = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_STEP_ID", "1"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_NODEID", "0"),
            ("SLURM_NNODES", "1"),
        ];
        assert!(directory_of(&slurm).is_some());
        let horovod = [
            ("HOROVOD_RANK", "0"),
            ("HOROVOD_SIZE", "2"),
            ("HOROVOD_LOCAL_RANK", "0"),
            ("HOROVOD_LOCAL_SIZE", "2"),
            ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "10.0.0.1"),
            ("HOROVOD_GLOO_RENDEZVOUS_PORT", "5"),
        ];
        assert!(directory_of(&horovod).is_some());
        // Hydra does not, but all its processes of a node are siblings.
        let hydra = [
            ("PMI_RANK", "0"),
            ("PMI_SIZE", "2"),
            ("MPI_LOCALRANKID", "0"),
            ("MPI_LOCALNRANKS", "2"),
        ];
        assert!(directory_of(&hydra).is_some());
    }

    #[test]
    fn addresses_are_checked_before_anybody_connects() {
        let two = [("RANK", "0"), ("WORLD_SIZE", "2"), ("PACELINE_SECRET_FILE", "/s")];
        for good in ["host:1", "127.0.0.1:65535", "[::1]:40000"] {
            let planned = plan_of(&[&two[..], &[("PACELINE_RENDEZVOUS", good)]].concat()).unwrap();
            assert!(matches!(planned, Plan::Address { address, .. } if address == good));
        }
        for bad in ["host", "host:", ":1", "host:0", "host:65536", "file:"] {
            let planned = plan_of(&[&two[..], &[("PACELINE_RENDEZVOUS", bad)]].concat());
            assert!(matches!(planned, Err(BootstrapError::Environment(_))), "{bad}: {planned:?}");
        }
    }
}
