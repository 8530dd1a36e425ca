//! `paceline run --dry-run`: what would be run, and where.

mod fold;
mod render;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use paceline_launcher::{ExitCode, LaunchPlan};

use crate::bench::record::JsonTarget;
use crate::console;

/// Why a plan is not shown.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("failed to write {}", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to write JSON")]
    Json(#[from] serde_json::Error),
}

impl Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Record { .. } => Some("--json needs a place that can be written".to_owned()),
            Self::Json(_) => None,
        }
    }
}

/// Shows a plan as text and, where that is asked for, as JSON: at a path, or on standard output, where
/// then nothing else goes.
pub(crate) fn show(plan: &LaunchPlan, json: Option<&Path>) -> ExitCode {
    match write(plan, json) {
        Ok(()) => ExitCode::Success,
        Err(failure) => {
            console::failure(&failure, failure.hint());
            ExitCode::LauncherFailed
        }
    }
}

fn write(plan: &LaunchPlan, json: Option<&Path>) -> Result<(), Failure> {
    let own_path = std::env::current_exe().ok();
    let summary = plan.summary(own_path.as_deref().and_then(Path::to_str));
    let target = json.map(JsonTarget::new);
    let text = render::text(&summary);
    // A reader that left has seen enough.
    let _ = match target {
        Some(JsonTarget::Stdout) => io::stderr().write_all(text.as_bytes()),
        _ => io::stdout().write_all(text.as_bytes()),
    };
    let Some(target) = target else { return Ok(()) };
    let mut json = serde_json::to_string_pretty(&summary)?;
    json.push('\n');
    let path = target.path().to_owned();
    target.put(&json).map_err(|source| Failure::Record { path, source })
}
