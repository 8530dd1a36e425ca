//! A snapshot of the process table, read from /proc.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// One line of the process table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessEntry {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// First 15 bytes of the program's name.
    pub(crate) name: String,
    /// One letter, `Z` for a zombie.
    pub(crate) state: u8,
    /// Clock ticks between boot and its start; with the id it names a process for ever.
    pub(crate) start_ticks: u64,
}

impl ProcessEntry {
    /// Reads one process, if it exists.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(stat);
        // The name is in parentheses and may itself contain spaces and parentheses.
        let open = text.find('(')?;
        let close = text.rfind(')')?;
        let pid = text[..open].trim().parse().ok()?;
        let mut fields = text[close + 1..].split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // The start time is field 22; the two just taken were 3 and 4.
        let start_ticks = fields.nth(17)?.parse().ok()?;
        Some(Self { pid, parent, name: text.get(open + 1..close)?.to_owned(), state, start_ticks })
    }

    /// Whether the process has ended and only waits to be reaped.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// The value of a variable in the environment that the process was started with.
    pub(crate) fn started_with(&self, variable: &str) -> Option<String> {
        let environ = fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        environ.split(|&byte| byte == 0).find_map(|entry| {
            let value = entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"=")?;
            Some(String::from_utf8_lossy(value).into_owned())
        })
    }
}

/// All processes that were there at one moment (more or less: /proc is not a transaction).
#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    children: HashMap<i32, Vec<ProcessEntry>>,
    /// Whether a process was listed that had ended when its line was to be read.
    lost: bool,
}

impl ProcessTable {
    pub(crate) fn read() -> Self {
        let Ok(directory) = fs::read_dir("/proc") else { return Self::default() };
        let mut lost = false;
        let table = Self::from_entries(directory.flatten().filter_map(|entry| {
            let name = entry.file_name();
            let pid = std::str::from_utf8(name.as_bytes()).ok()?.parse().ok()?;
            let entry = ProcessEntry::read(pid);
            lost |= entry.is_none();
            entry
        }));
        Self { lost, ..table }
    }

    /// Whether every process was read that was listed.
    pub(crate) fn is_whole(&self) -> bool {
        !self.lost
    }

    pub(crate) fn from_entries(entries: impl IntoIterator<Item = ProcessEntry>) -> Self {
        let mut children: HashMap<i32, Vec<ProcessEntry>> = HashMap::new();
        for entry in entries {
            children.entry(entry.parent).or_default().push(entry);
        }
        Self { children, lost: false }
    }

    /// Every descendant of `ancestor`, parents before children, without those below `except`.
    pub(crate) fn descendants(&self, ancestor: i32, except: &[i32]) -> Vec<&ProcessEntry> {
        let mut found: Vec<&ProcessEntry> = Vec::new();
        let mut next = 0;
        let mut parent = ancestor;
        loop {
            let below = self.children.get(&parent).into_iter().flatten();
            // A process is never its own ancestor, but a snapshot that is not a transaction may
            // show a cycle when ids are reused while it is taken.
            for entry in below {
                let seen = entry.pid == ancestor || found.iter().any(|old| old.pid == entry.pid);
                if !seen && !except.contains(&entry.pid) {
                    found.push(entry);
                }
            }
            let Some(entry) = found.get(next) else { return found };
            parent = entry.pid;
            next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32) -> ProcessEntry {
        ProcessEntry { pid, parent, name: format!("p{pid}"), state: b'S', start_ticks: 1 }
    }

    #[test]
    fn parses_names_with_parentheses() {
        let stat = b"42 (a (b) c) S 7 42 42 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        let parsed = ProcessEntry::parse(stat).expect("well formed");
        assert_eq!(parsed.name, "a (b) c");
        assert_eq!((parsed.pid, parsed.parent, parsed.state), (42, 7, b'S'));
        assert_eq!(parsed.start_ticks, 98765);
        assert_eq!(ProcessEntry::parse(b"42 (cut"), None);
    }

    #[test]
    fn finds_descendants_at_any_depth_and_skips_excluded_subtrees() {
        let table = ProcessTable::from_entries([
            entry(10, 1),
            entry(11, 10),
            entry(12, 11),
            entry(13, 10),
            entry(14, 13),
            entry(20, 1),
        ]);
        let pids = |except: &[i32]| -> Vec<i32> {
            table.descendants(10, except).iter().map(|entry| entry.pid).collect()
        };
        assert_eq!(pids(&[]), [11, 13, 12, 14]);
        assert_eq!(pids(&[13]), [11, 12]);
    }

    #[test]
    fn a_cycle_in_the_snapshot_ends() {
        let table = ProcessTable::from_entries([entry(10, 11), entry(11, 10)]);
        let pids: Vec<i32> = table.descendants(10, &[]).iter().map(|entry| entry.pid).collect();
        assert_eq!(pids, [11]);
    }

    #[test]
    fn reads_this_process() {
        let pid = i32::try_from(std::process::id()).expect("a pid is an i32");
        let this = ProcessEntry::read(pid).expect("it runs");
        assert!(!this.is_dead());
        assert!(this.start_ticks > 0);
    }
}
