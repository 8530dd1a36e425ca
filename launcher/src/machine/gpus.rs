//! GPUs: what NVIDIA's kernel module and `nvidia-smi` say.
//!
//! `nvidia-smi` comes with the driver and asks the library that one would load instead (NVML). A
//! process of its own can be given up when a broken driver does not answer, a library cannot.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::{names, words};
use crate::process::answer::answer;

/// How long `nvidia-smi` may take: with a driver that is broken, for ever.
const TIMEOUT: Duration = Duration::from_secs(5);

/// GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// Version of NVIDIA's kernel module, where it is loaded.
    pub driver: Option<String>,
    /// As `nvidia-smi` lists them, else as the kernel module does: in the order of the PCI bus.
    pub devices: Vec<Gpu>,
    /// What went wrong with `nvidia-smi`, if anything.
    pub problem: Option<String>,
}

/// A GPU, or a virtual one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Bytes of its memory.
    pub memory_bytes: Option<u64>,
    /// `VGPU`, `Pass-Through`, …, where it is virtual.
    pub virtualization: Option<String>,
    /// Its parts, where it is divided (MIG).
    pub parts: Vec<GpuPart>,
}

/// A part of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuPart {
    /// Its profile, such as `3g.20gb`.
    pub profile: String,
    /// Its UUID.
    pub uuid: Option<String>,
}

/// What is to be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Which there are, and their parts.
    Names,
    /// Also memory and virtualization, which takes `nvidia-smi` longer.
    All,
}

/// Those of the host whose file system is at `root`.
pub(crate) fn find(root: &Path, detail: Detail) -> Gpus {
    let directory = root.join("proc/driver/nvidia");
    let driver = words(&directory.join("version")).map(|text| driver_version(&text));
    let by_module = || {
        let card = |name: String| words(&directory.join("gpus").join(name).join("information"));
        names(&directory.join("gpus")).into_iter().filter_map(card).map(|text| module_gpu(&text))
    };
    let deadline = Instant::now() + TIMEOUT;
    match ask(&["-L"], deadline) {
        Ok(Some(list)) => {
            let mut devices = listed(&list);
            // Without it the list is still right.
            if detail == Detail::All
                && !devices.is_empty()
                && let Ok(Some(details)) = ask(&["-q"], deadline)
            {
                add_details(&mut devices, &details);
            }
            Gpus { driver, devices, problem: None }
        }
        Ok(None) => Gpus { driver, devices: by_module().collect(), problem: None },
        Err(problem) => Gpus { driver, devices: by_module().collect(), problem: Some(problem) },
    }
}

/// The NUMA node next to a GPU, where there are several.
pub(crate) fn numa_node(root: &Path, uuid: &str) -> Option<u32> {
    let cards = root.join("proc/driver/nvidia/gpus");
    let is_it = |bus: &String| {
        let text = words(&cards.join(bus).join("information"));
        text.is_some_and(|text| module_gpu(&text).uuid.as_deref() == Some(uuid))
    };
    let bus = names(&cards).into_iter().find(is_it)?;
    // -1 where the firmware does not say.
    words(&root.join("sys/bus/pci/devices").join(bus).join("numa_node"))?.parse().ok()
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat …`: the word that is a number.
fn driver_version(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let is_number = |word: &&str| {
        word.contains('.') && word.chars().all(|letter| letter.is_ascii_digit() || letter == '.')
    };
    line.split_whitespace().find(is_number).unwrap_or(line).to_owned()
}

/// What the kernel module says of a card.
fn module_gpu(text: &str) -> Gpu {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let name = field("Model").unwrap_or_else(|| "GPU".to_owned());
    Gpu { name, uuid: field("GPU UUID"), ..Gpu::default() }
}

/// The lines of `nvidia-smi -L`.
fn listed(text: &str) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = Vec::new();
    for line in text.lines() {
        let (what, uuid) = match line.split_once("(UUID: ") {
            Some((what, uuid)) => (what.trim(), uuid.trim_end().strip_suffix(')')),
            None => (line.trim(), None),
        };
        let uuid = uuid.map(str::to_owned);
        if let Some((_, name)) = what.strip_prefix("GPU ").and_then(|rest| rest.split_once(": ")) {
            gpus.push(Gpu { name: name.trim().to_owned(), uuid, ..Gpu::default() });
        } else if let (Some(rest), Some(gpu)) = (what.strip_prefix("MIG "), gpus.last_mut()) {
            let profile = rest.split_whitespace().next().unwrap_or_default().to_owned();
            gpu.parts.push(GpuPart { profile, uuid });
        }
    }
    gpus
}

/// From `nvidia-smi -q`, which has the same GPUs in the same order.
fn add_details(gpus: &mut [Gpu], text: &str) {
    let mut gpus = gpus.iter_mut();
    let (mut gpu, mut is_memory) = (None, false);
    for line in text.lines() {
        if line.starts_with("GPU ") {
            gpu = gpus.next();
            continue;
        }
        let Some(gpu) = &mut gpu else { continue };
        let Some((name, value)) = line.split_once(" : ") else {
            is_memory = line.trim() == "FB Memory Usage" && gpu.memory_bytes.is_none();
            continue;
        };
        match (name.trim(), value.trim()) {
            ("Virtualization Mode", mode) if !matches!(mode, "None" | "N/A") => {
                gpu.virtualization = Some(mode.to_owned());
            }
            ("Total", value) if is_memory => {
                let mebibytes = value.strip_suffix(" MiB").and_then(|text| text.parse().ok());
                gpu.memory_bytes = mebibytes.and_then(|number: u64| number.checked_mul(1 << 20));
            }
            _ => {}
        }
    }
}

/// What `nvidia-smi` says; `None` where there is none.
fn ask(arguments: &[&str], deadline: Instant) -> Result<Option<String>, String> {
    match answer(Command::new("nvidia-smi").args(arguments), deadline) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(format!("nvidia-smi did not answer within {} s", TIMEOUT.as_secs()))
        }
        Err(error) => Err(format!("nvidia-smi failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::made_of;
    use super::*;

    const LIST: &str = "\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-b8ae1d5c-1111-2222-3333-000000000001)
  MIG 1g.5gb      Device  1: (UUID: MIG-b8ae1d5c-1111-2222-3333-000000000002)
GPU 1: GRID T4-8Q (UUID: GPU-63feeb45-94c6-b9cb-78ea-98e9b7a5be6b)
";

    const DETAILS: &str = "
Driver Version                            : 535.104.05
GPU 00000000:07:00.0
    Product Name                          : NVIDIA A100-SXM4-40GB
    GPU Virtualization Mode
        Virtualization Mode               : None
        Host VGPU Mode                    : N/A
    FB Memory Usage
        Total                             : 40960 MiB
        Reserved                          : 600 MiB
    BAR1 Memory Usage
        Total                             : 65536 MiB
GPU 00000000:0F:00.0
    GPU Virtualization Mode
        Virtualization Mode               : VGPU
    FB Memory Usage
        Total                             : 8192 MiB
";

    #[test]
    fn whole_divided_and_virtual_gpus_are_named() {
        let mut gpus = listed(LIST);
        add_details(&mut gpus, DETAILS);
        let [divided, virtual_one] = &gpus[..] else { panic!("two: {gpus:?}") };
        assert_eq!(divided.name, "NVIDIA A100-SXM4-40GB");
        assert!(divided.uuid.as_deref().is_some_and(|uuid| uuid.starts_with("GPU-5c89")));
        assert_eq!(divided.memory_bytes, Some(40 << 30));
        assert_eq!(divided.virtualization, None);
        let profiles: Vec<&str> = divided.parts.iter().map(|part| part.profile.as_str()).collect();
        assert_eq!(profiles, ["3g.20gb", "1g.5gb"]);
        assert_eq!(virtual_one.name, "GRID T4-8Q");
        assert_eq!(virtual_one.virtualization.as_deref(), Some("VGPU"));
        assert_eq!(virtual_one.memory_bytes, Some(8 << 30));
    }

    #[test]
    fn the_kernel_module_knows_names_too() {
        let text = "Model: \t\t NVIDIA H100\nIRQ:   \t 0\nGPU UUID: \t GPU-1234\n";
        let gpu = module_gpu(text);
        assert_eq!((gpu.name.as_str(), gpu.uuid.as_deref()), ("NVIDIA H100", Some("GPU-1234")));
        let root = made_of(&[
            ("proc/driver/nvidia/gpus/0000:07:00.0/information", text),
            ("sys/bus/pci/devices/0000:07:00.0/numa_node", "1\n"),
        ]);
        assert_eq!(numa_node(root.path(), "GPU-1234"), Some(1));
        assert_eq!(numa_node(root.path(), "GPU-5678"), None);
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\nGCC";
        assert_eq!(driver_version(text), "535.104.05");
    }
}
