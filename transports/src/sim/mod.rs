//! A simulated network for tests: deterministic, seeded, in memory, with a virtual clock.
//!
//! It carries bytes, not messages: the frames, matching, credits and grants that run over it are
//! those that run over TCP, so that what a seed finds here is a bug there. A [`LinkProfile`] says
//! how a link cuts and delays what it carries; a [`Fault`] breaks something at a chosen step.
//!
//! ```
//! use std::time::Instant;
//!
//! use paceline_rendezvous::{RunId, Secret};
//! use paceline_transports::sim::{Fault, LinkProfile, SimConfig, SimNetwork, When};
//! use paceline_transports::{Checksum, Group, Patience, Transport};
//!
//! let network = SimNetwork::new(SimConfig {
//!     seed: 7,
//!     world_size: 2,
//!     streams_per_peer: 1,
//!     profile: LinkProfile::choppy(),
//! });
//! network.schedule(When::Tick(3), Fault::Kill { rank: 1 });
//! let secret = Secret::from_bytes([1; 32]);
//! let addresses: Vec<Vec<u8>> = (0..2).map(|rank| network.transport(rank).address()).collect();
//! let mut endpoints = Vec::new();
//! for rank in 0..2 {
//!     let group = Group {
//!         rank,
//!         run_id: RunId::from_bytes([2; 16]),
//!         epoch: 0,
//!         checksum: Checksum::None,
//!         secret: &secret,
//!         addresses: &addresses,
//!     };
//!     let patience = Patience::until(Instant::now());
//!     endpoints.push(Box::new(network.transport(rank)).connect(&group, &patience)?);
//! }
//! let survivor = endpoints[0][1].as_mut().expect("an endpoint to rank 1");
//! let mut events = Vec::new();
//! while survivor.poll(&mut events).is_ok() {
//!     network.tick();
//! }
//! assert_eq!(network.now(), 3);
//! # Ok::<(), paceline_transports::EstablishError>(())
//! ```

mod network;
mod pipe;
mod random;
mod transport;

pub use network::{Fault, SimConfig, SimNetwork, Transfer, When};
pub use pipe::LinkProfile;
#[cfg(any(test, feature = "testing"))]
pub(crate) use random::Random;
pub use transport::SimTransport;

#[cfg(test)]
mod tests;
