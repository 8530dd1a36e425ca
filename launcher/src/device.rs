//! The devices of ranks, as a job asks for them.

use paceline_rendezvous::Fraction;
use serde::{Deserialize, Serialize};

/// Which GPUs a CUDA program sees, and as which numbers: the first in the list is its device 0.
pub(crate) const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// Which GPUs of its host's list a rank sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuVisibility {
    /// All that ranks of its host were given, in the order of local ranks: a program takes the one
    /// with the number of its local rank, as programs for Horovod and torchrun do. Where ranks have
    /// parts of GPUs each sees its own all the same.
    #[default]
    Host,
    /// Its own alone, as device 0.
    Rank,
}

/// The device of a rank: a host finds out what it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RankDevice {
    /// Its number in the order of the PCI bus, or its UUID.
    pub(crate) name: String,
    /// The share of it, in millionths.
    millionths: u32,
}

impl RankDevice {
    pub(crate) fn new(name: String, fraction: Fraction) -> Self {
        Self { name, millionths: fraction.millionths() }
    }

    pub(crate) fn fraction(&self) -> Fraction {
        Fraction::from_millionths(self.millionths).unwrap_or(Fraction::WHOLE)
    }
}
