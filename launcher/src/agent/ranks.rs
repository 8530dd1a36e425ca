//! Starting the ranks of this host.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use paceline_rendezvous::env::{Environment, ProcessEnvironment};

use super::feed::Input;
use super::shares::{self, Share};
use crate::environment;
use crate::output::Stream;
use crate::process::descriptors::{Found, raise_limit};
use crate::process::spawn::{die_with_parent, run_on};
use crate::program::{self, Program, ResolvedProgram};
use crate::protocol::WINDOW_BYTES;
use crate::protocol::messages::{AgentConfig, RankConfig};
use crate::protocol::window::Window;
use crate::refusal::Refusal;
use crate::task::Task;

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

/// A command as it is started here.
#[derive(Debug)]
struct Resolved {
    /// The program, or what it is wrapped with.
    program: ResolvedProgram,
    /// The words of the program that is wrapped; none where nothing is.
    wrapped: Vec<OsString>,
}

impl Resolved {
    fn of(
        task: &Task,
        config: &AgentConfig,
        search_path: Option<&OsStr>,
        host: &str,
    ) -> Result<Self, Refusal> {
        let directory = &config.working_directory;
        let (program, wrapped) = match &config.wrapper {
            Some(wrapper) => {
                let words = program::words(&task.program, directory);
                (Program::Command(wrapper.program().into()), words)
            }
            None => (task.program.clone(), Vec::new()),
        };
        Ok(Self { program: program::resolve(&program, search_path, directory, host)?, wrapped })
    }
}

/// What the ranks of this host have in common, checked once.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    config: &'a AgentConfig,
    /// What there is to run, in the order of the configuration; `None` for what no rank here runs.
    commands: Vec<Option<Resolved>>,
    host: &'a str,
    variables: Vec<(OsString, OsString)>,
    removed: Vec<OsString>,
    /// What each rank of the configuration gets, in the same order.
    shares: Vec<Share>,
    descriptors: Found,
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
        let is_run = |task: usize| config.ranks.iter().any(|rank| rank.task == task);
        let resolve = |(number, task): (usize, &Task)| {
            let search_path = search_path.as_deref();
            is_run(number).then(|| Resolved::of(task, config, search_path, host)).transpose()
        };
        let commands = config.tasks.iter().enumerate().map(resolve).collect::<Result<_, _>>()?;
        let defaults = config.default_variables.iter().filter(|(name, _)| is_unset(name)).cloned();
        let ours = config.variables.iter().cloned().chain(variables);
        // Where ranks were started by ssh it is still that of the login.
        let there = config.is_remote.then(|| ("PWD".into(), directory.clone().into()));
        let variables = there.into_iter().chain(defaults).chain(ours).collect();
        let shares = shares::of(config, host)?;
        let removed = environment::inherited_to_remove();
        Ok(Self { config, commands, host, variables, removed, shares, descriptors: raise_limit() })
    }

    /// The processors that a rank will be bound to, as the kernel writes them.
    pub(crate) fn cpus(&self, local_rank: usize) -> Option<String> {
        Some(self.shares.get(local_rank)?.cpus.as_ref()?.to_string())
    }

    /// Starts the rank of this number on the host.
    pub(crate) fn start(
        &self,
        local_rank: usize,
        rank: &RankConfig,
    ) -> Result<(Rank, Pipes), Refusal> {
        let task = self.config.tasks.get(rank.task);
        let (Some(task), Some(Some(found))) = (task, self.commands.get(rank.task)) else {
            return Err(Refusal::System {
                operation: format!("find what rank {} runs", rank.rank),
                reason: "the plan does not say it".to_owned(),
                host: self.host.to_owned(),
            });
        };
        let mut command = Command::new(&found.program.executable);
        let local = u32::try_from(local_rank).unwrap_or(u32::MAX);
        let wrapper = self.config.wrapper.as_ref();
        let wrapper = wrapper.map(|wrapper| wrapper.arguments(rank.rank, local, self.host));
        command
            .arg0(&found.program.name)
            .args(&found.program.arguments)
            .args(wrapper.unwrap_or_default())
            .args(&found.wrapped)
            .args(&task.arguments)
            .stdin(if rank.has_input { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in &self.removed {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(task.variables.iter().map(|(name, value)| (name, value)));
        command.envs(rank.variables.iter().map(|(name, value)| (name, value)));
        if let Some(share) = self.shares.get(local_rank) {
            command.envs(share.variables.iter().map(|(name, value)| (name, value)));
            if let Some(cpus) = &share.cpus {
                run_on(&mut command, cpus.to_set());
            }
        }
        self.descriptors.give_to(&mut command);
        die_with_parent(&mut command);
        let child = command.spawn().map_err(|error| self.explain(rank.rank, found, &error))?;
        Ok(adopt(rank.rank, child))
    }

    fn explain(&self, rank: u32, found: &Resolved, error: &io::Error) -> Refusal {
        let path = &found.program.executable;
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

/// Whether the agent's environment, which ranks inherit, has no such variable.
pub(crate) fn is_unset(name: &OsStr) -> bool {
    name.to_str().is_none_or(|name| ProcessEnvironment.get(name).is_none())
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
