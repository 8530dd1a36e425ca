//! The `paceline` command: arguments in, text, JSON and an exit code out.

mod agent;
mod arguments;
mod bench;
mod columns;
mod config;
mod console;
mod doctor;
mod dry_run;
mod events;
mod files;
mod hosts;
mod manual;
mod needless;
mod options;
mod run;
mod status;
mod timeline;

use std::process::ExitCode as ProcessExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use paceline_launcher::ExitCode;

/// Distributed training: one command starts the ranks, collectives connect them, numbers are honest
#[derive(Debug, Parser)]
#[command(name = "paceline", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start N ranks of a program and watch over them
    Run(Box<run::Arguments>),
    /// Measure collectives: latency, bandwidth, CPU cost, share of the floor, every result checked
    Bench(Box<bench::Arguments>),
    /// Show the jobs that run here, and what one of them does or is stuck in
    Status(status::Arguments),
    /// Find out whether jobs can run on some hosts and how good the network between them is
    Doctor(Box<doctor::Arguments>),
    /// Print a script by which bash, zsh or fish complete the command line
    Completions(manual::Arguments),
    /// Print the manual page, in the format of man
    Man,
    /// The process that supervises the ranks of one host; started by paceline itself
    #[command(hide = true)]
    Agent,
}

const EXIT_CODES: &str = "\
Exit codes:
  0        every rank exited with 0
  N        the code of the first rank that failed; 128+n if signal n killed it
  1        a check was carried out and failed
  2        the command line makes no sense
  124      a time limit ran out
  125      paceline itself failed
  126      the program cannot be executed
  127      the program does not exist
  128+n    signal n stopped paceline";

fn main() -> ProcessExitCode {
    let command = Cli::command();
    let arguments = arguments::normalise(std::env::args_os().collect(), &command);
    let parsed =
        command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let code = match parsed {
        Ok(Cli { command: Command::Run(arguments) }) => run::run(*arguments),
        Ok(Cli { command: Command::Bench(arguments) }) => bench::bench(*arguments),
        Ok(Cli { command: Command::Status(arguments) }) => status::status(&arguments),
        Ok(Cli { command: Command::Doctor(arguments) }) => doctor::doctor(&arguments),
        Ok(Cli { command: Command::Completions(arguments) }) => manual::completions(&arguments),
        Ok(Cli { command: Command::Man }) => manual::manual(),
        Ok(Cli { command: Command::Agent }) => agent::agent(),
        Err(error) => {
            // Help and version go to standard output and succeed; if that is closed, so be it.
            let _ = error.print();
            if error.use_stderr() { ExitCode::Usage } else { ExitCode::Success }
        }
    };
    code.into()
}

#[cfg(test)]
mod tests {
    use paceline_rendezvous::env;

    use super::*;

    #[test]
    fn every_option_of_the_table_is_one_of_run() {
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("there is one");
        let known: Vec<&str> = run.get_arguments().filter_map(clap::Arg::get_long).collect();
        let options = env::ALL.iter().filter_map(|variable| variable.option);
        let missing: Vec<&str> =
            options.map(|option| option.name).filter(|name| !known.contains(name)).collect();
        assert_eq!(missing, [""; 0], "docs/environment.md says that they are");
    }
}
