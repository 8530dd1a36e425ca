//! A driver without instruments: it changes examples at random, the same way every time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::Target;

/// Bytes of one input at most.
const BYTES_MAX: usize = 4096;

/// Numbers at which parsers go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    4,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX >> 1,
    u64::MAX,
];

/// Pieces of the texts that are read.
const WORDS: [&str; 14] = [
    "null",
    "true",
    "\"\"",
    "{}",
    "[]",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    ",",
    ":",
    "{\"",
    "\u{fffd}",
    "\n",
];

/// Runs a target on `runs` inputs that are made from its seeds and the number `seed`.
///
/// # Panics
/// As the target does, after saying which input it was: run `target.run` on those bytes again.
pub fn drive(target: &Target, seed: u64, runs: u32) {
    let seeds = (target.seeds)();
    let mut dice = Dice(seed);
    seeds.iter().for_each(|bytes| run(target, bytes));
    for _ in 0..runs {
        let bytes = make(&seeds, &mut dice);
        run(target, &bytes);
    }
}

#[expect(clippy::print_stderr, reason = "whoever looks into it needs the input")]
fn run(target: &Target, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) {
        eprintln!("{} breaks its promise on b\"{}\"", target.name, bytes.escape_ascii());
        resume_unwind(panic);
    }
}

fn make(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = if seeds.is_empty() || dice.below(10) == 0 {
        (0..dice.below(200)).map(|_| dice.byte()).collect()
    } else {
        seeds[dice.below(seeds.len())].clone()
    };
    for _ in 0..=dice.below(6) {
        change(&mut bytes, seeds, dice);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let end = at + dice.below(bytes.len() - at + 1).min(32);
    match dice.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = dice.byte(),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        4 => {
            let number = EDGES[dice.below(EDGES.len())].to_le_bytes();
            let length = [1, 2, 4, 8][dice.below(4)].min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&number[..length]);
        }
        5 => drop(bytes.splice(at..end, WORDS[dice.below(WORDS.len())].bytes())),
        6 if !seeds.is_empty() => {
            let other = &seeds[dice.below(seeds.len())];
            drop(bytes.splice(at.., other[dice.below(other.len() + 1)..].iter().copied()));
        }
        _ => bytes.truncate(at),
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("64-bit")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}
