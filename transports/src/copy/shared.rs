//! Copies into memory that another core reads.

use std::time::Instant;

use super::{copy_bytes, stream_bytes, stream_fence};

/// Shorter copies are not worth a choice: both ways cost much the same.
const CHOICE_BYTES_MIN: usize = 1 << 10;

/// Lengths are told apart by powers of two, up to where they no longer matter.
const CLASSES: usize = 7;

/// One copy in so many bytes that go through the caches is timed, so that clocks cost nothing.
const TIMED_BYTES: usize = 128 << 10;

/// How much more time the way through the caches must take. What went past them has to be read from
/// memory: measured with both sides of a hand-over of 1 to 64 KiB, it pays from about here on.
const RATIO_MIN: f64 = 3.0;

/// Copies past the caches before the way through them gets another chance. It may be ten times
/// slower, so this doubles each time it is, from the first number to the second.
const HOLD_MIN: u32 = 64;
const HOLD_MAX: u32 = 2048;

/// Timed copies after which stores past the caches are tried whatever the caches are like, since what
/// they took last time may have been an accident.
const TRIAL_INTERVAL: u32 = 256;

/// Copies into memory that another core reads, in the way that proves faster.
///
/// A ring that one core fills and another one empties is full of lines that the reader still has in
/// its cache, and each store has to call one back first. Between cores with a last-level cache in
/// common that costs little, and the reader finds the new bytes there. Between others it takes 20 to
/// 30 ns per line, and nothing hides it: on AMD's Zen 4, 4 KiB to 1 MiB are stored at 2 to 3 GB/s.
/// Stores past the caches do not wait: 27 to 37 GB/s, and the reader takes no longer than before.
/// Within one cache, however, they halve what the reader gets. A process cannot know which cores it
/// has, and on a virtual machine that changes, so both ways are timed now and then.
///
/// What is copied is the same either way.
#[derive(Debug)]
pub struct SharedWriter {
    classes: Box<[Class; CLASSES]>,
    forced: Option<Way>,
    /// What it takes to read the clock twice, in seconds: as much as a short copy.
    clock: f64,
}

impl Default for SharedWriter {
    fn default() -> Self {
        Self::with_way(None)
    }
}

impl SharedWriter {
    /// One that measures nothing and always takes the same way, or measures if `None`.
    pub fn with_way(forced: Option<Way>) -> Self {
        let reading = || Instant::now().elapsed();
        let clock = (0..8).map(|_| reading()).min().unwrap_or_default().as_secs_f64();
        Self { classes: Box::default(), forced, clock }
    }

    /// Copies `bytes` bytes. They may be published by a release store afterwards.
    ///
    /// # Safety
    /// As for [`std::ptr::copy_nonoverlapping`].
    #[inline]
    pub unsafe fn copy(&mut self, to: *mut u8, from: *const u8, bytes: usize) {
        if bytes < CHOICE_BYTES_MIN || cfg!(not(target_arch = "x86_64")) {
            // SAFETY: the conditions are those of this function.
            return unsafe { copy_bytes(to, from, bytes) };
        }
        let class = &mut self.classes[class_of(bytes)];
        let (way, timed) = match self.forced {
            None => class.next(bytes),
            Some(way) => (way, false),
        };
        let began = timed.then(Instant::now);
        match way {
            // SAFETY: as above.
            Way::Cached => unsafe { copy_bytes(to, from, bytes) },
            Way::Streaming => {
                // SAFETY: as above.
                unsafe { stream_bytes(to, from, bytes) };
                stream_fence();
            }
        }
        if let Some(began) = began {
            let seconds = (began.elapsed().as_secs_f64() - self.clock).max(1e-9);
            class.took(way, seconds / bytes as f64);
        }
    }

    /// Whether copies of so many bytes go past the caches at present.
    #[inline]
    pub fn streams(&self, bytes: usize) -> bool {
        let chosen = || matches!(self.classes[class_of(bytes)].state, State::Streaming { .. });
        bytes >= CHOICE_BYTES_MIN && self.forced.map_or_else(chosen, |way| way == Way::Streaming)
    }
}

#[inline]
fn class_of(bytes: usize) -> usize {
    ((bytes / CHOICE_BYTES_MIN).ilog2() as usize).min(CLASSES - 1)
}

/// Where stores go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the caches.
    Cached,
    /// Past the caches.
    Streaming,
}

/// What is known about copies of one length, and how the next one is made.
#[derive(Clone, Copy, Debug)]
struct Class {
    state: State,
    /// Seconds per byte that stores past the caches took when they were last tried.
    streaming: f64,
    /// Timed copies until they are tried again.
    trial_in: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Through the caches; bytes since a copy was timed, and what that took if it was slow.
    Cached { untimed: usize, slow: Option<f64> },
    /// The next one goes past the caches, for comparison with so many seconds per byte.
    Trial { cached: f64 },
    /// Past the caches, so many times more, and so many times when that has proved right.
    Streaming { left: u32, hold: u32 },
}

impl Default for Class {
    fn default() -> Self {
        let state = State::Cached { untimed: 0, slow: None };
        Self { state, streaming: f64::INFINITY, trial_in: 2 }
    }
}

impl Class {
    /// How the next copy is to be made, and whether it is to be timed and given to
    /// [`Class::took`].
    #[inline]
    fn next(&mut self, bytes: usize) -> (Way, bool) {
        match &mut self.state {
            State::Cached { untimed, .. } => {
                *untimed += bytes;
                (Way::Cached, *untimed >= TIMED_BYTES)
            }
            State::Trial { .. } => (Way::Streaming, true),
            State::Streaming { left: 0, .. } => (Way::Cached, true),
            State::Streaming { left, .. } => {
                *left -= 1;
                (Way::Streaming, false)
            }
        }
    }

    /// A copy that was to be timed took so many seconds per byte.
    fn took(&mut self, way: Way, seconds: f64) {
        if way == Way::Streaming {
            self.streaming = seconds;
        }
        let cached = State::Cached { untimed: 0, slow: None };
        let streaming = |hold| State::Streaming { left: hold, hold };
        let is_slow = |cached: f64| cached > RATIO_MIN * self.streaming;
        self.state = match self.state {
            // Twice in a row: once may be a moment in which somebody else had the core.
            State::Cached { slow, .. } => {
                self.trial_in -= 1;
                let slower = slow.filter(|_| is_slow(seconds)).map(|before| before.min(seconds));
                if slower.is_some() || self.trial_in == 0 {
                    self.trial_in = TRIAL_INTERVAL;
                    State::Trial { cached: slower.unwrap_or(seconds) }
                } else {
                    State::Cached { untimed: 0, slow: is_slow(seconds).then_some(seconds) }
                }
            }
            State::Trial { cached: before } if is_slow(before) => streaming(HOLD_MIN),
            State::Trial { .. } => cached,
            State::Streaming { hold, .. } if is_slow(seconds) => {
                streaming((hold * 2).min(HOLD_MAX))
            }
            State::Streaming { .. } => cached,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHED_NEAR: f64 = 1.0 / 40e9;
    const CACHED_FAR: f64 = 1.0 / 2.5e9;
    const STREAMING: f64 = 1.0 / 28e9;
    const BYTES: usize = 64 << 10;

    /// Makes copies of a class; how many of them went past the caches.
    fn run(class: &mut Class, copies: u32, mut cached: impl FnMut(u32) -> f64) -> u32 {
        let mut streamed = 0;
        for copy in 0..copies {
            let (way, timed) = class.next(BYTES);
            streamed += u32::from(way == Way::Streaming);
            if timed {
                let seconds = if way == Way::Cached { cached(copy) } else { STREAMING };
                class.took(way, seconds);
            }
        }
        streamed
    }

    #[test]
    fn near_cores_use_the_cache_but_for_rare_trials() {
        let mut class = Class::default();
        assert!(run(&mut class, 10_000, |_| CACHED_NEAR) <= 10_000 / TRIAL_INTERVAL);
    }

    #[test]
    fn far_cores_go_past_the_caches_but_for_rare_trials() {
        let mut class = Class::default();
        assert!(run(&mut class, 10_000, |_| CACHED_FAR) > 9_900);
    }

    #[test]
    fn a_core_that_moves_is_noticed_soon_each_time() {
        let mut class = Class::default();
        for _ in 0..5 {
            run(&mut class, HOLD_MAX + 10, |_| CACHED_FAR);
            assert!(matches!(class.state, State::Streaming { .. }));
            run(&mut class, HOLD_MAX + 10, |_| CACHED_NEAR);
            assert!(!matches!(class.state, State::Streaming { .. }));
        }
    }

    #[test]
    fn one_slow_copy_now_and_then_decides_nothing() {
        let mut class = Class::default();
        let streamed =
            run(&mut class, 10_000, |copy| if copy % 9 == 0 { 1e-3 } else { CACHED_NEAR });
        assert!(streamed <= 10_000 / TRIAL_INTERVAL);
    }

    #[test]
    fn a_trial_that_was_interrupted_is_made_good() {
        let mut class = Class { streaming: 1e-3, ..Class::default() };
        let far = TRIAL_INTERVAL * 2 + HOLD_MAX;
        run(&mut class, far, |_| CACHED_FAR);
        assert!(matches!(class.state, State::Streaming { .. }));
    }

    #[test]
    fn every_byte_is_copied_either_way() {
        let from: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        for forced in [None, Some(Way::Cached), Some(Way::Streaming)] {
            let mut writer = SharedWriter::with_way(forced);
            for round in 0..70 {
                for bytes in [0, 1, 1023, 1024, 1025, 4096, 65_536, 150_001] {
                    let (at, start) = (round, round % 31);
                    let mut to = vec![255; bytes + 200];
                    // SAFETY: both vectors are longer than what is copied.
                    unsafe { writer.copy(to[at..].as_mut_ptr(), from[start..].as_ptr(), bytes) };
                    assert_eq!(to[at..at + bytes], from[start..start + bytes]);
                    assert!(to[..at].iter().chain(&to[at + bytes..]).all(|byte| *byte == 255));
                }
            }
        }
    }
}
