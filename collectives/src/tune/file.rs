//! Plans on disk, which rank 0 reads and writes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::PlanFault;
use crate::communicator::Communicator;
use crate::plan::{Speed, Tuning};

/// The name and version of the format of plan files.
const FORMAT: &str = "paceline.plan/1";

/// Longest file that is read; ours are a hundredth of it.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A plan on disk.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    format: String,
    world_size: u32,
    transport: String,
    /// What the numbers were derived from; they alone count.
    measured: Option<Speed>,
    tuning: Tuning,
}

/// What is wrong with a file, and its explanation.
pub(super) type Met = (PlanFault, String);

/// The numbers of a file, if there is one.
pub(super) fn read(path: &Path, communicator: &Communicator) -> Result<Option<Tuning>, Met> {
    let met = |fault, why: &dyn fmt::Display| (fault, format!("{}: {why}", path.display()));
    let text = match text_of(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(met(PlanFault::Reading, &error)),
    };
    let plan: PlanFile =
        serde_json::from_slice(&text).map_err(|error| met(PlanFault::Meaning, &error))?;
    if plan.format != FORMAT {
        let why = format!("its format is {:?}; this version reads {FORMAT}", plan.format);
        return Err(met(PlanFault::Meaning, &why));
    }
    let (ranks, transport) =
        (communicator.world_size(), communicator.plan_facts().transport.name());
    if (plan.world_size, plan.transport.as_str()) != (ranks, transport) {
        let (of, over) = (plan.world_size, plan.transport);
        let why =
            format!("it is for {of} ranks over {over}, and this job has {ranks} over {transport}");
        return Err(met(PlanFault::World, &why));
    }
    plan.tuning.check().map_err(|why| met(PlanFault::Meaning, &why))?;
    Ok(Some(plan.tuning))
}

/// What a file says. Nobody is waited for who might write to a pipe, and a device may never end.
fn text_of(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Leaves the numbers for the next time, or nothing.
pub(super) fn write(
    path: &Path,
    communicator: &Communicator,
    speed: Speed,
    tuning: Tuning,
) -> Result<(), Met> {
    let plan = PlanFile {
        format: FORMAT.to_owned(),
        world_size: communicator.world_size(),
        transport: communicator.plan_facts().transport.name().to_owned(),
        measured: Some(speed),
        tuning,
    };
    let mut text = serde_json::to_string_pretty(&plan).expect("it is plain data");
    text.push('\n');
    let written = File::create(path).and_then(|mut file| {
        file.write_all(text.as_bytes()).inspect_err(|_| {
            // Half a plan would be refused the next time. What cannot be removed is left.
            let _ = fs::remove_file(path);
        })
    });
    written.map_err(|error| (PlanFault::Writing, format!("{}: {error}", path.display())))
}
