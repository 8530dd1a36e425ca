//! How the members of a communicator come to share memory, if they are on one node.

use std::sync::PoisonError;
use std::time::Instant;

use paceline_rendezvous::coordinator::context_keys;
use paceline_transports::shm::{Arena, ShmTransport};
use paceline_transports::{Checksum, EstablishError, Group, Patience};

use super::Communicator;
use super::shared::{Cuts, Levels, Shared};
use crate::connect::SHARING_TIMEOUT;
use crate::error::{CollectiveError, SetupError};
use crate::fusion::FusionBuffer;
use crate::levels::Shape;
use crate::members::Members;
use crate::node::{NodeGroup, arena_layout};
use crate::plan::PlanFacts;
use crate::trouble::Alarm;

/// Bytes of what each member tells the others: its node in four, the length of its address in one,
/// the address.
const CARD_BYTES: usize = 128;

const ADDRESS_AT: usize = 5;

fn card(node_rank: u32, transport: Option<&ShmTransport>) -> [u8; CARD_BYTES] {
    let mut card = [0; CARD_BYTES];
    card[..4].copy_from_slice(&node_rank.to_le_bytes());
    let address = transport.map(paceline_transports::Transport::address).unwrap_or_default();
    // One that is too long, which none is, would be as good as none.
    if let Ok(length) = u8::try_from(address.len())
        && let Some(place) = card[ADDRESS_AT..].get_mut(..address.len())
    {
        place.copy_from_slice(&address);
        card[4] = length;
    }
    card
}

fn node(card: &[u8]) -> u32 {
    u32::from_le_bytes([card[0], card[1], card[2], card[3]])
}

/// The address on a card; `None` if the member cannot share memory.
fn address(card: &[u8]) -> Option<&[u8]> {
    card[ADDRESS_AT..].get(..usize::from(card[4])).filter(|address| !address.is_empty())
}

impl Communicator {
    /// Gives a new communicator memory to work in, if all its members are on one node, or the members
    /// on each of several nodes, and can share some; otherwise they exchange messages. All members must
    /// call it.
    pub(crate) fn share_memory(&mut self) -> Result<(), SetupError> {
        if self.world_size() < 2 || !self.context.may_share_memory() {
            return Ok(());
        }
        let shared = self.agree_to_share().map_err(|error| SetupError::Split(Box::new(error)))?;
        match &shared {
            Shared::Nothing => {}
            Shared::ByAll(_) => self.facts.shared_memory = true,
            Shared::OnNodes(levels) => self.facts.levels = Some(levels.shape.facts()),
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).shared = shared;
        Ok(())
    }

    /// What all members share, or the members of each node; nothing if it fails for anybody. The
    /// errors are those of telling each other.
    fn agree_to_share(&self) -> Result<Shared, CollectiveError> {
        let transport = ShmTransport::bind().ok();
        let ours = card(self.context.job.rank_info().node_rank, transport.as_ref());
        let mut cards = vec![0; CARD_BYTES * self.world_size() as usize];
        self.tell_all(&ours, &mut cards)?;
        let cards = || cards.chunks_exact(CARD_BYTES);
        let node_of: Vec<u32> = cards().map(node).collect();
        let on_one_node = node_of.iter().all(|node| *node == node_of[0]);
        let shape = Shape::new(&node_of, self.rank());
        let Some(transport) = transport.filter(|_| cards().all(can_share)) else {
            return Ok(Shared::Nothing);
        };
        if !on_one_node && shape.is_none() {
            return Ok(Shared::Nothing);
        }
        let mut addresses = vec![Vec::new(); self.context.world_size() as usize];
        for (card, rank) in cards().zip(0..) {
            addresses[self.in_world(rank) as usize] = address(card).unwrap_or_default().to_vec();
        }
        let all: Vec<u32> = (0..self.world_size()).collect();
        let neighbours = shape.as_ref().map_or(&all[..], Shape::neighbours);
        let neighbours: Vec<u32> = neighbours.iter().map(|rank| self.in_world(*rank)).collect();
        let arena = match neighbours.len() {
            1 => Ok(None),
            _ => self.connect_arena(transport, &addresses, &neighbours).map(Some),
        };
        // It may have worked for some: then nobody uses it.
        let mut outcomes = vec![0; all.len()];
        self.tell_all(&[u8::from(arena.is_ok())], &mut outcomes)?;
        let Some(arena) = arena.ok().filter(|_| outcomes.iter().all(|outcome| *outcome == 1))
        else {
            return Ok(Shared::Nothing);
        };
        let node = arena.map(NodeGroup::new);
        Ok(match (shape, node) {
            (None, Some(group)) => Shared::ByAll(group),
            (Some(shape), node) => Shared::OnNodes(Box::new(self.levels(shape, neighbours, node))),
            (None, None) => Shared::Nothing,
        })
    }

    fn levels(&self, shape: Shape, neighbours: Vec<u32>, node: Option<NodeGroup>) -> Levels {
        let ours = self.context.rank();
        let facts = PlanFacts { levels: Some(shape.facts()), ..self.facts.clone() };
        let stream = shape.has_stream().then(|| {
            let ranks = shape.stream().into_iter().map(|rank| self.in_world(rank));
            Members::group(ranks.collect(), ours)
        });
        Levels {
            neighbours: Members::group(neighbours, ours),
            node,
            stream,
            stream_facts: facts.of_stream(),
            staging: FusionBuffer::default(),
            cuts: Cuts::default(),
            shape,
        }
    }

    fn connect_arena(
        &self,
        transport: ShmTransport,
        addresses: &[Vec<u8>],
        members: &[u32],
    ) -> Result<Arena, EstablishError> {
        let (job, context) = (&self.context.job, self.context.number);
        let rendezvous = job.rendezvous();
        let epoch = job.rank_info().epoch;
        let key = format!("{}{context}/group/{}/alarm", context_keys(epoch), self.id);
        let alarm = Alarm::new(rendezvous.store.as_ref(), key);
        let in_vain = || alarm.is_raised();
        let group = Group {
            rank: self.context.rank(),
            run_id: rendezvous.run_id,
            epoch,
            // Only memory is shared.
            checksum: Checksum::None,
            secret: &rendezvous.secret,
            addresses,
        };
        // The others wait for the outcome of this for as long as an operation may take.
        let deadline = Instant::now() + SHARING_TIMEOUT.min(self.timeout / 2);
        let patience = Patience { deadline, in_vain: &in_vain };
        let layout = arena_layout(u32::try_from(members.len()).unwrap_or(u32::MAX));
        let outcome = transport.share_arena(&group, members, layout, &patience);
        if outcome.is_err() {
            // If the store is gone, so is the job, and everybody hears of that.
            let _ = alarm.raise();
        }
        outcome
    }
}

fn can_share(card: &[u8]) -> bool {
    address(card).is_some()
}

#[cfg(test)]
mod tests {
    use paceline_transports::Transport as _;

    use super::*;

    #[test]
    fn cards_say_whether_and_where_a_member_can_be_met() {
        assert_eq!(address(&card(3, None)), None);
        let transport = ShmTransport::bind().unwrap();
        let card = card(3, Some(&transport));
        assert_eq!(card[..4], 3u32.to_le_bytes());
        assert_eq!(address(&card), Some(&transport.address()[..]));
    }
}
