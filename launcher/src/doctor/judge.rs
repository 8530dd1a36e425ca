//! What an examination means: pure.

use super::clock::ClockOffset;
use super::diagnosis::Check;
use super::examination::{Examination, Interface, Limits, RdmaDevice, Space, Timed};
use crate::machine::gpus::{Gpu, Gpus};
use crate::protocol::facts::VERSION;

/// Clocks that differ by more confuse logs, tickets and certificates.
const CLOCK_OFFSET_MAX_NS: u64 = 100_000_000;

/// Sockets and files that a rank of a job of some dozens needs.
const OPEN_FILES_MIN: u64 = 1024;

/// What the data loaders of a framework pass their batches through.
const SHARED_MEMORY_MIN: u64 = 1 << 30;

/// The version and the build of a host's paceline.
pub(super) fn agent(host: &str, found: &Examination, own_build: Option<&str>) -> Check {
    let version = format!("paceline {}", found.version);
    if found.version != VERSION {
        let remedy =
            format!("install paceline {VERSION} on {host}, or name it with --remote-program");
        return Check::failed("agent", format!("{version}, here it is {VERSION}"), remedy);
    }
    match (&found.build, own_build) {
        (Some(theirs), Some(own)) if theirs != own => Check::warning(
            "agent",
            format!("{version}, another build than here"),
            format!("install the same binary on {host} as here"),
        ),
        _ => Check::ok("agent", version),
    }
}

/// A host's clock.
pub(super) fn clock(host: &str, found: ClockOffset) -> Check {
    let ClockOffset { offset_ns, uncertainty_ns } = found;
    let milliseconds = |ns: u64| format!("{}.{:03} ms", ns / 1_000_000, ns / 1000 % 1000);
    let ahead = if offset_ns < 0 { "behind" } else { "ahead" };
    let text = format!(
        "{} {ahead}, give or take {}",
        milliseconds(offset_ns.unsigned_abs()),
        milliseconds(uncertainty_ns)
    );
    let offset = offset_ns.unsigned_abs();
    if offset > CLOCK_OFFSET_MAX_NS && offset > uncertainty_ns {
        return Check::warning(
            "clock",
            text,
            format!("let {host} set its clock by the network: systemctl enable --now chronyd"),
        );
    }
    Check::ok("clock", text)
}

/// Everything else that an agent says of its host.
pub(super) fn host(found: &Examination) -> Vec<Check> {
    let mut checks = Vec::new();
    let machine = &found.machine.found;
    let model = machine.cpu.as_deref().unwrap_or("a processor without a name");
    let cores = match machine.processors {
        all if all > machine.cores => format!("{} of {all}", machine.cores),
        _ => machine.cores.to_string(),
    };
    checks.push(Check::ok("cores", format!("{cores}, {model}")).took_us(found.machine.took_us));
    checks.extend(machine.memory_bytes.map(|all| {
        let free = machine.available_bytes.map(|free| format!(", {} available", size(free)));
        Check::ok("memory", format!("{}{}", size(all), free.unwrap_or_default()))
    }));
    checks.push(Check::ok("kernel", machine.kernel.clone()));
    let mut limits = limits(&found.limits.found);
    limits[0] = limits[0].clone().took_us(found.limits.took_us);
    checks.extend(limits);
    checks.push(
        shared_memory(found.shared_memory.found.as_ref()).took_us(found.shared_memory.took_us),
    );
    checks.extend(first_took(&found.interfaces, interfaces(&found.interfaces.found)));
    checks.extend(first_took(&found.rdma, rdma(&found.rdma.found)));
    checks.extend(first_took(&found.gpus, gpus(&found.gpus.found)));
    checks
}

/// The time stands in the first line of several.
fn first_took<T>(timed: &Timed<T>, mut checks: Vec<Check>) -> Vec<Check> {
    if let Some(first) = checks.first_mut() {
        first.took_us = Some(timed.took_us);
    }
    checks
}

fn limits(found: &Limits) -> [Check; 2] {
    let locked = match found.locked_memory {
        None => Check::ok("locked memory", "unlimited"),
        Some(bytes) => Check::warning(
            "locked memory",
            size(bytes),
            "RDMA needs memory that is locked: a line `* - memlock unlimited` in \
             /etc/security/limits.d/, and LimitMEMLOCK=infinity in the unit of sshd, or of whatever \
             starts the job",
        ),
    };
    let (limit, most) = (found.open_files, found.open_files_max);
    let number = |limit: Option<u64>| {
        limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
    };
    let text = match most == limit {
        true => number(limit),
        false => format!("{}, may be raised to {}", number(limit), number(most)),
    };
    let files = match limit {
        Some(limit) if limit < OPEN_FILES_MIN => Check::warning(
            "open files",
            text,
            "each rank has up to four sockets to each other one: a line `* - nofile 65536` in \
             /etc/security/limits.d/, and LimitNOFILE=65536 in the unit of whatever starts the job",
        ),
        _ => Check::ok("open files", text),
    };
    [locked, files]
}

fn shared_memory(found: Option<&Space>) -> Check {
    const REMEDY: &str = "data loaders pass batches through it: docker run --shm-size 8g, \
                          or mount -o remount,size=8g /dev/shm";
    match found {
        None => Check::warning("/dev/shm", "there is none", REMEDY),
        Some(space) => {
            let text = format!("{}, {} free", size(space.bytes), size(space.free_bytes));
            if space.bytes < SHARED_MEMORY_MIN {
                Check::warning("/dev/shm", text, REMEDY)
            } else {
                Check::ok("/dev/shm", text)
            }
        }
    }
}

fn interfaces(found: &[Interface]) -> Vec<Check> {
    let is_usable = |interface: &Interface| interface.is_up() && !interface.addresses.is_empty();
    let mut checks: Vec<Check> = found.iter().map(interface).collect();
    if !found.iter().any(is_usable) {
        checks.push(Check::warning(
            "network",
            "no interface that is up and has an address at which other hosts may reach it",
            "give one an address; those of containers, loopback and link-local ones do not count",
        ));
    }
    checks
}

fn interface(found: &Interface) -> Check {
    let mut parts = vec![found.state.clone()];
    parts.extend(found.megabits_per_second.filter(|_| found.is_up()).map(|speed| {
        if speed.is_multiple_of(1000) {
            format!("{} Gbit/s", speed / 1000)
        } else {
            format!("{speed} Mbit/s")
        }
    }));
    parts.extend(found.mtu.map(|mtu| format!("MTU {mtu}")));
    parts.extend(found.addresses.iter().map(ToString::to_string));
    Check::ok(found.name.clone(), parts.join(", "))
}

fn rdma(found: &[RdmaDevice]) -> Vec<Check> {
    if found.is_empty() {
        return vec![Check::ok("RDMA", "none found")];
    }
    found.iter().map(rdma_device).collect()
}

fn rdma_device(found: &RdmaDevice) -> Check {
    let mut parts = Vec::new();
    for port in &found.ports {
        let rate = port.rate.as_ref().map(|rate| format!(", {rate}")).unwrap_or_default();
        let gids = port.gids.iter().map(|gid| {
            let of = gid.interface.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            format!("{} {}{of} {}", gid.index, gid.kind.as_deref().unwrap_or("GID"), gid.gid)
        });
        let gids: Vec<String> = gids.collect();
        let gids =
            if gids.is_empty() { String::new() } else { format!("; GIDs {}", gids.join("; ")) };
        parts.push(format!("port {} {}, {}{rate}{gids}", port.number, port.state, port.link_layer));
    }
    let name = &found.name;
    let text = if parts.is_empty() { "no ports".to_owned() } else { parts.join("; ") };
    match (&found.verbs, &found.verbs_error) {
        (Some(file), Some(error)) => Check::warning(
            name,
            format!("{text}; {file}: {error}"),
            format!(
                "let users open {file} (udev rules of rdma-core; in a container --device=/dev/infiniband)"
            ),
        ),
        (None, _) => Check::warning(
            name,
            format!("{text}; no file of user verbs"),
            "load the module that lets programs use it: modprobe ib_uverbs",
        ),
        _ if !found.ports.iter().any(|port| port.state == "ACTIVE") => Check::warning(
            name,
            format!("{text}; no port is active"),
            "see whether the cable is in, the interface up and, on InfiniBand, a subnet manager runs",
        ),
        _ => Check::ok(name, text),
    }
}

fn gpus(found: &Gpus) -> Vec<Check> {
    let driver = found.driver.as_ref().map(|version| format!("driver {version}"));
    let mut checks: Vec<Check> = found
        .devices
        .iter()
        .enumerate()
        .map(|(index, gpu)| Check::ok(format!("GPU {index}"), describe_gpu(gpu, driver.as_deref())))
        .collect();
    if let Some(problem) = &found.problem {
        checks.push(Check::warning(
            "GPUs",
            problem.clone(),
            "see what the driver says: dmesg | grep -i nvrm; after an update of it, reboot",
        ));
    } else if checks.is_empty() {
        checks.push(match driver {
            None => Check::ok("GPUs", "none found"),
            Some(driver) => Check::warning(
                "GPUs",
                format!("none found, although there is NVIDIA's {driver}"),
                "in a container, give it the devices: docker run --gpus all",
            ),
        });
    }
    checks
}

fn describe_gpu(gpu: &Gpu, driver: Option<&str>) -> String {
    let mut parts = vec![gpu.name.clone()];
    parts.extend(gpu.memory_bytes.map(size));
    parts.extend(gpu.virtualization.as_ref().map(|mode| format!("virtual ({mode})")));
    if !gpu.parts.is_empty() {
        let profiles: Vec<&str> = gpu.parts.iter().map(|part| part.profile.as_str()).collect();
        parts.push(format!("MIG {}", profiles.join(" + ")));
    }
    parts.extend(driver.map(str::to_owned));
    parts.extend(gpu.uuid.clone());
    parts.join(", ")
}

/// A size with one decimal.
pub(super) fn size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let scale = 1_u64 << shift;
        if bytes >= scale {
            let tenths = u128::from(bytes) * 10 / u128::from(scale);
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
