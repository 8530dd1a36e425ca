use std::fmt;

/// Names one message between two ranks. Both sides compute it, none is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// The communicator to which the operation belongs.
    pub communicator: u32,
    /// Which of the messages of the operation this is; unique per direction between two ranks.
    pub tag: u32,
    /// The number of the operation in its communicator, from 0.
    pub op_seq: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "communicator {} operation #{} tag {}", self.communicator, self.op_seq, self.tag)
    }
}

/// What an operation is, as its caller encodes it: kind, element type, count, operator, root.
///
/// It travels in every frame. Transports only compare it; a difference is an [`OpError`] that
/// carries both values, so that the layer above can name what each side called.
///
/// [`OpError`]: crate::OpError
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Signature(pub [u8; Self::LEN]);

impl Signature {
    /// Bytes of a signature.
    pub const LEN: usize = 16;
}

/// Payload bytes of one message that may leave before its receiver has posted the receive.
///
/// 64 KiB: a small all-reduce then costs one crossing and no grant, and below this size the copy
/// through the early buffer costs less than waiting for a grant.
pub const EAGER_BYTES_MAX: usize = 64 << 10;

/// Ungranted payload bytes that a rank may have under way to one peer in one communicator; also
/// what a rank must be ready to buffer for each (peer, communicator).
///
/// At least twice [`EAGER_BYTES_MAX`]: the credit for operation N comes back inside the frames of N+1,
/// so two full messages must fit for back-to-back operations to run without a separate credit frame.
/// 1 MiB, because a rank that only sends, as to the root of a gather, costs itself and the root least
/// when it is far ahead: its messages then leave and arrive many at a time (benches/RESULTS.md).
pub const EAGER_BYTES_OUTSTANDING_MAX: usize = 16 * EAGER_BYTES_MAX;
