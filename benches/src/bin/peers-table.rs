//! Reads the rounds that `ci/peers` left in a directory and prints the comparison.
//!
//! usage: peers-table DIRECTORY [--json FILE]
//!        peers-table --model NAME     prints the elements of its gradients, in backward order
//!
//! Records are named `CONTENDER-COLLECTIVE-TRANSPORT-RANKS-ROUND.json`; `start-us.txt` holds one line
//! `ours|mpi MICROSECONDS` per start measurement, round after round.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use paceline_benches::machine::read_machine;
use paceline_benches::models::Model;
use paceline_benches::peers::{Comparison, SCHEMA, render_lines, render_summaries, summaries};
use paceline_benches::schema::Report;
use paceline_benches::table::machine_line;

/// Ranks of the start measurement in `ci/peers`.
const START_RANKS: u32 = 4;

fn main() -> ExitCode {
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
    match run(std::env::args_os().skip(1)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peers-table: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<String> {
    let mut directory = None;
    let mut json = None;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            json = Some(PathBuf::from(arguments.next().context("--json needs a file")?));
        } else if argument == "--model" {
            let name = arguments.next().context("--model needs a name")?;
            let counts = Model::named(&name.to_string_lossy())?.backward_elements();
            let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
            return Ok(format!("{}\n", counts.join(",")));
        } else if directory.is_none() {
            directory = Some(PathBuf::from(argument));
        } else {
            bail!("unexpected argument {}", argument.display());
        }
    }
    let directory = directory.context("usage: peers-table DIRECTORY [--json FILE]")?;

    let mut comparison = Comparison::default();
    let versions = read_records(&directory, &mut comparison)?;
    read_starts(&directory.join("start-us.txt"), &mut comparison)?;
    let lines = comparison.lines()?;
    let summaries = summaries(&lines);
    let machine = read_machine(BTreeMap::new());
    if let Some(path) = json {
        let record = serde_json::json!({
            "schema": SCHEMA,
            "machine": machine,
            "peers": versions,
            "lines": lines,
            "summaries": summaries,
        });
        fs::write(&path, format!("{record:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut text = machine_line(&machine);
    for (name, version) in &versions {
        text.push_str(&format!("# {name} {version}\n"));
    }
    text.push_str(
        "# f32, sums; the size is that of the larger buffer; ours and theirs are medians of round \
         means;\n# CPU is the ratio of CPU seconds, user and system of all ranks\n\n",
    );
    text.push_str(&render_lines(&lines));
    if !summaries.is_empty() {
        text.push('\n');
        text.push_str(&render_summaries(&summaries));
    }
    Ok(text)
}

/// Adds every record to `comparison` and returns the versions of the peers.
fn read_records(directory: &Path, comparison: &mut Comparison) -> Result<BTreeMap<String, String>> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read the directory {}", directory.display()))?;
    let mut versions = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let round = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.rsplit('-').next()?.parse().ok())
            .with_context(|| format!("{} does not end with a round number", path.display()))?;
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let report =
            Report::from_json(&text).with_context(|| format!("cannot use {}", path.display()))?;
        comparison.add(&report, round)?;
        if let Some(peer) = report.peer {
            versions.insert(peer.name, peer.version);
        }
    }
    Ok(versions)
}

fn read_starts(path: &Path, comparison: &mut Comparison) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rounds: HashMap<&str, u32> = HashMap::new();
    for line in text.lines() {
        let (contender, time) = line.split_once(' ').context("start-us.txt: expected two words")?;
        let time_us: f64 = time.parse().with_context(|| format!("start-us.txt: {time:?}"))?;
        let round = rounds.entry(contender).or_default();
        *round += 1;
        let peer = (contender != "ours").then_some("Open MPI");
        comparison.add_start(peer, START_RANKS, *round, time_us);
    }
    Ok(())
}
