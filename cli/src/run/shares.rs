//! What each rank gets of its host, as settings say it: GPUs, processors, what it runs under.

use paceline_launcher::{BindTo, GpuList, GpuVisibility, JobSpec};
use paceline_rendezvous::Fraction;
use paceline_rendezvous::env::{self, Environment, EnvironmentError, Variable};

use super::wanted::UsageError;
use crate::options::Layers;

/// The settings that are read here, in the order of the help, but for the wrapper and TensorFlow.
pub(super) const SETTINGS: &[Variable] =
    &[env::GPUS, env::GPU_FRACTION, env::GPU_VISIBILITY, env::BIND_TO];

/// The job, with these shares.
pub(super) fn share(job: JobSpec, layers: &Layers) -> Result<JobSpec, UsageError> {
    let fraction = match env::GPU_FRACTION.text(layers)? {
        Some(text) => text.parse().map_err(|_| env::GPU_FRACTION.invalid(&text))?,
        None => Fraction::WHOLE,
    };
    let gpus = env::GPUS.text(layers)?.map(|text| GpuList::parse(&text)).transpose()?;
    let wrapper = env::WRAP.text(layers)?.map(|text| text.parse()).transpose()?;
    Ok(JobSpec {
        hosts: job.hosts.clone().with_devices(&gpus.unwrap_or_default(), fraction)?,
        gpu_fraction: fraction,
        gpu_visibility: visibility(layers)?,
        bind_to: bind_to(layers)?,
        wrapper,
        tensorflow: env::TENSORFLOW.is_on(layers)?,
        ..job
    })
}

fn visibility(layers: &impl Environment) -> Result<GpuVisibility, EnvironmentError> {
    match env::GPU_VISIBILITY.text(layers)?.as_deref() {
        None | Some("host") => Ok(GpuVisibility::Host),
        Some("rank") => Ok(GpuVisibility::Rank),
        Some(other) => Err(env::GPU_VISIBILITY.invalid(other)),
    }
}

fn bind_to(layers: &impl Environment) -> Result<BindTo, EnvironmentError> {
    match env::BIND_TO.text(layers)?.as_deref() {
        None | Some("none") => Ok(BindTo::None),
        Some("core") => Ok(BindTo::Core),
        Some("numa") => Ok(BindTo::Numa),
        Some(other) => Err(env::BIND_TO.invalid(other)),
    }
}
