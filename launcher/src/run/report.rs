//! The end of a job in words.

use std::fmt::Write;

use super::outcome::{
    LateHost, Outcome, RankFailure, RankOutcome, RankStacks, Survivor, Unreached, Verdict,
};
use super::ssh;
use crate::process::descendants::ProcessName;
use crate::process::signals;
use crate::process::wait::Ending;
use crate::protocol::facts::VERSION;

impl Outcome {
    /// What to tell the user, one line each; empty when there is nothing to tell.
    pub fn report(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.verdict {
            // Nobody reads any more: whoever closed the pipe knows why.
            Verdict::Success | Verdict::OutputClosed => {}
            Verdict::RankFailed(failure) => self.describe_failure(failure, &mut lines),
            Verdict::Refused(refusal) => {
                lines.push(refusal.to_string());
                lines.extend(refusal.hint().map(|hint| format!("hint: {hint}")));
            }
            Verdict::Unreached(hosts) => {
                hosts.iter().for_each(|host| describe_host(host, &mut lines))
            }
            other => {
                lines.push(other.reason());
                lines.extend(hint(other).map(|hint| format!("hint: {hint}")));
            }
        }
        for RankStacks { rank, host, lines: seen } in &self.stacks {
            lines.push(format!("rank {rank} on {host} when time ran out:"));
            lines.extend(seen.iter().map(|line| format!("  | {line}")));
        }
        self.describe_leftovers(&mut lines);
        lines
    }

    fn describe_failure(&self, failure: &RankFailure, lines: &mut Vec<String>) {
        let exit = &failure.exit;
        lines.push(format!("first failure: {}", describe_rank(failure)));
        if let Some(cause) = &failure.cause {
            lines.push(format!("before that: {cause}"));
        }
        if !failure.last_lines.is_empty() {
            lines.push(format!("last lines of rank {} on standard error:", exit.rank));
            lines.extend(failure.last_lines.iter().map(|line| format!("  | {line}")));
        }
        if exit.ending == Ending::Signal(9) {
            let hint = if exit.out_of_memory.is_some() {
                "hint: fewer ranks on the host, smaller batches, or more memory for the cgroup"
            } else {
                "hint: a SIGKILL that nobody sent is usually the kernel's, out of memory: see dmesg"
            };
            lines.push(hint.to_owned());
        }
        lines.extend(self.consequences(exit.rank));
    }

    /// One line for everything that followed from the first failure.
    fn consequences(&self, first: u32) -> Option<String> {
        let mut stopped = Vec::new();
        let mut others = String::new();
        for (rank, outcome) in (0..).zip(&self.ranks).filter(|(rank, _)| *rank != first) {
            match outcome {
                RankOutcome::Stopped(_) => stopped.push(rank),
                RankOutcome::FailedAfter(exit) => {
                    // Writing to a String cannot fail.
                    let _ = write!(others, "; rank {rank} {}", exit.ending);
                }
                _ => {}
            }
        }
        let ended = match stopped.len() {
            0 => String::new(),
            1 => format!("; rank {} ended by paceline after the first failure", stopped[0]),
            _ => format!(
                "; ranks {} ended by paceline after the first failure",
                rank_ranges(&stopped)
            ),
        };
        let text = ended + &others;
        text.strip_prefix("; ").map(|text| format!("consequences: {text}"))
    }

    fn describe_leftovers(&self, lines: &mut Vec<String>) {
        // When a job is stopped, that its ranks' children end with it is what was asked for.
        if self.verdict == Verdict::Success {
            for left in &self.left_behind {
                let rank =
                    left.rank.map_or_else(|| "a rank".to_owned(), |rank| format!("rank {rank}"));
                lines.push(format!("{rank} left {} behind; it was ended", left.process));
            }
        }
        for survivor in &self.survivors {
            lines.push(describe_survivor(survivor));
            let (pid, host) = (survivor.process.pid, &survivor.host);
            lines.push(if survivor.state == 'D' {
                format!(
                    "hint: it is in the kernel (state D), which waits for a device or a file system: see \
                     /proc/{pid}/stack and dmesg on {host}; it ends when that does"
                )
            } else {
                format!("hint: on {host}, as root or whoever it runs as: kill -9 {pid}")
            });
        }
    }
}

impl Verdict {
    /// Why the job ended: a sentence without its full stop.
    pub fn reason(&self) -> String {
        match self {
            Self::Success => "every rank exited with 0".to_owned(),
            Self::OutputClosed => "nobody reads the ranks' output any more".to_owned(),
            Self::Unreached(hosts) => {
                let hosts: Vec<&str> = hosts.iter().map(|host| &*host.host).collect();
                format!("no agent on {}", hosts.join(", "))
            }
            Self::RankFailed(failure) => describe_rank(failure),
            Self::Interrupted { signal } => format!("stopped by {}", signals::name(*signal)),
            Self::AgentInterrupted { host, signal } => {
                format!("the agent on {host} was stopped by {}", signals::name(*signal))
            }
            Self::TimedOut { limit } => {
                format!(
                    "the job was stopped: it took longer than --timeout {}",
                    limit.as_secs_f64()
                )
            }
            Self::StartTimedOut { limit, hosts } => format!(
                "not all ranks were started within {} s; missing on {}",
                limit.as_secs_f64(),
                hosts.iter().map(describe_late).collect::<Vec<_>>().join(", ")
            ),
            Self::OutputFailed { path: Some(path), reason } => {
                format!("failed to write {}: {reason}", path.display())
            }
            Self::OutputFailed { path: None, reason } => {
                format!("failed to write the ranks' output: {reason}")
            }
            Self::AgentLost { host, pid, by_ssh, ending, reason } => {
                let mut text = format!("the agent on {host} (pid {pid}) is lost");
                if let Some(ending) = ending {
                    let who = if *by_ssh { "ssh" } else { "it" };
                    let _ = write!(text, ": {who} {ending}");
                }
                if let Some(reason) = reason {
                    let _ = write!(text, ": {reason}");
                }
                text
            }
            Self::OtherVersion { host, theirs } => {
                format!("paceline on {host} is version {theirs}, here it is {VERSION}")
            }
            Self::NoNetwork { reason } => reason.clone(),
            Self::PlanTooLarge { reason } => {
                format!("the program's arguments and variables are too many: {reason}")
            }
            Self::Refused(refusal) => refusal.to_string(),
        }
    }
}

fn describe_survivor(survivor: &Survivor) -> String {
    let Survivor { host, rank, process, .. } = survivor;
    let whose = rank.map(|rank| format!("of rank {rank} ")).unwrap_or_default();
    let ProcessName { pid, name } = process;
    format!("still running after SIGKILL: {name} {whose}(pid {pid} on {host})")
}

fn describe_rank(failure: &RankFailure) -> String {
    let exit = &failure.exit;
    let why = exit.out_of_memory.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!(
        "rank {} (pid {} on {}) {}{} after {:.1} s",
        exit.rank,
        exit.pid,
        failure.host,
        exit.ending,
        why,
        exit.ran.as_secs_f64()
    )
}

/// What to do about it.
fn hint(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::OtherVersion { host, .. } => {
            Some(format!("install the same version on {host}, or name it with --remote-program"))
        }
        // Between versions, messages change before their numbers do.
        Verdict::AgentLost { host, by_ssh: true, reason: Some(_), .. } => Some(format!(
            "install the same paceline on {host} as here, or let --copy-binary copy it"
        )),
        Verdict::AgentLost { host, by_ssh: true, ending: Some(_), .. } => Some(format!(
            "the connection broke, or the agent was killed: see whether {host} is up, and the end of its \
             kernel's log: ssh {host} dmesg"
        )),
        Verdict::NoNetwork { .. } => Some(
            "name an interface or a network that all hosts have: --interface eth0, or \
             --interface 10.0.0.0/24"
                .to_owned(),
        ),
        _ => None,
    }
}

fn describe_late(late: &LateHost) -> String {
    let LateHost { host, has_agent } = late;
    let what = if *has_agent { "its agent is up" } else { "ssh has not brought up its agent" };
    format!("{host} ({what})")
}

fn describe_host(unreached: &Unreached, lines: &mut Vec<String>) {
    let Unreached { host, ending, words, reason } = unreached;
    let mut text = format!("no agent on {host}");
    // Of several lines the last one is the verdict; ssh's and the shell's.
    let cause = reason.as_ref().or_else(|| words.last());
    if let Some(cause) = cause {
        let _ = write!(text, ": {cause}");
    } else if let Some(ending) = ending {
        let _ = write!(text, ": ssh {ending}");
    }
    lines.push(text);
    let before = words.len().saturating_sub(usize::from(reason.is_none()));
    lines.extend(words[..before].iter().map(|line| format!("  | {line}")));
    lines.extend(ssh::remedy(unreached).map(|hint| format!("hint: {hint}")));
}

/// `0-2, 5` for 0, 1, 2, 5. The numbers ascend.
pub fn rank_ranges(numbers: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = numbers;
    while let Some((&first, _)) = rest.split_first() {
        let length = (first..).zip(rest).take_while(|(expected, found)| expected == *found).count();
        let (run, after) = rest.split_at(length);
        if !text.is_empty() {
            text.push_str(", ");
        }
        let last = run.last().copied().unwrap_or(first);
        let _ = match length {
            1 => write!(text, "{first}"),
            _ => write!(text, "{first}-{last}"),
        };
        rest = after;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::wait::ResourceUsage;
    use crate::protocol::messages::RankExit;

    fn exit(rank: u32, ending: Ending) -> RankExit {
        let (ran, usage) = (Duration::from_millis(12_340), ResourceUsage::default());
        RankExit { rank, pid: 4711, ending, ran, usage, out_of_memory: None }
    }

    #[test]
    fn what_is_known_of_a_kill_replaces_the_guess() {
        let mut exit = exit(3, Ending::Signal(9));
        exit.out_of_memory = Some(crate::OutOfMemory {
            cgroup: "/job".into(),
            limit_file: "memory.max".into(),
            limit_bytes: Some(2 << 30),
        });
        let outcome = Outcome {
            verdict: Verdict::RankFailed(RankFailure {
                exit: exit.clone(),
                host: "node1".into(),
                last_lines: vec![],
                cause: None,
            }),
            ranks: vec![RankOutcome::Ended(exit)],
            left_behind: vec![],
            survivors: vec![],
            stacks: vec![],
            grace: Duration::from_secs(10),
        };
        assert_eq!(
            outcome.report(),
            [
                "first failure: rank 3 (pid 4711 on node1) was killed by SIGKILL: out of memory \
                 (cgroup /job: memory.max 2 GiB) after 12.3 s",
                "hint: fewer ranks on the host, smaller batches, or more memory for the cgroup",
            ]
        );
    }

    #[test]
    fn an_agent_that_makes_no_sense_may_be_another_build() {
        let lost = |ending, reason: Option<&str>| {
            let (host, reason) = ("n1".to_owned(), reason.map(str::to_owned));
            hint(&Verdict::AgentLost { host, pid: 7, by_ssh: true, ending, reason })
        };
        let other = lost(None, Some("a frame of type 76 is malformed")).expect("a hint");
        assert!(other.contains("the same paceline on n1"), "{other}");
        let broken = lost(Some(Ending::Code(255)), None).expect("a hint");
        assert!(broken.contains("the connection broke"), "{broken}");
    }

    #[test]
    fn what_survives_is_named_and_no_success() {
        let survivor = |pid, rank, state| Survivor {
            host: "n1".into(),
            rank,
            process: ProcessName { pid, name: "python3".into() },
            state,
        };
        let outcome = Outcome {
            verdict: Verdict::Success,
            ranks: vec![],
            left_behind: vec![],
            survivors: vec![survivor(7, Some(3), 'D'), survivor(8, None, 'S')],
            stacks: vec![],
            grace: Duration::from_secs(10),
        };
        assert_eq!(
            outcome.report(),
            [
                "still running after SIGKILL: python3 of rank 3 (pid 7 on n1)",
                "hint: it is in the kernel (state D), which waits for a device or a file system: see \
                 /proc/7/stack and dmesg on n1; it ends when that does",
                "still running after SIGKILL: python3 (pid 8 on n1)",
                "hint: on n1, as root or whoever it runs as: kill -9 8",
            ]
        );
        assert_eq!(outcome.exit_code(), crate::ExitCode::LauncherFailed);
    }

    #[test]
    fn numbers_are_gathered() {
        assert_eq!(rank_ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(rank_ranges(&[3]), "3");
        assert_eq!(rank_ranges(&[]), "");
    }

    #[test]
    fn the_first_failure_comes_first_and_the_rest_on_one_line() {
        let ended = Ending::Signal(15);
        let outcome = Outcome {
            verdict: Verdict::RankFailed(RankFailure {
                exit: exit(3, Ending::Signal(9)),
                host: "node1".into(),
                last_lines: vec!["boom".into()],
                cause: None,
            }),
            ranks: vec![
                RankOutcome::Stopped(exit(0, ended)),
                RankOutcome::Stopped(exit(1, ended)),
                RankOutcome::FailedAfter(exit(2, Ending::Code(1))),
                RankOutcome::Ended(exit(3, Ending::Signal(9))),
            ],
            left_behind: vec![],
            survivors: vec![],
            stacks: vec![],
            grace: Duration::from_secs(10),
        };
        assert_eq!(
            outcome.report(),
            [
                "first failure: rank 3 (pid 4711 on node1) was killed by SIGKILL after 12.3 s",
                "last lines of rank 3 on standard error:",
                "  | boom",
                "hint: a SIGKILL that nobody sent is usually the kernel's, out of memory: see dmesg",
                "consequences: ranks 0-1 ended by paceline after the first failure; \
                 rank 2 exited with code 1",
            ]
        );
    }
}
