//! `paceline run`: start N ranks of a program and watch over them.

mod bindings;
mod network;
mod programs;
mod shares;
mod variables;
mod wanted;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use paceline_launcher::{
    AgentCommand, ExitCode, HostFacts, JobEvent, JobSpec, LaunchPlan, MetricsListener, Outcome,
};
use paceline_rendezvous::RunId;
use paceline_rendezvous::env::{self, ProcessEnvironment, Variable};

use bindings::Bindings;
use wanted::{Wanted, wanted};

use crate::console;
use crate::dry_run;
use crate::events::EventLog;
use crate::hosts;
use crate::needless::Needless;
use crate::options::{Layers, Selection, Settings};

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
    env::FOLD,
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
            conclude(&outcome)
        }
        Err(code) => code,
    }
}

/// Says how the job ended. If somebody has enough before all of it is read, that is how it ended.
pub(crate) fn conclude(outcome: &Outcome) -> ExitCode {
    let signal = paceline_launcher::tell(outcome.report());
    let signal = signal.and_then(|number| u8::try_from(number).ok());
    signal.map_or_else(|| outcome.exit_code(), ExitCode::Interrupted)
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
        let mut lines = Vec::new();
        if let Some(bindings) = &mut bindings {
            lines.extend(bindings.learn(event));
            lines.extend(network::learn(event));
        }
        if let Some(log) = &mut events {
            lines.extend(log.write(event));
        }
        lines
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
