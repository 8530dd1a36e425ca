/// Scratch slots that an operation uses at most: one bit each in a word.
pub(super) const SLOTS_MAX: usize = 64;

/// The scratch slots of one operation: which are free, and which hold results until they are sent.
#[derive(Debug)]
pub(super) struct Slots {
    /// Bit i: slot i is free.
    free: u64,
    /// Results that wait for their send or for its end, by their number modulo the length: the slot,
    /// and the number of the send once it is posted.
    results: [(u32, usize); SLOTS_MAX],
    made: usize,
    posted: usize,
    sent: usize,
}

impl Slots {
    /// `count` slots, 1 to [`SLOTS_MAX`].
    pub(super) fn new(count: usize) -> Self {
        Self {
            free: u64::MAX >> (SLOTS_MAX - count),
            results: [(0, 0); SLOTS_MAX],
            made: 0,
            posted: 0,
            sent: 0,
        }
    }

    /// The slot to take next: the lowest, which is the likeliest to be in a cache.
    pub(super) fn next(&self) -> Option<u32> {
        let slot = self.free.trailing_zeros();
        (self.free != 0).then_some(slot)
    }

    pub(super) fn take(&mut self, slot: u32) {
        self.free &= !(1 << slot);
    }

    pub(super) fn free(&mut self, slot: u32) {
        self.free |= 1 << slot;
    }

    /// A slot holds a result that is to be sent.
    pub(super) fn keep(&mut self, slot: u32) {
        self.results[self.made % SLOTS_MAX].0 = slot;
        self.made += 1;
    }

    /// The slot with the next result to send. Results are sent in the order in which they are made.
    pub(super) fn next_result(&self) -> u32 {
        debug_assert!(self.posted < self.made, "a result is made before it is sent");
        self.results[self.posted % SLOTS_MAX].0
    }

    /// Send number `send` is posted with that result.
    pub(super) fn post_result(&mut self, send: usize) {
        self.results[self.posted % SLOTS_MAX].1 = send;
        self.posted += 1;
    }

    /// Frees the slots of results whose sends are among the first `sent`, which have completed.
    pub(super) fn release(&mut self, sent: usize) {
        while self.sent < self.posted {
            let (slot, send) = self.results[self.sent % SLOTS_MAX];
            if send >= sent {
                break;
            }
            self.free(slot);
            self.sent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_slots_until_they_are_sent() {
        let mut slots = Slots::new(2);
        slots.take(slots.next().unwrap());
        slots.take(slots.next().unwrap());
        assert_eq!(slots.next(), None);
        slots.keep(1);
        slots.free(0);
        slots.take(0);
        slots.keep(0);
        assert_eq!(slots.next_result(), 1);
        slots.post_result(5);
        assert_eq!(slots.next_result(), 0);
        slots.post_result(9);
        slots.release(5);
        assert_eq!(slots.next(), None, "send 5 is not among the first 5");
        slots.release(9);
        assert_eq!(slots.next(), Some(1));
        slots.release(10);
        assert_eq!(slots.next(), Some(0));
    }

    #[test]
    fn as_many_slots_as_bits() {
        let mut slots = Slots::new(SLOTS_MAX);
        while let Some(slot) = slots.next() {
            slots.take(slot);
        }
        slots.free(63);
        assert_eq!(slots.next(), Some(63));
    }
}
