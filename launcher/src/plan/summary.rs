//! A plan as data, for people and programs to look at before anything is started.

use std::ffi::OsString;

use paceline_rendezvous::env;
use serde::Serialize;

use super::{LaunchPlan, NodePlan};
use crate::agent::binding::BindTo;
use crate::device::GpuVisibility;
use crate::environment;
use crate::protocol::messages::RankConfig;
use crate::task::Task;

/// The form of [`PlanSummary`] as JSON; a later one may have more members under the same name.
pub const PLAN_SCHEMA: &str = "paceline.plan/1";

/// What stands for the path of the copy in a command that starts an agent from one: it is known when the
/// host has been asked.
const COPY: &str = "COPY";

/// What each host would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanSummary {
    /// [`PLAN_SCHEMA`].
    pub schema: &'static str,
    /// Version of paceline.
    pub paceline: &'static str,
    /// Number of ranks.
    pub world_size: u32,
    /// What the first ranks run, as the user says it; a `.py` file is given to `python3` on its host.
    pub command: Vec<String>,
    /// What other ranks run, where there is more than one program.
    pub other_commands: Vec<CommandSummary>,
    /// What that runs under, a word each; none mostly. Fields such as `{rank}` are as they were written.
    pub wrapper: Vec<String>,
    /// What ranks are bound to, which their hosts find out.
    pub bind_to: BindTo,
    /// Which of the devices of its host a rank with a device sees.
    pub gpu_visibility: GpuVisibility,
    /// Where each rank starts.
    pub working_directory: String,
    /// Variables of all ranks.
    pub variables: Vec<VariableSummary>,
    /// Variables of all ranks that get no others of these names.
    pub unless_set: Vec<VariableSummary>,
    /// Names of the variables that ranks on other hosts get from here. Their values are not shown.
    pub passed_on: Vec<String>,
    /// Whether this binary is copied to the other hosts first. The word `COPY` in a command is where.
    pub copies_binary: bool,
    /// Decisions that the user may want to know of, one sentence each.
    pub notices: Vec<String>,
    /// Hosts that have ranks, by node rank.
    pub hosts: Vec<HostSummary>,
}

/// What some ranks run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandSummary {
    /// The ranks, ascending.
    pub ranks: Vec<u32>,
    /// The words of the command.
    pub command: Vec<String>,
    /// Variables of these ranks alone.
    pub variables: Vec<VariableSummary>,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariableSummary {
    /// Its name.
    pub name: String,
    /// Its value; `None` where the name says that it is a secret.
    pub value: Option<String>,
}

/// What one host would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSummary {
    /// Its number.
    pub node_rank: usize,
    /// Its name or address as it was given; this machine by the name that it has itself.
    pub host: String,
    /// Who logs in, where it is not the present user.
    pub user: Option<String>,
    /// Whether it is the one that plans, where nobody logs in.
    pub is_this_host: bool,
    /// The command that starts its agent, a word each; none on this machine.
    pub ssh: Option<Vec<String>>,
    /// `OMP_NUM_THREADS` of its ranks unless it is set; `cores/N` where only the host knows its cores,
    /// `own cores` where ranks are bound.
    pub omp_num_threads: Option<String>,
    /// Its ranks, in the order of local ranks.
    pub ranks: Vec<RankSummary>,
}

/// One rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RankSummary {
    /// Its number.
    pub rank: u32,
    /// Its number on its host.
    pub local_rank: u32,
    /// Its device, `none` or `local:NAME@FRACTION`, by the name that it was listed with. Its host looks
    /// what that is.
    pub device: String,
    /// Whether it gets standard input.
    pub has_input: bool,
    /// Variables of its own, but for those that each run has anew.
    pub variables: Vec<VariableSummary>,
}

impl LaunchPlan {
    /// What each host would do. `own_path` is where this binary is, which other hosts look for there.
    pub fn summary(&self, own_path: Option<&str>) -> PlanSummary {
        let has_others = self.nodes.iter().any(|node| !node.is_local);
        let passed_on = if has_others { &self.passed_on[..] } else { &[] };
        PlanSummary {
            schema: PLAN_SCHEMA,
            paceline: env!("CARGO_PKG_VERSION"),
            world_size: self.world_size,
            command: self.commands().into_iter().next().unwrap_or_default(),
            other_commands: self.other_commands(),
            wrapper: self.wrapper(),
            bind_to: self.common.bind_to,
            gpu_visibility: self.common.gpu_visibility,
            working_directory: self.common.working_directory.display().to_string(),
            variables: shown(&self.common.variables),
            unless_set: shown(&self.common.default_variables),
            passed_on: passed_on.iter().map(|(name, _)| name.display().to_string()).collect(),
            copies_binary: has_others && self.ssh.copy_binary,
            notices: self.notices.clone(),
            hosts: (0..).zip(&self.nodes).map(|(n, node)| self.host(n, node, own_path)).collect(),
        }
    }

    /// What the ranks run, as a shell would need it.
    pub fn command_line(&self) -> String {
        let wrapper = self.wrapper();
        let line = |command: Vec<String>| shell_line(&[&wrapper[..], &command].concat());
        self.commands().into_iter().map(line).collect::<Vec<_>>().join(" : ")
    }

    fn wrapper(&self) -> Vec<String> {
        self.common.wrapper.as_ref().map(|wrapper| wrapper.words().to_vec()).unwrap_or_default()
    }

    fn commands(&self) -> Vec<Vec<String>> {
        self.common.tasks.iter().map(Task::words).collect()
    }

    fn other_commands(&self) -> Vec<CommandSummary> {
        let others = self.common.tasks.iter().enumerate().skip(1);
        let summary = |(index, task): (usize, &Task)| {
            let ranks = (0..self.world_size).filter(|rank| self.task_of(*rank) == index).collect();
            CommandSummary { ranks, command: task.words(), variables: shown(&task.variables) }
        };
        others.map(summary).collect()
    }

    fn host(&self, node_rank: usize, node: &NodePlan, own_path: Option<&str>) -> HostSummary {
        let copy = self.ssh.copy_binary.then_some(COPY);
        let ssh = (!node.is_local).then(|| {
            let command = self.ssh.command(&node.host, own_path, copy);
            let arguments = command.arguments.iter().map(|word| word.display().to_string());
            std::iter::once(command.program.display().to_string()).chain(arguments).collect()
        });
        HostSummary {
            node_rank,
            host: node.host.host.clone(),
            user: node.host.user.clone(),
            is_this_host: node.is_local,
            ssh,
            omp_num_threads: self.common.divide_cores.then(|| self.threads(node)),
            ranks: (0..).zip(&self.config(node).ranks).map(rank).collect(),
        }
    }

    /// What OMP_NUM_THREADS is where nobody sets it.
    fn threads(&self, node: &NodePlan) -> String {
        let ranks = node.ranks.len();
        if self.common.bind_to != BindTo::None {
            "own cores".to_owned()
        } else if node.is_local {
            environment::threads_default(self.local_cores.get(), ranks).1.display().to_string()
        } else {
            format!("cores/{ranks}")
        }
    }
}

fn rank((local_rank, config): (u32, &RankConfig)) -> RankSummary {
    let mut variables = shown(&config.variables);
    variables.retain(|variable| variable.name != env::RUN_ID.name);
    RankSummary {
        rank: config.rank,
        local_rank,
        device: value_of(&config.variables, env::DEVICE.name),
        has_input: config.has_input,
        variables,
    }
}

fn shown(variables: &[(OsString, OsString)]) -> Vec<VariableSummary> {
    let shown = |(name, value): &(OsString, OsString)| {
        let name = name.display().to_string();
        let value = (!sounds_secret(&name)).then(|| value.display().to_string());
        VariableSummary { name, value }
    };
    variables.iter().map(shown).collect()
}

/// Whether a variable of this name usually holds what must not be in a log. A word of it ends so.
fn sounds_secret(name: &str) -> bool {
    const ENDS: [&str; 12] = [
        "AUTH",
        "CREDENTIAL",
        "CREDENTIALS",
        "KEY",
        "KEYS",
        "PASSPHRASE",
        "PASSWD",
        "PASSWORD",
        "SECRET",
        "SECRETS",
        "TOKEN",
        "TOKENS",
    ];
    let name = name.to_ascii_uppercase();
    name.split('_').any(|word| ENDS.iter().any(|end| word.ends_with(end)))
}

/// The value of a variable in a list; empty where it is not there.
pub(super) fn value_of(variables: &[(OsString, OsString)], name: &str) -> String {
    let found = variables.iter().find(|(candidate, _)| candidate == name);
    found.map(|(_, value)| value.display().to_string()).unwrap_or_default()
}

/// Words as a shell would need them.
pub fn shell_line<T: AsRef<str>>(words: &[T]) -> String {
    words.iter().map(|word| shell_word(word.as_ref())).collect::<Vec<_>>().join(" ")
}

fn shell_word(text: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "-_./:=,+@%".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_sound_secret_are_told_from_others() {
        for name in ["HF_TOKEN", "WANDB_API_KEY", "PGPASSWORD", "aws_secret_access_key", "SECRET"] {
            assert!(sounds_secret(name), "{name}");
        }
        for name in ["TOKENIZERS_PARALLELISM", "PATH", "NCCL_DEBUG", "KEYMAP", "PACELINE_DEVICE"] {
            assert!(!sounds_secret(name), "{name}");
        }
    }

    #[test]
    fn a_shell_reads_the_words_that_were_written() {
        let words = ["true", "a b", "it's", "", "--x=1"];
        assert_eq!(shell_line(&words), r"true 'a b' 'it'\''s' '' --x=1");
    }
}
