//! Processor, memory, kernel and limits.

use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::super::examination::{Limits, Machine, Space};
use crate::machine::files::words;

pub(super) fn machine(root: &Path) -> Machine {
    let cpus = words(&root.join("proc/cpuinfo")).unwrap_or_default();
    let memory = words(&root.join("proc/meminfo")).unwrap_or_default();
    let cores = std::thread::available_parallelism().ok();
    let processors = cpus.lines().filter(|line| line.starts_with("processor")).count();
    Machine {
        cores: cores.and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1),
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
        cpu: cpu(&cpus),
        memory_bytes: bytes(&memory, "MemTotal"),
        available_bytes: bytes(&memory, "MemAvailable"),
        kernel: words(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default(),
    }
}

/// x86 and most others have a name; 64-bit ARM has only numbers.
fn cpu(text: &str) -> Option<String> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    field("model name").or_else(|| {
        Some(format!("CPU implementer {} part {}", field("CPU implementer")?, field("CPU part")?))
    })
}

fn bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Those of this process.
pub(super) fn limits() -> Limits {
    let files = getrlimit(Resource::Nofile);
    Limits {
        locked_memory: getrlimit(Resource::Memlock).current,
        open_files: files.current,
        open_files_max: files.maximum,
    }
}

pub(super) fn space(path: &Path) -> Option<Space> {
    let found = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(Space { bytes: bytes(found.f_blocks), free_bytes: bytes(found.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::made_of;

    #[test]
    fn processor_and_memory_come_from_proc() {
        let cpu = "processor\t: 0\nmodel name\t: Example 9\n\nprocessor\t: 1\n";
        let memory = "MemTotal:  24567890 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n";
        let root = made_of(&[
            ("proc/cpuinfo", cpu),
            ("proc/meminfo", memory),
            ("proc/sys/kernel/osrelease", "6.18.1\n"),
        ]);
        let found = machine(root.path());
        assert_eq!((found.processors, found.cpu.as_deref()), (2, Some("Example 9")));
        assert_eq!(found.memory_bytes, Some(24_567_890 * 1024));
        assert_eq!(found.available_bytes, Some(1 << 20));
        assert_eq!(found.kernel, "6.18.1");
        let nothing = machine(Path::new("/no/such/root"));
        assert_eq!((nothing.processors, nothing.cpu, nothing.memory_bytes), (0, None, None));
    }

    #[test]
    fn arm_has_numbers_for_a_name() {
        let text = "processor: 0\nCPU implementer : 0x41\nCPU part : 0xd40\n";
        assert_eq!(cpu(text).expect("named"), "CPU implementer 0x41 part 0xd40");
    }

    #[test]
    fn room_is_that_of_the_file_system() {
        let space = space(Path::new("/")).expect("it is there");
        assert!(space.bytes > 0 && space.free_bytes <= space.bytes);
        assert_eq!(super::space(Path::new("/no/such/place")), None);
    }
}
