//! What an operation is, in the sixteen bytes that travel with every frame.

use std::fmt;

use paceline_devices::{DType, ReduceOp};
use paceline_transports::Signature;

/// Which collective operation.
///
/// The discriminants are part of the wire format: never renumber, only add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Collective {
    /// Everybody gets the reduction of everybody's vector.
    AllReduce = 1,
    /// Rank r gets chunk r of the reduction.
    ReduceScatter = 2,
    /// Everybody gets everybody's chunk.
    AllGather = 3,
    /// Everybody gets the root's vector.
    Broadcast = 4,
    /// The root gets the reduction.
    Reduce = 5,
    /// Nobody leaves before all have come.
    Barrier = 6,
    /// Everybody gets the vector of the rank before it.
    Shift = 8,
    /// Everybody has a block for everybody.
    AllToAll = 16,
    /// The root gets everybody's block.
    Gather = 17,
    /// Everybody gets its block of the root's vector.
    Scatter = 18,
    /// As all-gather, with chunks of given lengths.
    AllGatherV = 19,
    /// As reduce-scatter, with chunks of given lengths.
    ReduceScatterV = 20,
    /// As all-to-all, with blocks of given lengths.
    AllToAllV = 21,
    /// As gather, with blocks of given lengths.
    GatherV = 22,
    /// As scatter, with blocks of given lengths.
    ScatterV = 23,
    /// The agreement on the plan that opens a communicator; not called by users.
    Agreement = 7,
    /// The exchange that forms groups: an all-gather of its own name.
    Split = 32,
    /// Everybody gets the combination of everybody's vector by Adasum, which consists of other
    /// collectives in its name.
    Adasum = 35,
    /// A message from one rank to another, to the one that sends it.
    Send = 33,
    /// The same message to the one that receives it. On the wire it is a send.
    Receive = 34,
}

impl Collective {
    /// The collectives that users call.
    pub const ALL: [Self; 15] = [
        Self::AllReduce,
        Self::ReduceScatter,
        Self::AllGather,
        Self::Broadcast,
        Self::Reduce,
        Self::Barrier,
        Self::Shift,
        Self::AllToAll,
        Self::Gather,
        Self::Scatter,
        Self::AllGatherV,
        Self::ReduceScatterV,
        Self::AllToAllV,
        Self::GatherV,
        Self::ScatterV,
    ];

    /// The name used on the command line, in messages and in reports, e.g. `all_reduce`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::Barrier => "barrier",
            Self::Shift => "shift",
            Self::AllToAll => "all_to_all",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::AllGatherV => "all_gather_v",
            Self::ReduceScatterV => "reduce_scatter_v",
            Self::AllToAllV => "all_to_all_v",
            Self::GatherV => "gather_v",
            Self::ScatterV => "scatter_v",
            Self::Agreement => "agreement",
            Self::Split => "split",
            Self::Adasum => "adasum",
            Self::Send => "send",
            Self::Receive => "recv",
        }
    }

    /// Whether it goes from or to one rank.
    pub const fn has_root(self) -> bool {
        matches!(
            self,
            Self::Broadcast
                | Self::Reduce
                | Self::Gather
                | Self::Scatter
                | Self::GatherV
                | Self::ScatterV
        )
    }

    /// Whether ranks say how long the chunks are.
    pub const fn takes_counts(self) -> bool {
        matches!(self, Self::AllGatherV | Self::ReduceScatterV) || !self.shares_counts()
    }

    /// Whether all ranks know how long everybody's chunk is. Where each knows only what it has to do
    /// with itself, a difference shows in the length of a message.
    pub const fn shares_counts(self) -> bool {
        !matches!(self, Self::AllToAllV | Self::GatherV | Self::ScatterV)
    }

    /// Whether elements are combined.
    pub const fn reduces(self) -> bool {
        matches!(self, Self::AllReduce | Self::ReduceScatter | Self::ReduceScatterV | Self::Reduce)
    }

    /// Whether it is between two ranks.
    pub(crate) const fn is_message(self) -> bool {
        matches!(self, Self::Send | Self::Receive)
    }

    /// The collective, or the side of a message, with this code.
    pub(crate) fn from_any_code(code: u8) -> Option<Self> {
        let receive = (code == Self::Receive as u8).then_some(Self::Receive);
        receive.or_else(|| Self::from_code(code))
    }

    fn from_code(code: u8) -> Option<Self> {
        let others = [Self::Agreement, Self::Split, Self::Adasum, Self::Send];
        Self::ALL.into_iter().chain(others).find(|kind| *kind as u8 == code)
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Everything about an operation that all ranks must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationKind {
    /// Which collective.
    pub collective: Collective,
    /// Of what elements; `None` where there are none.
    pub dtype: Option<DType>,
    /// Whether that is how elements travel, which are `f32` in memory.
    pub compressed: bool,
    /// Reduced how; `None` where nothing is reduced, or by an operator of the user's.
    pub op: Option<ReduceOp>,
    /// A digest of the factors around the operator and of the name of an operator of the user's,
    /// which all ranks must share; 0 for a plain operator.
    pub variant: u16,
    /// From or to which rank; `None` where there is no root. For a message the rank at its other end,
    /// in the world.
    pub root: Option<u32>,
    /// A digest of the lengths of fused tensors or of the chunks, which all ranks must share; 0 for a
    /// lone tensor in even chunks.
    pub fused: u32,
    /// Elements of the whole vector, fewer than 2^48 where they are reduced, else 2^56; 0 where ranks
    /// know their own part only. For an agreement, what is agreed on.
    pub count: u64,
    /// The code of the algorithm, so that a forced one differs visibly.
    pub algorithm: u8,
}

/// In the code of the type: elements have this type on the wire only. Codes of types are far below.
const COMPRESSED: u8 = 0x80;

/// Bytes of the count that travel; behind them is the variant.
const fn count_bytes(collective: Collective) -> usize {
    if collective.reduces() { 6 } else { 7 }
}

impl OperationKind {
    /// A collective with no elements, operator, factors or root, by no algorithm in particular: what
    /// others are in all but the fields that they name.
    pub const fn bare(collective: Collective) -> Self {
        Self {
            collective,
            dtype: None,
            compressed: false,
            op: None,
            variant: 0,
            root: None,
            fused: 0,
            count: 0,
            algorithm: 0,
        }
    }

    pub(crate) fn signature(&self) -> Signature {
        let mut bytes = [0; Signature::LEN];
        let is_message = self.collective.is_message();
        // Its two ends call a message by different names.
        let collective = if is_message { Collective::Send } else { self.collective };
        bytes[0] = collective as u8;
        bytes[1] = self.dtype.map_or(0, |dtype| dtype as u8);
        if self.compressed {
            bytes[1] |= COMPRESSED;
        }
        bytes[2] = self.op.map_or(0, |op| op as u8);
        bytes[3] = self.algorithm;
        // No collective has both a root and fused tensors, so the two share the place.
        let root = self.root.filter(|_| !is_message);
        let root_or_fused = root.map_or(self.fused, |root| root + 1);
        bytes[4..8].copy_from_slice(&root_or_fused.to_le_bytes());
        let count_bytes = count_bytes(self.collective);
        bytes[8..][..count_bytes].copy_from_slice(&self.count.to_le_bytes()[..count_bytes]);
        if self.collective.reduces() {
            bytes[14..16].copy_from_slice(&self.variant.to_le_bytes());
        }
        Signature(bytes)
    }

    /// Reads a signature; `None` if no such operation exists.
    pub(crate) fn from_signature(signature: Signature) -> Option<Self> {
        let bytes = signature.0;
        let code = |code: u8, known: bool| (code == 0 || known).then_some(());
        let (dtype_code, compressed) = (bytes[1] & !COMPRESSED, bytes[1] & COMPRESSED != 0);
        let (dtype, op) = (DType::from_code(dtype_code), ReduceOp::from_code(bytes[2]));
        code(dtype_code, dtype.is_some())?;
        code(bytes[2], op.is_some())?;
        let collective = Collective::from_code(bytes[0])?;
        let root_or_fused = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let (root, fused) = if collective.has_root() {
            (root_or_fused.checked_sub(1), 0)
        } else {
            (None, root_or_fused)
        };
        let mut count = [0; 8];
        let count_bytes = count_bytes(collective);
        count[..count_bytes].copy_from_slice(&bytes[8..][..count_bytes]);
        let variant = u16::from_le_bytes([bytes[14], bytes[15]]);
        Some(Self {
            collective,
            dtype,
            compressed,
            op,
            variant: if collective.reduces() { variant } else { 0 },
            root,
            fused,
            count: u64::from_le_bytes(count),
            algorithm: bytes[3],
        })
    }

    /// Bytes of the vector.
    pub fn bytes(&self) -> u64 {
        self.count * self.dtype.map_or(0, |dtype| dtype.size() as u64)
    }
}

impl OperationKind {
    /// What another rank called, for a rank that called `ours`: also where the two differ in what
    /// travels as a digest only.
    pub(crate) fn beside(&self, ours: &Self) -> String {
        let mut parts = self.parts();
        let differ = |ours: u64, theirs: u64| ours != theirs && ours != 0 && theirs != 0;
        if differ(ours.variant.into(), self.variant.into()) {
            parts.push(match (self.op, ours.op) {
                (Some(_), Some(_)) => "with other factors".to_owned(),
                _ => "which has another name, or other factors".to_owned(),
            });
        }
        if self.collective == ours.collective && differ(ours.fused.into(), self.fused.into()) {
            let what = if self.collective.takes_counts() { "counts" } else { "lengths of tensors" };
            parts.push(format!("with other {what}"));
        }
        Self::describe(self.collective, &parts)
    }

    fn describe(collective: Collective, parts: &[String]) -> String {
        if parts.is_empty() {
            return collective.to_string();
        }
        format!("{collective} ({})", parts.join(", "))
    }

    /// Everything but the name, for people: `1048576 f32, sum, by ring`.
    pub(crate) fn details(&self) -> String {
        self.parts().join(", ")
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = Vec::new();
        parts.extend(self.dtype.map(|dtype| {
            let elements =
                if self.compressed { format!("f32 as {dtype}") } else { dtype.to_string() };
            match self.collective.shares_counts() {
                true => format!("{} {elements}", self.count),
                false => elements,
            }
        }));
        parts.extend(self.op.map(|op| op.to_string()));
        parts.extend((self.variant != 0).then(|| match self.op {
            Some(_) => "scaled".to_owned(),
            None => "an operator of the user's".to_owned(),
        }));
        let role = match self.collective {
            Collective::Send => "to rank",
            Collective::Receive => "from rank",
            _ => "root",
        };
        parts.extend(self.root.map(|root| format!("{role} {root}")));
        let is_fused = self.fused != 0 && !self.collective.takes_counts();
        parts.extend(is_fused.then(|| "of fused tensors".to_owned()));
        let algorithm = crate::plan::Algorithm::from_code(self.algorithm);
        parts.extend(algorithm.map(|algorithm| format!("by {algorithm}")));
        parts
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::describe(self.collective, &self.parts()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said_in_words() {
        let plain = OperationKind {
            dtype: Some(DType::F32),
            op: Some(ReduceOp::Sum),
            count: 8,
            ..OperationKind::bare(Collective::AllReduce)
        };
        assert_eq!(plain.to_string(), "all_reduce (8 f32, sum)");
        let halves = OperationKind { dtype: Some(DType::F16), compressed: true, ..plain };
        assert_eq!(halves.beside(&plain), "all_reduce (8 f32 as f16, sum)");
        let scaled = |variant| OperationKind { variant, ..plain };
        assert_eq!(scaled(1).beside(&plain), "all_reduce (8 f32, sum, scaled)");
        let other = "all_reduce (8 f32, sum, scaled, with other factors)";
        assert_eq!(scaled(1).beside(&scaled(2)), other);
        let user = |variant| OperationKind { op: None, ..scaled(variant) };
        let other = "which has another name, or other factors";
        assert!(user(1).beside(&user(2)).contains(other));
        let fused = |fused| OperationKind { fused, ..plain };
        let other = "all_reduce (8 f32, sum, of fused tensors, with other lengths of tensors)";
        assert_eq!(fused(1).beside(&fused(2)), other);
        let cut =
            |fused| OperationKind { collective: Collective::AllGatherV, op: None, fused, ..plain };
        assert_eq!(cut(1).beside(&cut(2)), "all_gather_v (8 f32, with other counts)");
    }

    #[test]
    fn signatures_round_trip() {
        for collective in Collective::ALL {
            for dtype in DType::ALL.into_iter().map(Some).chain([None]) {
                for op in ReduceOp::ALL.into_iter().map(Some).chain([None]) {
                    let rooted = [(None, 0), (Some(0), 0), (Some(77), 0)];
                    let rootless = [(None, 0), (None, 1), (None, u32::MAX)];
                    let places = if collective.has_root() { rooted } else { rootless };
                    for (root, fused) in places {
                        let (count, algorithm) = (1 << 40, 2);
                        let variant = if collective.reduces() { 0xfedc } else { 0 };
                        let kind = OperationKind {
                            collective,
                            dtype,
                            compressed: dtype == Some(DType::F16),
                            op,
                            variant,
                            root,
                            fused,
                            count,
                            algorithm,
                        };
                        assert_eq!(OperationKind::from_signature(kind.signature()), Some(kind));
                    }
                }
            }
        }
        assert_eq!(OperationKind::from_signature(Signature([9; 16])), None);
    }
}
