//! Whether the kernel kills processes of this host's part of the job for want of memory.
//!
//! A cgroup counts the processes in it that the kernel's OOM killer has killed. Nothing else says so
//! to everybody: the kernel's log is for root on most machines.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The kernel killed a process because there was no memory left for its cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// The cgroup whose limit it was, as far as that can be told, else that of the process.
    pub cgroup: String,
    /// The file that holds the limit, such as `memory.max`.
    pub limit_file: String,
    /// The limit; `None` where no cgroup has one, so that it was the memory of the host.
    pub limit_bytes: Option<u64>,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cgroup, limit_file, limit_bytes } = self;
        match limit_bytes {
            Some(limit) => {
                write!(f, "out of memory (cgroup {cgroup}: {limit_file} {})", in_words(*limit))
            }
            None => write!(f, "out of memory (that of the host: cgroup {cgroup} has no limit)"),
        }
    }
}

/// `64 MiB`, in the largest unit that leaves at most one decimal.
fn in_words(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                rest => format!("{}.{rest} {name}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

/// Which of the kernel's two kinds of cgroups counts memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One hierarchy for each controller.
    First,
    /// One for all.
    Unified,
}

impl Kind {
    fn count_file(self) -> &'static str {
        match self {
            Self::First => "memory.oom_control",
            Self::Unified => "memory.events",
        }
    }

    fn limit_file(self) -> &'static str {
        match self {
            Self::First => "memory.limit_in_bytes",
            Self::Unified => "memory.max",
        }
    }
}

/// Where a cgroup is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Location {
    kind: Kind,
    /// Where its hierarchy is mounted.
    mount: PathBuf,
    /// Below it.
    relative: PathBuf,
}

impl Location {
    /// The cgroup of a process, given its `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
    fn find(cgroup: &str, mounts: &str) -> Option<Self> {
        let lines = || cgroup.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let has_memory = |list: &str| list.split(',').any(|controller| controller == "memory");
        let first = lines().find(|(controllers, _)| has_memory(controllers));
        let first = first.map(|(_, path)| (Kind::First, path));
        let unified = lines().find(|(controllers, _)| controllers.is_empty());
        let unified = unified.map(|(_, path)| (Kind::Unified, path));
        first
            .into_iter()
            .chain(unified)
            .find_map(|(kind, path)| mounts.lines().find_map(|line| Self::below(kind, path, line)))
    }

    /// If the line of a mountinfo is about a mount of that kind in which the path is.
    fn below(kind: Kind, path: &str, line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let (file_system, options) = (back.next()?, back.nth(1)?);
        let is_it = match kind {
            Kind::First => {
                file_system == "cgroup" && options.split(',').any(|option| option == "memory")
            }
            Kind::Unified => file_system == "cgroup2",
        };
        let mut front = front.split(' ').skip(3);
        let (root, mount) = (front.next()?, front.next()?);
        // In a container the mount may show a part of the hierarchy only.
        let relative = Path::new(path).strip_prefix(root).ok().filter(|_| is_it)?;
        Some(Self { kind, mount: mount.into(), relative: relative.to_owned() })
    }

    fn read(&self, relative: &Path, file: &str) -> Option<String> {
        fs::read_to_string(self.mount.join(relative).join(file)).ok()
    }

    fn kills(&self) -> Option<u64> {
        kills(&self.read(&self.relative, self.kind.count_file())?)
    }

    /// The nearest limit, that of the cgroup or of one that it is in.
    fn explain(&self) -> OutOfMemory {
        let file = self.kind.limit_file();
        let limit = |relative: &Path| limit(&self.read(relative, file)?);
        let mut limited = self.relative.ancestors();
        let found = limited.find_map(|relative| Some((relative, limit(relative)?)));
        let cgroup = found.map_or(&*self.relative, |(relative, _)| relative);
        OutOfMemory {
            cgroup: Path::new("/").join(cgroup).display().to_string(),
            limit_file: file.to_owned(),
            limit_bytes: found.map(|(_, limit)| limit),
        }
    }
}

/// The number of processes killed, from `memory.events` or `memory.oom_control`.
fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// A limit, from `memory.max` or `memory.limit_in_bytes`; `None` where it is none.
fn limit(text: &str) -> Option<u64> {
    /// Without a limit the older files hold the largest number of whole pages.
    const NO_LIMIT: u64 = i64::MAX.unsigned_abs() >> 16 << 16;
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

/// Counts the processes of this process's cgroup that the kernel has killed for want of memory.
#[derive(Debug, Default)]
pub(crate) struct OomWatch {
    location: Option<Location>,
    /// As many as have been explained, or were there before.
    seen: u64,
}

impl OomWatch {
    /// Watches from now on. Knows nothing where the kernel does not count.
    pub(crate) fn start() -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).ok();
        let location = read("cgroup")
            .zip(read("mountinfo"))
            .and_then(|(cgroup, mounts)| Location::find(&cgroup, &mounts));
        let seen = location.as_ref().and_then(Location::kills);
        // Who cannot be asked now will not know later what was there before.
        Self { location: location.filter(|_| seen.is_some()), seen: seen.unwrap_or(0) }
    }

    /// A process has died by SIGKILL: whether that was the kernel, for want of memory. Each kill
    /// that was counted explains one death.
    pub(crate) fn explain(&mut self) -> Option<OutOfMemory> {
        let location = self.location.as_ref()?;
        if location.kills()? <= self.seen {
            return None;
        }
        self.seen += 1;
        Some(location.explain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw";
    const FIRST: &str = "36 30 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    fn location(kind: Kind, mount: &str, relative: &str) -> Option<Location> {
        Some(Location { kind, mount: mount.into(), relative: relative.into() })
    }

    #[test]
    fn the_cgroup_that_counts_memory_is_found() {
        let (unified, first) = (Kind::Unified, Kind::First);
        for (cgroup, mounts, found) in [
            ("0::/user.slice/job", UNIFIED, location(unified, "/sys/fs/cgroup", "user.slice/job")),
            ("0::/", UNIFIED, location(unified, "/sys/fs/cgroup", "")),
            (
                "5:cpu:/\n4:memory,x:/docker/ab/c\n0::/",
                FIRST,
                location(first, "/sys/fs/cgroup/memory", "c"),
            ),
            ("4:memory:/elsewhere\n0::/", FIRST, location(unified, "/sys/fs/cgroup/unified", "")),
            ("", UNIFIED, None),
            ("0::/a", "", None),
            ("nonsense", "nonsense - \n", None),
        ] {
            assert_eq!(Location::find(cgroup, mounts), found, "{cgroup}");
        }
    }

    #[test]
    fn files_are_understood() {
        assert_eq!(kills("low 0\nhigh 0\nmax 32\noom 4\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 12\n"), Some(12));
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\n"), None);
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("67108864\n"), Some(64 << 20));
    }

    #[test]
    fn each_kill_explains_one_death_with_the_nearest_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("job/inner");
        fs::create_dir_all(&inner).expect("writable");
        let count = |number: u32| {
            fs::write(inner.join("memory.events"), format!("oom 9\noom_kill {number}\n"))
                .expect("writable");
        };
        count(1);
        fs::write(inner.join("memory.max"), "max\n").expect("writable");
        let mount = directory.path().to_str().expect("UTF-8");
        let location = location(Kind::Unified, mount, "job/inner");
        let mut watch = OomWatch { location, seen: 1 };
        assert_eq!(watch.explain(), None);
        count(2);
        let found = watch.explain().expect("one was counted");
        let said = "out of memory (that of the host: cgroup /job/inner has no limit)";
        assert_eq!(found.to_string(), said);
        assert_eq!(watch.explain(), None);
        fs::write(directory.path().join("job/memory.max"), "1610612736\n").expect("writable");
        count(3);
        let found = watch.explain().expect("another one was counted");
        assert_eq!(found.to_string(), "out of memory (cgroup /job: memory.max 1.5 GiB)");
        assert_eq!(OomWatch::default().explain(), None);
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(512, "512 B"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB")] {
            assert_eq!(in_words(bytes), text);
        }
    }
}
