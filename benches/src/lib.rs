//! Measurement, histograms, statistics, peers and reports.
//!
//! Pure parts: [`sizes`] says what to measure, [`models`] what real training sends, [`verify`] what
//! the right answer is, [`histogram`], [`metrics`] and [`stats`] what the times mean, [`schema`]
//! how a result is stored, [`table`] and [`bars`] how it is read, [`peers`] how it compares with
//! other libraries that `ci/peers` runs, [`yardstick`] with those that run beside ours,
//! [`scaling`] what the schedules cost in worlds that no machine here has. [`run`] and [`floor`] take the times; the group, the operation and the clock
//! come from outside.
//!
//! # Thread safety
//! Every type here is plain data, `Send + Sync`.

pub mod bars;
pub mod floor;
pub mod histogram;
pub mod machine;
pub mod metrics;
pub mod models;
pub mod peers;
mod random;
pub mod ranks;
pub mod record;
pub mod run;
pub mod scaling;
pub mod schema;
pub mod sizes;
pub mod stats;
pub mod table;
pub mod units;
pub mod verify;
pub mod yardstick;
