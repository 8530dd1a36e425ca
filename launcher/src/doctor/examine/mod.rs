//! Looking at this host: files of the kernel, and `nvidia-smi`. Everything below a root directory, so
//! that tests make up hosts.

mod gpus;
mod machine;
mod network;
mod rdma;

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::examination::{Examination, Timed};
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
        gpus: timed(|| gpus::gpus(root)),
    }
}

fn timed<T>(look: impl FnOnce() -> T) -> Timed<T> {
    let begin = Instant::now();
    let found = look();
    Timed { took_us: u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX), found }
}

/// The words of a small file, if there are any.
fn words(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The names in a directory, in the order of their numbers: `mlx5_2` before `mlx5_10`.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

/// A host made of files.
#[cfg(test)]
pub(super) fn made_of(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("created");
        fs::write(path, text).expect("written");
    }
    root
}
