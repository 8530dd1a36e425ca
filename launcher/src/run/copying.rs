//! Putting this very binary on other hosts, where the user asks for it.
//!
//! A copy is kept there below the name of its build, so it crosses the network once for each build and
//! host. It appears under its name only when all of it has arrived: whoever else starts at the same time
//! finds all of it or nothing.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::RunError;
use super::agents::AgentCommand;
use super::outcome::{Outcome, RankOutcome, Unreached, Verdict};
use super::ssh::SshOptions;
use crate::hosts::HostSlots;
use crate::plan::LaunchPlan;
use crate::process::build_id;
use crate::process::spawn::die_with_parent;
use crate::process::wait::Ending;

/// Longest time for one host: a binary of tens of megabytes over a slow link.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// Hosts that are copied to at a time: they share our link.
const AT_ONCE: usize = 16;

/// Bytes of what ssh says that are kept.
const WORDS_BYTES_MAX: u64 = 4096;

/// Where each node has a copy of this binary, if the user wants that: on this host nobody needs one.
pub(super) async fn copies(
    plan: &LaunchPlan,
) -> Result<Result<Vec<Option<String>>, Vec<Unreached>>, RunError> {
    let mut copies = vec![None; plan.nodes.len()];
    if !plan.ssh.copy_binary {
        return Ok(Ok(copies));
    }
    let build = build_id::of_this_process().ok_or(RunError::NoBuildId)?;
    let others = || plan.nodes.iter().zip(0..).filter(|(node, _)| !node.is_local);
    let hosts: Vec<HostSlots> = others().map(|(node, _)| node.host.clone()).collect();
    Ok(copy_to_all(&plan.ssh, &hosts, &build).await.map(|paths| {
        for ((_, number), path) in others().zip(paths) {
            copies[number] = Some(path);
        }
        copies
    }))
}

/// How a job ended whose hosts could not be copied to.
pub(super) fn never_started(plan: &LaunchPlan, unreached: Vec<Unreached>) -> Outcome {
    let verdict = Verdict::Unreached(unreached);
    let ranks = (0..plan.world_size).map(|_| RankOutcome::NotStarted).collect();
    let (left_behind, survivors) = (Vec::new(), Vec::new());
    Outcome { verdict, ranks, left_behind, survivors, grace: plan.grace, stacks: Vec::new() }
}

/// Makes sure that every host has a copy. Returns where each has it, or why one has not.
async fn copy_to_all(
    ssh: &SshOptions,
    hosts: &[HostSlots],
    build: &str,
) -> Result<Vec<String>, Vec<Unreached>> {
    let mut paths = vec![String::new(); hosts.len()];
    let mut failed = Vec::new();
    let mut waiting = (0..).zip(hosts);
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((number, host)) = waiting.next()
        {
            let command = ssh.command_line(host, &script(build));
            let name = host.host.clone();
            running.spawn(async move { (number, copy(name, command).await) });
        }
        let Some(outcome) = running.join_next().await else { break };
        match outcome {
            Ok((number, Ok(path))) => paths[number] = path,
            Ok((_, Err(unreached))) => failed.push(unreached),
            // It neither panics nor is aborted.
            Err(_) => {}
        }
    }
    if failed.is_empty() { Ok(paths) } else { Err(failed) }
}

/// What the remote shell does with the binary on its standard input; it says where the copy is.
fn script(build: &str) -> String {
    let machine = std::env::consts::ARCH;
    format!(
        "exec sh -c 'm=$(uname -m); [ $m = {machine} ] || {{ echo \"it is made for {machine}, and this \
         is $m\" >&2; exit 126; }}; d=${{XDG_CACHE_HOME:-$HOME/.cache}}/paceline/{build}; p=$d/paceline; \
         test -x $p || {{ umask 077; mkdir -p $d && cat >$p.$$ && chmod 700 $p.$$ && mv $p.$$ $p; }} && \
         echo $p'"
    )
}

async fn copy(host: String, command: AgentCommand) -> Result<String, Unreached> {
    let failed = |words: String, ending| Unreached {
        host: host.clone(),
        ending,
        words: words.lines().map(str::to_owned).collect(),
        reason: None,
    };
    let system = |error: std::io::Error| failed(format!("failed to run ssh: {error}"), None);
    let binary = File::open("/proc/self/exe").map_err(system)?;
    let mut process = std::process::Command::new(&command.program);
    process.args(&command.arguments).stdin(binary).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_parent(&mut process);
    let mut child = Command::from(process).kill_on_drop(true).spawn().map_err(system)?;
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        unreachable!("both streams were piped")
    };
    let (mut output, mut errors) = (output.take(WORDS_BYTES_MAX), errors.take(WORDS_BYTES_MAX));
    let (mut path, mut words) = (Vec::new(), Vec::new());
    let all = async {
        let (said, complained) =
            tokio::join!(output.read_to_end(&mut path), errors.read_to_end(&mut words));
        said.and(complained)?;
        child.wait().await
    };
    let status = match tokio::time::timeout(COPY_TIMEOUT, all).await {
        Ok(status) => status.map_err(system)?,
        Err(_elapsed) => {
            let limit = COPY_TIMEOUT.as_secs();
            return Err(failed(format!("the binary was not copied within {limit} s"), None));
        }
    };
    // What login scripts write comes before it.
    let path = String::from_utf8_lossy(&path).lines().last().unwrap_or_default().to_owned();
    if status.success() && path.starts_with('/') {
        return Ok(path);
    }
    let words = String::from_utf8_lossy(&words).into_owned();
    Err(failed(words, Ending::from_status(status)))
}
