//! What a command line asks for, understood before anything is started.

use std::num::NonZeroU32;
use std::path::PathBuf;

use paceline_collectives::SetupError;
use paceline_launcher::{
    Fold, GRACE_DEFAULT, GpuListError, JobSpec, MoreRanks, OutputOptions, Passed, PrefixError,
    PrefixTemplate, Program, START_TIMEOUT_DEFAULT, StdinTarget, WrapError,
};
use paceline_rendezvous::env::{self, Environment, ProcessEnvironment};
use paceline_rendezvous::{BootstrapError, stall_report};

use super::programs::{self, ProgramError};
use super::{Arguments, metrics_port, shares, variables};
use crate::config::ConfigError;
use crate::console;
use crate::events::{self, EventsError};
use crate::hosts::{HostSettingError, Hosts};
use crate::options::{Layers, SettingError};
use crate::timeline::{Timeline, TimelineError};

/// What is wrong with the command line beyond its grammar.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("-x {text:?} has no name before the `=`")]
    NamelessVariable { text: String },
    #[error(transparent)]
    Host(#[from] HostSettingError),
    #[error("failed to find out the current directory")]
    CurrentDirectory {
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Environment(#[from] env::EnvironmentError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    #[error(transparent)]
    Wrap(#[from] WrapError),
    #[error(transparent)]
    Gpus(#[from] GpuListError),
}

impl UsageError {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Setting(error) => error.hint(),
            Self::Setup(error) => error.hint(),
            Self::Environment(error) => error.hint(),
            Self::Bootstrap(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Timeline(error) => error.hint(),
            Self::Events(error) => error.hint(),
            Self::Prefix(error) => Some(error.hint()),
            Self::Program(error) => error.hint(),
            Self::Gpus(error) => error.hint(),
            Self::Wrap(_) => Some("a command and its arguments, as in --wrap 'numactl --'".into()),
            Self::Host(error) => error.hint(),
            _ => None,
        }
    }
}

/// What a command line asks for.
pub(super) struct Wanted {
    pub(super) job: JobSpec,
    /// Whether nothing is to be said about decisions.
    pub(super) quiet: bool,
    pub(super) timeline: Option<Timeline>,
    /// Where events go.
    pub(super) events: Option<PathBuf>,
    pub(super) metrics_port: Option<u16>,
}

pub(super) fn wanted(arguments: Arguments) -> Result<Wanted, UsageError> {
    let layers = arguments.settings.layers(Vec::new())?;
    let variables = variables::variables(&arguments.exported, &layers)?;
    variables::check_for_ranks(&layers, &variables)?;
    let quiet = env::QUIET.is_on(&layers)?;
    if !quiet {
        let needless = arguments.needless.notices();
        needless.iter().chain(layers.notices()).for_each(|notice| console::note(notice));
        console::unknown_variables(&variables);
    }
    let (first, others) = programs::split(arguments.command)?;
    let mut words = first.into_iter();
    let program = match arguments.module {
        Some(module) => Program::Module(module),
        // clap has required a program where there is no module.
        None => Program::Command(words.next().unwrap_or_default()),
    };
    if matches!(&program, Program::Module(name) | Program::Command(name) if name.is_empty()) {
        return Err(ProgramError::Nameless.into());
    }
    let job = JobSpec {
        rank_count: rank_count(&layers, &others)?,
        others,
        working_directory: std::env::current_dir()
            .map_err(|source| UsageError::CurrentDirectory { source })?,
        variables,
        grace: env::GRACE.seconds_or_zero(&layers)?.unwrap_or(GRACE_DEFAULT),
        timeout: env::JOB_TIMEOUT.seconds(&layers)?,
        start_timeout: env::START_TIMEOUT.seconds(&layers)?.unwrap_or(START_TIMEOUT_DEFAULT),
        stall_report: stall_report(&layers)?,
        stacks_on_timeout: env::STACKS_ON_TIMEOUT.is_on(&layers)?,
        stdin: stdin_target(&layers)?,
        output: OutputOptions {
            prefix: prefix(&layers)?,
            shown: env::SHOW_RANKS.parse(&layers)?,
            fold: fold(&layers)?,
            directory: layers
                .get(env::OUTPUT_DIRECTORY.name)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        },
        passed_on: if arguments.env_all { Passed::All } else { Passed::Usual }
            .of(ProcessEnvironment.all()),
        open_mpi_variables: has_open_mpi_variables(&layers)?,
        ..JobSpec::local(NonZeroU32::MIN, program, words.collect())
    };
    let job = shares::share(Hosts::of(&layers)?.place(job), &layers)?;
    let (timeline, metrics_port) = (Timeline::of(&layers)?, metrics_port(&layers)?);
    Ok(Wanted { job, quiet, timeline, events: events::path(&layers)?, metrics_port })
}

/// The number of all ranks, if it is given.
fn rank_count(layers: &Layers, others: &[MoreRanks]) -> Result<Option<NonZeroU32>, UsageError> {
    let first: Option<NonZeroU32> = env::NP.parse(layers)?;
    if others.is_empty() {
        return Ok(first);
    }
    let first = first.ok_or(ProgramError::NoFirstCount)?;
    let all = others.iter().fold(first, |sum, others| sum.saturating_add(others.count.get()));
    Ok(Some(all))
}

/// What stands before each line, if anything does.
fn prefix(layers: &Layers) -> Result<Option<PrefixTemplate>, UsageError> {
    let template = match env::OUTPUT_PREFIX.text(layers)? {
        Some(text) => text.parse()?,
        None => PrefixTemplate::default(),
    };
    Ok((!env::NO_PREFIX.is_on(layers)?).then_some(template))
}

fn fold(layers: &Layers) -> Result<Fold, env::EnvironmentError> {
    match env::FOLD.text(layers)?.as_deref() {
        None | Some("auto") => Ok(Fold::Auto),
        Some("on") => Ok(Fold::On),
        Some("off") => Ok(Fold::Off),
        Some(other) => Err(env::FOLD.invalid(other)),
    }
}

fn stdin_target(layers: &Layers) -> Result<StdinTarget, env::EnvironmentError> {
    match env::STDIN.text(layers)?.as_deref() {
        None | Some("none") => Ok(StdinTarget::None),
        Some("all") => Ok(StdinTarget::All),
        Some(rank) => rank.parse().map(StdinTarget::Rank).map_err(|_| env::STDIN.invalid(rank)),
    }
}

fn has_open_mpi_variables(layers: &Layers) -> Result<bool, env::EnvironmentError> {
    match env::ENV_DIALECT.text(layers)?.as_deref() {
        None => Ok(false),
        Some("ompi") => Ok(true),
        Some(other) => Err(env::ENV_DIALECT.invalid(other)),
    }
}
