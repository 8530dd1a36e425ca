//! The tests that documents say show something.

use std::fs;
use std::path::Path;

/// The documents, below the root.
const DOCUMENTS: [&str; 2] = ["docs/pains.md", "docs/launcher-behaviours.md"];

/// What between back quotes names a test: `path::function`.
fn tests_named_in(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).filter(|(path, _)| path.ends_with(".rs"))
}

/// Whether `source` has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") || line.starts_with("//") {
            is_test |= line == "#[test]";
        } else if is_test && line.starts_with(&function) {
            return true;
        } else {
            is_test = false;
        }
    }
    false
}

/// The tests that the documents name and that do not exist.
pub(crate) fn findings(root: &Path) -> Vec<String> {
    DOCUMENTS.iter().flat_map(|document| findings_in(root, document)).collect()
}

fn findings_in(root: &Path, name: &str) -> Vec<String> {
    let Ok(document) = fs::read_to_string(root.join(name)) else {
        return vec![format!("{name} cannot be read")];
    };
    let mut findings = Vec::new();
    for (index, line) in document.lines().enumerate() {
        for (path, test) in tests_named_in(line).filter(|(path, _)| *path != "path") {
            let source = fs::read_to_string(root.join(path)).unwrap_or_default();
            if !has_test(&source, test) {
                let line_number = index + 1;
                findings.push(format!("{name}:{line_number}: no test {test} in {path}"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_their_attribute_and_name() {
        let source = "#[test]\n#[ignore]\nfn one() {}\nfn two() {}\n// #[test]\nfn three() {}\n";
        assert!(has_test(source, "one"));
        assert!(!has_test(source, "on") && !has_test(source, "two") && !has_test(source, "three"));
        let named: Vec<_> = tests_named_in("| `a/b.rs::c`, `Type::method` | `x.rs::y` |").collect();
        assert_eq!(named, [("a/b.rs", "c"), ("x.rs", "y")]);
    }
}
