//! A plan as text: pure.

use paceline_launcher::{
    BindTo, CommandSummary, GpuVisibility, HostSummary, PlanSummary, VariableSummary, rank_ranges,
    shell_line,
};

use super::fold::{Group, groups};
use crate::columns::align;

/// Columns of a list of names before it goes on in the next line; a terminal of 100 has it.
const NAMES_COLUMNS: usize = 84;

/// Hosts in a table, then what all ranks have in common, then how other hosts are reached.
pub(super) fn text(plan: &PlanSummary) -> String {
    let ranks = counted(plan.world_size, "rank");
    let hosts = counted(u32::try_from(plan.hosts.len()).unwrap_or(u32::MAX), "host");
    let head = ["NODE", "HOST", "BY", "RANKS", "LOCAL RANKS", "DEVICES", "THREADS"];
    let mut table = vec![head.map(str::to_owned)];
    table.extend(groups(&plan.hosts).iter().map(row));
    format!("{ranks} on {hosts}\n\n{}\n{}", align(&table), align(&facts(plan)))
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn row(group: &Group<'_>) -> [String; 7] {
    let (first, last) = (&group.hosts[0], &group.hosts[group.hosts.len() - 1]);
    let nodes = match group.hosts.len() {
        1 => first.node_rank.to_string(),
        _ => format!("{}-{}", first.node_rank, last.node_rank),
    };
    let by = if first.is_this_host { "this host" } else { "ssh" };
    let local: Vec<u32> = first.ranks.iter().map(|rank| rank.local_rank).collect();
    let threads = first.omp_num_threads.clone().unwrap_or_else(|| "-".to_owned());
    let name = group.name.clone();
    [nodes, name, by.to_owned(), ranks(group), series(&local), devices(first), threads]
}

/// The ranks of each host of a group: the first two and the last stand for all.
fn ranks(group: &Group<'_>) -> String {
    let of = |host: &HostSummary| {
        let ranks: Vec<u32> = host.ranks.iter().map(|rank| rank.rank).collect();
        series(&ranks)
    };
    match group.hosts {
        [] => String::new(),
        [only] => of(only),
        [first, last] => format!("{}; {}", of(first), of(last)),
        [first, second, .., last] => format!("{}; {}; … {}", of(first), of(second), of(last)),
    }
}

/// Ascending numbers: `0-7`; `0, 4, … 28`, which grow by the same; or `0-2, 5`.
fn series(numbers: &[u32]) -> String {
    let steps: Vec<u32> = numbers.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    match (numbers, &steps[..]) {
        ([first, second, _, .., last], [step, rest @ ..])
            if *step > 1 && rest.len() > 1 && rest.iter().all(|other| other == step) =>
        {
            format!("{first}, {second}, … {last}")
        }
        _ => rank_ranges(numbers),
    }
}

/// In the order of local ranks.
fn devices(host: &HostSummary) -> String {
    let name = |device: &str| match device.strip_prefix("local:") {
        Some(name) => name.to_owned(),
        None if device == "none" => "-".to_owned(),
        None => device.to_owned(),
    };
    let names: Vec<String> = host.ranks.iter().map(|rank| name(&rank.device)).collect();
    if names.iter().all(|name| name == "-") {
        return "-".to_owned();
    }
    let numbers: Option<Vec<u32>> = names.iter().map(|name| name.parse().ok()).collect();
    match numbers {
        Some(numbers) if numbers.is_sorted() => series(&numbers),
        _ => names.join(", "),
    }
}

/// What is not about one host; the first line of each has its name.
fn facts(plan: &PlanSummary) -> Vec<[String; 2]> {
    let unless_set = plan.unless_set.iter().map(assignment);
    let threads = plan.hosts.iter().any(|host| host.omp_num_threads.is_some());
    let threads = threads.then(|| "OMP_NUM_THREADS=THREADS".to_owned());
    let own = plan.hosts.first().and_then(|host| host.ranks.first());
    let own = own.map(|rank| &rank.variables[..]).unwrap_or_default();
    let own: Vec<String> = own.iter().map(|variable| variable.name.clone()).collect();
    let facts = [
        ("command", commands(plan)),
        ("directory", vec![plan.working_directory.clone()]),
        ("bound to", bound_to(plan).into_iter().collect()),
        ("GPUs seen", gpus_seen(plan).into_iter().collect()),
        ("variables", plan.variables.iter().map(assignment).collect()),
        ("unless set", threads.into_iter().chain(unless_set).collect()),
        ("of each rank", wrapped(&own)),
        ("to other hosts", wrapped(&plan.passed_on)),
        ("other hosts by", ssh(plan)),
    ];
    let mut table = Vec::new();
    for (name, lines) in facts {
        let names = std::iter::once(name).chain(std::iter::repeat(""));
        table.extend(names.zip(lines).map(|(name, line)| [name.to_owned(), line]));
    }
    table
}

/// What is run; where there are several programs, with the ranks of the others.
fn commands(plan: &PlanSummary) -> Vec<String> {
    let line = |command: &[String]| shell_line(&[&plan.wrapper[..], command].concat());
    let other = |other: &CommandSummary| {
        let variables =
            other.variables.iter().map(|variable| format!("-x {} ", assignment(variable)));
        let variables: String = variables.collect();
        format!("ranks {}: {variables}{}", rank_ranges(&other.ranks), line(&other.command))
    };
    let others = plan.other_commands.iter().map(other);
    std::iter::once(line(&plan.command)).chain(others).collect()
}

fn bound_to(plan: &PlanSummary) -> Option<String> {
    let what = match plan.bind_to {
        BindTo::None => return None,
        BindTo::Core => "cores of its own",
        BindTo::Numa => "a NUMA node, that of its GPU if it has one",
    };
    Some(what.to_owned())
}

fn gpus_seen(plan: &PlanSummary) -> Option<String> {
    let mut ranks = plan.hosts.iter().flat_map(|host| &host.ranks);
    ranks.any(|rank| rank.device != "none").then(|| match plan.gpu_visibility {
        GpuVisibility::Host => "those of its host's ranks".to_owned(),
        GpuVisibility::Rank => "its own".to_owned(),
    })
}

fn assignment(variable: &VariableSummary) -> String {
    let name = &variable.name;
    match &variable.value {
        Some(value) => format!("{name}={}", shell_line(&[value])),
        None => format!("{name} (its value is not shown)"),
    }
}

/// Names separated by commas, on as many lines as that takes.
fn wrapped(names: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for name in names {
        match lines.last_mut() {
            Some(line) if line.chars().count() + name.chars().count() < NAMES_COLUMNS => {
                line.push_str(&format!(", {name}"));
            }
            Some(line) => {
                line.push(',');
                lines.push(name.clone());
            }
            None => lines.push(name.clone()),
        }
    }
    lines
}

/// The command that starts the first agent on another host; the others have another host in its place.
fn ssh(plan: &PlanSummary) -> Vec<String> {
    let mut commands = plan.hosts.iter().filter_map(|host| host.ssh.as_ref());
    let Some(first) = commands.next() else { return Vec::new() };
    let mut lines = vec![shell_line(first)];
    match commands.count() {
        0 => {}
        1 => lines.push("and alike for 1 more".to_owned()),
        more => lines.push(format!("and alike for {more} more")),
    }
    if plan.copies_binary {
        lines.push(
            "COPY is where the host has its copy of this binary, made before that".to_owned(),
        );
    }
    lines
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
