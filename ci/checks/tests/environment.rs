//! docs/environment.md is what the code says.

use std::path::Path;

use paceline_rendezvous::env::{ALL, Owner, Scope, Variable};

/// Writes the file instead of comparing it: `PACELINE_UPDATE_DOCS=1 cargo test -p paceline-checks`.
const UPDATE: &str = "PACELINE_UPDATE_DOCS";

const HEAD: &str = "\
# Settings and environment variables

Every variable that Paceline reads or sets, and the options and keys that mean the same. This page
is generated from `rendezvous/src/env`, which is the only place that may read the environment; a
test compares the two.

What an option says counts before a variable, a variable before the configuration file, the file
before the default. The options below are those of `paceline run`; `paceline bench --help` says which of
them it has, too. The file (`--config FILE`, in TOML) has a key for each of them, without the dashes:

```toml
np = 4
grace = 30
transport = \"tcp\"
no-prefix = true
```

A file whose name ends in `.yaml` or `.yml` is read as that of `horovodrun --config-file`
([launcher-options.md](launcher-options.md#horovodruns-configuration-file)).

Where one of our variables is not set, Horovod's variable beside it counts. A variable that starts
with `PACELINE_` and is not in the table is pointed out when a job is started.

*Identity* says which rank of which job a process is: a launcher sets it and removes inherited
values. *Setting* is a choice of the user and passed on to the ranks. A launcher other than ours is
recognised by its own variables; where several speak, they count in the order of this page. An empty
value counts as none.
";

const OWN_COLUMNS: &str = "\
| Variable | Option, key | Horovod | Meaning | Value | Default | Scope |
|---|---|---|---|---|---|---|
";

const COLUMNS: &str = "\
| Variable | Meaning | Value | Default | Scope |
|---|---|---|---|---|
";

fn title(owner: Owner) -> &'static str {
    match owner {
        Owner::Paceline => "Paceline",
        Owner::Horovod => "Horovod (`horovodrun`)",
        Owner::Torch => "PyTorch (`torchrun`)",
        Owner::Jax => "JAX",
        Owner::TensorFlow => "TensorFlow",
        Owner::OpenMpi => "Open MPI (`mpirun`)",
        Owner::Pmi => "PMI (Hydra, Intel MPI, MPICH, MVAPICH)",
        Owner::Slurm => "Slurm (`srun`)",
        Owner::System => "The operating system",
    }
}

fn row(variable: &Variable) -> String {
    let scope = match variable.scope {
        Scope::Identity => "identity",
        Scope::Setting => "setting",
    };
    let default = variable.default.map_or_else(String::new, |value| format!("`{value}`"));
    let spellings = match variable.owner {
        Owner::Paceline => format!(" {} | {} |", options(variable), horovod(variable)),
        _ => String::new(),
    };
    let (name, meaning) = (variable.name, variable.summary());
    format!("| `{name}` |{spellings} {meaning} | {} | {default} | {scope} |\n", variable.expected)
}

fn options(variable: &Variable) -> String {
    let Some(option) = variable.option else { return String::new() };
    let short = option.short.map(|short| format!(", `-{short}`")).unwrap_or_default();
    let aliases: String = option.aliases.iter().map(|alias| format!(", `--{alias}`")).collect();
    format!("`--{}`{short}{aliases}", option.name)
}

fn horovod(variable: &Variable) -> String {
    variable.horovod.map(|name| format!("`{name}`")).unwrap_or_default()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut owner = None;
    for variable in ALL {
        if owner != Some(variable.owner) {
            owner = Some(variable.owner);
            let title = title(variable.owner);
            let columns = if variable.owner == Owner::Paceline { OWN_COLUMNS } else { COLUMNS };
            page.push_str(&format!("\n## {title}\n\n{columns}"));
        }
        page.push_str(&row(variable));
    }
    page
}

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/environment.md");
    let page = page();
    #[expect(clippy::disallowed_methods, reason = "a switch of this test, not of the program")]
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let difference = page
        .lines()
        .zip(written.lines().chain(std::iter::repeat("")))
        .find(|(new, old)| new != old);
    assert!(
        page == written,
        "docs/environment.md is out of date; write it with  {UPDATE}=1 cargo test -p \
         paceline-checks\nfirst difference (new, old): {difference:#?}"
    );
}

#[test]
fn variables_of_one_owner_stand_together() {
    let mut owners: Vec<Owner> = ALL.iter().map(|variable| variable.owner).collect();
    owners.dedup();
    let count = owners.len();
    owners.sort_by_key(|owner| title(*owner));
    owners.dedup();
    assert_eq!(owners.len(), count, "an owner has two sections");
}
