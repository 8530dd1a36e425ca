//! What a queue says of tensors that are not carried out: that they wait, or that they failed.

use super::Stall;
use super::decide::{Decision, Lacking};
use super::inbox::Inbox;
use super::worker::Worker;

impl Worker {
    pub(super) fn report_stalls(&mut self, waiting: &[Lacking]) {
        let (clock, communicator) = (self.clock, &self.communicator);
        let in_world = |rank| communicator.in_world(rank);
        for pending in &mut self.pending {
            if clock - pending.since < pending.next_report {
                continue;
            }
            pending.next_report += self.options.stall_report_after;
            let Some(lacking) = waiting.iter().find(|lacking| *lacking.name == *pending.name)
            else {
                continue;
            };
            (self.options.on_stall)(&Stall {
                name: lacking.name.clone(),
                missing: lacking.missing.iter().copied().map(in_world).collect(),
                submitted: lacking.submitted.iter().copied().map(in_world).collect(),
                waited: lacking.waited,
                rank: in_world(self.communicator.rank()),
            });
        }
    }

    /// Completes what failed on this rank.
    pub(super) fn settle(&mut self, decision: &Decision, inbox: &Inbox) {
        for failure in &decision.failures {
            if !failure.ranks.contains(&self.communicator.rank()) {
                continue;
            }
            let place = self.pending.iter().position(|pending| *pending.name == *failure.name);
            if let Some(place) = place {
                let pending = self.pending.remove(place);
                if let Some(trace) = &mut self.trace {
                    trace.forget(&pending.name);
                }
                inbox.release(std::iter::once(&pending.name));
                pending.task.finish(Err(failure.error.clone()));
            }
        }
    }
}
