//! `paceline bench`: measure collectives.
//!
//! Without a launcher's variables around it, the program launches itself: the same way as
//! `paceline run` would, N copies of this binary become the ranks. Under a launcher, ours or
//! another, it is one of the ranks and joins the others.

mod arguments;
mod facts;
mod failure;
mod lanes;
mod memory;
mod mpirun;
mod peer;
mod plan;
mod printer;
pub(crate) mod record;
mod report;
mod rows;
mod session;
mod terminal;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_collectives::{Job, SetupError};
use paceline_launcher::{Ending, ExitCode, JobSpec, OutputOptions, Program, Verdict};
use paceline_rendezvous::env;
use paceline_rendezvous::rank_info::Dialect;
use paceline_rendezvous::{BootstrapOptions, RankInfo, bootstrap};

pub(crate) use arguments::Arguments;
use plan::{Plan, UsageError};
use printer::Printer;
use record::JsonTarget;
use session::BenchError;
use terminal::Terminals;

use crate::console;
use crate::hosts::Hosts;
use crate::run;

/// How long the ranks may take to say goodbye: they have all just been heard of.
const GOODBYE: Duration = Duration::from_secs(10);

/// Measures what the arguments describe.
pub(crate) fn bench(arguments: Arguments) -> ExitCode {
    let checked = Plan::new(&arguments).and_then(|plan| {
        let (info, _) = RankInfo::from_environment(&plan.environment)?;
        Ok((plan, info))
    });
    let (plan, info) = match checked {
        Ok(checked) => checked,
        Err(error) => return usage(&error),
    };
    let is_launched = info.dialect != Dialect::None;
    let wants_ranks = plan.ranks.is_some() || Hosts::are_given(&plan.environment);
    if !is_launched && wants_ranks {
        return launch(&plan);
    }
    // What a variable or a file says is for those who start ranks.
    let asked = plan.ranks.filter(|_| arguments.settings.is_given(env::NP));
    match asked.map(NonZeroU32::get) {
        Some(asked) if asked != info.world_size => {
            usage(&UsageError::WorldSize { asked, started: info.world_size })
        }
        _ => join(&arguments, &plan, &info),
    }
}

fn usage(error: &UsageError) -> ExitCode {
    console::failure(error, error.hint());
    ExitCode::Usage
}

fn check_record(plan: &Plan) -> Result<(), BenchError> {
    plan.json.as_ref().map_or(Ok(()), JsonTarget::check)
}

/// Starts copies of this program as ranks and waits for them.
fn launch(plan: &Plan) -> ExitCode {
    if let Err(error) = check_record(plan) {
        console::failure(&error, error.hint());
        return error.exit_code();
    }
    console::unknown_variables(&[]);
    plan.environment.notices().iter().for_each(|notice| console::note(notice));
    let mut words: Vec<OsString> = vec!["bench".into()];
    words.extend(Terminals::own().options().into_iter().map(OsString::from));
    // Program name and `bench` itself come first, whatever follows.
    words.extend(std::env::args_os().skip(2));
    if mpirun::is_needed(plan) {
        return mpirun::launch(plan, &words);
    }
    let job = JobSpec {
        rank_count: plan.ranks,
        start_timeout: plan.context.start_timeout,
        output: OutputOptions { prefix: None, ..OutputOptions::default() },
        ..JobSpec::local(NonZeroU32::MIN, Program::Itself, words)
    };
    // Ranks do not read these: files lie where they are started from.
    let job = match Hosts::of(&plan.environment) {
        Ok(hosts) => hosts.place(job),
        Err(error) => return usage(&error.into()),
    };
    let metrics_port = match run::metrics_port(&plan.environment) {
        Ok(port) => port,
        Err(error) => return usage(&error.into()),
    };
    let outcome =
        run::plan(&job).and_then(|launch| run::carry_out(launch, metrics_port, None, true));
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(code) => return code,
    };
    if let Some(timeline) = &plan.timeline {
        timeline.close(&outcome);
    }
    if said_why(&outcome.verdict) { outcome.exit_code() } else { run::conclude(&outcome) }
}

/// Whether the job ended because ranks ended themselves, which have then said why.
fn said_why(verdict: &Verdict) -> bool {
    let ours = [ExitCode::CheckFailed, ExitCode::TimedOut, ExitCode::LauncherFailed];
    match verdict {
        Verdict::RankFailed(failure) => {
            ours.iter().any(|code| failure.exit.ending == Ending::Code(code.code()))
        }
        _ => false,
    }
}

/// Takes part as one rank.
fn join(arguments: &Arguments, plan: &Plan, info: &RankInfo) -> ExitCode {
    let terminals = match info.dialect {
        Dialect::None => Terminals::own(),
        _ => Terminals::of_launcher(arguments),
    };
    let mut printer = if info.rank == 0 {
        let stdout_is_for_record = plan.json == Some(JsonTarget::Stdout);
        Printer::new(terminals, stdout_is_for_record, terminal::can_repaint(&plan.environment))
    } else {
        Printer::silent()
    };
    let ended = take_part(plan, info.rank == 0, &mut printer);
    printer.clear();
    match ended {
        Ok(0) => ExitCode::Success,
        Ok(wrong) => {
            console::note(&format!("{wrong} elements are wrong"));
            ExitCode::CheckFailed
        }
        Err(code) => code,
    }
}

/// Measures and returns how many elements were wrong, which is for rank 0 to complain about. Why
/// it failed has been said.
fn take_part(plan: &Plan, is_first: bool, printer: &mut Printer) -> Result<u64, ExitCode> {
    let fail = |error: BenchError| {
        console::failure(&error, error.hint());
        error.exit_code()
    };
    if is_first {
        check_record(plan).map_err(fail)?;
    }
    let rendezvous = bootstrap(&plan.environment, &BootstrapOptions::default())
        .map_err(|error| fail(SetupError::from(error).into()))?;
    if is_first {
        rendezvous.warnings.iter().for_each(|warning| console::note(&warning.to_string()));
    }
    let job = Job::from_rendezvous(rendezvous);
    let (record, outcome) = session::run(plan, &job, printer);
    printer.clear();
    let record = record.filter(|_| is_first);
    let write = || match (&plan.json, &record) {
        (Some(target), Some(report)) => target.write(report).map_err(fail),
        _ => Ok(()),
    };
    if let Err(error) = outcome {
        // Rows that were measured are not lost, and a record that cannot be written is not why it failed.
        let _ = write();
        failure::tell(&error, &job);
        return Err(error.exit_code());
    }
    leave(job).map_err(fail)?;
    write()?;
    let results = record.iter().flat_map(|report| &report.results);
    Ok(results.filter_map(|result| result.wrong).sum())
}

/// Says goodbye, so that nobody takes the end of this process for a failure.
fn leave(job: Arc<Job>) -> Result<(), BenchError> {
    Ok(job.finish(Instant::now() + GOODBYE)?)
}
