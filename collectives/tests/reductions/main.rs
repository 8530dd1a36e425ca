//! Every type and operator, factors, and operators of the user's, over every way of communicating,
//! against what the definition says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adasum;
mod compression;
mod scale;
#[path = "../support/mod.rs"]
mod support;
mod types;
mod user;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{ContextOptions, TransportKind};
use support::{every_way, forced, over, world};

/// Every algorithm with the canonical order, which is: chunk c is x[c+1] op x[c+2] op … op x[c].
fn canonical_ways() -> Vec<ContextOptions> {
    use Algorithm::{NodeOneShot, NodeTwoShot, OneShot, Ring, Star, TwoShot};
    let tcp = [Ring, OneShot, Star, TwoShot].map(|way| forced(TransportKind::Tcp, way));
    let shm = [NodeOneShot, NodeTwoShot, Ring].map(|way| forced(TransportKind::Shm, way));
    tcp.into_iter().chain(shm).collect()
}

/// Pseudo-random bits for an element of a rank.
fn bits(rank: u32, index: usize) -> u64 {
    let mixed =
        (u64::from(rank) << 40 | index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

/// An ordinary number whose sums need rounding.
fn number(rank: u32, index: usize) -> f64 {
    let fraction = f64::from(u16::try_from(bits(rank, index) >> 48).unwrap()) / 65536.0;
    (fraction - 0.5) * 8.0
}
