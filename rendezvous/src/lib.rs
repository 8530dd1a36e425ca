//! Who is who in a job, and how the processes of a job prove it to each other.
//!
//! This crate is the contract that the launcher and the ranks share: the environment variables
//! ([`mod@env`]), what a process learns from them ([`RankInfo`]), the secret and the number of a run
//! ([`Secret`], [`RunId`]), the handshake that opens every connection ([`hello`]), the
//! authenticated frames of the control plane ([`frame`], [`message`]), the key/value store
//! ([`store`]), the coordinator that keeps it and notices deaths and stalls ([`coordinator`]), the
//! rank's end of the control connection ([`control`]) and its signs of life ([`heartbeat`]), and the
//! decision which of all this a process must use ([`mod@bootstrap`]).
//!
//! It deliberately knows nothing of tensors, transports, hosts or process supervision, and it has
//! no asynchronous runtime: the server is one thread around `poll(2)`, and everything that
//! decides is a state machine without I/O and without a clock of its own.
//!
//! # Security
//!
//! Every connection is mutually authenticated with the run's secret and control frames carry a
//! MAC and a sequence number. Nothing is encrypted: who can read the network can read the
//! control plane.
//!
//! # Thread safety
//!
//! [`store::Store`] implementations, [`control::ControlClient`] and [`coordinator::Server`] may be
//! shared between threads. State machines are plain values owned by one thread.
#![forbid(unsafe_code)]

pub mod activity;
pub mod bootstrap;
pub mod control;
pub mod coordinator;
pub mod env;
mod epoch;
pub mod frame;
pub mod heartbeat;
pub mod hello;
mod hex;
pub mod interface;
pub mod jobs;
pub mod message;
pub mod rank_info;
pub mod run;
mod socket;
pub mod status;
pub mod store;

pub use activity::{Activity, ActivitySource};
pub use bootstrap::{BootstrapError, BootstrapOptions, Rendezvous, bootstrap, stall_report};
pub use control::{ControlClient, ControlError};
pub use env::{Environment, EnvironmentError, ProcessEnvironment};
pub use heartbeat::OperationCounter;
pub use hello::HelloError;
pub use message::{Abort, OperationReport, OperationState};
pub use rank_info::{DeviceAssignment, Dialect, Fraction, RankInfo, Warning};
pub use run::{RunId, Secret, SecretError};
pub use store::{FileStore, InProcessStore, Store, StoreError};
