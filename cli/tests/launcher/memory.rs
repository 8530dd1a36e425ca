//! Ranks that the kernel kills for want of memory.

use std::fs;
use std::path::PathBuf;

use crate::support::{Job, eventually};

/// A cgroup of our own, with a limit.
struct Cgroup {
    directory: PathBuf,
    limit_file: &'static str,
}

impl Cgroup {
    /// Where one can be made: as root, or where this part of the hierarchy is the user's.
    fn with_limit(bytes: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_of = |controller: &str| {
            let mut lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            let path = lines.find(|(controllers, _)| *controllers == controller)?.1;
            Some(path.trim_start_matches('/').to_owned())
        };
        let first = path_of("memory").map(|path| ("/sys/fs/cgroup/memory", path));
        let unified = || Some(("/sys/fs/cgroup", path_of("")?));
        let (mount, path) = first.or_else(unified)?;
        let limit_file =
            if mount.ends_with("memory") { "memory.limit_in_bytes" } else { "memory.max" };
        let name = format!("paceline-test-{}", std::process::id());
        let directory = PathBuf::from(mount).join(path).join(name);
        fs::create_dir(&directory).ok()?;
        let cgroup = Self { directory, limit_file };
        fs::write(cgroup.directory.join(limit_file), bytes.to_string()).ok()?;
        // Without this the kernel would rather swap; not all machines can.
        for (file, value) in [("memory.swap.max", "0"), ("memory.swappiness", "0")] {
            let _ = fs::write(cgroup.directory.join(file), value);
        }
        Some(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is busy until its last process has been buried.
        eventually("the cgroup can be removed", || fs::remove_dir(&self.directory).is_ok());
    }
}

#[test]
fn a_rank_that_is_killed_for_want_of_memory_is_reported_as_such() {
    let Some(cgroup) = Cgroup::with_limit(96 << 20) else {
        eprintln!("skipped: no cgroup with a limit of memory can be made here");
        return;
    };
    // A line without an end is kept as a whole. The launcher and its agent live in the cgroup, too, and are smaller by far.
    let enter =
        format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", cgroup.directory.display());
    let script = "[ $RANK = 1 ] || exec sleep 600; exec tail /dev/zero";
    let job = Job::script(&["-np", "2"], script).under("sh", &["-c", &enter]).run();
    assert_eq!(job.code, 137, "{}", job.stderr);
    let name = cgroup.directory.file_name().expect("it has one").to_string_lossy().into_owned();
    assert!(
        job.stderr.contains("was killed by SIGKILL: out of memory (cgroup /"),
        "{}",
        job.stderr
    );
    let limit = format!("{name}: {} 96 MiB) after", cgroup.limit_file);
    assert!(job.stderr.contains(&limit), "{}", job.stderr);
    assert!(!job.stderr.contains("dmesg"), "{}", job.stderr);
}

#[test]
fn a_kill_by_somebody_else_remains_a_guess() {
    let job = Job::script(&["-np", "1"], "kill -KILL $$").run();
    assert_eq!(job.code, 137);
    assert!(!job.stderr.contains(": out of memory ("), "{}", job.stderr);
    assert!(
        job.stderr.contains("usually the kernel's, out of memory: see dmesg"),
        "{}",
        job.stderr
    );
}
