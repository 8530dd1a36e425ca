//! Putting this very binary on other hosts, where the user asks for it.
//!
//! A copy is kept there below the name of its build, so it crosses the network once for each build and
//! host. It appears under its name only when all of it has arrived: whoever else starts at the same time
//! finds all of it or nothing. The end of what arrives says nothing about that, as it also comes when
//! this process or its ssh is killed: the size does.

use std::fs::File;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::RunError;
use super::agents::AgentCommand;
use super::events::{JobEvent, OnEvent};
use super::outcome::{Outcome, RankOutcome, Unreached, Verdict};
use super::ssh::SshOptions;
use super::terminal;
use crate::hosts::HostSlots;
use crate::plan::LaunchPlan;
use crate::process::build_id;
use crate::process::spawn::die_with_parent;
use crate::process::wait::Ending;

/// Longest time for one host: a binary of tens of megabytes over a slow link.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// This binary, also if its file has been replaced.
const OWN_BINARY: &str = "/proc/self/exe";

/// Hosts that are copied to at a time: they share our link.
const AT_ONCE: usize = 16;

/// Bytes of what ssh says that are kept: the last ones.
const WORDS_BYTES_MAX: usize = 4096;

/// Where each node has a copy of this binary, if the user wants that: on this host nobody needs one. Or
/// why there is no job.
pub(super) async fn copies(
    plan: &LaunchPlan,
) -> Result<Result<Vec<Option<String>>, Verdict>, RunError> {
    let mut copies = vec![None; plan.nodes.len()];
    if !plan.ssh.copy_binary {
        return Ok(Ok(copies));
    }
    let build = build_id::of_this_process().ok_or(RunError::NoBuildId)?;
    let others = || plan.nodes.iter().zip(0..).filter(|(node, _)| !node.is_local);
    let hosts: Vec<HostSlots> = others().map(|(node, _)| node.host.clone()).collect();
    let metadata = std::fs::metadata(OWN_BINARY);
    let bytes = metadata
        .map_err(|source| RunError::System { operation: "look at the binary", source })?
        .len();
    let script = script(&build, bytes);
    let copying = copy_to_all(&plan.ssh, &hosts, &script);
    let copied = match plan.timeout {
        Some(limit) => match tokio::time::timeout(limit, copying).await {
            Ok(copied) => copied,
            Err(_elapsed) => return Ok(Err(Verdict::TimedOut { limit })),
        },
        None => copying.await,
    };
    Ok(copied.map_err(Verdict::Unreached).map(|paths| {
        for ((_, number), path) in others().zip(paths) {
            copies[number] = Some(path);
        }
        copies
    }))
}

/// How a job ended whose hosts could not be copied to.
pub(super) async fn never_started(
    plan: &LaunchPlan,
    verdict: Verdict,
    on_event: &mut OnEvent<'_>,
) -> Outcome {
    let ranks = (0..plan.world_size).map(|_| RankOutcome::NotStarted).collect();
    let (left_behind, survivors) = (Vec::new(), Vec::new());
    let outcome =
        Outcome { verdict, ranks, left_behind, survivors, grace: plan.grace, stacks: Vec::new() };
    terminal::tell(on_event(&JobEvent::finished(&outcome))).await;
    outcome
}

/// Makes sure that every host has a copy. Returns where each has it, or why one has not.
async fn copy_to_all(
    ssh: &SshOptions,
    hosts: &[HostSlots],
    script: &str,
) -> Result<Vec<String>, Vec<Unreached>> {
    let mut paths = vec![String::new(); hosts.len()];
    let mut failed = Vec::new();
    let mut waiting = (0..).zip(hosts);
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((number, host)) = waiting.next()
        {
            let command = ssh.command_line(host, script);
            let name = host.host.clone();
            running.spawn(async move { (number, copy(name, command).await) });
        }
        let Some(outcome) = running.join_next().await else { break };
        match outcome {
            Ok((number, Ok(path))) => paths[number] = path,
            Ok((number, Err(unreached))) => failed.push((number, unreached)),
            // It neither panics nor is aborted.
            Err(_) => {}
        }
    }
    // They fail in any order.
    failed.sort_by_key(|(number, _)| *number);
    let failed: Vec<Unreached> = failed.into_iter().map(|(_, unreached)| unreached).collect();
    if failed.is_empty() { Ok(paths) } else { Err(failed) }
}

/// What the remote shell does with the binary on its standard input; it says where the copy is.
fn script(build: &str, bytes: u64) -> String {
    let machine = std::env::consts::ARCH;
    format!(
        "exec sh -c 'm=$(uname -m); [ $m = {machine} ] || {{ echo \"it is made for {machine}, and this \
         is $m\" >&2; exit 126; }}; d=\"${{XDG_CACHE_HOME:-$HOME/.cache}}/paceline/{build}\"; \
         p=\"$d/paceline\"; whole() {{ [ $(wc -c <\"$1\") -eq {bytes} ]; }}; \
         put() {{ cat >$1 && chmod 700 $1 && whole $1 && mv $1 paceline; }}; \
         test -x \"$p\" && whole \"$p\" || {{ umask 077; mkdir -p \"$d\" && cd \"$d\" && {{ put new.$$ || \
         {{ rm -f new.$$; echo \"the binary did not arrive whole in $d\" >&2; exit 1; }}; }}; }} && \
         echo \"$p\"'"
    )
}

async fn copy(host: String, command: AgentCommand) -> Result<String, Unreached> {
    let failed = |words: String, ending| Unreached {
        host: host.clone(),
        ending,
        words: words.lines().map(str::to_owned).collect(),
        reason: None,
    };
    let system = |error: io::Error| failed(format!("failed to run ssh: {error}"), None);
    let binary = File::open(OWN_BINARY).map_err(system)?;
    let mut process = std::process::Command::new(&command.program);
    process.args(&command.arguments).stdin(binary).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_parent(&mut process);
    let mut child = Command::from(process).kill_on_drop(true).spawn().map_err(system)?;
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        unreachable!("both streams were piped")
    };
    let all = async {
        let (path, words) = tokio::join!(last_bytes(output), last_bytes(errors));
        Ok((path?, words?, child.wait().await?))
    };
    let (path, words, status) = match tokio::time::timeout(COPY_TIMEOUT, all).await {
        Ok(outcome) => outcome.map_err(system)?,
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

/// Reads to the end, as whoever writes waits for that, and keeps what comes last.
async fn last_bytes(mut from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let (mut buffer, mut kept) = (vec![0; WORDS_BYTES_MAX], Vec::new());
    while let count @ 1.. = from.read(&mut buffer).await? {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(WORDS_BYTES_MAX);
        kept.drain(..excess);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_much_is_said_all_of_it_is_taken_and_the_end_is_kept() {
        let said = [&[b'x'; 100_000][..], b"\n/the/path\n"].concat();
        let kept = last_bytes(&said[..]).await.expect("memory");
        assert_eq!(kept.len(), WORDS_BYTES_MAX);
        assert!(kept.ends_with(b"x\n/the/path\n"));
    }
}
