//! Messages between two ranks.

use std::time::Instant;

use paceline_devices::Element;

use super::{Communicator, State};
use crate::batch::{Batch, Message};
use crate::drive::Running;
use crate::engine::{BOARDS, Exchange};
use crate::error::{CollectiveError, OperationName};
use crate::waiting::{PanicReport, Waiting};

impl Communicator {
    /// Sends `data` to rank `to`, whose receive with the same tag gets it. Messages of one tag
    /// between two ranks are received in the order in which they are sent.
    ///
    /// Returns when `data` is needed no more: up to 64 KiB (and about 1 MiB of all messages to that rank
    /// that it has not received yet) at once, without waiting for the receiver; longer messages when
    /// it receives them. Two ranks that send each other long messages first and receive them later
    /// wait for each other, until the deadline ends both with an error: send and receive together, by
    /// [`exchange`](Self::exchange).
    ///
    /// While a message waits, no other operation of this communicator can be run by this process.
    /// Threads that shall not wait for each other have a communicator each
    /// ([`split`](Self::split)).
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::InvalidArgument`] if `to` is this rank or none.
    pub fn send<T: Element>(&self, data: &[T], to: u32, tag: u32) -> Result<(), CollectiveError> {
        self.pass("send", &[Message::send(data, to, tag)])
    }

    /// Receives what rank `from` has sent, or will send, with the same tag. Its length and type must
    /// be those of `data`.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] names both sides' lengths and types;
    /// [`CollectiveError::InvalidArgument`] if `from` is this rank or none.
    pub fn recv<T: Element>(
        &self,
        data: &mut [T],
        from: u32,
        tag: u32,
    ) -> Result<(), CollectiveError> {
        self.pass("recv", &[Message::receive(data, from, tag)])
    }

    /// Carries out several messages at once; returns when all are complete. They are posted
    /// together, so that ranks which exchange messages cannot wait for each other in a circle. A rank
    /// may send to itself what it receives in the same batch.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::InvalidArgument`] if there are more than
    /// [`Batch::MESSAGES_MAX`] sends or receives, a rank does not exist, or a message of this rank to
    /// itself is not received, or by a vector of another length or type.
    pub fn exchange(&self, batch: Batch<'_>) -> Result<(), CollectiveError> {
        self.pass("exchange", batch.messages())
    }

    fn pass(&self, called: &'static str, messages: &[Message]) -> Result<(), CollectiveError> {
        let invalid = |what| CollectiveError::InvalidArgument { collective: called, what };
        self.check_messages(messages).map_err(invalid)?;
        let mut state = self.enter_as(called)?;
        let own = |message: &&Message| message.peer == self.rank();
        if messages.iter().any(|message| own(&message)) {
            for (sent, received) in own_pairs(messages, self.rank()) {
                let received = received.expect("it was checked that each is received");
                let (from, to) = (sent.buffer.host_address(), received.buffer.host_address());
                // SAFETY: both are lent, as long as each other, and apart: one of them mutably.
                unsafe { to.copy_from_nonoverlapping(from, sent.buffer.bytes()) };
            }
            let others: Vec<Message> =
                messages.iter().filter(|message| !own(message)).copied().collect();
            return self.pass_to_others(&mut state, &others);
        }
        self.pass_to_others(&mut state, messages)
    }

    fn pass_to_others(
        &self,
        state: &mut State,
        messages: &[Message],
    ) -> Result<(), CollectiveError> {
        let Self { context, members, id, .. } = self;
        state.mail.number(messages, *id, members);
        let Some(name) = state.mail.first() else { return Ok(()) };
        let panic_report = PanicReport { context, members, name };
        self.meter.enter(&name.kind, name.op_seq);
        let started = self.context.timeline().map(|_| Instant::now());
        let outcome = self.carry_messages(state, messages, name);
        self.meter.leave_messages(messages, outcome.is_ok());
        self.trace(started, name, outcome.is_ok());
        std::mem::forget(panic_report);
        outcome.map_err(|error| {
            // It may be another one that failed.
            let name = error.operation().unwrap_or(name);
            self.fail(state, name, error)
        })
    }

    fn carry_messages(
        &self,
        state: &mut State,
        messages: &[Message],
        name: OperationName,
    ) -> Result<(), CollectiveError> {
        let mut wire = self.context.wire();
        // SAFETY: messages lend their buffers for as long as they are borrowed, and the exchange has
        // ended when this returns.
        let exchange = unsafe { Exchange::new(&mut state.mail, messages, self.id, &mut wire) };
        let Some(exchange) = exchange else {
            return Err(CollectiveError::Memory {
                collective: name.kind.collective.name(),
                message: format!("more than {BOARDS} operations under way in one context"),
            });
        };
        let waiting = Waiting::new(&self.context, self.parties(), name);
        let neighbours = state.shared.neighbours(&self.members);
        Running::new(&self.context, wire, exchange, waiting).finish(neighbours)
    }

    fn check_messages(&self, messages: &[Message]) -> Result<(), String> {
        let (rank, world_size) = (self.rank(), self.world_size());
        if let Some(message) = messages.iter().find(|message| message.peer >= world_size) {
            return Err(format!("rank {} is no rank of a world of {world_size}", message.peer));
        }
        for (receives, what) in [(false, "sends"), (true, "receives")] {
            let count = messages.iter().filter(|message| message.receives == receives).count();
            if count > Batch::MESSAGES_MAX {
                return Err(format!("{count} {what}, more than {}", Batch::MESSAGES_MAX));
            }
        }
        let own = |receives: bool| {
            messages.iter().filter(move |other| other.peer == rank && other.receives == receives)
        };
        let mut pairs = 0;
        for (sent, received) in own_pairs(messages, rank) {
            pairs += 1;
            let Some(received) = received else {
                return Err(format!(
                    "nobody receives what this rank sends itself, tag {}",
                    sent.tag
                ));
            };
            let (ours, theirs) = (&sent.buffer, &received.buffer);
            if (ours.count, ours.dtype) != (theirs.count, theirs.dtype) {
                return Err(format!(
                    "this rank sends itself {} {}, but receives {} {}",
                    ours.count, ours.dtype, theirs.count, theirs.dtype
                ));
            }
        }
        match own(true).nth(pairs) {
            Some(_) => Err("this rank does not send itself all that it receives".to_owned()),
            None => Ok(()),
        }
    }
}

/// What a rank sends itself, and where it receives it: the messages of each tag in their order.
fn own_pairs(
    messages: &[Message],
    rank: u32,
) -> impl Iterator<Item = (&Message, Option<&Message>)> {
    let own = move |receives: bool, tag: u32| {
        move |message: &&Message| {
            message.peer == rank && message.receives == receives && message.tag == tag
        }
    };
    let is_send = move |message: &Message| message.peer == rank && !message.receives;
    messages.iter().enumerate().filter(move |(_, message)| is_send(message)).map(
        move |(at, sent)| {
            let before = messages[..at].iter().filter(own(false, sent.tag)).count();
            (sent, messages.iter().filter(own(true, sent.tag)).nth(before))
        },
    )
}
