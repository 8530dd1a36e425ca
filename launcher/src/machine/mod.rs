//! What this host has: processors and GPUs, as the kernel and the driver tell it.

pub(crate) mod cores;
pub(crate) mod files;
pub(crate) mod gpus;
