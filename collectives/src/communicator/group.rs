//! Groups of a communicator's ranks.

use paceline_devices::Element;
use paceline_rendezvous::message::group_communicator;

use super::Communicator;
use crate::call::Lent;
use crate::error::{CollectiveError, SetupError};
use crate::members::Members;
use crate::plan::PlanFacts;
use crate::signature::{Collective, OperationKind};

/// What each rank says in a split: its colour or -1, its key, its count of groups.
const WORDS: usize = 3;

impl Communicator {
    /// Falls into groups: ranks of the same `color` become one, ordered by `key` and among equal keys
    /// by rank. Who passes no colour is in no group. The groups exist beside this communicator; each
    /// is given up by dropping it.
    ///
    /// Where its members are on one node and may share memory they get memory of their own, as the
    /// context's first communicator has: about 2 MiB for each member. [`plan_facts`](Self::plan_facts)
    /// tells.
    ///
    /// In a group, ranks, roots and chunks are counted within it; errors and reports name ranks of
    /// the world. A failure ends its group and no other, unless a rank is lost.
    ///
    /// All ranks of this communicator must call it, as any collective.
    ///
    /// # Errors
    /// [`SetupError::Split`] says why the ranks could not agree; this communicator has then failed.
    /// [`SetupError::Option`] if this rank has led more groups than can be numbered.
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Self>, SetupError> {
        let count = self.context.reserve_group();
        let ours = [color.map_or(-1, i64::from), key, i64::from(count)];
        let mut all = vec![0; ours.len() * self.world_size() as usize];
        self.tell_all(&ours, &mut all).map_err(|error| SetupError::Split(Box::new(error)))?;
        let said = || all.chunks_exact(WORDS).zip(0..);
        let mut ranks: Vec<u32> = Vec::new();
        if color.is_some() {
            ranks.extend(said().filter(|(words, _)| words[0] == ours[0]).map(|(_, rank)| rank));
        }
        let words_of = |rank: u32| &all[rank as usize * WORDS..][..WORDS];
        // It keeps the order of equal keys.
        ranks.sort_by_key(|rank| words_of(*rank)[1]);
        let Some(&first) = ranks.first() else {
            self.context.return_group(count);
            return Ok(None);
        };
        if first != self.rank() {
            self.context.return_group(count);
        }
        let leader = self.members.in_world(first);
        let number = u32::try_from(words_of(first)[2]).unwrap_or(u32::MAX);
        let id = group_communicator(leader, number).ok_or_else(|| {
            SetupError::Option(format!("rank {leader} cannot lead more groups than it has"))
        })?;
        let world_ranks = ranks.iter().map(|rank| self.members.in_world(*rank)).collect();
        let members = Members::group(world_ranks, self.context.rank());
        let group = Self::new(&self.context, id, members, None)?;
        let mut group = Self { timeout: self.timeout, ..group };
        group.share_memory()?;
        Ok(Some(group))
    }

    /// The group of these ranks, in this order; `None` on a rank that is not among them. All ranks of
    /// this communicator must call it, with the same `ranks`.
    ///
    /// # Errors
    /// As for [`split`](Self::split); also [`SetupError::Option`] where a rank is named twice or does
    /// not exist, and where members have named other ranks.
    pub fn group(&self, ranks: &[u32]) -> Result<Option<Self>, SetupError> {
        let mut sorted = ranks.to_vec();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SetupError::Option(format!("rank {} is named twice", twice[0])));
        }
        if let Some(last) = sorted.last().filter(|last| **last >= self.world_size()) {
            let world_size = self.world_size();
            let what = format!("rank {last} is no rank of a communicator of {world_size}");
            return Err(SetupError::Option(what));
        }
        let place = ranks.iter().position(|rank| *rank == self.rank());
        let digest = crate::fusion::digest(ranks.iter().map(|rank| *rank as usize));
        let key = i64::try_from(place.unwrap_or(0)).expect("a place in a vector");
        let group = self.split(place.map(|_| digest), key)?;
        match &group {
            Some(group) if group.world_size() as usize != ranks.len() => {
                Err(SetupError::Option("ranks of a group have named other members".to_owned()))
            }
            _ => Ok(group),
        }
    }

    /// What its plans follow from.
    pub fn plan_facts(&self) -> &PlanFacts {
        &self.facts
    }

    /// What a rank of this communicator is called in the world, which is how errors name it; `None`
    /// if it has no such rank.
    pub fn world_rank(&self, rank: u32) -> Option<u32> {
        (rank < self.world_size()).then(|| self.members.in_world(rank))
    }

    /// An all-gather in the name of [`Collective::Split`].
    pub(super) fn tell_all<T: Element>(
        &self,
        ours: &[T],
        all: &mut [T],
    ) -> Result<(), CollectiveError> {
        let call = self.call(Collective::AllGather, None, Lent::apart(Some(ours), Some(all)))?;
        let choice = self.choose(&call);
        let kind = OperationKind {
            collective: Collective::Split,
            dtype: None,
            algorithm: 0,
            ..call.kind(choice.algorithm)
        };
        let mut state = self.enter(Collective::Split)?;
        self.execute_as(&mut state, kind, &call, choice)
    }
}
