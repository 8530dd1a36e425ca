//! Who may import whom.

use std::fs;

use crate::metadata::{Metadata, Package};

/// Every crate of the workspace and the crates of ours that it may depend on, tests included.
/// ARCHITECTURE.md explains the arrows; an arrow that is not here does not exist.
const HOUSE: &[(&str, &[&str])] = &[
    ("rendezvous", &[]),
    ("devices", &[]),
    ("transports", &["rendezvous"]),
    ("launcher", &["rendezvous"]),
    ("collectives", &["transports", "devices", "rendezvous"]),
    ("benches", &["collectives", "transports", "devices", "rendezvous"]),
    ("examples", &["collectives", "transports", "devices", "rendezvous"]),
    ("cli", &["benches", "collectives", "transports", "devices", "launcher", "rendezvous"]),
    ("fuzz", &["collectives", "transports", "launcher", "rendezvous"]),
    // Generates the documentation of the environment variables.
    ("checks", &["rendezvous"]),
];

/// Crates that only some of ours may depend on, directly or through others, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[(
    "tokio",
    &["launcher", "cli", "fuzz"],
    "the thread of the caller moves the bytes; only the launcher's control plane is asynchronous",
)];

/// Crates that compile, look for or bind native code when they are built.
const NATIVE_BUILDERS: &[&str] = &["autotools", "bindgen", "cc", "cmake", "pkg-config", "vcpkg"];

/// The feature of our crates behind which things are that only tests use, and the crate that is a test
/// as a whole.
const TESTING: (&str, &str) = ("testing", "fuzz");

/// What is wrong with the dependencies, one line each.
pub(crate) fn findings(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata.members() {
        wrong_arrows(package, &mut findings);
        reserved(metadata, package, &mut findings);
        native(metadata, package, &mut findings);
        testing(package, &mut findings);
    }
    findings
}

/// The name of one of our crates in the table.
fn room(package: &str) -> Option<&str> {
    if package == "paceline" { Some("cli") } else { package.strip_prefix("paceline-") }
}

fn wrong_arrows(package: &Package, findings: &mut Vec<String>) {
    let from = room(&package.name).unwrap_or(&package.name);
    let Some((_, allowed)) = HOUSE.iter().find(|(name, _)| *name == from) else {
        findings.push(format!(
            "{}: the crate {} has no place in the house; add it to HOUSE in \
             ci/checks/src/arrows.rs and to ARCHITECTURE.md",
            package.manifest_path, package.name
        ));
        return;
    };
    for declared in &package.dependencies {
        let Some(to) = room(&declared.name) else { continue };
        // A crate may name itself, to switch on features in its tests.
        if allowed.contains(&to) || to == from {
            continue;
        }
        let section = match declared.kind.as_deref() {
            Some(kind) => format!("[{kind}-dependencies]"),
            None => "[dependencies]".to_owned(),
        };
        let allowed = if allowed.is_empty() { "nothing of ours" } else { &allowed.join(", ") };
        findings.push(format!(
            "{}: the arrow {from} -> {to} is forbidden (drawn in {section}); {from} may import \
             {allowed}",
            place(package, &declared.name),
        ));
    }
}

fn reserved(metadata: &Metadata, package: &Package, findings: &mut Vec<String>) {
    let from = room(&package.name).unwrap_or(&package.name);
    for (name, users, why) in RESERVED {
        if users.contains(&from) {
            continue;
        }
        let chains = metadata.built_with(package);
        if let Some(chain) = chains.values().find(|chain| chain.last() == Some(name)) {
            let first = chain.get(1).unwrap_or(name);
            findings.push(format!(
                "{}: {from} may not depend on {name}: {why} ({})",
                place(package, first),
                chain.join(" -> ")
            ));
        }
    }
}

fn native(metadata: &Metadata, package: &Package, findings: &mut Vec<String>) {
    let chains = metadata.built_with(package);
    for known in &metadata.packages {
        let Some(chain) = chains.get(known.id.as_str()) else { continue };
        let fault = match &known.links {
            Some(library) => format!("links the native library {library}"),
            None if NATIVE_BUILDERS.contains(&known.name.as_str()) => {
                "builds or looks for native code".to_owned()
            }
            None => continue,
        };
        let first = chain.get(1).copied().unwrap_or(&known.name);
        findings.push(format!(
            "{}: the default build needs more than a Rust toolchain: {} {} {fault} ({}); put it \
             behind a feature",
            place(package, first),
            known.name,
            known.version,
            chain.join(" -> ")
        ));
    }
}

/// Only tests turn on what is for tests.
fn testing(package: &Package, findings: &mut Vec<String>) {
    let (feature, tests) = TESTING;
    let from = room(&package.name).unwrap_or(&package.name);
    if from == tests {
        return;
    }
    let for_use = package.dependencies.iter().filter(|declared| declared.kind.is_none());
    let through = for_use
        .filter(|declared| room(&declared.name).is_some())
        .filter(|declared| declared.features.iter().any(|on| on == feature))
        .map(|declared| format!("{}: {from} turns it on", place(package, &declared.name)));
    let names = |on: &String| on == feature || on.ends_with(&format!("/{feature}"));
    let by_others = package
        .features
        .iter()
        .filter(|(name, turns_on)| *name != feature && turns_on.iter().any(names))
        .map(|(name, _)| format!("{}: its feature {name} turns it on", package.manifest_path));
    let why = format!("{feature} is for {tests} and for dev-dependencies");
    findings.extend(through.chain(by_others).map(|finding| format!("{finding}; {why}")));
}

/// Where a manifest names a dependency: `PATH:LINE`, or the path alone if it does not.
fn place(package: &Package, dependency: &str) -> String {
    let path = &package.manifest_path;
    let text = fs::read_to_string(path).unwrap_or_default();
    let names = |line: &str| {
        line.trim_start()
            .strip_prefix(dependency)
            .is_some_and(|rest| rest.trim_start().starts_with(['.', '=']))
    };
    match text.lines().position(names) {
        Some(line) => format!("{path}:{}", line + 1),
        None => path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Names of dependencies and what they are for: nothing special, "dev" or "build".
    type Dependencies<'a> = &'a [(&'a str, Option<&'a str>)];

    /// A workspace of packages with name, dependencies and linked library.
    fn workspace(packages: &[(&str, Dependencies<'_>, Option<&str>)]) -> Metadata {
        let mut described = Vec::new();
        let mut nodes = Vec::new();
        for (name, dependencies, links) in packages {
            let declared = |(name, kind): &(&str, _)| json!({ "name": name, "kind": kind });
            let edge = |(name, kind): &(&str, Option<&str>)| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
            described.push(json!({
                "id": name, "name": name, "version": "1.0.0", "links": links, "license": "MIT",
                "manifest_path": format!("{name}/Cargo.toml"),
                "dependencies": dependencies.iter().map(declared).collect::<Vec<_>>(),
            }));
            let edges: Vec<Value> = dependencies.iter().map(edge).collect();
            nodes.push(json!({ "id": name, "deps": edges }));
        }
        let names = packages.iter().map(|(name, ..)| *name);
        let metadata = json!({
            "packages": described,
            "workspace_members": names.filter(|name| name.contains("paceline")).collect::<Vec<_>>(),
            "resolve": { "nodes": nodes },
        });
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn the_drawn_arrows_are_allowed() {
        let metadata = workspace(&[
            ("paceline", &[("paceline-launcher", None), ("tokio", None)], None),
            ("paceline-launcher", &[("paceline-rendezvous", None), ("tokio", None)], None),
            ("paceline-rendezvous", &[], None),
            ("tokio", &[], None),
        ]);
        assert_eq!(findings(&metadata), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_named_with_its_place() {
        for kind in [None, Some("dev")] {
            let metadata = workspace(&[
                ("paceline-transports", &[("paceline-collectives", kind)], None),
                ("paceline-collectives", &[], None),
            ]);
            let findings = findings(&metadata);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].contains("transports/Cargo.toml"), "{}", findings[0]);
            assert!(findings[0].contains("transports -> collectives"), "{}", findings[0]);
        }
    }

    #[test]
    fn tokio_is_found_through_others() {
        let metadata = workspace(&[
            ("paceline-transports", &[("runtime", None)], None),
            ("runtime", &[("tokio", None)], None),
            ("tokio", &[], None),
        ]);
        let findings = findings(&metadata);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("paceline-transports -> runtime -> tokio"), "{}", findings[0]);
    }

    #[test]
    fn native_code_is_found_unless_only_tests_need_it() {
        let metadata = workspace(&[
            ("paceline-devices", &[("gpu-sys", None), ("harness", Some("dev"))], None),
            ("gpu-sys", &[], Some("cuda")),
            ("harness", &[("cc", Some("build"))], None),
            ("cc", &[], None),
        ]);
        let findings = findings(&metadata);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("links the native library cuda"), "{}", findings[0]);
    }

    #[test]
    fn only_tests_turn_on_what_is_for_tests() {
        let with = |from: &str, kind: Option<&str>, features: Value| {
            let mut metadata = workspace(&[
                (from, &[("paceline-transports", kind)], None),
                ("paceline-transports", &[], None),
            ]);
            metadata.packages[0].dependencies[0].features = vec!["testing".to_owned()];
            metadata.packages[0].features = serde_json::from_value(features).unwrap();
            findings(&metadata)
        };
        assert_eq!(with("paceline-fuzz", None, json!({})), Vec::<String>::new());
        assert_eq!(with("paceline-collectives", Some("dev"), json!({})), Vec::<String>::new());
        let own = json!({ "testing": ["paceline-transports/testing"] });
        assert_eq!(with("paceline-collectives", Some("dev"), own), Vec::<String>::new());
        let default = json!({ "default": ["paceline-transports/testing"] });
        let found = with("paceline-collectives", None, default);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("collectives turns it on"), "{}", found[0]);
        assert!(found[1].contains("its feature default"), "{}", found[1]);
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        let findings = findings(&workspace(&[("paceline-shed", &[], None)]));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("no place in the house"), "{}", findings[0]);
    }
}
