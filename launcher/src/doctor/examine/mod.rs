//! Looking at this host: files of the kernel, and `nvidia-smi`. Everything below a root directory, so
//! that tests make up hosts.

mod machine;
mod network;
mod rdma;

use std::path::Path;
use std::time::Instant;

use super::examination::{Examination, Timed};
use crate::machine::gpus::{self, Detail};
use crate::process::build_id;
use crate::protocol::facts::VERSION;

/// Looks at this host. What cannot be read is left out. Blocks; at most some seconds.
pub(crate) fn examine() -> Examination {
    let root = Path::new("/");
    Examination {
        version: VERSION.to_owned(),
        build: build_id::of_this_process(),
        machine: timed(|| machine::machine(root)),
        limits: timed(machine::limits),
        shared_memory: timed(|| machine::space(&root.join("dev/shm"))),
        interfaces: timed(|| network::interfaces(root)),
        rdma: timed(|| rdma::devices(root)),
        gpus: timed(|| gpus::find(root, Detail::All)),
    }
}

fn timed<T>(look: impl FnOnce() -> T) -> Timed<T> {
    let begin = Instant::now();
    let found = look();
    Timed { took_us: u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX), found }
}
