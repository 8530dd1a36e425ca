//! What an agent finds out about its host: plain data.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::machine::gpus::Gpus;

/// Something, and how long it took to find out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed<T> {
    /// Microseconds.
    pub took_us: u64,
    /// What was found.
    pub found: T,
}

/// A host as its agent has found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Version of paceline there.
    pub version: String,
    /// SHA-256 of its binary in hexadecimal; `None` if it cannot be read.
    pub build: Option<String>,
    /// Processor and memory.
    pub machine: Timed<Machine>,
    /// Limits of the processes that ssh, or the launcher, starts there.
    pub limits: Timed<Limits>,
    /// `/dev/shm`; `None` where there is none.
    pub shared_memory: Timed<Option<Space>>,
    /// Network interfaces that may lead to other hosts.
    pub interfaces: Timed<Vec<Interface>>,
    /// What is in `/sys/class/infiniband`.
    pub rdma: Timed<Vec<RdmaDevice>>,
    /// GPUs of NVIDIA's driver.
    pub gpus: Timed<Gpus>,
}

/// Processor, memory and kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that a process there may use.
    pub cores: u32,
    /// Processors that the kernel has; more where a container or an affinity takes some away.
    pub processors: u32,
    /// The processor's name.
    pub cpu: Option<String>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes that new processes may have.
    pub available_bytes: Option<u64>,
    /// Release of the kernel.
    pub kernel: String,
}

/// Limits of a process; `None` for unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory that it may lock.
    pub locked_memory: Option<u64>,
    /// Files and sockets that it may have open.
    pub open_files: Option<u64>,
    /// To which it may raise that.
    pub open_files_max: Option<u64>,
}

/// Room of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// All of it.
    pub bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `up`, `down`, … as the kernel says it.
    pub state: String,
    /// What the driver says; virtual devices may say nothing, or anything.
    pub megabits_per_second: Option<u32>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Addresses at which other hosts may reach it: no link-local ones.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// Whether it carries anything.
    pub fn is_up(&self) -> bool {
        // Devices that cannot tell say `unknown`.
        matches!(self.state.as_str(), "up" | "unknown")
    }
}

/// A device of the RDMA subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaDevice {
    /// Its name, such as `mlx5_0`.
    pub name: String,
    /// Version of its firmware.
    pub firmware: Option<String>,
    /// Its ports.
    pub ports: Vec<RdmaPort>,
    /// The file by which programs reach it, such as `/dev/infiniband/uverbs0`.
    pub verbs: Option<String>,
    /// Why that file cannot be opened, if so.
    pub verbs_error: Option<String>,
}

/// A port of such a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaPort {
    /// From 1.
    pub number: u32,
    /// `ACTIVE`, `DOWN`, …
    pub state: String,
    /// `InfiniBand` or `Ethernet`.
    pub link_layer: String,
    /// As the kernel says it: `100 Gb/sec (4X EDR)`.
    pub rate: Option<String>,
    /// Its addresses, those that are zero left out.
    pub gids: Vec<Gid>,
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gid {
    /// Its place in the table.
    pub index: u32,
    /// The address.
    pub gid: String,
    /// `RoCE v2`, `IB/RoCE v1`, …
    pub kind: Option<String>,
    /// The network interface that it belongs to.
    pub interface: Option<String>,
}
