//! What the schedules cost as the world grows.
//!
//! [`evaluate`] lets the very schedules that the engine carries out run against each other in a
//! model with virtual time, and says how long the critical path is. [`Formula`] is what the
//! textbooks say of the same algorithm. A machine with two cores cannot show how an algorithm
//! scales to 64 ranks, this can.
//!
//! The model: every rank has one port out, one port in and one processor. A message takes `latency`
//! to get going, then occupies both ports for as long as its bytes take; reducing takes the
//! processor. Sends are posted in order, and receives applied in order, as the engine does.

mod formula;
mod plot;

use std::collections::HashMap;

use paceline_collectives::schedule::{Action, Schedule};

pub use formula::{Case, Formula};
pub use plot::{Curve, render_plot};

use crate::metrics::{as_f64, as_u64};

/// What the model charges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Seconds until a message gets going.
    pub latency: f64,
    /// Seconds per byte on a port.
    pub byte: f64,
    /// Seconds per byte that is folded into another.
    pub reduced_byte: f64,
}

impl Cost {
    /// About what TCP between this project's test machines has: 10 µs, 5 GB/s, 20 GB/s.
    pub const TYPICAL: Self = Self { latency: 10e-6, byte: 0.2e-9, reduced_byte: 0.05e-9 };
    /// Counts messages that follow each other.
    pub const STEPS: Self = Self { latency: 1.0, byte: 0.0, reduced_byte: 0.0 };
    /// Counts bytes through the busiest ports, one after the other.
    pub const BYTES: Self = Self { latency: 0.0, byte: 1.0, reduced_byte: 0.0 };
    /// Counts bytes that are folded one after the other.
    pub const REDUCED: Self = Self { latency: 0.0, byte: 0.0, reduced_byte: 1.0 };
}

/// One rank of the model.
struct Rank<'a> {
    schedule: &'a dyn Schedule,
    world_size: usize,
    /// The number of the receive that a message from a rank with a tag is for.
    expected: HashMap<(u32, u32), usize>,
    next_send: usize,
    /// When each send had left the port.
    sent: Vec<f64>,
    arrived: Vec<Option<f64>>,
    /// When each receive was applied, in order.
    applied: Vec<f64>,
    port_out: f64,
    port_in: f64,
}

impl<'a> Rank<'a> {
    fn new(schedule: &'a dyn Schedule, world_size: usize) -> Self {
        let receives = schedule.recv_count();
        let step = |index| {
            let step = schedule.recv(index);
            ((step.peer, step.tag), index)
        };
        Self {
            schedule,
            world_size,
            expected: (0..receives).map(step).collect(),
            next_send: 0,
            sent: Vec::new(),
            arrived: vec![None; receives],
            applied: Vec::new(),
            port_out: 0.0,
            port_in: 0.0,
        }
    }

    /// When the next send could start, if what it waits for has been applied.
    fn next_start(&self) -> Option<f64> {
        if self.next_send == self.schedule.send_count() {
            return None;
        }
        let after = self.schedule.send(self.next_send).after;
        let ready = if after == 0 { 0.0 } else { *self.applied.get(after - 1)? };
        Some(ready.max(self.port_out))
    }

    /// Applies what has arrived in its turn.
    fn apply(&mut self, cost: Cost, element_bytes: usize) {
        while let Some(Some(arrived)) = self.arrived.get(self.applied.len()) {
            let step = self.schedule.recv(self.applied.len());
            if step.after_sends > self.sent.len() {
                return;
            }
            let sent = self.sent[..step.after_sends].iter().copied().fold(0.0, f64::max);
            let ready = self.applied.last().copied().unwrap_or(0.0).max(*arrived).max(sent);
            let length = step.range.len();
            let folded = match step.action {
                Action::Store | Action::Hold | Action::Gather => 0,
                Action::Reduce { .. } | Action::Combine { .. } => length,
                Action::Fold { held, .. } | Action::FoldChunks { held } => (held + 1) * length,
                // What comes last lies where the inputs of all ranks end.
                Action::FoldGathered => step.range.end - step.range.end / self.world_size,
            };
            let bytes = as_f64(as_u64(folded * element_bytes));
            self.applied.push(ready + bytes * cost.reduced_byte);
        }
    }

    fn end(&self) -> f64 {
        let complete = self.applied.len() == self.arrived.len()
            && self.sent.len() == self.schedule.send_count();
        assert!(complete, "a schedule comes to its end");
        self.sent.iter().chain(&self.applied).copied().fold(0.0, f64::max)
    }
}

/// Seconds until all ranks are done. `schedules` holds that of each rank, all of one operation.
///
/// # Panics
/// If the schedules do not fit together.
pub fn evaluate(schedules: &[Box<dyn Schedule>], element_bytes: usize, cost: Cost) -> f64 {
    let mut ranks: Vec<_> =
        schedules.iter().map(|schedule| Rank::new(schedule.as_ref(), schedules.len())).collect();
    // Of the sends that may start the earliest goes first; what it enables starts later.
    while let Some((from, start)) = ranks
        .iter()
        .enumerate()
        .filter_map(|(rank, state)| Some((rank, state.next_start()?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
    {
        let send = ranks[from].schedule.send(ranks[from].next_send);
        let on_port = as_f64(as_u64(send.range.len() * element_bytes)) * cost.byte;
        ranks[from].next_send += 1;
        ranks[from].port_out = start + on_port;
        ranks[from].sent.push(start + on_port);
        ranks[from].apply(cost, element_bytes);

        let this = u32::try_from(from).expect("ranks are counted in u32");
        let to = &mut ranks[usize::try_from(send.peer).expect("a rank is an index in memory")];
        let arrives = to.port_in.max(start + cost.latency) + on_port;
        to.port_in = arrives;
        let index = to.expected[&(this, send.tag)];
        to.arrived[index] = Some(arrives);
        to.apply(cost, element_bytes);
    }
    ranks.iter().map(Rank::end).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests;
