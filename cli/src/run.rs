//! `paceline run`: start N ranks of a program and watch over them.

mod bindings;
mod network;
mod programs;
mod shares;
mod variables;

use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use paceline_collectives::SetupError;
use paceline_launcher::{
    AgentCommand, ExitCode, GRACE_DEFAULT, GpuListError, HostFacts, JobEvent, JobSpec, LaunchPlan,
    MetricsListener, MoreRanks, Outcome, OutputOptions, Passed, PrefixError, PrefixTemplate,
    Program, START_TIMEOUT_DEFAULT, StdinTarget, WrapError,
};
use paceline_rendezvous::env::{self, Environment, ProcessEnvironment, Variable};
use paceline_rendezvous::{BootstrapError, RunId, stall_report};

use bindings::Bindings;
use programs::ProgramError;

use crate::config::ConfigError;
use crate::console;
use crate::dry_run;
use crate::events::{self, EventLog, EventsError};
use crate::hosts::{self, HostSettingError, Hosts};
use crate::needless::Needless;
use crate::options::{Layers, Selection, SettingError, Settings};
use crate::timeline::{Timeline, TimelineError};

/// Options of `paceline run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "paceline run -np N [OPTIONS] [--] PROGRAM [ARGS]... [: -np N PROGRAM [ARGS]...]...
       paceline run -np N [OPTIONS] -m MODULE [ARGS]...",
    after_help = SETTINGS
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Settings<RunSettings>,

    /// Run a Python module: python3 -m MODULE
    #[arg(short, long, value_name = "MODULE")]
    module: Option<OsString>,

    /// Set a variable for every rank, or pass on the value it has here; NAME* means all that begin so
    #[arg(short = 'x', long = "env", value_name = "NAME[=VALUE]")]
    exported: Vec<OsString>,

    /// Pass all variables on to other hosts, but those about this host, and CUDA_VISIBLE_DEVICES
    #[arg(long)]
    env_all: bool,

    /// Show what would be run, and where, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run, also write the plan as JSON to a file; - is standard output, where then nothing
    /// else goes
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    json: Option<PathBuf>,

    /// Show what counts of each setting, and where it comes from, and do nothing
    #[arg(long)]
    show_config: bool,

    #[command(flatten)]
    needless: Needless,

    /// The program and its arguments. A .py file runs under python3, unless it is executable and
    /// has a #! line
    #[arg(trailing_var_arg = true, value_name = "PROGRAM", required_unless_present_any = ["module", "show_config"])]
    command: Vec<OsString>,
}

const SETTINGS: &str = "\
A setting may also come from a variable, as PACELINE_GRACE for --grace, or from a key of the
configuration file: grace = 3. An option counts before a variable, a variable before the file; see
docs/environment.md for all of them.";

/// The settings of `paceline run`.
#[derive(Debug)]
pub(crate) struct RunSettings;

const TIMES: &[Variable] =
    &[env::GRACE, env::JOB_TIMEOUT, env::START_TIMEOUT, env::TIMEOUT, env::STALL_REPORT];

const OUTPUT: &[Variable] = &[
    env::OUTPUT_PREFIX,
    env::NO_PREFIX,
    env::SHOW_RANKS,
    env::OUTPUT_DIRECTORY,
    env::STDIN,
    env::QUIET,
];

impl Selection for RunSettings {
    const GROUPS: &'static [(&'static str, &'static [Variable])] = &[
        ("", &[env::NP, env::CONFIG, env::WRAP, env::ENV_DIALECT, env::TENSORFLOW]),
        ("Hosts", hosts::SETTINGS),
        ("GPUs and processors", shares::SETTINGS),
        ("Other hosts", hosts::SSH_SETTINGS),
        ("Time", TIMES),
        ("Input and output", OUTPUT),
        (
            "Between ranks",
            &[
                env::TRANSPORT,
                env::ALGORITHM,
                env::SOCKETS,
                env::TUNE,
                env::PLAN,
                env::DETERMINISTIC,
                env::CHECKSUM,
                env::FUSION_THRESHOLD,
                env::CYCLE_TIME,
                env::CACHE_CAPACITY,
                env::STALL_CHECK_TIME,
                env::STALL_SHUTDOWN_TIME,
                env::INTERFACE,
                env::PORT_RANGE,
            ],
        ),
        ("Seeing inside", &[env::TIMELINE, env::METRICS_PORT, env::EVENTS, env::STACKS_ON_TIMEOUT]),
    ];
}

/// What is wrong with the command line beyond its grammar.
#[derive(Debug, thiserror::Error)]
enum UsageError {
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
    fn hint(&self) -> Option<String> {
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

/// Runs the job that the arguments describe.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    if arguments.show_config {
        return show_config(&arguments);
    }
    let (dry_run, json) = (arguments.dry_run, arguments.json.clone());
    let Wanted { job, quiet, timeline, events, metrics_port } = match wanted(arguments) {
        Ok(wanted) => wanted,
        Err(error) => {
            console::failure(&error, error.hint());
            return ExitCode::Usage;
        }
    };
    let plan = match plan(&job) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    if !quiet {
        plan.notices.iter().for_each(|notice| console::note(notice));
    }
    if dry_run {
        return dry_run::show(&plan, json.as_deref());
    }
    let events = match events.map(|path| EventLog::create(&path, &plan)).transpose() {
        Ok(events) => events,
        Err(error) => {
            console::failure(&error, error.hint());
            return ExitCode::LauncherFailed;
        }
    };
    match carry_out(plan, metrics_port, events, quiet) {
        Ok(outcome) => {
            if let Some(timeline) = timeline {
                timeline.close(&outcome);
            }
            outcome.report().iter().for_each(|line| console::note(line));
            outcome.exit_code()
        }
        Err(code) => code,
    }
}

/// Says what counts of each setting. Values that make no sense are shown as they are.
fn show_config(arguments: &Arguments) -> ExitCode {
    match arguments.settings.layers(Vec::new()) {
        Ok(layers) => {
            // A reader that left has seen enough.
            let _ = write!(std::io::stdout(), "{}", layers.explain::<RunSettings>());
            ExitCode::Success
        }
        Err(error) => {
            console::failure(&error, error.hint());
            ExitCode::Usage
        }
    }
}

/// Plans the job, or says why there is no plan.
pub(crate) fn plan(job: &JobSpec) -> Result<LaunchPlan, ExitCode> {
    let run_id = RunId::random().map_err(|error| {
        console::failure(&error, error.hint());
        ExitCode::LauncherFailed
    })?;
    HostFacts::of_this_host()
        .and_then(|facts| paceline_launcher::plan(job, run_id, &facts, &ProcessEnvironment))
        .map_err(|error| {
            console::failure(&error, error.hint());
            error.exit_code()
        })
}

/// Runs the plan to its end, or says why it was not even started. With a port, whoever asks there is
/// told about the job meanwhile; with a log, what happens is written there. Unless it is to be quiet it
/// says what ranks are bound to.
pub(crate) fn carry_out(
    plan: LaunchPlan,
    metrics_port: Option<u16>,
    mut events: Option<EventLog>,
    quiet: bool,
) -> Result<Outcome, ExitCode> {
    let metrics = match metrics_port.map(MetricsListener::bind).transpose() {
        Ok(metrics) => metrics,
        Err(error) => {
            console::failure(&error, error.hint());
            return Err(ExitCode::LauncherFailed);
        }
    };
    if let Some(metrics) = &metrics {
        console::note(&format!("metrics at http://{}/metrics", metrics.local_addr()));
    }
    let mut bindings = (!quiet).then(|| Bindings::of(plan.world_size()));
    let on_event = |event: &JobEvent| {
        if let Some(bindings) = &mut bindings {
            bindings.learn(event);
            network::tell(event);
        }
        if let Some(log) = &mut events {
            log.write(event);
        }
    };
    let agent = AgentCommand::this_program();
    paceline_launcher::run_with(plan, &agent, metrics, on_event).map_err(|error| {
        console::failure(&error, error.hint());
        error.exit_code()
    })
}

/// Where whoever wants metrics may ask, if anywhere.
pub(crate) fn metrics_port(layers: &Layers) -> Result<Option<u16>, env::EnvironmentError> {
    let Some(text) = env::METRICS_PORT.text(layers)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| env::METRICS_PORT.invalid(&text))
}

/// What a command line asks for.
struct Wanted {
    job: JobSpec,
    /// Whether nothing is to be said about decisions.
    quiet: bool,
    timeline: Option<Timeline>,
    /// Where events go.
    events: Option<PathBuf>,
    metrics_port: Option<u16>,
}

fn wanted(arguments: Arguments) -> Result<Wanted, UsageError> {
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
