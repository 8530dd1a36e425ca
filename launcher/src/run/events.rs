//! What happens in a job, for programs that follow it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outcome::{Outcome, RankFailure, Verdict};
use crate::networks::NetworkChoice;
use crate::process::memory::OutOfMemory;
use crate::process::wait::{Ending, ResourceUsage};
use crate::protocol::messages::{LeftBehind, RankExit};

/// Who is told what happens, and what the user is to hear of it: a line each.
pub(super) type OnEvent<'a> = dyn FnMut(&JobEvent) -> Vec<String> + 'a;

/// Something that has happened in a job.
///
/// Serialised it is an object whose field `event` names the variant in snake case, beside the fields
/// of the variant. More variants and more fields may come; the meaning of these stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobEvent {
    /// The agent of a host runs.
    AgentUp {
        /// The host.
        host: String,
        /// The agent's process id there.
        pid: i32,
    },
    /// The ranks of several hosts use this network.
    NetworkChosen(NetworkChoice),
    /// A rank has been started.
    RankStarted {
        /// The rank.
        rank: u32,
        /// Its host.
        host: String,
        /// Its process id there.
        pid: i32,
        /// The processors that it is bound to, as Linux writes them: `0-3,8`; left out where it is not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cpus: Option<String>,
    },
    /// A rank has ended, however and whyever it did.
    RankExited(RankExited),
    /// The ranks that still run are told to end.
    Stopping {
        /// Why: a sentence without its full stop.
        reason: String,
    },
    /// Ranks wait for longer than usual in an operation.
    Stalled {
        /// Who waits for whom, in what.
        text: String,
    },
    /// The agent of a host does not answer any more: it is stopped, or out of reach.
    HostSilent {
        /// The host.
        host: String,
    },
    /// The agent of a host that was silent answers again.
    HostAnswers {
        /// The host.
        host: String,
    },
    /// A process that a rank had started outlived all ranks of its host; it is being ended.
    LeftBehind {
        /// The host.
        host: String,
        /// The rank in whose environment it was started, if that can be told.
        rank: Option<u32>,
        /// Its process id on the host.
        pid: i32,
        /// First 15 bytes of the program's name.
        name: String,
    },
    /// A process of the job that even SIGKILL did not end.
    Survived {
        /// The host.
        host: String,
        /// The rank that it is, or that had started it, if that can be told.
        rank: Option<u32>,
        /// Its process id on the host.
        pid: i32,
        /// First 15 bytes of the program's name.
        name: String,
    },
    /// The job is over: no process of it is left but those that survived. Nothing follows.
    Finished {
        /// What the launcher returns.
        code: u8,
        /// Why the job ended: a sentence without its full stop.
        reason: String,
        /// The rank that failed first, if it was a rank that the job ended for.
        failed_rank: Option<u32>,
    },
}

/// How a rank ended, in a form for other programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankExited {
    /// The rank.
    pub rank: u32,
    /// Its host.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// How it ended: the field `code` or the field `signal`, with a number.
    #[serde(flatten)]
    pub ending: Ending,
    /// How long it ran.
    #[serde(rename = "ran_s", with = "seconds")]
    pub ran: Duration,
    /// Processor time in user mode, of the rank and the children that it waited for.
    #[serde(rename = "user_s", with = "seconds")]
    pub user: Duration,
    /// Their processor time in the kernel.
    #[serde(rename = "system_s", with = "seconds")]
    pub system: Duration,
    /// Largest resident set of one of these processes, where the kernel says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// The kernel killed it, for want of memory; left out where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<OutOfMemory>,
}

impl RankExited {
    fn of(exit: &RankExit, host: String) -> Self {
        let ResourceUsage { user, system, resident_bytes_max } = exit.usage;
        Self {
            rank: exit.rank,
            host,
            pid: exit.pid,
            ending: exit.ending,
            ran: exit.ran,
            user,
            system,
            max_rss_bytes: (resident_bytes_max > 0).then_some(resident_bytes_max),
            out_of_memory: exit.out_of_memory.clone(),
        }
    }
}

impl JobEvent {
    pub(super) fn rank_exited(exit: &RankExit, host: String) -> Self {
        Self::RankExited(RankExited::of(exit, host))
    }

    pub(super) fn left_behind(left: &LeftBehind, host: String) -> Self {
        let (pid, name) = (left.process.pid, left.process.name.clone());
        Self::LeftBehind { host, rank: left.rank, pid, name }
    }

    pub(super) fn finished(outcome: &Outcome) -> Self {
        let failed_rank = match &outcome.verdict {
            Verdict::RankFailed(RankFailure { exit, .. }) => Some(exit.rank),
            _ => None,
        };
        let (code, reason) = (outcome.exit_code().code(), outcome.verdict.reason());
        Self::Finished { code, reason, failed_rank }
    }
}

/// Times as seconds with decimals.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(event: &JobEvent) -> String {
        let text = serde_json::to_string(event).expect("no maps with odd keys");
        assert_eq!(&serde_json::from_str::<JobEvent>(&text).expect("our own"), event);
        text
    }

    #[test]
    fn events_are_flat_objects_that_can_be_read_back() {
        let mut exit = RankExit {
            rank: 3,
            pid: 4711,
            ending: Ending::Signal(9),
            ran: Duration::from_millis(1500),
            usage: ResourceUsage { user: Duration::from_millis(250), ..ResourceUsage::default() },
            out_of_memory: None,
        };
        assert_eq!(
            json(&JobEvent::rank_exited(&exit, "n1".into())),
            "{\"event\":\"rank_exited\",\"rank\":3,\"host\":\"n1\",\"pid\":4711,\"signal\":9,\
             \"ran_s\":1.5,\"user_s\":0.25,\"system_s\":0.0}"
        );
        exit.ending = Ending::Code(7);
        exit.usage.resident_bytes_max = 4096;
        let text = json(&JobEvent::rank_exited(&exit, "n1".into()));
        assert!(text.contains("\"code\":7,"), "{text}");
        assert!(text.ends_with("\"max_rss_bytes\":4096}"), "{text}");
        assert_eq!(
            json(&JobEvent::AgentUp { host: "n1".into(), pid: 4 }),
            "{\"event\":\"agent_up\",\"host\":\"n1\",\"pid\":4}"
        );
        let finished = JobEvent::Finished { code: 0, reason: "x".into(), failed_rank: None };
        let expected = "{\"event\":\"finished\",\"code\":0,\"reason\":\"x\",\"failed_rank\":null}";
        assert_eq!(json(&finished), expected);
    }
}
