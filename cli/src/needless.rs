//! Options that scripts for other launchers have and that ask for what is so anyway.

use clap::Args;

/// Understood, not shown in the help, and of no effect.
#[derive(Debug, Args)]
pub(crate) struct Needless {
    /// horovodrun's controller without MPI
    #[arg(long, hide = true)]
    gloo: bool,

    /// horovodrun's cache of checks
    #[arg(long, hide = true)]
    disable_cache: bool,

    /// mpirun's prefixes
    #[arg(long, hide = true)]
    tag_output: bool,

    /// mpirun's leave for root
    #[arg(long, hide = true)]
    allow_run_as_root: bool,
}

impl Needless {
    /// A word on each that was given.
    pub(crate) fn notices(&self) -> Vec<String> {
        let given = [
            (self.gloo, "--gloo", "the control plane is paceline's own"),
            (self.disable_cache, "--disable-cache", "nothing is cached"),
            (self.tag_output, "--tag-output", "lines have prefixes unless --no-prefix is given"),
            (self.allow_run_as_root, "--allow-run-as-root", "root is a user like any other"),
        ];
        let given = given.into_iter().filter(|(is_given, ..)| *is_given);
        given.map(|(_, option, why)| format!("{option} changes nothing: {why}")).collect()
    }
}
