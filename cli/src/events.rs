//! `--events FILE`: what happens in a job, one JSON object in a line, as it happens.
//!
//! The launcher does nothing else while a line is written, so nothing here waits: a pipe that nobody
//! reads is refused, one whose reader does not keep up ends the story, as does a disk that is full.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use paceline_launcher::{JobEvent, LaunchPlan};
use paceline_rendezvous::env::{self, Environment, EnvironmentError};
use rustix::fs::{Mode, OFlags, open};
use serde::Serialize;

use crate::console;

/// What the first line says of the others.
const SCHEMA: &str = "paceline.events/1";

/// Why there is nowhere to write events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    #[error("events cannot go to standard output: that is the ranks'")]
    StandardOutput,
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("failed to create {} for the job's events", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl EventsError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::StandardOutput => Some(
                "--events FILE names a file, or a pipe that somebody reads, such as /dev/fd/3"
                    .to_owned(),
            ),
            Self::Create { .. } => Some(
                "--events (PACELINE_EVENTS) names a file that can be written, or a pipe that \
                 somebody reads"
                    .to_owned(),
            ),
            Self::Environment(error) => error.hint(),
        }
    }
}

/// The file that the settings name.
pub(crate) fn path(settings: &impl Environment) -> Result<Option<PathBuf>, EventsError> {
    match env::EVENTS.text(settings)? {
        Some(name) if name == "-" => Err(EventsError::StandardOutput),
        name => Ok(name.map(PathBuf::from)),
    }
}

/// The first line.
#[derive(Serialize)]
struct Head {
    schema: &'static str,
    run_id: String,
    world_size: u32,
}

/// Any other line.
#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970, in whole milliseconds.
    time: f64,
    #[serde(flatten)]
    event: &'a JobEvent,
}

/// A file that events are written to.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    /// `None` once it could not be written.
    file: Option<File>,
    /// Bytes of whole lines in it.
    length: u64,
}

impl EventLog {
    /// Makes the file, or empties it, and writes the first line.
    ///
    /// # Errors
    /// [`EventsError::Create`].
    pub(crate) fn create(path: &Path, plan: &LaunchPlan) -> Result<Self, EventsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::from_raw_mode(0o666))
            .map_err(|error| EventsError::Create { path: path.to_owned(), source: error.into() })?;
        let mut log = Self { path: path.to_owned(), file: Some(file.into()), length: 0 };
        let (run_id, world_size) = (plan.run_id().to_string(), plan.world_size());
        log.line(&Head { schema: SCHEMA, run_id, world_size })
            .iter()
            .for_each(|what| console::note(what));
        Ok(log)
    }

    /// Writes what has happened. What goes wrong is returned, to be said, once; the job goes on.
    pub(crate) fn write(&mut self, event: &JobEvent) -> Option<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.line(&Line { time: whole_millis(now), event })
    }

    fn line(&mut self, line: &impl Serialize) -> Option<String> {
        let file = self.file.as_mut()?;
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            file.write_all(&bytes)?;
            Ok(bytes.len() as u64)
        });
        match written {
            Ok(bytes) => {
                self.length += bytes;
                None
            }
            Err(error) => {
                // Half a line would be no JSON. Of what is no regular file it stays.
                let _ = file.set_len(self.length);
                self.file = None;
                let path = self.path.display();
                Some(format!("no more events in {path}: {error}; the job goes on"))
            }
        }
    }
}

/// Seconds with three decimals.
fn whole_millis(time: Duration) -> f64 {
    // Their number is far below 2^53, so the quotient is the nearest one to three decimals.
    let millis = Duration::from_secs(time.as_secs()).as_secs_f64() * 1e3;
    (millis + f64::from(time.subsec_millis())) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_decimals() {
        for (time, text) in [
            (Duration::new(1_764_245_525, 123_999_999), "1764245525.123"),
            (Duration::new(1_764_245_525, 0), "1764245525.0"),
            (Duration::new(1, 1_000_000), "1.001"),
        ] {
            assert_eq!(serde_json::to_string(&whole_millis(time)).unwrap(), text);
        }
    }

    #[test]
    fn standard_output_is_the_ranks() {
        let settings =
            |value: &'static str| std::collections::HashMap::from([("PACELINE_EVENTS", value)]);
        assert!(matches!(path(&settings("-")), Err(EventsError::StandardOutput)));
        assert_eq!(path(&settings("a/b")).unwrap(), Some("a/b".into()));
        assert_eq!(path(&settings("")).unwrap(), None);
    }
}
