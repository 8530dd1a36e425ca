//! What this machine is: facts for the head of every record, from `/proc` and `/sys`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use crate::schema::{Machine, Nic};

/// The revision that this program was built from, where the build had a git checkout.
pub const GIT_REVISION: Option<&str> = option_env!("PACELINE_GIT_REVISION");

/// Reads the facts about this machine. What cannot be read is left out rather than an error.
///
/// `variables` are the environment variables that the caller found worth recording: it passes
/// those on its allow-list, because the whole environment holds tokens and passwords.
pub fn read_machine(variables: BTreeMap<String, String>) -> Machine {
    let mut machine = read_below(Path::new("/"), variables);
    machine.cores =
        available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    machine
}

/// As [`read_machine`], from the files below `root`; `cores` is what `/proc/cpuinfo` lists.
fn read_below(root: &Path, variables: BTreeMap<String, String>) -> Machine {
    let line = |path: &str| {
        fs::read_to_string(root.join(path))
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let cpuinfo = line("proc/cpuinfo").unwrap_or_default();
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = line("proc/meminfo").and_then(|text| memory_total(&text));
    Machine {
        host: line("proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned()),
        cpu: cpu_model(&cpuinfo),
        cores: u32::try_from(processors).unwrap_or(u32::MAX),
        kernel: line("proc/sys/kernel/osrelease"),
        memory_bytes: memory,
        nics: read_nics(&root.join("sys/class/net")),
        git_revision: GIT_REVISION.map(str::to_owned),
        variables,
    }
}

/// The processor's name: x86 and most others have `model name`; 64-bit ARM has only numbers.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    field("model name").or_else(|| {
        Some(format!("CPU implementer {} part {}", field("CPU implementer")?, field("CPU part")?))
    })
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The interfaces that can carry traffic, by name. Loopback reports `unknown` and counts as up.
fn read_nics(directory: &Path) -> Vec<Nic> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut nics: Vec<Nic> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
            let state = read("operstate")?;
            if !matches!(state.trim(), "up" | "unknown") {
                return None;
            }
            Some(Nic {
                name: entry.file_name().into_string().ok()?,
                mtu: read("mtu").and_then(|text| text.trim().parse().ok()),
                // Drivers that do not know say -1, an error, or 0.
                speed_mbps: read("speed")
                    .and_then(|text| text.trim().parse().ok())
                    .filter(|&speed| speed > 0),
            })
        })
        .collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn facts_come_from_proc_and_sys() {
        let root = tempfile::tempdir().unwrap();
        let cpu = "processor\t: 0\nmodel name\t: Example CPU 9\n\nprocessor\t: 1\n";
        write(root.path(), "proc/cpuinfo", cpu);
        write(root.path(), "proc/meminfo", "MemTotal:       24567890 kB\nMemFree: 1 kB\n");
        write(root.path(), "proc/sys/kernel/osrelease", "6.18.1\n");
        write(root.path(), "proc/sys/kernel/hostname", "node7\n");
        for (name, state, mtu, speed) in [
            ("lo", "unknown", "65536", ""),
            ("eth1", "up", "9000", "25000"),
            ("eth0", "up", "1500", "-1"),
            ("wlan0", "down", "1500", "0"),
        ] {
            write(root.path(), &format!("sys/class/net/{name}/operstate"), state);
            write(root.path(), &format!("sys/class/net/{name}/mtu"), mtu);
            write(root.path(), &format!("sys/class/net/{name}/speed"), speed);
        }
        let machine = read_below(root.path(), BTreeMap::new());
        assert_eq!(machine.host, "node7");
        assert_eq!(machine.cpu.as_deref(), Some("Example CPU 9"));
        assert_eq!(machine.cores, 2);
        assert_eq!(machine.kernel.as_deref(), Some("6.18.1"));
        assert_eq!(machine.memory_bytes, Some(24_567_890 * 1024));
        let nic = |name: &str, mtu, speed_mbps| Nic { name: name.to_owned(), mtu, speed_mbps };
        assert_eq!(
            machine.nics,
            [
                nic("eth0", Some(1500), None),
                nic("eth1", Some(9000), Some(25_000)),
                nic("lo", Some(65_536), None),
            ]
        );
    }

    #[test]
    fn arm_processors_have_numbers_for_names() {
        let cpuinfo = "processor : 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("CPU implementer 0x41 part 0xd0c"));
    }

    #[test]
    fn a_machine_that_says_nothing_is_described_by_nothing() {
        let root = tempfile::tempdir().unwrap();
        let machine = read_below(root.path(), BTreeMap::new());
        assert_eq!(machine.host, "unknown");
        assert_eq!((machine.cpu, machine.kernel, machine.memory_bytes), (None, None, None));
        assert!(machine.nics.is_empty());
    }

    #[test]
    fn only_the_variables_given_are_recorded() {
        let allowed = BTreeMap::from([("PACELINE_EXAMPLE".to_owned(), "1".to_owned())]);
        let machine = read_machine(allowed.clone());
        assert_eq!(machine.variables, allowed);
        assert!(machine.cores >= 1);
    }
}
