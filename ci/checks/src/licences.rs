//! Under which licences the crates are that we depend on.

use crate::metadata::{Metadata, Package};

/// Licences that ask for nothing but attribution, so that the program may be given away under
/// Apache-2.0.
const ACCEPTED: &[&str] =
    &["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "Unicode-3.0", "Zlib"];

/// The packages whose licence is missing, unknown to us or not accepted.
pub(crate) fn findings(metadata: &Metadata) -> Vec<String> {
    metadata.packages.iter().filter_map(fault).collect()
}

fn fault(package: &Package) -> Option<String> {
    let Some(licence) = &package.license else {
        return Some(format!("{} {} states no licence", package.name, package.version));
    };
    (!is_accepted(licence)).then(|| {
        format!(
            "{} {} is licensed under {licence}; accepted are {} (ci/checks/src/licences.rs)",
            package.name,
            package.version,
            ACCEPTED.join(", ")
        )
    })
}

/// Whether an SPDX expression can be satisfied with accepted licences alone.
fn is_accepted(expression: &str) -> bool {
    // Older manifests write `/` for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    any(&mut rest) == Some(true) && rest.is_empty()
}

/// `all OR all OR …`; `None` if it is no expression.
fn any(words: &mut &[&str]) -> Option<bool> {
    let mut accepted = all(words)?;
    while take(words, "OR") {
        accepted |= all(words)?;
    }
    Some(accepted)
}

/// `term AND term AND …`
fn all(words: &mut &[&str]) -> Option<bool> {
    let mut accepted = term(words)?;
    while take(words, "AND") {
        accepted &= term(words)?;
    }
    Some(accepted)
}

/// `( any )`, or a licence, perhaps with an exception: those only ask for less.
fn term(words: &mut &[&str]) -> Option<bool> {
    if take(words, "(") {
        let accepted = any(words)?;
        return take(words, ")").then_some(accepted);
    }
    let (licence, rest) = words.split_first()?;
    *words = rest;
    if take(words, "WITH") {
        *words = words.split_first()?.1;
    }
    Some(ACCEPTED.contains(licence))
}

/// Takes the next word if it is `expected`.
fn take(words: &mut &[&str], expected: &str) -> bool {
    match words.split_first() {
        Some((word, rest)) if *word == expected => {
            *words = rest;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        for accepted in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(is_accepted(accepted), "{accepted}");
        }
        for refused in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR ISC) AND SSPL-1.0",
            "MIT OR",
            "",
            "(MIT",
        ] {
            assert!(!is_accepted(refused), "{refused}");
        }
    }
}
