//! Who belongs to a communicator, and what its ranks are called in the world.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The ranks of a communicator. Schedules, roots and the memory of a node count ranks of the
/// communicator; connections, errors and reports those of the world.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    /// This process.
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    /// Ranks of the world by rank of the group; `None` where everybody is a member and the two are
    /// the same.
    group: Option<Arc<[u32]>>,
    /// What they are about, in the user's words.
    label: Arc<Mutex<Option<Label>>>,
}

/// The tensors that operations are about, as reports and errors name them: `grad.7 and 3 more`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) name: Arc<str>,
    /// How many others there are.
    pub(crate) more: usize,
}

impl From<Arc<str>> for Label {
    fn from(name: Arc<str>) -> Self {
        Self { name, more: 0 }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.more > 0 { write!(f, " and {} more", self.more) } else { Ok(()) }
    }
}

impl Members {
    pub(crate) fn everybody(rank: u32, world_size: u32) -> Self {
        Self { rank, world_size, group: None, label: Arc::default() }
    }

    /// Some ranks of the world, in this order, seen from the one that is `ours` in the world.
    ///
    /// # Panics
    /// If that is not one of them.
    pub(crate) fn group(world_ranks: Vec<u32>, ours: u32) -> Self {
        let place = world_ranks.iter().position(|rank| *rank == ours);
        let count = |count: usize| u32::try_from(count).expect("ranks are counted in u32");
        Self {
            rank: count(place.expect("who makes a group is one of its members")),
            world_size: count(world_ranks.len()),
            group: Some(world_ranks.into()),
            label: Arc::default(),
        }
    }

    /// What a rank of the communicator is called in the world.
    #[inline]
    pub(crate) fn in_world(&self, rank: u32) -> u32 {
        match &self.group {
            None => rank,
            Some(group) => group[rank as usize],
        }
    }

    /// Whether a rank of the world is one of them.
    pub(crate) fn include(&self, world_rank: u32) -> bool {
        self.group.as_ref().is_none_or(|group| group.contains(&world_rank))
    }

    /// Says what the next operations are about.
    pub(crate) fn set_label(&self, label: Option<Label>) {
        *self.label.lock().unwrap_or_else(PoisonError::into_inner) = label;
    }

    /// What the present operation is about, if its user has said so.
    pub(crate) fn label(&self) -> Option<Label> {
        self.label.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ranks of the world that form a group; `None` where it is everybody.
    pub(crate) fn of_group(&self) -> Option<&[u32]> {
        self.group.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_counted_in_the_order_of_their_group() {
        let members = Members::group(vec![5, 2, 9], 2);
        assert_eq!((members.rank, members.world_size), (1, 3));
        assert_eq!([0, 1, 2].map(|rank| members.in_world(rank)), [5, 2, 9]);
        assert_eq!(members.of_group(), Some(&[5, 2, 9][..]));
        assert_eq!([0, 2, 9].map(|rank| members.include(rank)), [false, true, true]);
        let members = Members::everybody(3, 7);
        assert_eq!((members.rank, members.world_size, members.in_world(6)), (3, 7, 6));
        assert_eq!(members.of_group(), None);
    }
}
