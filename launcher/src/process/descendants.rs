//! Finding and signalling every process that descends from this one.
//!
//! A subreaper inherits the orphans below it, so whatever a rank starts stays a descendant,
//! whether it forks twice, opens a session of its own or changes its process group.

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal,
};
use serde::{Deserialize, Serialize};

use super::table::{ProcessEntry, ProcessTable};
use super::wait;

/// A process for a person to read about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    /// Process id on its host.
    pub pid: i32,
    /// First 15 bytes of the program's name.
    pub name: String,
}

impl std::fmt::Display for ProcessName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Tables that are read at most to find out that no process of the job is left: machines on which
/// processes come and go all the time may never show one that nothing vanished from.
const TABLES_MAX: usize = 50;

/// Which descendants of this process belong to the job.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// Children that were there before the job: `exec paceline` keeps the children of the shell.
    strangers: Vec<i32>,
    /// Variable and value that mark a process of the job.
    mark: Option<(&'static str, String)>,
}

impl Family {
    /// Notes who is there already; call it before the job starts anything.
    pub(crate) fn of_this_process(variable: &'static str, value: String) -> Self {
        let strangers = if wait::has_children() {
            let table = ProcessTable::read();
            table.descendants(own_pid(), &[]).iter().map(|entry| entry.pid).collect()
        } else {
            Vec::new()
        };
        Self { strangers, mark: Some((variable, value)) }
    }

    /// Every living process of the job.
    pub(crate) fn living(&self) -> Vec<ProcessEntry> {
        // The table is read process by process: one that forks and ends meanwhile is there no more,
        // or dead, and its child may not be there yet. But the child of one that is dead in a table
        // is in the next one, so two with the same dead and nothing lost in reading prove it.
        let mut dead_before = None;
        for _ in 0..TABLES_MAX {
            if !wait::has_children() {
                break;
            }
            let table = ProcessTable::read();
            let (dead, living): (Vec<_>, Vec<_>) = table
                .descendants(own_pid(), &self.strangers)
                .into_iter()
                .partition(|entry| entry.is_dead());
            let ours = living.into_iter().filter(|entry| self.owns(entry));
            let living: Vec<ProcessEntry> = ours.cloned().collect();
            if !living.is_empty() {
                return living;
            }
            let dead: Vec<i32> = dead.iter().map(|entry| entry.pid).collect();
            if table.is_whole() && dead_before.as_ref() == Some(&dead) {
                break;
            }
            dead_before = Some(dead);
        }
        Vec::new()
    }

    /// Reaps the job's orphans that have ended and that this process has inherited.
    pub(crate) fn bury_dead_children(&self) {
        if !wait::has_children() {
            return;
        }
        for entry in ProcessTable::read().descendants(own_pid(), &self.strangers) {
            if entry.parent == own_pid() && entry.is_dead() {
                wait::reap(entry.pid);
            }
        }
    }

    fn owns(&self, entry: &ProcessEntry) -> bool {
        let Some((variable, value)) = &self.mark else { return true };
        match entry.started_with(variable) {
            Some(found) => found == *value,
            // Cleared its environment, or cannot be read. Ours, unless there were strangers, whose
            // orphans a subreaper adopts too.
            None => self.strangers.is_empty(),
        }
    }
}

/// Sends a signal to exactly this process; false if it is gone.
///
/// The process is looked at again through a handle that pins its identity, so a process that got
/// the same id in the meantime is never hit.
pub(crate) fn signal_entry(entry: &ProcessEntry, signal: Signal) -> bool {
    let Some(pid) = killable(entry.pid) else { return false };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(_) => return false,
    };
    if ProcessEntry::read(entry.pid).is_none_or(|now| now.start_ticks != entry.start_ticks) {
        return false;
    }
    match handle {
        Some(handle) => pidfd_send_signal(handle, signal).is_ok(),
        None => kill_process(pid, signal).is_ok(),
    }
}

/// The id as one that may be signalled: never 0 (a group), 1 (init), negative, or ourselves.
pub(crate) fn killable(pid: i32) -> Option<Pid> {
    if pid <= 1 || pid == own_pid() {
        return None;
    }
    Pid::from_raw(pid)
}

fn own_pid() -> i32 {
    getpid().as_raw_pid()
}

impl From<&ProcessEntry> for ProcessName {
    fn from(entry: &ProcessEntry) -> Self {
        Self { pid: entry.pid, name: entry.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_init_and_self_are_never_signalled() {
        assert!(killable(0).is_none());
        assert!(killable(1).is_none());
        assert!(killable(-5).is_none());
        assert!(killable(own_pid()).is_none());
        assert!(killable(own_pid() + 1).is_some());
    }

    #[test]
    fn a_reused_id_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = i32::try_from(child.id()).expect("a pid is an i32");
        let mut entry = ProcessEntry::read(pid).expect("it runs");
        entry.start_ticks += 1;
        assert!(!signal_entry(&entry, Signal::KILL));
        entry.start_ticks -= 1;
        assert!(signal_entry(&entry, Signal::KILL));
        child.wait().expect("it was killed");
    }
}
