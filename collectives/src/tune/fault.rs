//! What can be wrong with the file of a plan.

use std::fmt;

/// What rank 0 cannot do with the file of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanFault {
    /// It cannot be read.
    Reading,
    /// There is none, and none can be made.
    Writing,
    /// It is no plan, or one of another version.
    Meaning,
    /// It is for another number of ranks, or another transport.
    World,
}

impl PlanFault {
    pub(super) const ALL: [Self; 4] = [Self::Reading, Self::Writing, Self::Meaning, Self::World];

    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Reading => {
                "--plan (PACELINE_PLAN) names a file that rank 0 may read, or one to be made"
            }
            Self::Writing => {
                "make the directory first, or name a file in one that rank 0 may write to with --plan \
                 (PACELINE_PLAN)"
            }
            Self::Meaning => "remove it, and a new one is made",
            Self::World => {
                "name another file with --plan (PACELINE_PLAN), or remove this one, and a new one is \
                 made"
            }
        }
    }
}

impl fmt::Display for PlanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reading => "read",
            Self::Writing => "write",
            Self::Meaning | Self::World => "use",
        })
    }
}
