use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;

use super::random::Random;

/// How one direction of a link behaves while nothing is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkProfile {
    /// Ticks that bytes are under way, drawn for every write. Bytes of one stream never overtake
    /// each other; those of different streams between two ranks do.
    pub delay_ticks: RangeInclusive<u64>,
    /// Bytes that one write takes at most, drawn for every write; at least 1.
    pub write_bytes: RangeInclusive<u64>,
    /// Bytes that one read gives at most, drawn for every read; at least 1.
    pub read_bytes: RangeInclusive<u64>,
    /// Bytes that may be written and not yet read on one stream.
    pub capacity_bytes: usize,
    /// Bytes that one stream takes per tick, if its link is slow.
    pub bytes_per_tick: Option<usize>,
    /// How often in a thousand calls a stream pretends to be busy.
    pub busy_per_mille: u16,
}

impl LinkProfile {
    /// Whatever is written can be read at once.
    pub fn perfect() -> Self {
        Self {
            delay_ticks: 0..=0,
            write_bytes: u64::MAX..=u64::MAX,
            read_bytes: u64::MAX..=u64::MAX,
            capacity_bytes: 1 << 20,
            bytes_per_tick: None,
            busy_per_mille: 0,
        }
    }

    /// Cuts every transfer at random places, often within headers, and delays it by random times.
    pub fn choppy() -> Self {
        Self {
            delay_ticks: 0..=7,
            write_bytes: 1..=1500,
            read_bytes: 1..=900,
            capacity_bytes: 16 << 10,
            bytes_per_tick: None,
            busy_per_mille: 100,
        }
    }

    /// Long, narrow and regular.
    pub fn slow() -> Self {
        Self {
            delay_ticks: 40..=40,
            bytes_per_tick: Some(4 << 10),
            capacity_bytes: 256 << 10,
            ..Self::perfect()
        }
    }

    /// Bytes one by one.
    pub fn bytewise() -> Self {
        Self { write_bytes: 1..=1, read_bytes: 1..=1, ..Self::perfect() }
    }
}

/// One direction of one stream.
#[derive(Debug)]
pub(super) struct Pipe {
    profile: LinkProfile,
    random: Random,
    bytes: VecDeque<u8>,
    /// When which number of bytes arrives, in the order of `bytes`.
    arrivals: VecDeque<(u64, usize)>,
    /// Bytes of `bytes` that have arrived.
    arrived: usize,
    /// The tick of the last write and the bytes written in it.
    spent: (u64, usize),
    /// Bytes ever written.
    pub(super) carried: u64,
    /// The writer stands still until there is room.
    pub(super) writer_waits: bool,
    /// The writing end is closed: what is under way still arrives.
    pub(super) ended: bool,
    /// The reading end is closed.
    pub(super) deaf: bool,
    /// The connection was reset: what was under way is lost.
    reset: bool,
    /// Nothing arrives any more, and nobody is told.
    pub(super) silent: bool,
    /// One bit of the next write is to be turned round.
    pub(super) corrupt: bool,
}

impl Pipe {
    pub(super) fn new(profile: LinkProfile, random: Random) -> Self {
        Self {
            profile,
            random,
            bytes: VecDeque::new(),
            arrivals: VecDeque::new(),
            arrived: 0,
            spent: (0, 0),
            carried: 0,
            writer_waits: false,
            ended: false,
            deaf: false,
            reset: false,
            silent: false,
            corrupt: false,
        }
    }

    pub(super) fn set_profile(&mut self, profile: LinkProfile) {
        self.profile = profile;
    }

    pub(super) fn reset(&mut self) {
        self.reset = true;
        self.bytes.clear();
        self.arrivals.clear();
        self.arrived = 0;
    }

    pub(super) fn write(&mut self, now: u64, parts: [&[u8]; 3]) -> io::Result<usize> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.deaf || self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Where all ranks take turns in one thread, the reader cannot make any meanwhile.
        let capacity = if self.writer_waits { usize::MAX } else { self.profile.capacity_bytes };
        let mut room = capacity.saturating_sub(self.bytes.len());
        if let Some(per_tick) = self.profile.bytes_per_tick {
            if self.spent.0 != now {
                self.spent = (now, 0);
            }
            room = room.min(per_tick.saturating_sub(self.spent.1));
        }
        room = room.min(draw(&mut self.random, &self.profile.write_bytes));
        if room == 0 || self.random.chance(self.profile.busy_per_mille) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.bytes.len();
        for part in parts {
            let written = self.bytes.len() - before;
            self.bytes.extend(&part[..part.len().min(room - written)]);
        }
        let written = self.bytes.len() - before;
        if self.corrupt && written > 0 {
            self.corrupt = false;
            let at = before as u64 + self.random.next() % written as u64;
            let bit = self.random.next() % 8;
            self.bytes[usize::try_from(at).expect("an index")] ^= 1 << bit;
        }
        let delay = self.random.within(&self.profile.delay_ticks);
        let last = self.arrivals.back().map_or(0, |(tick, _)| *tick);
        self.arrivals.push_back((last.max(now + delay), written));
        self.spent.1 += written;
        self.carried += written as u64;
        Ok(written)
    }

    pub(super) fn read(
        &mut self,
        now: u64,
        first: &mut [u8],
        second: &mut [u8],
    ) -> io::Result<usize> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.silent {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        while let Some((_, bytes)) = self.arrivals.pop_front_if(|(tick, _)| *tick <= now) {
            self.arrived += bytes;
        }
        if self.bytes.is_empty() && self.ended {
            return Ok(0);
        }
        let wanted = first.len() + second.len();
        let limit = draw(&mut self.random, &self.profile.read_bytes);
        let count = self.arrived.min(limit).min(wanted);
        if count == 0 || self.random.chance(self.profile.busy_per_mille) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let into_first = count.min(first.len());
        self.take(&mut first[..into_first]);
        self.take(&mut second[..count - into_first]);
        self.arrived -= count;
        Ok(count)
    }

    fn take(&mut self, into: &mut [u8]) {
        let (front, back) = self.bytes.as_slices();
        let from_front = front.len().min(into.len());
        into[..from_front].copy_from_slice(&front[..from_front]);
        let from_back = into.len() - from_front;
        into[from_front..].copy_from_slice(&back[..from_back]);
        self.bytes.drain(..into.len());
    }
}

fn draw(random: &mut Random, range: &RangeInclusive<u64>) -> usize {
    usize::try_from(random.within(range).max(1)).unwrap_or(usize::MAX)
}
