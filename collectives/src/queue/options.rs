use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use paceline_rendezvous::BootstrapError;
use paceline_rendezvous::env::{self, Environment};

use crate::error::SetupError;

/// What is called when a tensor waits for ranks that have not submitted it.
pub type StallHook = Arc<dyn Fn(&Stall) + Send + Sync>;

/// How a queue works. Everything here but the hook must be equal on all ranks.
#[derive(Clone)]
pub struct QueueOptions {
    /// Bytes that one round carries out at most, a longer tensor alone; default 16 MiB. Tensors are
    /// fused within a round, and not at all if it is 0.
    ///
    /// More saves rounds, less lets urgent tensors overtake others sooner.
    pub fusion_threshold: usize,
    /// Time from the beginning of a round to that of the next one in which a rank with news waits for
    /// more of it; default 0.
    pub cycle_time: Duration,
    /// Tensors that the response cache has room for, at least 1; default 1024.
    pub cache_capacity: usize,
    /// How long a tensor may wait for the ranks that have not submitted it; without, as long as an
    /// operation of the context may take.
    pub timeout: Option<Duration>,
    /// How long a tensor has waited when it is first reported, and between reports; default 10 s.
    pub stall_report_after: Duration,
    /// Is told of stalls, on every rank that waits. By default the first of them writes a line to
    /// standard error.
    pub on_stall: StallHook,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            fusion_threshold: 16 << 20,
            cycle_time: Duration::ZERO,
            cache_capacity: 1024,
            timeout: None,
            stall_report_after: Duration::from_secs(10),
            on_stall: Arc::new(write_stall),
        }
    }
}

impl QueueOptions {
    /// The options that the `PACELINE_*` variables, or Horovod's, describe.
    ///
    /// # Errors
    /// [`SetupError`] names the variable whose value makes no sense.
    pub fn from_environment(environment: &(impl Environment + ?Sized)) -> Result<Self, SetupError> {
        let invalid = |error| SetupError::Bootstrap(BootstrapError::from(error));
        let mut options = Self::default();
        if let Some(bytes) = env::FUSION_THRESHOLD.bytes(environment).map_err(invalid)? {
            options.fusion_threshold = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        if let Some(time) = env::CYCLE_TIME.milliseconds(environment).map_err(invalid)? {
            options.cycle_time = time;
        }
        // Horovod turns its cache off by 0; a cache of one tensor comes near to that.
        if let Some(tensors) = env::CACHE_CAPACITY.parse::<usize>(environment).map_err(invalid)? {
            options.cache_capacity = tensors.max(1);
        }
        let time = env::STALL_CHECK_TIME.seconds_or_zero(environment).map_err(invalid)?;
        if let Some(time) = time {
            // As in Horovod, 0 is never.
            options.stall_report_after = if time.is_zero() { Duration::MAX } else { time };
        }
        // In Horovod 0 is never; here it is the time that an operation may take.
        let time = env::STALL_SHUTDOWN_TIME.seconds_or_zero(environment).map_err(invalid)?;
        options.timeout = time.filter(|time| !time.is_zero());
        Ok(options)
    }
}

impl fmt::Debug for QueueOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueOptions")
            .field("fusion_threshold", &self.fusion_threshold)
            .field("cycle_time", &self.cycle_time)
            .field("cache_capacity", &self.cache_capacity)
            .field("timeout", &self.timeout)
            .field("stall_report_after", &self.stall_report_after)
            .finish_non_exhaustive()
    }
}

/// A tensor that some ranks have submitted and others have not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// The tensor.
    pub name: String,
    /// Who has not submitted it.
    pub missing: Vec<u32>,
    /// Who has.
    pub submitted: Vec<u32>,
    /// How long the first of them has waited.
    pub waited: Duration,
    /// This rank, which is one of them.
    pub rank: u32,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = super::error::name_ranks(&self.missing);
        write!(f, "{}: waits for {missing} since {:.1} s", self.name, self.waited.as_secs_f64())
    }
}

fn write_stall(stall: &Stall) {
    if stall.submitted.first() == Some(&stall.rank) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "paceline: {stall}");
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    struct Only(&'static str, &'static str);

    impl Environment for Only {
        fn get(&self, name: &str) -> Option<OsString> {
            (name == self.0).then(|| self.1.into())
        }
    }

    #[test]
    fn horovods_variables_mean_what_they_mean_there() {
        let of = |name, value| QueueOptions::from_environment(&Only(name, value));
        assert_eq!(of("HOROVOD_FUSION_THRESHOLD", "67108864").unwrap().fusion_threshold, 64 << 20);
        assert_eq!(of("PACELINE_FUSION_THRESHOLD", "64M").unwrap().fusion_threshold, 64 << 20);
        let time = of("HOROVOD_CYCLE_TIME", "3.5").unwrap().cycle_time;
        assert_eq!(time, Duration::from_micros(3500));
        assert!(of("PACELINE_FUSION_THRESHOLD", "much").is_err());
        let cache =
            |value| of("HOROVOD_CACHE_CAPACITY", value).map(|options| options.cache_capacity);
        assert_eq!((cache("64").unwrap(), cache("0").unwrap()), (64, 1));
        assert!(cache("few").is_err());
        let check =
            |value| of("HOROVOD_STALL_CHECK_TIME_SECONDS", value).unwrap().stall_report_after;
        assert_eq!((check("60"), check("0")), (Duration::from_secs(60), Duration::MAX));
        let shutdown = |value| of("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", value).unwrap().timeout;
        assert_eq!((shutdown("120"), shutdown("0")), (Some(Duration::from_secs(120)), None));
    }
}
