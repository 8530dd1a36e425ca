//! Hosts and their slots, as people write them: on the command line and in hostfiles.
//!
//! One host is `HOST[:SLOTS]`, `user@HOST`, `[IPv6]:SLOTS`, or with devices `HOST:@0+2+3`, which has
//! a slot for each. `node[01-16]:4` stands for sixteen. A [`HostList`] is what `-H` takes: any number
//! of them between commas. [`parse_hostfile`] reads the files of Horovod, Open MPI and MPICH. Given
//! both, [`select()`] lets the list choose among what the file has.
//!
//! Everything here is pure: no name is looked up, no host is asked.

mod devices;
mod entry;
mod error;
mod file;
mod gpus;
mod lines;
mod list;
mod local;
mod range;
mod select;

pub use devices::{DeviceError, DeviceName};
pub use entry::HostSlots;
pub use error::{ConflictKind, HostConflict, HostError, HostProblem};
pub use file::{HostFileError, HostLineProblem, parse_hostfile};
pub use gpus::{GpuList, GpuListError};
pub use lines::{LineHint, LineProblem, TextFileError};
pub use list::HostList;
pub use local::LocalRule;
pub use range::RangeError;
pub use select::{SelectionError, select};

pub(crate) use lines::{Problems, content, words};
pub(crate) use list::combine;

/// Most hosts of a job, and most that one range may stand for: far more than anybody has, and few
/// enough that a slip of the finger takes no memory to speak of.
pub(crate) const HOSTS_MAX: usize = 1 << 16;
