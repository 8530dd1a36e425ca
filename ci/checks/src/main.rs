//! Checks the house itself: that every import follows an arrow that is drawn, that the default
//! build needs nothing but a Rust toolchain, that what we depend on may be given away under our
//! licence, that the tests which the documents name exist, and that no file mentions the machine that it was written on.
//!
//! Usage: `ci/arrows [WORD…]`, where each WORD is a further one that no file may mention. Exits
//! with 1 and one line per finding if anything is wrong.
#![forbid(unsafe_code)]

mod arrows;
mod licences;
mod metadata;
mod pains;
mod words;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::metadata::Metadata;

fn main() -> anyhow::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("this crate does not lie two levels below the workspace")?;
    let metadata = Metadata::of_workspace("cargo")?;
    let mut findings = arrows::findings(&metadata);
    findings.extend(licences::findings(&metadata));
    findings.extend(pains::findings(root));

    let words: Vec<String> =
        words::directories(root).into_iter().chain(std::env::args().skip(1)).collect();
    let files = words::tracked_files(root)?;
    findings.extend(words::findings(root, &files, &words));

    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.is_empty() {
        let crates = metadata.members().count();
        let others = metadata.packages.len() - crates;
        writeln!(
            out,
            "{crates} crates, every arrow is drawn; {others} of others, all free; {} files, all clean",
            files.len()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{} findings", findings.len())?;
    Ok(ExitCode::FAILURE)
}
