//! The part of `cargo metadata` that the checks look at.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// What `cargo metadata` says of the workspace and of everything that it depends on, for the
/// platform of this machine and the default features.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: BTreeSet<String>,
    pub(crate) resolve: Resolve,
}

/// One package of the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) manifest_path: String,
    /// An SPDX expression.
    pub(crate) license: Option<String>,
    /// The native library that the package says it links.
    pub(crate) links: Option<String>,
    pub(crate) dependencies: Vec<Declared>,
    /// Each feature with what it turns on.
    #[serde(default)]
    pub(crate) features: BTreeMap<String, Vec<String>>,
}

/// A dependency as a manifest declares it.
#[derive(Debug, Deserialize)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// The graph after features and platforms are decided.
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

/// A package in the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Edge>,
}

/// A dependency in the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Edge {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

/// For what a dependency is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct EdgeKind {
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn of_workspace(cargo: &str) -> anyhow::Result<Self> {
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"])
            .arg(host()?)
            .output()
            .with_context(|| format!("cannot run {cargo} metadata"))?;
        ensure!(
            output.status.success(),
            "cargo metadata failed:\n{}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        serde_json::from_slice(&output.stdout).context("cannot understand cargo metadata")
    }

    /// The packages of this repository.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Every package that is built when `package` is built for use (not for its tests), each with
    /// the chain of names that leads to it.
    pub(crate) fn built_with<'a>(
        &'a self,
        package: &'a Package,
    ) -> BTreeMap<&'a str, Vec<&'a str>> {
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|known| (known.id.as_str(), known.name.as_str())).collect();
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut chains = BTreeMap::from([(package.id.as_str(), vec![package.name.as_str()])]);
        let mut open = vec![package.id.as_str()];
        while let Some(id) = open.pop() {
            let Some(node) = nodes.get(id) else { continue };
            for edge in node.deps.iter().filter(|edge| edge.is_for_use()) {
                if chains.contains_key(edge.pkg.as_str()) {
                    continue;
                }
                let mut chain = chains[id].clone();
                chain.push(names.get(edge.pkg.as_str()).copied().unwrap_or(&edge.pkg));
                chains.insert(&edge.pkg, chain);
                open.push(&edge.pkg);
            }
        }
        chains
    }
}

impl Edge {
    /// Whether the dependency is needed to build the package itself, not only its tests.
    fn is_for_use(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

/// The target triple of this machine.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot run rustc to ask for its host")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}
