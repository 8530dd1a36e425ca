//! `paceline doctor`: whether jobs can run on some hosts, and how well.

mod render;

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use paceline_launcher::doctor::{Diagnosis, DoctorError, Status};
use paceline_launcher::{AgentCommand, ExitCode, JobSpec, Program};
use paceline_rendezvous::env::{self, Variable};

use crate::bench::record::JsonTarget;
use crate::config::ConfigError;
use crate::console;
use crate::hosts::{self, HostSettingError, Hosts};
use crate::options::{Selection, Settings};

/// Options of `paceline doctor`.
#[derive(Debug, Args)]
#[command(
    override_usage = "paceline doctor [-H HOSTS | --hostfile FILE] [OPTIONS]",
    after_help = "\
Without hosts, this one is looked at. Each line has what was looked at, whether it is as it should be
(ok, warning, FAILED), how long that took to find out and, where it is not, what to do about it. The
exit code is 1 if something FAILED; see docs/doctor.md."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Settings<DoctorSettings>,

    /// Write everything that was found to a file; - is standard output, where then nothing else goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The settings of `paceline doctor`.
#[derive(Debug)]
pub(crate) struct DoctorSettings;

const WHICH: &[Variable] = &[env::HOSTS, env::HOSTFILE, env::NNODES, env::PORT_RANGE, env::CONFIG];

impl Selection for DoctorSettings {
    const GROUPS: &'static [(&'static str, &'static [Variable])] =
        &[("", WHICH), ("Other hosts", hosts::SSH_SETTINGS)];
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Host(#[from] HostSettingError),
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    #[error("failed to write {}", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to write JSON")]
    Json(#[from] serde_json::Error),
}

impl Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Host(error) => error.hint(),
            Self::Doctor(error) => error.hint(),
            Self::Record { .. } => Some("--json needs a place that can be written".to_owned()),
            Self::Json(_) => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Host(_) => ExitCode::Usage,
            Self::Doctor(error) => error.exit_code(),
            Self::Record { .. } | Self::Json(_) => ExitCode::LauncherFailed,
        }
    }
}

/// Looks at what the arguments name.
pub(crate) fn doctor(arguments: &Arguments) -> ExitCode {
    match examine(arguments) {
        Ok(diagnosis) if diagnosis.count(Status::Failed) > 0 => ExitCode::CheckFailed,
        Ok(_) => ExitCode::Success,
        Err(failure) => {
            if !matches!(failure, Failure::Doctor(DoctorError::Interrupted { .. })) {
                console::failure(&failure, failure.hint());
            }
            failure.exit_code()
        }
    }
}

fn examine(arguments: &Arguments) -> Result<Diagnosis, Failure> {
    let target = arguments.json.as_deref().map(JsonTarget::new);
    let unwritable = |target: &JsonTarget, source| {
        let path = target.path().to_owned();
        Failure::Record { path, source }
    };
    if let Some(target) = &target {
        target.look().map_err(|source| unwritable(target, source))?;
    }
    let layers = arguments.settings.layers(Vec::new())?;
    console::unknown_variables(&[]);
    // Of a job only its hosts count here.
    let job = JobSpec::local(NonZeroU32::MIN, Program::Itself, Vec::new());
    let job = Hosts::of(&layers)?.place(job);
    layers.notices().iter().chain(&job.hosts.notices).for_each(|notice| console::note(notice));
    let diagnosis = paceline_launcher::doctor::doctor(&job, &AgentCommand::this_program())?;
    let text = render::text(&diagnosis);
    // A reader that left has seen enough.
    let _ = match target {
        Some(JsonTarget::Stdout) => io::stderr().write_all(text.as_bytes()),
        _ => io::stdout().write_all(text.as_bytes()),
    };
    if let Some(target) = &target {
        let mut json = serde_json::to_string_pretty(&diagnosis)?;
        json.push('\n');
        target.put(&json).map_err(|source| unwritable(target, source))?;
    }
    Ok(diagnosis)
}
