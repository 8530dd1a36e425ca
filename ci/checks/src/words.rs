//! Traces of the machines on which the project was written.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// The files that git tracks under `root`, or would track once they are added.
pub(crate) fn tracked_files(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("cannot run git to list the files")?;
    ensure!(
        output.status.success(),
        "git cannot list the files: {}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The lines of the named files below `root` that contain one of `words`. Files that are not text
/// are passed over.
pub(crate) fn findings(root: &Path, files: &[String], words: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for name in files {
        let Ok(text) = fs::read_to_string(root.join(name)) else { continue };
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| contains(line, word)) {
                let line_number = index + 1;
                findings.push(format!(
                    "{name}:{line_number}: mentions {word}, which means something on one machine \
                     only"
                ));
            }
        }
    }
    findings
}

/// Whether `line` contains `word`, and not merely as a part of a longer name.
fn contains(line: &str, word: &str) -> bool {
    let is_name = |character: Option<char>| {
        character.is_some_and(|character| character.is_alphanumeric() || "_-".contains(character))
    };
    let cuts = |left: &str, right: &str| {
        is_name(left.chars().next_back()) && is_name(right.chars().next())
    };
    line.match_indices(word).any(|(start, _)| {
        let (before, rest) = line.split_at(start);
        !cuts(before, word) && !cuts(word, &rest[word.len()..])
    })
}

/// Directories that only this machine knows: the checkout, and the repository that it belongs to
/// if it is one of several work trees. A path of one component (`/paceline`) says nothing.
pub(crate) fn directories(root: &Path) -> Vec<String> {
    let shared = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["rev-parse", "--path-format=absolute", "--git-common-dir"])
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|path| path.trim_end().trim_end_matches("/.git").to_owned());
    let mut directories: Vec<String> =
        root.to_str().map(str::to_owned).into_iter().chain(shared).collect();
    directories.retain(|path| Path::new(path).components().count() > 2);
    directories.dedup();
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_found() {
        assert!(contains("see /srv/build/x", "/srv/build"));
        assert!(contains("/srv/build", "/srv/build"));
        assert!(!contains("see /srv/builder", "/srv/build"));
        assert!(!contains("my-build", "build"));
        assert!(contains("my-build build.", "build"));
        assert!(contains("see /srv/x", "/srv/"));
    }

    #[test]
    fn findings_name_file_and_line() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = ["Cargo.toml".to_owned(), "missing".to_owned()];
        let found = findings(root, &files, &["anyhow".to_owned()]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("Cargo.toml:"), "{}", found[0]);
    }
}
