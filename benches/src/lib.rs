//! Measurement, histograms, statistics, peers and reports.
//!
//! The pure parts need neither ranks nor a clock: [`sizes`] says what to measure, [`models`] what
//! real training sends, [`verify`] what the right answer is, [`histogram`], [`metrics`] and
//! [`stats`] what the times mean, [`schema`] how a result is stored and [`table`] how it is read.
//!
//! # Thread safety
//! Every type here is plain data, `Send + Sync`.

pub mod bars;
pub mod histogram;
pub mod machine;
pub mod metrics;
pub mod models;
pub mod peers;
mod random;
pub mod run;
pub mod schema;
pub mod sizes;
pub mod stats;
pub mod table;
pub mod units;
pub mod verify;
