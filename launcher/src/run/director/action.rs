//! What the launcher decides to do.

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::run) enum Action {
    /// Tell every agent to stop its ranks.
    Stop,
    /// Tell every agent to kill its ranks.
    Kill,
    /// Kill the agents themselves; the kernel kills their ranks.
    AbandonAgents,
    /// Kill this one: it has not said anything yet, so it has started nothing.
    KillAgent { node: usize },
    /// Ask every agent what its ranks are doing.
    Examine,
    /// Ask every agent whether it is there.
    Ping,
    /// Tell the user.
    Say(String),
    /// Tell the coordinator, which tells the other ranks unless this one had said goodbye.
    /// `reason` completes "rank 3 …".
    RankLost { rank: u32, reason: String },
}
