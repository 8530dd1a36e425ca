//! Prints what the collectives cost in worlds of 2 to 64 ranks: the schedules themselves, run in a
//! model with virtual time, beside the formula of the algorithm that the plan chooses.
//!
//! usage: scaling [--svg FILE]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use paceline_benches::scaling::{Case, Cost, Curve, Formula, evaluate, render_plot};
use paceline_benches::units::{format_bytes, format_microseconds};
use paceline_collectives::plan::PlanFacts;
use paceline_collectives::{Collective, TransportKind};

const ELEMENT_BYTES: usize = 4;
const RANKS: [u32; 11] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

const CASES: [(Collective, usize); 7] = [
    (Collective::Barrier, 0),
    (Collective::AllReduce, 1 << 10),
    (Collective::AllReduce, 1 << 20),
    (Collective::AllReduce, 64 << 20),
    (Collective::AllGather, 16 << 20),
    (Collective::Broadcast, 4 << 20),
    (Collective::AllToAll, 256 << 10),
];

fn main() -> ExitCode {
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
    match run(std::env::args_os().skip(1)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("scaling: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<String> {
    let mut svg = None;
    while let Some(argument) = arguments.next() {
        if argument != "--svg" {
            bail!("unexpected argument {}; usage: scaling [--svg FILE]", argument.display());
        }
        svg = Some(PathBuf::from(arguments.next().context("--svg needs a file")?));
    }
    let Cost { latency, byte, reduced_byte } = Cost::TYPICAL;
    let model = format!(
        "{:.0} us, {:.0} GB/s, folding {:.0} GB/s",
        latency * 1e6,
        1e-9 / byte,
        1e-9 / reduced_byte
    );
    let mut text = format!(
        "# model: {model}; a core and a port of its own for every rank\n\
         collective         size  ranks  algorithm               model  formula  ratio\n"
    );
    let mut curves = Vec::new();
    for (collective, bytes) in CASES {
        let size = if bytes == 0 { "-".to_owned() } else { format_bytes(bytes as u64) };
        let mut points = Vec::new();
        for world_size in RANKS {
            let (case, simulated, formula) = point(collective, bytes, world_size);
            points.push((case.ranks, simulated, formula));
            writeln!(
                text,
                "{:<15} {size:>7}  {world_size:>5}  {:<19} {:>9} {:>8} {:>6.2}",
                collective.name(),
                case.algorithm.name(),
                format_microseconds(simulated * 1e6),
                format_microseconds(formula * 1e6),
                simulated / formula
            )?;
        }
        let name = format!("{} {size}", collective.name());
        curves.push(Curve { name: name.trim_end_matches(" -").to_owned(), points });
    }
    if let Some(path) = svg {
        let title =
            format!("Time against world size: schedules in the model ({model}), lines: formulas");
        fs::write(&path, render_plot(&title, &curves))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(text)
}

/// A case with its times in seconds: in the model, and by the formula.
fn point(collective: Collective, bytes: usize, world_size: u32) -> (Case, f64, f64) {
    let facts = PlanFacts::plain(world_size, TransportKind::Tcp);
    let ranks = usize::try_from(world_size).unwrap_or(usize::MAX);
    let count = (bytes / ELEMENT_BYTES).next_multiple_of(ranks);
    let case = Case::planned(&facts, collective, count, ELEMENT_BYTES);
    let simulated = evaluate(&case.schedules(), ELEMENT_BYTES, Cost::TYPICAL);
    (case, simulated, Formula::of(&case, ELEMENT_BYTES).seconds(Cost::TYPICAL))
}
