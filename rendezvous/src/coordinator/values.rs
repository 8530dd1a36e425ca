//! The store of a coordinator.

use super::state::Coordinator;
use crate::message::{KEY_BYTES_MAX, RequestId, ToRank, VALUE_BYTES_MAX};

/// Bytes of all keys and values together. Addresses of a thousand ranks are a few hundred KiB.
const STORE_BYTES_MAX: usize = 64 << 20;
/// What a key costs beyond its bytes; bounds the number of empty values as well.
const ENTRY_OVERHEAD_BYTES: usize = 64;
/// Unanswered requests of one rank.
const WAITING_MAX: usize = 1024;

/// What an entry counts.
fn cost(key: &str, value: &[u8]) -> usize {
    ENTRY_OVERHEAD_BYTES + key.len() + value.len()
}

impl Coordinator {
    pub(super) fn set(
        &mut self,
        rank: u32,
        request: RequestId,
        key: String,
        value: Vec<u8>,
    ) -> Vec<(u32, ToRank)> {
        let refuse = |reason: String| vec![(rank, ToRank::Refused { request, reason })];
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return refuse("the key or the value is too long".to_owned());
        }
        let replaced = self.values.get(&key).map_or(0, |old| cost(&key, old));
        let stored_bytes = self.stored_bytes - replaced + cost(&key, &value);
        if stored_bytes > STORE_BYTES_MAX {
            return refuse(format!("the store is full: it holds {STORE_BYTES_MAX} bytes"));
        }
        self.stored_bytes = stored_bytes;
        let mut answers = vec![(rank, ToRank::Stored { request })];
        for (&waiting_rank, member) in &mut self.members {
            member.waiting.retain(|&request, waiting_key| {
                let found = *waiting_key == key;
                if found {
                    answers.push((waiting_rank, ToRank::Value { request, value: value.clone() }));
                }
                !found
            });
        }
        self.values.insert(key, value);
        answers
    }

    pub(super) fn get(&mut self, rank: u32, request: RequestId, key: String) -> Vec<(u32, ToRank)> {
        if let Some(value) = self.values.get(&key) {
            return vec![(rank, ToRank::Value { request, value: value.clone() })];
        }
        let Some(member) = self.members.get_mut(&rank) else { return Vec::new() };
        let refusal = if key.is_empty() || key.len() > KEY_BYTES_MAX {
            "the key is too long"
        } else if member.waiting.len() >= WAITING_MAX {
            "too many requests are waiting"
        } else {
            member.waiting.insert(request, key);
            return Vec::new();
        };
        vec![(rank, ToRank::Refused { request, reason: refusal.to_owned() })]
    }

    /// Forgets the values whose keys begin so.
    pub(super) fn forget_values(&mut self, prefix: &str) {
        let Self { values, stored_bytes, .. } = self;
        values.retain(|key, value| {
            let stays = !key.starts_with(prefix);
            if !stays {
                *stored_bytes -= cost(key, value);
            }
            stays
        });
    }
}
