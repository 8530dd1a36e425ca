//! What a process holds.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::Surprise;

/// Growth of resident memory that is no leak: allocators keep what is freed, in other places each time.
const SLACK_BYTES: u64 = 48 << 20;

/// What design and documentation allow for eight ranks.
const LIBRARY_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Holdings {
    resident_bytes: u64,
    descriptors: usize,
    threads: usize,
    /// What the library says that it held at the most.
    library_bytes: usize,
}

impl Holdings {
    pub(crate) fn read(library_bytes: usize) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("no /proc")?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.with_context(|| format!("no {name} in /proc/self/status"))
        };
        Ok(Self {
            resident_bytes: number("VmRSS:")? << 10,
            descriptors: fs::read_dir("/proc/self/fd").context("no /proc")?.count(),
            threads: usize::try_from(number("Threads:")?)?,
            library_bytes,
        })
    }

    /// Complains of what has grown.
    pub(crate) fn compare(&self, first: &Self, era: u64) -> Result<()> {
        let Self { resident_bytes, descriptors, threads, library_bytes } = *self;
        if descriptors > first.descriptors || threads > first.threads {
            let since = self.since(first);
            bail!(Surprise(format!("era {era}: descriptors or threads leak: {since}")));
        }
        if resident_bytes > first.resident_bytes + SLACK_BYTES {
            bail!(Surprise(format!("era {era}: memory leaks: {}", self.since(first))));
        }
        if library_bytes > LIBRARY_BYTES_MAX {
            bail!(Surprise(format!("era {era}: a leak: the library holds {library_bytes} bytes")));
        }
        Ok(())
    }

    pub(crate) fn since(&self, first: &Self) -> String {
        format!(
            "resident {} -> {} MiB, descriptors {} -> {}, threads {} -> {}",
            first.resident_bytes >> 20,
            self.resident_bytes >> 20,
            first.descriptors,
            self.descriptors,
            first.threads,
            self.threads
        )
    }
}
