//! The GPU of each rank of a host, or the part of one. Pure, but for the look at MPS.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use paceline_rendezvous::{DeviceAssignment, Fraction, env};
use thiserror::Error;

use crate::device::{CUDA_VISIBLE_DEVICES, GpuVisibility, RankDevice};
use crate::machine::gpus::{Gpu, GpuPart, Gpus};
use crate::protocol::messages::RankConfig;

/// How numbers in that list are meant; without it the fastest GPU is 0.
const CUDA_DEVICE_ORDER: &str = "CUDA_DEVICE_ORDER";

/// Share of the multiprocessors that a client of MPS may use, in percent:
/// docs.nvidia.com/deploy/mps, "Environment Variables".
const MPS_THREADS: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

/// Memory that it may use, as `DEVICE=AMOUNT`: the same page.
const MPS_MEMORY: &str = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";

/// What a host does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum DeviceProblem {
    #[error("{wanted} was asked for, and there is no GPU of NVIDIA{why}")]
    NoGpu { wanted: String, why: String },
    #[error("there is no GPU {wanted}; there are {has}")]
    Unknown { wanted: String, has: String },
    #[error("GPU {gpu} is divided: name one of its parts ({has}), or say --gpu-fraction")]
    Divided { gpu: String, has: String },
    #[error("{count} ranks were given GPU {gpu}, which has room for {room}")]
    Full { gpu: String, count: usize, room: usize },
    #[error("no part of GPU {gpu} that is left has {fraction} of its memory; its parts are {has}")]
    NoPart { gpu: String, fraction: Fraction, has: String },
    #[error("{fraction} of GPU {gpu} cannot be had: it is not divided (MIG), and MPS does not run")]
    NoSharing { gpu: String, fraction: Fraction },
    #[error("the memory of GPU {gpu} is not known, so {fraction} of it cannot be told")]
    NoMemorySize { gpu: String, fraction: Fraction },
}

impl DeviceProblem {
    /// What the user may do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoGpu { .. } => "`paceline doctor` shows what the host has".to_owned(),
            Self::NoSharing { .. } => {
                "start MPS there: nvidia-cuda-mps-control -d; or divide the GPU: nvidia-smi mig"
                    .to_owned()
            }
            Self::Full { room: 1, .. } => {
                "name one GPU for each rank, or say --gpu-fraction".to_owned()
            }
            Self::Full { .. } => "a lower --gpu-fraction lets more ranks share one".to_owned(),
            Self::Unknown { .. }
            | Self::Divided { .. }
            | Self::NoPart { .. }
            | Self::NoMemorySize { .. } => return None,
        })
    }
}

/// What a rank gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// UUID of the whole GPU, where it is known.
    pub(crate) gpu: Option<String>,
}

/// A device that has been found.
struct Found<'a> {
    gpu: &'a Gpu,
    index: usize,
    part: Option<&'a GpuPart>,
}

impl Found<'_> {
    /// By what CUDA knows it: a UUID means the same in every order of numbers.
    fn name(&self) -> String {
        let uuid = self.part.map_or(&self.gpu.uuid, |part| &part.uuid);
        uuid.clone().unwrap_or_else(|| self.index.to_string())
    }
}

/// Finds the device of each rank on the host that has these `gpus`; MPS runs there or does not.
///
/// Ranks without a device get nothing.
pub(crate) fn assign(
    ranks: &[RankConfig],
    visibility: GpuVisibility,
    gpus: &Gpus,
    has_mps: bool,
) -> Result<Vec<Given>, DeviceProblem> {
    let mut taken = BTreeSet::new();
    let mut found = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let device = rank.device.as_ref();
        found.push(device.map(|device| find(device, gpus, &mut taken)).transpose()?);
    }
    check_room(ranks, &found)?;
    let is_divided = |device: &RankDevice| device.fraction() != Fraction::WHOLE;
    let of_all = || {
        let mut names: Vec<String> = Vec::new();
        for name in found.iter().flatten().map(Found::name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    };
    // A process sees one part of a GPU only, and its own limits are for its own device.
    let has_parts = found.iter().flatten().any(|found| found.part.is_some());
    let has_shares = ranks.iter().filter_map(|rank| rank.device.as_ref()).any(is_divided);
    let shared_list = (visibility == GpuVisibility::Host && !has_parts && !has_shares).then(of_all);
    let mut given = Vec::with_capacity(ranks.len());
    for (rank, found) in ranks.iter().zip(&found) {
        given.push(match (&rank.device, found) {
            (Some(device), Some(found)) => give(device, found, shared_list.as_deref(), has_mps)?,
            _ => Given::default(),
        });
    }
    Ok(given)
}

/// The variables of one rank.
fn give(
    device: &RankDevice,
    found: &Found<'_>,
    shared_list: Option<&[String]>,
    has_mps: bool,
) -> Result<Given, DeviceProblem> {
    let (name, fraction) = (found.name(), device.fraction());
    let seen = shared_list.map_or_else(|| name.clone(), |names| names.join(","));
    let mut variables = vec![(CUDA_VISIBLE_DEVICES.to_owned(), seen)];
    if found.gpu.uuid.is_none() {
        variables.push((CUDA_DEVICE_ORDER.to_owned(), "PCI_BUS_ID".to_owned()));
    }
    if let Some(place) = shared_list.and_then(|names| names.iter().position(|seen| *seen == name)) {
        variables.push((env::JAX_LOCAL_DEVICE_IDS.name.to_owned(), place.to_string()));
    }
    if fraction != Fraction::WHOLE && found.part.is_none() {
        variables.extend(limits(device, found, has_mps)?);
    }
    // A part is all that the rank has: the share of the GPU that it was chosen for lies within.
    let fraction = if found.part.is_some() { Fraction::WHOLE } else { fraction };
    let assignment = DeviceAssignment::Local { uuid: name, fraction };
    variables.push((env::DEVICE.name.to_owned(), assignment.to_string()));
    let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
    Ok(Given { variables: variables.collect(), gpu: found.gpu.uuid.clone() })
}

/// What tells MPS how much of its GPU a rank may use.
fn limits(
    device: &RankDevice,
    found: &Found<'_>,
    has_mps: bool,
) -> Result<[(String, String); 2], DeviceProblem> {
    let (gpu, fraction) = (device.name.clone(), device.fraction());
    if !has_mps {
        return Err(DeviceProblem::NoSharing { gpu, fraction });
    }
    let Some(memory) = found.gpu.memory_bytes else {
        return Err(DeviceProblem::NoMemorySize { gpu, fraction });
    };
    let millionths = u64::from(fraction.millionths());
    let percent = (millionths / 10_000).max(1);
    // Mebibytes first: a product of bytes and millionths could be more than 64 bits hold.
    let mebibytes = (memory >> 20) * millionths / 1_000_000;
    // The rank sees this device alone, so it is number 0.
    Ok([
        (MPS_THREADS.to_owned(), percent.to_string()),
        (MPS_MEMORY.to_owned(), format!("0={mebibytes}M")),
    ])
}

fn find<'a>(
    device: &RankDevice,
    gpus: &'a Gpus,
    taken: &mut BTreeSet<(usize, usize)>,
) -> Result<Found<'a>, DeviceProblem> {
    let wanted = device.name.clone();
    if gpus.devices.is_empty() {
        let why = gpus.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
        return Err(DeviceProblem::NoGpu { wanted: format!("GPU {wanted}"), why });
    }
    if let Some(found) = find_part(&wanted, gpus) {
        return Ok(found);
    }
    let is_meant = |(index, gpu): &(usize, &Gpu)| {
        wanted.parse::<usize>() == Ok(*index) || gpu.uuid.as_deref() == Some(wanted.as_str())
    };
    let Some((index, gpu)) = gpus.devices.iter().enumerate().find(is_meant) else {
        return Err(DeviceProblem::Unknown { wanted, has: list(gpus) });
    };
    let part = match (&gpu.parts[..], device.fraction()) {
        ([], _) => None,
        (parts, Fraction::WHOLE) => {
            return Err(DeviceProblem::Divided { gpu: wanted, has: list_parts(parts) });
        }
        (parts, fraction) => {
            let place = smallest_part(gpu, fraction, |place| taken.contains(&(index, place)));
            let Some(place) = place else {
                return Err(DeviceProblem::NoPart {
                    gpu: wanted,
                    fraction,
                    has: list_parts(parts),
                });
            };
            taken.insert((index, place));
            Some(&parts[place])
        }
    };
    Ok(Found { gpu, index, part })
}

fn find_part<'a>(wanted: &str, gpus: &'a Gpus) -> Option<Found<'a>> {
    gpus.devices.iter().enumerate().find_map(|(index, gpu)| {
        let part = gpu.parts.iter().find(|part| part.uuid.as_deref() == Some(wanted))?;
        Some(Found { gpu, index, part: Some(part) })
    })
}

/// The free part with the least memory, and then the fewest multiprocessors, among those that have
/// such a share of the memory.
fn smallest_part(gpu: &Gpu, fraction: Fraction, is_taken: impl Fn(usize) -> bool) -> Option<usize> {
    let memory = gpu.memory_bytes? as f64 / f64::from(1 << 30);
    let is_enough = |gigabytes: u32| f64::from(gigabytes) >= memory * fraction.as_f64();
    let parts = gpu
        .parts
        .iter()
        .enumerate()
        .filter(|(place, part)| !is_taken(*place) && part.uuid.is_some());
    let sized = parts.filter_map(|(place, part)| Some((size(&part.profile)?, place)));
    let fitting = sized.filter(|((gigabytes, _), _)| is_enough(*gigabytes));
    fitting.min().map(|(_, place)| place)
}

/// Gigabytes and slices of a profile such as `3g.20gb` or `1g.10gb+me`.
fn size(profile: &str) -> Option<(u32, u32)> {
    let (slices, rest) = profile.split_once("g.")?;
    let (gigabytes, _) = rest.split_once("gb")?;
    // `1c.3g.20gb` is a part of a part: of its slices only the last number counts.
    let slices = slices.rsplit('.').next()?;
    Some((gigabytes.parse().ok()?, slices.parse().ok()?))
}

/// No device is given to more ranks than it has room for.
fn check_room(ranks: &[RankConfig], found: &[Option<Found<'_>>]) -> Result<(), DeviceProblem> {
    for (rank, one) in ranks.iter().zip(found) {
        let (Some(device), Some(one)) = (&rank.device, one) else { continue };
        let same = |other: &&Found<'_>| other.name() == one.name();
        let count = found.iter().flatten().filter(same).count();
        let room = if one.part.is_some() { 1 } else { device.fraction().per_device() };
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if count > room {
            return Err(DeviceProblem::Full { gpu: device.name.clone(), count, room });
        }
    }
    Ok(())
}

fn list(gpus: &Gpus) -> String {
    let one = |(index, gpu): (usize, &Gpu)| match &gpu.uuid {
        Some(uuid) => format!("{index} ({uuid})"),
        None => index.to_string(),
    };
    gpus.devices.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

fn list_parts(parts: &[GpuPart]) -> String {
    let one = |part: &GpuPart| match &part.uuid {
        Some(uuid) => format!("{uuid} of {}", part.profile),
        None => part.profile.clone(),
    };
    parts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Whether a control daemon of MPS keeps its pipes in this directory.
pub(crate) fn mps_runs(directory: &Path) -> bool {
    let pid = std::fs::read_to_string(directory.join("nvidia-cuda-mps-control.pid"));
    let pid = pid.ok().and_then(|text| text.trim().parse::<i32>().ok());
    let is_alive = |pid: i32| Path::new("/proc").join(pid.to_string()).exists();
    // Clients need no more than the pipe; the number may be one of another container.
    directory.join("control").exists() && pid.is_none_or(is_alive)
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
