//! Answering what a launcher asks that starts nothing: for `paceline doctor`, or to choose a network.

use std::thread;

use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::{RunId, Secret};

use super::Reporter;
use crate::doctor::examine::examine;
use crate::doctor::question::{Answer, Question, wall_clock};
use crate::probe::{Doors, Party, probe, reach};
use crate::protocol::messages::Report;

/// Asked to reach others before it was told which host it is.
const NAMELESS: &str = "it has not been told who it is";

/// What is kept between two questions.
#[derive(Debug, Default)]
pub(super) struct Examiner {
    /// Who this host is to the others.
    party: Option<Party>,
    /// Open until the agent ends.
    doors: Option<Doors>,
}

impl Examiner {
    /// Answers, at once or from a thread: this one reads orders, the end of them above all. A thread
    /// that is busy does not keep the agent.
    pub(super) fn take(
        &mut self,
        number: u32,
        question: Question,
        secret: &[u8],
        reporter: &Reporter,
    ) {
        let reply = move |reporter: &Reporter, answer| {
            reporter.send(&Report::Examined { number, answer });
        };
        let work: Box<dyn FnOnce() -> Answer + Send> = match question {
            Question::Clock => {
                let heard = wall_clock();
                return reply(reporter, Answer::Clock { heard, answered: wall_clock() });
            }
            Question::Doors { run_id, number, count, addresses, ports: (first, last) } => {
                let party = party(run_id, number, count, secret);
                let ports = PortRange::new(first, last).unwrap_or(PortRange::ANY);
                let answer = party.map(|party| {
                    let doors = Doors::open(&party, &addresses, ports);
                    let list = doors.list().to_vec();
                    (self.party, self.doors) = (Some(party), Some(doors));
                    Answer::Doors(list)
                });
                return reply(reporter, answer.unwrap_or_else(nothing));
            }
            Question::Host => Box::new(|| Answer::Host(Box::new(examine()))),
            Question::Reach { host, address } => {
                let Some(party) = self.party.clone() else {
                    return reply(reporter, nothing(NAMELESS.to_owned()));
                };
                Box::new(move || Answer::Reach(reach(&party, host, address)))
            }
            Question::Way { host, address, effort } => {
                let Some(party) = self.party.clone() else {
                    return reply(reporter, nothing(NAMELESS.to_owned()));
                };
                Box::new(move || Answer::Way(probe(&party, host, address, effort)))
            }
        };
        let theirs = reporter.clone();
        let spawned = thread::Builder::new()
            .name("examiner".to_owned())
            .spawn(move || reply(&theirs, work()));
        if let Err(error) = spawned {
            reply(reporter, nothing(format!("failed to start a thread: {error}")));
        }
    }
}

fn nothing(reason: String) -> Answer {
    Answer::Nothing { reason }
}

fn party(
    run_id: [u8; RunId::LEN],
    number: u32,
    count: u32,
    secret: &[u8],
) -> Result<Party, String> {
    let text = std::str::from_utf8(secret).map_err(|error| error.to_string())?;
    let secret = Secret::from_hex(text).map_err(|error| error.to_string())?;
    Ok(Party { run_id: RunId::from_bytes(run_id), secret, number, count })
}
