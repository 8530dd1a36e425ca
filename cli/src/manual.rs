//! What shells and `man` are told of the command line.

use std::io::{Write, stdout};

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use paceline_launcher::ExitCode;

use crate::console;

/// Arguments of `paceline completions`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// For which shell
    shell: ShellName,
}

/// Shells that completions are tested with.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// Writes a script that lets a shell complete the command line.
pub(crate) fn completions(arguments: &Arguments) -> ExitCode {
    let shell = match arguments.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut for_people(), "paceline", &mut script);
    put(&script)
}

/// The command line without the subcommands that only programs use.
fn for_people() -> Command {
    let all = crate::Cli::command();
    let visible = all.get_subcommands().filter(|known| !known.is_hide_set()).cloned();
    Command::new("paceline").version(env!("CARGO_PKG_VERSION")).subcommands(visible)
}

/// Writes the manual page: the command, and then each subcommand that people use.
pub(crate) fn manual() -> ExitCode {
    let mut page = Vec::new();
    let mut command = crate::Cli::command();
    command.build();
    let mut written = Man::new(command.clone()).render(&mut page);
    for subcommand in command.get_subcommands().filter(|known| !known.is_hide_set()) {
        // What is written behind another page are sections of it.
        let man = Man::new(subcommand.clone());
        written = written
            .and_then(|()| man.render_name_section(&mut page))
            .and_then(|()| man.render_synopsis_section(&mut page))
            .and_then(|()| man.render_options_section(&mut page));
    }
    match written {
        Ok(()) => put(&page),
        Err(error) => {
            console::failure(&error, None);
            ExitCode::LauncherFailed
        }
    }
}

fn put(bytes: &[u8]) -> ExitCode {
    // A reader that left has seen enough.
    let _ = stdout().write_all(bytes);
    ExitCode::Success
}
