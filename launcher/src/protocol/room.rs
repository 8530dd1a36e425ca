//! Room for what one read brings.

/// Bytes at first: what most reads bring, and one page.
const BYTES_MIN: usize = 4 << 10;

/// A buffer that grows as long as reads fill it. A launcher reads from thousands of agents and ranks, of
/// which few have much to say: with room for that for each, they would cost it gigabytes.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Room {
    /// For at most so many bytes at a time.
    pub(crate) fn up_to(bytes_max: usize) -> Self {
        Self { bytes: vec![0; BYTES_MIN.min(bytes_max)], bytes_max }
    }

    /// What to read into.
    pub(crate) fn all(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes what was read: so many bytes. If that was all that there was room for, there is more the
    /// next time.
    pub(crate) fn take(&mut self, count: usize, use_it: impl FnOnce(&[u8])) {
        use_it(&self.bytes[..count]);
        if count == self.bytes.len() && count < self.bytes_max {
            self.bytes.resize((2 * count).min(self.bytes_max), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_only_while_it_is_filled_and_not_beyond_its_limit() {
        let mut room = Room::up_to(10_000);
        let mut sizes = Vec::new();
        for filled in [false, true, false, true, true] {
            let size = room.all().len();
            sizes.push(size);
            let count = if filled { size } else { size - 1 };
            room.take(count, |bytes| assert_eq!(bytes.len(), count));
        }
        assert_eq!(sizes, [4096, 4096, 8192, 8192, 10_000]);
        assert_eq!(room.all().len(), 10_000);
    }
}
