use paceline_transports::Signature;

/// A node-local operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Two members called different operations, or the same one differently.
    #[error("member {member} of the node is in another operation #{op_seq}")]
    SignatureMismatch {
        /// The other member.
        member: u32,
        /// The number of the operation.
        op_seq: u64,
        /// What was called here.
        ours: Signature,
        /// What was called there.
        theirs: Signature,
    },
    /// A member gave up, so that the operation can never end.
    #[error("member {member} of the node gave up during operation #{op_seq}")]
    Aborted {
        /// Who gave up first.
        member: u32,
        /// The operation that was waiting.
        op_seq: u64,
    },
    /// An earlier operation was given up half-way; nobody knows any more what the shared memory
    /// holds.
    #[error("operation #{op_seq} was given up before it ended")]
    Unfinished {
        /// The operation that was given up.
        op_seq: u64,
    },
}
