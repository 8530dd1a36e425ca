//! The jobs of this user that have their coordinator on this host: where to ask about them.
//!
//! Each coordinator leaves a card with its address and the run's secret in a directory of mode 0700,
//! a file of mode 0600 per job. Whoever may read it belongs to the user, and could as well read the
//! secret from a rank's own file. The card of a launcher that was killed is removed by its agent. If that
//! was killed, too, the next job that leaves a card removes it, or whoever asks for it in vain.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::control::ControlError;
use crate::env::{self, Environment};
use crate::run::{RunId, Secret};
use crate::socket::wait_ready;
use crate::status::{JobStatus, observe};
use crate::store::{FileStore, Store as _, StoreError};

/// Attempts to leave a card: the directory may vanish with the last card of another job.
const ATTEMPTS: u32 = 8;

/// Longest command line that a card shows, in bytes.
const COMMAND_BYTES_MAX: usize = 1024;

/// A job that can be asked about.
#[derive(Clone, Debug)]
pub struct JobCard {
    /// The number of its run.
    pub run_id: RunId,
    /// Its coordinator.
    pub address: SocketAddr,
    /// The secret of the run.
    pub secret: Secret,
    /// Number of ranks.
    pub world_size: u32,
    /// The process that has the coordinator: the launcher, or rank 0.
    pub pid: u32,
    /// Where that number means something: a container that sees the card may have others.
    pub pid_namespace: String,
    /// When it began, in seconds since 1970.
    pub since_unix: u64,
    /// What the ranks run, for people.
    pub command: String,
}

/// The card as text.
#[derive(Serialize, Deserialize)]
struct CardText {
    run_id: String,
    address: SocketAddr,
    secret: String,
    world_size: u32,
    pid: u32,
    pid_namespace: String,
    since_unix: u64,
    command: String,
}

impl JobCard {
    /// The card of a job that begins now and has its coordinator in this process.
    pub fn new(
        run_id: RunId,
        address: SocketAddr,
        secret: Secret,
        world_size: u32,
        command: &str,
    ) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let command = &command[..command.floor_char_boundary(COMMAND_BYTES_MAX)];
        Self {
            run_id,
            address,
            secret,
            world_size,
            pid: std::process::id(),
            pid_namespace: own_pid_namespace(),
            since_unix: since.as_secs(),
            command: command.to_owned(),
        }
    }

    /// What its coordinator knows.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn status(&self, deadline: Instant) -> Result<JobStatus, ControlError> {
        observe(self.address, self.run_id, &self.secret, deadline)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text: CardText = serde_json::from_slice(text).ok()?;
        Some(Self {
            run_id: text.run_id.parse().ok()?,
            address: text.address,
            secret: Secret::from_hex(&text.secret).ok()?,
            world_size: text.world_size,
            pid: text.pid,
            pid_namespace: text.pid_namespace,
            since_unix: text.since_unix,
            command: text.command,
        })
    }

    fn text(&self) -> Vec<u8> {
        let text = CardText {
            run_id: self.run_id.to_string(),
            address: self.address,
            secret: self.secret.to_hex().to_string(),
            world_size: self.world_size,
            pid: self.pid,
            pid_namespace: self.pid_namespace.clone(),
            since_unix: self.since_unix,
            command: self.command.clone(),
        };
        serde_json::to_vec(&text).expect("a card has no failing serialisers")
    }
}

/// Where the cards of this user are.
#[derive(Clone, Debug)]
pub struct JobsDirectory(PathBuf);

impl JobsDirectory {
    /// The directory that the environment names: below `XDG_RUNTIME_DIR`, or else below `/tmp`.
    pub fn of(environment: &(impl Environment + ?Sized)) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let base = environment
            .get(env::XDG_RUNTIME_DIR.name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute() && path.is_dir())
            .unwrap_or_else(|| PathBuf::from("/tmp"));
        Self(base.join(format!("paceline-jobs-{user}")))
    }

    /// Leaves a card until the result is dropped. Removes those that others could not take along.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn publish(&self, card: &JobCard) -> Result<Published, StoreError> {
        for left in self.cards().unwrap_or_default() {
            self.forget_if_dead(&left);
        }
        let key = card.run_id.to_string();
        let text = card.text();
        let attempt = || {
            let store = FileStore::open(&self.0)?;
            store.set(&key, &text)?;
            Ok(Published { store, key: key.clone() })
        };
        let mut outcome = attempt();
        for _ in 1..ATTEMPTS {
            match &outcome {
                Err(StoreError::File { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    outcome = attempt();
                }
                _ => break,
            }
        }
        outcome
    }

    /// The cards that there are, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`]; no directory is no error.
    pub fn cards(&self) -> Result<Vec<JobCard>, StoreError> {
        let Some(store) = FileStore::open_existing(&self.0)? else { return Ok(Vec::new()) };
        let failed = |source| StoreError::File { path: self.0.clone(), source };
        let mut cards = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
            // Others are files that are just being written.
            if name.parse::<RunId>().is_ok()
                && let Some(text) = store.look_up(&name)?
            {
                cards.extend(JobCard::parse(&text));
            }
        }
        cards.sort_by_key(|card| (card.since_unix, card.pid));
        Ok(cards)
    }

    /// Removes the card of a job whose process is gone, which could not do so itself. Returns
    /// whether it is gone.
    pub fn forget_if_dead(&self, card: &JobCard) -> bool {
        let pid = i32::try_from(card.pid).ok().and_then(Pid::from_raw);
        let is_dead = card.pid_namespace == own_pid_namespace() && pid.is_none_or(is_dead);
        if is_dead {
            self.forget(card.run_id);
        }
        is_dead
    }

    /// Removes the card of a job whose launcher is known to be gone, if it is there.
    pub fn forget(&self, run_id: RunId) {
        if let Ok(Some(store)) = FileStore::open_existing(&self.0) {
            // Somebody else may have removed it; if it cannot be removed, it is found again.
            let _ = store.remove(&run_id.to_string());
        }
    }
}

/// The name of the namespace in which this process sees others; empty where there is none.
fn own_pid_namespace() -> String {
    let name = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether a process has ended, also if nobody has asked for its exit code yet.
fn is_dead(pid: Pid) -> bool {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => wait_ready(&handle, PollFlags::IN, Instant::now()).unwrap_or(false),
        Err(Errno::SRCH) => true,
        // A kernel without process handles.
        Err(_) => test_kill_process(pid) == Err(Errno::SRCH),
    }
}

/// A card that is there until this is dropped.
#[derive(Debug)]
pub struct Published {
    store: FileStore,
    key: String,
}

impl Drop for Published {
    fn drop(&mut self) {
        // Nobody can be told; who finds it learns that nobody answers.
        let _ = self.store.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(number: u8, pid: u32) -> JobCard {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let (run_id, secret) = (RunId::from_bytes([number; 16]), Secret::from_bytes([number; 32]));
        JobCard { pid, ..JobCard::new(run_id, address, secret, 4, "train.py --fast") }
    }

    fn run_ids(directory: &JobsDirectory) -> Vec<RunId> {
        directory.cards().unwrap().iter().map(|card| card.run_id).collect()
    }

    #[test]
    fn cards_are_found_until_they_are_dropped() {
        let base = tempfile::tempdir().unwrap();
        let directory = JobsDirectory(base.path().join("jobs"));
        assert_eq!(run_ids(&directory), []);
        let (first, second) = (card(1, 10), card(2, 20));
        let kept = directory.publish(&first).unwrap();
        let other = directory.publish(&second).unwrap();
        let found = directory.cards().unwrap();
        assert_eq!(found[0].secret.to_hex(), first.secret.to_hex());
        assert_eq!((found[0].pid, found[0].command.as_str()), (10, "train.py --fast"));
        assert_eq!(run_ids(&directory), [first.run_id, second.run_id]);
        drop(kept);
        assert_eq!(run_ids(&directory), [second.run_id]);
        // What is no card is none of ours.
        fs::write(directory.0.join("note"), "x").unwrap();
        assert_eq!(run_ids(&directory), [second.run_id]);
        drop(other);
        assert_eq!(run_ids(&directory), []);
    }

    #[test]
    fn only_cards_of_dead_processes_are_forgotten() {
        let base = tempfile::tempdir().unwrap();
        let directory = JobsDirectory(base.path().join("jobs"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (dead, living) = (card(1, child.id()), card(2, std::process::id()));
        let published = [&dead, &living].map(|card| directory.publish(card).unwrap());
        // It need not have been reaped.
        while !directory.forget_if_dead(&dead) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(run_ids(&directory), [living.run_id]);
        child.wait().unwrap();
        assert!(directory.forget_if_dead(&dead), "it is dead whether its card is there or not");
        assert!(!directory.forget_if_dead(&living));
        assert_eq!(run_ids(&directory), [living.run_id]);
        drop(published);
    }

    #[test]
    fn the_next_card_replaces_those_of_the_dead() {
        let base = tempfile::tempdir().unwrap();
        let directory = JobsDirectory(base.path().join("jobs"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = directory.publish(&card(1, child.id())).unwrap();
        child.wait().unwrap();
        let next = directory.publish(&card(2, std::process::id())).unwrap();
        assert_eq!(run_ids(&directory), [RunId::from_bytes([2; 16])]);
        drop((dead, next));
    }

    #[test]
    fn processes_of_other_namespaces_are_not_declared_dead() {
        let base = tempfile::tempdir().unwrap();
        let directory = JobsDirectory(base.path().join("jobs"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let elsewhere = JobCard { pid_namespace: "pid:[1]".to_owned(), ..card(1, child.id()) };
        let published = directory.publish(&elsewhere).unwrap();
        assert!(!directory.forget_if_dead(&elsewhere));
        assert_eq!(run_ids(&directory), [elsewhere.run_id]);
        drop(published);
    }
}
