//! Which of the launcher's variables ranks on other hosts get.

use std::ffi::{OsStr, OsString};

use paceline_rendezvous::env;

/// A rule; ranks on the launcher's own host get all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passed {
    /// What a program usually needs to run there as it does here, and settings of well-known
    /// libraries: see docs/hosts.md.
    #[default]
    Usual,
    /// All but what is about this host, and which GPUs it has.
    All,
}

/// Where programs and their parts are found, and how they write.
const USUAL: [&str; 10] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "PYTHONHASHSEED",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "LANG",
    "TZ",
];

/// Beginnings of the names of settings of libraries for training.
const USUAL_PREFIXES: [&str; 22] = [
    "PACELINE_",
    "HOROVOD_",
    "NCCL_",
    "UCX_",
    "GLOO_",
    "TORCH_",
    "PYTORCH_",
    "TF_",
    "XLA_",
    "JAX_",
    "CUDA_",
    "CUDNN_",
    "CUBLAS_",
    "OMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "HF_",
    "WANDB_",
    "MLFLOW_",
    "NEBULA_",
    "LC_",
];

/// What is about this host or this session, by name or by its beginning.
const ABOUT_THIS_HOST: [&str; 16] = [
    "HOSTNAME",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "TERM",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "TMPDIR",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "MAIL",
    "XAUTHORITY",
    "DBUS_SESSION_BUS_ADDRESS",
];
const ABOUT_THIS_HOST_PREFIXES: [&str; 5] = ["SSH_", "XDG_", "SUDO_", "BASH_FUNC_", "SLURM_"];

/// Which GPUs a host has says nothing of another host's.
const VISIBLE_DEVICES: &str = "VISIBLE_DEVICES";

/// Whether ranks on other hosts get a variable that nobody has asked for.
fn is_usual(name: &str) -> bool {
    USUAL.contains(&name) || USUAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_about_this_host(name: &str) -> bool {
    let begins = |prefix: &&str| name.starts_with(*prefix);
    ABOUT_THIS_HOST.contains(&name) || ABOUT_THIS_HOST_PREFIXES.iter().any(begins)
}

impl Passed {
    /// Of all variables that there are here, those that ranks on other hosts get.
    pub fn of(self, all: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
        let is_passed = |name: &OsStr| {
            let Some(text) = name.to_str() else { return self == Self::All };
            let wanted = match self {
                Self::Usual => is_usual(text),
                Self::All => !is_about_this_host(text),
            };
            wanted && !text.contains(VISIBLE_DEVICES) && !env::identifies_rank(name)
        };
        let mut passed_on = all;
        passed_on.retain(|(name, _)| is_passed(name));
        passed_on.sort();
        passed_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_get_settings_and_paths_but_nothing_about_this_host() {
        let all = [
            "PATH",
            "NCCL_DEBUG",
            "PACELINE_TRANSPORT",
            "PACELINE_RANK",
            "CUDA_VISIBLE_DEVICES",
            "CUDA_LAUNCH_BLOCKING",
            "MINE",
            "HOME",
            "SSH_AUTH_SOCK",
            "HIP_VISIBLE_DEVICES",
        ];
        let names = |passed: Passed| {
            let all = all.map(|name| (name.into(), "1".into())).to_vec();
            let kept = Passed::of(passed, all).into_iter();
            kept.map(|(name, _)| name.into_string().expect("UTF-8")).collect::<Vec<_>>()
        };
        let usual = ["CUDA_LAUNCH_BLOCKING", "NCCL_DEBUG", "PACELINE_TRANSPORT", "PATH"];
        assert_eq!(names(Passed::Usual), usual);
        let all_but = ["CUDA_LAUNCH_BLOCKING", "MINE", "NCCL_DEBUG", "PACELINE_TRANSPORT", "PATH"];
        assert_eq!(names(Passed::All), all_but);
    }
}
