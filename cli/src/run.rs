//! `paceline run`: start N ranks of a program and watch over them.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use paceline_launcher::{
    AgentCommand, ExitCode, GRACE_DEFAULT, HostError, HostFacts, HostSlots, JobSpec, LaunchPlan,
    Outcome, OutputOptions, Program, START_TIMEOUT_DEFAULT, StdinTarget,
};
use paceline_rendezvous::RunId;
use paceline_rendezvous::env::{self, Environment, ProcessEnvironment};

use crate::console;
use crate::options::{NetworkOptions, RankOptions, given, positive_seconds, seconds};

/// Options of `paceline run`.
#[derive(Debug, Args)]
#[command(override_usage = "paceline run -np N [OPTIONS] [--] PROGRAM [ARGS]...
       paceline run -np N [OPTIONS] -m MODULE [ARGS]...")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: RankOptions,

    /// Run a Python module: python3 -m MODULE
    #[arg(short, long, value_name = "MODULE")]
    module: Option<OsString>,

    /// Set a variable for every rank, or pass on the value it has here
    #[arg(short = 'x', long = "env", value_name = "NAME[=VALUE]")]
    exported: Vec<OsString>,

    /// Do not put the rank before each line of output
    #[arg(long)]
    no_prefix: bool,

    /// Also write DIR/rank.NN/stdout and DIR/rank.NN/stderr
    #[arg(long, visible_alias = "log-dir", value_name = "DIR")]
    output_filename: Option<PathBuf>,

    /// Time between SIGTERM and SIGKILL when ranks are stopped [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    grace: Option<Duration>,

    /// Stop the job after this time
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    timeout: Option<Duration>,

    /// Who gets our standard input: none, all, or the number of a rank
    #[arg(long, value_name = "WHO", default_value = "none", value_parser = stdin_target)]
    stdin: StdinTarget,

    /// Show what would be run, and where, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Say nothing about decisions made for you
    #[arg(short, long)]
    quiet: bool,

    /// Transport between ranks
    #[arg(long, value_name = "NAME")]
    transport: Option<OsString>,

    /// Algorithm of the collectives
    #[arg(long, value_name = "NAME")]
    algorithm: Option<OsString>,

    #[command(flatten)]
    network: NetworkOptions,

    /// The program and its arguments. A .py file runs under python3, unless it is executable and
    /// has a #! line
    #[arg(trailing_var_arg = true, value_name = "PROGRAM", required_unless_present = "module")]
    command: Vec<OsString>,
}

/// What is wrong with the command line beyond its grammar.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("-x {text:?} has no name before the `=`")]
    NamelessVariable { text: String },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("failed to find out the current directory")]
    CurrentDirectory {
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Environment(#[from] env::EnvironmentError),
}

/// Runs the job that the arguments describe.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let (dry_run, quiet) = (arguments.dry_run, arguments.quiet);
    let job = match job(arguments) {
        Ok(job) => job,
        Err(error) => {
            console::failure(&error, None);
            return ExitCode::Usage;
        }
    };
    let plan = match plan(&job) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    if dry_run {
        // A reader that left has seen enough.
        let _ = write!(std::io::stdout(), "{plan}");
        return ExitCode::Success;
    }
    if !quiet {
        plan.notices.iter().for_each(|notice| console::note(notice));
    }
    match carry_out(plan) {
        Ok(outcome) => {
            outcome.report().iter().for_each(|line| console::note(line));
            outcome.exit_code()
        }
        Err(code) => code,
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

/// Runs the plan to its end, or says why it was not even started.
pub(crate) fn carry_out(plan: LaunchPlan) -> Result<Outcome, ExitCode> {
    paceline_launcher::run(plan, &AgentCommand::this_program()).map_err(|error| {
        console::failure(&error, error.hint());
        error.exit_code()
    })
}

fn job(arguments: Arguments) -> Result<JobSpec, UsageError> {
    let environment = ProcessEnvironment;
    let variables = variables(&arguments, &environment)?;
    let start_timeout = match arguments.network.start_timeout {
        Some(limit) => limit,
        None => env::START_TIMEOUT.seconds(&environment)?.unwrap_or(START_TIMEOUT_DEFAULT),
    };
    let mut words = arguments.command.into_iter();
    let program = match (arguments.module, words.len()) {
        (Some(module), _) => Program::Module(module),
        // clap has required a program where there is no module.
        (None, _) => Program::Command(words.next().unwrap_or_default()),
    };
    Ok(JobSpec {
        rank_count: arguments.place.ranks,
        hosts: match &arguments.place.hosts {
            Some(hosts) => HostSlots::parse_list(hosts)?,
            None => Vec::new(),
        },
        program,
        arguments: words.collect(),
        working_directory: std::env::current_dir()
            .map_err(|source| UsageError::CurrentDirectory { source })?,
        variables,
        grace: arguments.grace.unwrap_or(GRACE_DEFAULT),
        timeout: arguments.timeout,
        start_timeout,
        stdin: arguments.stdin,
        output: OutputOptions {
            prefix: !arguments.no_prefix,
            directory: arguments.output_filename,
        },
    })
}

/// `-x` first, then what options of ours say, which are more specific.
fn variables(
    arguments: &Arguments,
    environment: &impl Environment,
) -> Result<Vec<(OsString, OsString)>, UsageError> {
    let mut variables = Vec::new();
    for text in &arguments.exported {
        variables.extend(exported(text, environment)?);
    }
    variables.extend(given([
        (env::TRANSPORT, arguments.transport.clone()),
        (env::ALGORITHM, arguments.algorithm.clone()),
    ]));
    variables.extend(arguments.network.variables());
    Ok(variables)
}

/// `NAME=VALUE`, or the value that NAME has here; nothing, with a note, if it has none.
fn exported(
    text: &OsString,
    environment: &impl Environment,
) -> Result<Option<(OsString, OsString)>, UsageError> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (bytes, None),
    };
    if name.is_empty() {
        return Err(UsageError::NamelessVariable { text: text.display().to_string() });
    }
    let name = OsString::from_vec(name.to_vec());
    let value = value.or_else(|| name.to_str().and_then(|name| environment.get(name)));
    if value.is_none() {
        console::note(&format!(
            "-x {}: it has no value here; nothing is passed on",
            name.display()
        ));
    }
    Ok(value.map(|value| (name, value)))
}

fn stdin_target(text: &str) -> Result<StdinTarget, String> {
    match text {
        "none" => Ok(StdinTarget::None),
        "all" => Ok(StdinTarget::All),
        rank => rank
            .parse()
            .map(StdinTarget::Rank)
            .map_err(|_| "expected none, all or the number of a rank".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn exported_variables_take_a_value_or_the_one_they_have() {
        let environment = HashMap::from([("HOME", "/root")]);
        let pair = |name: &str, value: &str| Some((name.into(), value.into()));
        let export = |text: &str| exported(&text.into(), &environment).ok().flatten();
        assert_eq!(export("A=b=c"), pair("A", "b=c"));
        assert_eq!(export("A="), pair("A", ""));
        assert_eq!(export("HOME"), pair("HOME", "/root"));
        assert_eq!(export("ABSENT"), None);
        assert!(exported(&"=x".into(), &environment).is_err());
    }
}
