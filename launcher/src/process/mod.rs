//! Operating system processes: who descends from whom, how they end, how to end them.
//!
//! Nothing here knows ranks or jobs. A process is addressed by its id together with its start time,
//! because an id alone may belong to somebody else a moment later.

pub(crate) mod answer;
pub(crate) mod build_id;
pub(crate) mod deaths;
pub(crate) mod descendants;
pub(crate) mod descriptors;
pub(crate) mod heap;
pub(crate) mod memory;
pub(crate) mod signals;
pub(crate) mod spawn;
pub(crate) mod table;
pub(crate) mod threads;
pub(crate) mod wait;
