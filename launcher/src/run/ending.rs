//! The end of a job: agents, orphans, output.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedReceiver;

use super::agents::{Agent, FromAgent};
use super::conductor::{Conductor, Event};
use super::events::{JobEvent, OnEvent};
use super::outcome::Outcome;
use super::terminal;
use crate::agent;
use crate::output::writer::WriterEvent;
use crate::process::descendants::{Family, signal_entry};
use crate::protocol::messages::LeftRunning;

/// How long an agent that has finished may take to exit.
const AGENT_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long adopted processes are killed before they are reported as survivors.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nobody may take output, after the job was stopped, before it is given up.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Conductor {
    /// Ends what is left: agents, orphans, output.
    pub(super) async fn wind_up(
        mut self,
        family: &Family,
        happenings: &mut UnboundedReceiver<Event>,
        on_event: &mut OnEvent<'_>,
    ) -> Outcome {
        // All at once: over ssh each takes a moment.
        self.agents.values_mut().for_each(Agent::close);
        for agent in std::mem::take(&mut self.agents).into_values() {
            agent.ended(AGENT_EXIT_TIMEOUT).await;
        }
        for survivor in end_orphans(family).await {
            self.director.survived(survivor, agent::host_name());
        }
        self.tell_events(on_event);
        let mut is_given_up = false;
        while let Ok(event) = happenings.try_recv() {
            match event {
                Event::Agent(_, FromAgent::Said(line)) => self.say(&line),
                Event::Writer(event) => self.take_writer_event(event),
                Event::Signal(number) if terminal::ends_job(number) => is_given_up = true,
                _ => {}
            }
        }
        // Without senders the writers write what they have and end.
        let mut running = std::mem::take(&mut self.writers).len();
        while running > 0 && !is_given_up {
            let event = if self.stopping {
                tokio::time::timeout(DRAIN_TIMEOUT, happenings.recv()).await.unwrap_or(None)
            } else {
                happenings.recv().await
            };
            match event {
                Some(Event::Writer(WriterEvent::Finished)) => running -= 1,
                Some(Event::Writer(event)) => self.take_writer_event(event),
                Some(Event::Signal(number)) if terminal::ends_job(number) => is_given_up = true,
                Some(_) => {}
                None => break,
            }
        }
        self.server.shutdown();
        let last = self.director.take_events();
        let outcome = self.director.finish();
        let last = last.into_iter().chain([JobEvent::finished(&outcome)]);
        let lines = last.flat_map(|event| on_event(&event)).collect();
        terminal::tell(lines).await;
        outcome
    }

    /// Says what has happened since the last time.
    pub(super) fn tell_events(&mut self, on_event: &mut OnEvent<'_>) {
        for event in self.director.take_events() {
            on_event(&event).iter().for_each(|line| self.say(line));
        }
    }
}

/// Kills what a dead agent left to us, until nothing is left or it is clear that it cannot be.
async fn end_orphans(family: &Family) -> Vec<LeftRunning> {
    let give_up_at = Instant::now() + ORPHAN_TIMEOUT;
    loop {
        let living = family.living();
        for entry in &living {
            signal_entry(entry, Signal::KILL);
        }
        family.bury_dead_children();
        if living.is_empty() || Instant::now() >= give_up_at {
            return living.iter().map(|entry| LeftRunning::of(None, entry)).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
