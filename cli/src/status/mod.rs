//! `paceline status`: which jobs run here, and what one of them does or is stuck in.

mod table;

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use paceline_launcher::ExitCode;
use paceline_rendezvous::env::ProcessEnvironment;
use paceline_rendezvous::jobs::{JobCard, JobsDirectory};
use paceline_rendezvous::status::JobStatus;
use paceline_rendezvous::{ControlError, StoreError};
use serde::Serialize;

use crate::console;

/// How long a coordinator may take to answer. It does so at once unless its process is stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Hexadecimal digits of a run's number that stand for a job in tables.
const SHORT: usize = 8;

/// Options of `paceline status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Jobs are those that this user has started on this host. A job is named by the first digits of its
number, as the list shows them, or by the process id of its launcher.

Ranks that use Paceline's collectives say each second that they live, what they are in and what has
crossed their connections; what is shown is what they said last, and how long ago.")]
pub(crate) struct Arguments {
    /// The job; without it, list all
    #[arg(value_name = "JOB")]
    job: Option<String>,

    /// Write JSON: one object, or an array where no job is named
    #[arg(long)]
    json: bool,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error("failed to look for jobs")]
    Jobs(#[from] StoreError),
    #[error("no job {name:?} of this user runs on this host")]
    Unknown { name: String },
    #[error("{name:?} may be any of {count} jobs")]
    Ambiguous { name: String, count: usize },
    #[error("job {job} does not answer")]
    Silent {
        job: String,
        pid: u32,
        #[source]
        source: ControlError,
    },
    #[error("failed to write JSON")]
    Json(#[from] serde_json::Error),
}

impl StatusError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some("`paceline status` lists the jobs that run".to_owned()),
            Self::Ambiguous { .. } => Some("say more digits, or the launcher's pid".to_owned()),
            Self::Silent { pid, .. } => {
                Some(format!("its coordinator is in process {pid}; see whether that is stopped"))
            }
            Self::Jobs(_) | Self::Json(_) => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unknown { .. } | Self::Ambiguous { .. } => ExitCode::Usage,
            Self::Silent { source, .. } if source.is_timeout() => ExitCode::TimedOut,
            _ => ExitCode::LauncherFailed,
        }
    }
}

/// A job and what is known of it, as JSON shows it. The secret is not in it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    job: String,
    pid: u32,
    since_unix: u64,
    command: &'a str,
    /// What its coordinator knows, or why that is not known.
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Status(Box<JobStatus>),
    NoAnswer(String),
}

/// Shows what the arguments ask for.
pub(crate) fn status(arguments: &Arguments) -> ExitCode {
    match show(arguments) {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            console::failure(&error, error.hint());
            error.exit_code()
        }
    }
}

fn show(arguments: &Arguments) -> Result<(), StatusError> {
    let directory = JobsDirectory::of(&ProcessEnvironment);
    let cards = directory.cards()?;
    let text = match &arguments.job {
        Some(name) => {
            let card = find(&cards, name)?;
            let status = ask(&directory, card).map_err(|source| StatusError::Silent {
                job: short(card),
                pid: card.pid,
                source,
            })?;
            if arguments.json {
                serde_json::to_string_pretty(&shown(card, Ok(status)))?
            } else {
                table::job(&short(card), card, &age(card), &status)
            }
        }
        None => list(&directory, &cards, arguments.json)?,
    };
    // A reader that left has seen enough.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    Ok(())
}

fn list(directory: &JobsDirectory, cards: &[JobCard], json: bool) -> Result<String, StatusError> {
    let mut all = Vec::new();
    for card in cards {
        let answer = ask(directory, card);
        // One that was killed could not take its card along.
        if answer.is_ok() || !directory.forget_if_dead(card) {
            all.push((card, answer));
        }
    }
    if json {
        let all: Vec<_> = all.into_iter().map(|(card, answer)| shown(card, answer)).collect();
        return Ok(serde_json::to_string_pretty(&all)?);
    }
    let rows: Vec<_> = all
        .iter()
        .map(|(card, answer)| (short(card), *card, age(card), answer.as_ref().ok()))
        .collect();
    Ok(table::jobs(&rows))
}

fn ask(directory: &JobsDirectory, card: &JobCard) -> Result<JobStatus, ControlError> {
    let answer = card.status(Instant::now() + ANSWER_TIMEOUT);
    if answer.is_err() {
        directory.forget_if_dead(card);
    }
    answer
}

fn shown(card: &JobCard, answer: Result<JobStatus, ControlError>) -> Shown<'_> {
    Shown {
        job: card.run_id.to_string(),
        pid: card.pid,
        since_unix: card.since_unix,
        command: &card.command,
        answer: match answer {
            Ok(status) => Answer::Status(Box::new(status)),
            Err(error) => Answer::NoAnswer(console::chain(&error)),
        },
    }
}

fn find<'a>(cards: &'a [JobCard], name: &str) -> Result<&'a JobCard, StatusError> {
    let digits = name.to_ascii_lowercase();
    let is_it = |card: &&JobCard| {
        !digits.is_empty()
            && (card.run_id.to_string().starts_with(&digits) || card.pid.to_string() == digits)
    };
    let found: Vec<&JobCard> = cards.iter().filter(is_it).collect();
    match found[..] {
        [card] => Ok(card),
        [] => Err(StatusError::Unknown { name: name.to_owned() }),
        _ => Err(StatusError::Ambiguous { name: name.to_owned(), count: found.len() }),
    }
}

fn short(card: &JobCard) -> String {
    let mut text = card.run_id.to_string();
    text.truncate(SHORT);
    text
}

fn age(card: &JobCard) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    table::span(Duration::from_secs(now.saturating_sub(card.since_unix)))
}

#[cfg(test)]
mod tests {
    use paceline_rendezvous::{RunId, Secret};

    use super::*;

    fn card(first: u8, pid: u32) -> JobCard {
        let mut bytes = [7; RunId::LEN];
        bytes[0] = first;
        let (address, secret) = (([127, 0, 0, 1], 9).into(), Secret::from_bytes([1; 32]));
        JobCard { pid, ..JobCard::new(RunId::from_bytes(bytes), address, secret, 2, "x") }
    }

    #[test]
    fn jobs_are_found_by_their_first_digits_or_their_launcher() {
        let cards = [card(0xab, 4711), card(0xac, 4712)];
        let pid = |name: &str| find(&cards, name).map(|card| card.pid);
        assert_eq!(pid("ab").unwrap(), 4711);
        assert_eq!(pid("AC07").unwrap(), 4712);
        assert_eq!(pid("4712").unwrap(), 4712);
        assert!(matches!(pid("a"), Err(StatusError::Ambiguous { count: 2, .. })));
        assert!(matches!(pid("d"), Err(StatusError::Unknown { .. })));
        assert!(matches!(pid(""), Err(StatusError::Unknown { .. })));
    }

    #[test]
    fn json_has_no_secret() {
        let card = card(1, 2);
        let error = ControlError::TimedOut { address: card.address };
        let text = serde_json::to_string(&shown(&card, Err(error))).unwrap();
        assert!(text.contains("\"no_answer\":\"the coordinator at"), "{text}");
        assert!(!text.contains("0101010101"), "{text}");
    }
}
