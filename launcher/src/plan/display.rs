//! A plan as text.

use std::ffi::OsString;
use std::fmt;

use super::{LaunchPlan, NodePlan};
use crate::environment;
use crate::protocol::messages::AgentConfig;
use crate::wrap::Wrapper;

impl LaunchPlan {
    /// What the ranks run, as a shell would need it.
    pub fn command_line(&self) -> String {
        let Some(node) = self.nodes.first() else { return String::new() };
        words(&node.config).join(" ")
    }

    /// What OMP_NUM_THREADS is where nobody sets it.
    fn threads(&self, node: &NodePlan) -> String {
        let ranks = node.config.ranks.len();
        if node.is_local {
            environment::threads_default(self.local_cores.get(), ranks).1.display().to_string()
        } else {
            format!("cores/{ranks}")
        }
    }
}

/// The text of `--dry-run`: one block per host, one line per rank, then what they have in common.
impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "run {}: {} ranks on {} host(s)",
            self.run_id,
            self.world_size,
            self.nodes.len()
        )?;
        for (node_rank, node) in self.nodes.iter().enumerate() {
            let config = &node.config;
            let user = node.host.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            writeln!(f, "node {node_rank}: {user}{}", node.host.host)?;
            write!(f, "  command:   {}", words(config).join(" "))?;
            writeln!(f, "\n  directory: {}", config.working_directory.display())?;
            for rank in &config.ranks {
                let local = value_of(&rank.variables, "PACELINE_LOCAL_RANK");
                let device = value_of(&rank.variables, "PACELINE_DEVICE");
                writeln!(f, "  rank {}: local rank {local}, device {device}", rank.rank)?;
            }
            writeln!(f, "  variables of all ranks:")?;
            for (name, value) in &config.variables {
                writeln!(f, "    {}={}", name.display(), quoted(value))?;
            }
            if config.divide_cores {
                let name = environment::OMP_NUM_THREADS;
                writeln!(f, "    {name}={} (unless set)", self.threads(node))?;
            }
            for (name, value) in &config.default_variables {
                writeln!(f, "    {}={} (unless set)", name.display(), quoted(value))?;
            }
        }
        Ok(())
    }
}

/// What the ranks of a host run, as a shell would need it.
fn words(config: &AgentConfig) -> Vec<String> {
    let wrapper = config.wrapper.iter().flat_map(Wrapper::words);
    let wrapper = wrapper.map(|word| quoted(&OsString::from(word)));
    let arguments = config.arguments.iter().map(quoted);
    wrapper.chain(std::iter::once(config.program.display())).chain(arguments).collect()
}

/// The value of a variable in a list; empty where it is not there.
pub(super) fn value_of(variables: &[(OsString, OsString)], name: &str) -> String {
    let found = variables.iter().find(|(candidate, _)| candidate == name);
    found.map(|(_, value)| value.display().to_string()).unwrap_or_default()
}

/// As a shell would need it.
fn quoted(text: &OsString) -> String {
    let text = text.display().to_string();
    let plain = |character: char| character.is_alphanumeric() || "-_./:=,+@%".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
