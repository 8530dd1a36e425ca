//! Starting the ranks of this host.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use paceline_rendezvous::env::{Environment, ProcessEnvironment};

use super::feed::Input;
use crate::environment;
use crate::output::Stream;
use crate::process::spawn::die_with_parent;
use crate::program::{self, ResolvedProgram};
use crate::protocol::WINDOW_BYTES;
use crate::protocol::messages::{AgentConfig, RankConfig};
use crate::protocol::window::Window;
use crate::refusal::Refusal;

/// A rank that has been started.
#[derive(Debug)]
pub(crate) struct Rank {
    pub(crate) rank: u32,
    pub(crate) pid: i32,
    pub(crate) started: Instant,
    /// It has been reaped; its id may be anybody's.
    pub(crate) ended: bool,
    pub(crate) windows: HashMap<Stream, Window>,
    /// The way to its standard input, where it has one and that has not ended.
    pub(crate) input: Option<Input>,
}

/// Our ends of a rank's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) input: Option<OwnedFd>,
    /// In the order of [`Stream::BOTH`].
    pub(crate) outputs: [OwnedFd; 2],
}

/// What the ranks of this host have in common, checked once.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    config: &'a AgentConfig,
    program: ResolvedProgram,
    host: &'a str,
    variables: Vec<(OsString, OsString)>,
    removed: Vec<OsString>,
}

impl<'a> Recipe<'a> {
    /// Checks what can be checked before the first rank.
    ///
    /// `variables` are those that only this agent knows.
    pub(crate) fn prepare(
        config: &'a AgentConfig,
        variables: Vec<(OsString, OsString)>,
        host: &'a str,
    ) -> Result<Self, Refusal> {
        let directory = &config.working_directory;
        std::env::set_current_dir(directory).map_err(|error| Refusal::WorkingDirectory {
            path: directory.clone(),
            reason: error.to_string(),
            host: host.to_owned(),
        })?;
        let set_path = config.variables.iter().find(|(name, _)| name == "PATH");
        let search_path =
            set_path.map(|(_, path)| path.clone()).or_else(|| ProcessEnvironment.get("PATH"));
        let program = program::resolve(&config.program, search_path.as_deref(), directory, host)?;
        let threads = config
            .divide_cores
            .then(|| environment::threads_default(environment::cores(), config.ranks.len()));
        let defaults = config.default_variables.iter().cloned().chain(threads);
        let defaults = defaults.filter(|(name, _)| {
            name.to_str().is_none_or(|name| ProcessEnvironment.get(name).is_none())
        });
        let ours = config.variables.iter().cloned().chain(variables);
        let variables = defaults.chain(ours).collect();
        Ok(Self { config, program, host, variables, removed: environment::inherited_to_remove() })
    }

    /// Starts one rank.
    pub(crate) fn start(&self, rank: &RankConfig) -> Result<(Rank, Pipes), Refusal> {
        let mut command = Command::new(&self.program.executable);
        command
            .arg0(&self.program.name)
            .args(&self.program.arguments)
            .args(&self.config.arguments)
            .stdin(if rank.has_input { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in &self.removed {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(rank.variables.iter().map(|(name, value)| (name, value)));
        die_with_parent(&mut command);
        let child = command.spawn().map_err(|error| self.explain(rank.rank, &error))?;
        Ok(adopt(rank.rank, child))
    }

    fn explain(&self, rank: u32, error: &io::Error) -> Refusal {
        let path = &self.program.executable;
        let (program, host) = (path.display().to_string(), self.host.to_owned());
        match error.raw_os_error() {
            // The file was there a moment ago: what is missing is what the kernel runs it with.
            Some(libc::ENOENT) => Refusal::NoInterpreter {
                interpreter: program::interpreter(path).unwrap_or_else(|| "its loader".to_owned()),
                program,
                host,
            },
            Some(libc::EACCES) => {
                Refusal::NotExecutable { program, reason: error.to_string(), host }
            }
            _ => Refusal::System {
                operation: format!("start rank {rank}"),
                reason: error.to_string(),
                host,
            },
        }
    }
}

fn adopt(rank: u32, child: Child) -> (Rank, Pipes) {
    let Ok(pid) = i32::try_from(child.id()) else {
        unreachable!("process ids are positive i32 values")
    };
    let (Some(stdout), Some(stderr)) = (child.stdout, child.stderr) else {
        unreachable!("both streams were piped")
    };
    let windows =
        Stream::BOTH.map(|stream| (stream, Window::of(WINDOW_BYTES))).into_iter().collect();
    let started = Rank { rank, pid, started: Instant::now(), ended: false, windows, input: None };
    let input = child.stdin.map(OwnedFd::from);
    (started, Pipes { input, outputs: [stdout.into(), stderr.into()] })
}
