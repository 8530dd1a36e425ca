//! The response cache: small numbers for tensors that all ranks have submitted before.
//!
//! Every rank makes the same changes in the same rounds, so a slot means the same on all of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::request::Request;

#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<Slot>,
    by_name: HashMap<Arc<str>, usize>,
    capacity: usize,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    /// `None` when what was known is not true any more.
    pub(super) request: Option<Arc<Request>>,
    used_in: u64,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { slots: Vec::new(), by_name: HashMap::new(), capacity: capacity.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, slot: usize) -> Option<&Slot> {
        self.slots.get(slot)
    }

    /// The slot of a tensor, if the cache knows just this about it.
    pub(super) fn find(&self, name: &str, request: &Request) -> Option<usize> {
        let slot = *self.by_name.get(name)?;
        (self.slots[slot].request.as_deref() == Some(request)).then_some(slot)
    }

    /// Remembers a tensor; the slot that was not used for the longest time makes room for it.
    pub(super) fn insert(&mut self, name: &str, request: &Arc<Request>, round: u64) -> usize {
        if let Some(&slot) = self.by_name.get(name) {
            self.slots[slot].request = Some(Arc::clone(request));
            self.slots[slot].used_in = round;
            return slot;
        }
        let name: Arc<str> = Arc::from(name);
        let new =
            Slot { name: Arc::clone(&name), request: Some(Arc::clone(request)), used_in: round };
        let oldest = (0..self.slots.len()).min_by_key(|slot| self.slots[*slot].used_in);
        let slot = match oldest {
            Some(slot) if self.slots.len() >= self.capacity => {
                let old = std::mem::replace(&mut self.slots[slot], new);
                self.by_name.remove(&old.name);
                slot
            }
            _ => {
                self.slots.push(new);
                self.slots.len() - 1
            }
        };
        self.by_name.insert(name, slot);
        slot
    }

    pub(super) fn touch(&mut self, slot: usize, round: u64) {
        self.slots[slot].used_in = round;
    }

    /// Forgets what is known of a tensor, so that it has to be announced.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(&slot) = self.by_name.get(name) {
            self.slots[slot].request = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use paceline_devices::DType;

    use super::super::request::Verb;
    use super::*;

    fn request(count: u64) -> Arc<Request> {
        Arc::new(Request::new(Verb::AllGather, DType::F32, vec![count], 0))
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut cache = Cache::new(2);
        assert_eq!(cache.insert("a", &request(1), 1), 0);
        assert_eq!(cache.insert("b", &request(1), 2), 1);
        cache.touch(0, 3);
        assert_eq!(cache.insert("c", &request(1), 4), 1);
        assert_eq!(cache.find("b", &request(1)), None);
        assert_eq!(
            (cache.find("a", &request(1)), cache.find("c", &request(1))),
            (Some(0), Some(1))
        );
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_tensor_that_changed_is_not_known() {
        let mut cache = Cache::new(8);
        cache.insert("a", &request(1), 1);
        assert_eq!(cache.find("a", &request(2)), None);
        assert_eq!(cache.insert("a", &request(2), 2), 0);
        assert_eq!((cache.find("a", &request(1)), cache.find("a", &request(2))), (None, Some(0)));
        cache.forget("a");
        assert_eq!(cache.find("a", &request(2)), None);
    }
}
