//! Messages between two ranks, as callers describe them.

use std::marker::PhantomData;

use paceline_devices::{Buffer, Element};

/// Messages that are posted together and complete together, in whatever order they can:
/// [`Communicator::exchange`](crate::Communicator::exchange) carries them out.
///
/// ```
/// use paceline_collectives::{Batch, Context};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let communicator = Context::from_environment()?.communicator()?;
/// let (ranks, rank) = (communicator.world_size(), communicator.rank());
/// let (halo, mut left_halo, mut right_halo) = ([1.0f32; 100], [0.0f32; 100], [0.0f32; 100]);
/// let (left, right) = ((rank + ranks - 1) % ranks, (rank + 1) % ranks);
/// let mut batch = Batch::new();
/// batch.send(&halo, left, 0).recv(&mut right_halo, right, 0);
/// batch.send(&halo, right, 1).recv(&mut left_halo, left, 1);
/// communicator.exchange(batch)?;
/// # assert_eq!(left_halo, [1.0; 100]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Batch<'a> {
    messages: Vec<Message>,
    lent: PhantomData<&'a mut [u8]>,
}

/// One message, seen from one of its ends. While it exists its buffer is lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) receives: bool,
    /// The rank at the other end, in the communicator.
    pub(crate) peer: u32,
    pub(crate) tag: u32,
    pub(crate) buffer: Buffer,
}

impl Message {
    pub(crate) fn send<T: Element>(data: &[T], to: u32, tag: u32) -> Self {
        Self { receives: false, peer: to, tag, buffer: Buffer::of(data) }
    }

    pub(crate) fn receive<T: Element>(data: &mut [T], from: u32, tag: u32) -> Self {
        Self { receives: true, peer: from, tag, buffer: Buffer::of_mut(data) }
    }
}

impl<'a> Batch<'a> {
    /// Messages of one direction that a batch may have.
    pub const MESSAGES_MAX: usize = 256;

    /// A batch of no messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message to rank `to`.
    pub fn send<T: Element>(&mut self, data: &'a [T], to: u32, tag: u32) -> &mut Self {
        self.messages.push(Message::send(data, to, tag));
        self
    }

    /// Adds a message from rank `from`, which fills all of `data`.
    pub fn recv<T: Element>(&mut self, data: &'a mut [T], from: u32, tag: u32) -> &mut Self {
        self.messages.push(Message::receive(data, from, tag));
        self
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }
}
