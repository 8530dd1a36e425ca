//! What the threads of a process are doing, as far as the kernel tells its parent.

use std::fs;
use std::path::Path;

use super::table::{ProcessEntry, ProcessTable};

/// Processes of a rank that are looked at: its own and those that it has started.
const PROCESSES_MAX: usize = 8;

/// The process and what descends from it, parents first.
pub(crate) fn family(pid: i32) -> Vec<ProcessEntry> {
    let own = ProcessEntry::read(pid);
    let table = ProcessTable::read();
    let descendants = table.descendants(pid, &[]).into_iter().cloned();
    let living = own.into_iter().chain(descendants).filter(|entry| !entry.is_dead());
    living.take(PROCESSES_MAX).collect()
}

/// A line for the process and one for each of its threads.
pub(crate) fn describe(process: &ProcessEntry) -> Vec<String> {
    let root = Path::new("/proc").join(process.pid.to_string());
    let command = fs::read(root.join("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let mut lines = vec![format!("pid {}: {}", process.pid, command.trim_end())];
    let threads = fs::read_dir(root.join("task"));
    let mut threads: Vec<_> = threads.into_iter().flatten().flatten().map(|t| t.path()).collect();
    threads
        .sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    lines.extend(threads.iter().filter_map(|path| {
        let read = |file: &str| fs::read_to_string(path.join(file)).ok();
        // It may have ended meanwhile.
        let stat = read("stat")?;
        let (wait, call) = (read("wchan"), read("syscall"));
        thread(&stat, wait.as_deref().unwrap_or(""), call.as_deref().unwrap_or(""))
    }));
    lines
}

/// A thread, given its `stat`, `wchan` and `syscall`, each of which may be empty.
fn thread(stat: &str, wait: &str, call: &str) -> Option<String> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let state = match rest.chars().next()? {
        'R' => "runs",
        'S' => "sleeps",
        'D' => "sleeps uninterruptibly",
        'T' => "is stopped",
        't' => "is stopped by a debugger",
        'Z' | 'X' => "has ended",
        'I' => "is idle",
        _ => "is in an unknown state",
    };
    let mut text = format!("thread {id} ({name}) {state}");
    let wait = wait.trim();
    if !matches!(wait, "" | "0") {
        text.push_str(&format!(" in {wait}"));
    }
    // The first word is its number, -1 outside of any, or "running".
    let number = call.split_whitespace().next().and_then(|word| word.parse::<u32>().ok());
    if let Some(number) = number {
        text.push_str(&format!(", system call {number}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_one_line() {
        let stat = |state: &str| format!("42 (a (b) c) {state} 7 42 42 0 -1");
        assert_eq!(
            thread(&stat("S"), "futex_do_wait", "202 0x1 0x2\n").as_deref(),
            Some("thread 42 (a (b) c) sleeps in futex_do_wait, system call 202")
        );
        assert_eq!(
            thread(&stat("R"), "0", "running\n").as_deref(),
            Some("thread 42 (a (b) c) runs")
        );
        assert_eq!(
            thread(&stat("T"), "", "-1 0x1 0x2").as_deref(),
            Some("thread 42 (a (b) c) is stopped")
        );
        assert_eq!(thread("", "", ""), None);
        assert_eq!(thread("42 (cut", "", ""), None);
    }

    #[test]
    fn this_process_has_threads() {
        let pid = i32::try_from(std::process::id()).expect("a pid is an i32");
        let family = family(pid);
        assert_eq!(family[0].pid, pid);
        let lines = describe(&family[0]);
        assert!(lines[0].starts_with(&format!("pid {pid}: /")), "{lines:?}");
        assert!(lines[1].starts_with(&format!("thread {pid} (")), "{lines:?}");
    }
}
