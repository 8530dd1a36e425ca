use paceline_devices::Buffer;

use super::RawCall;
use crate::fusion;
use crate::schedule::Partition;
use crate::signature::Collective;

/// How the vectors of a call fall to the ranks.
pub(super) struct Layout {
    /// How the whole vector is cut: that of the input where input and output are two vectors.
    pub(super) partition: Partition,
    /// How the output is cut, where that is another vector than the input.
    pub(super) received: Option<Partition>,
    /// A digest of the counts that all ranks must share, or 0.
    pub(super) digest: u32,
    /// Elements that the input and the output must have.
    pub(super) counts: (usize, usize),
}

/// Who asks: which rank of how many, and whether it is the root.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) world_size: usize,
    pub(super) is_root: bool,
}

impl Layout {
    /// Fails where counts are missing or do not fit the buffers. Buffers that the rank has no use
    /// for are empty.
    #[inline]
    pub(super) fn new(
        call: &RawCall<'_>,
        (input, output): (&Buffer, &Buffer),
        place: Place,
    ) -> Result<Self, String> {
        if call.collective.takes_counts() {
            return Self::of_counts(call, (input, output), place);
        }
        let Place { rank, world_size, is_root } = place;
        let whole = match call.collective {
            Collective::AllGather | Collective::Broadcast => output.count,
            Collective::Gather => all_blocks(input.count, world_size)?,
            Collective::Scatter => all_blocks(output.count, world_size)?,
            Collective::AllToAll if !input.count.is_multiple_of(world_size) => {
                let count = input.count;
                return Err(format!("{count} elements are no {world_size} blocks of one length"));
            }
            _ => input.count,
        };
        let partition = Partition::new(whole, world_size);
        let own = partition.range(rank).len();
        let on_root = if is_root { whole } else { 0 };
        let counts = match call.collective {
            Collective::AllGather => (own, whole),
            Collective::ReduceScatter => (whole, own),
            Collective::Broadcast => (on_root, whole),
            Collective::Reduce => (whole, on_root),
            Collective::Gather => (own, on_root),
            Collective::Scatter => (on_root, own),
            _ => (whole, whole),
        };
        Ok(Self { partition, received: None, digest: 0, counts })
    }

    fn of_counts(
        call: &RawCall<'_>,
        (input, output): (&Buffer, &Buffer),
        place: Place,
    ) -> Result<Self, String> {
        let Place { rank, world_size, is_root } = place;
        let sent = || check_counts("input", call.input_counts, input.count, world_size);
        let received = || check_counts("output", call.output_counts, output.count, world_size);
        let one = |lengths: &[usize], counts, digest| {
            let partition = Partition::explicit(lengths);
            Self { partition, received: None, digest, counts }
        };
        Ok(match call.collective {
            Collective::AllGatherV => {
                let lengths = received()?;
                own("input", lengths[rank], input.count)?;
                let digest = fusion::digest(lengths.iter().copied());
                one(lengths, (input.count, output.count), digest)
            }
            Collective::ReduceScatterV => {
                let lengths = sent()?;
                own("output", lengths[rank], output.count)?;
                let digest = fusion::digest(lengths.iter().copied());
                one(lengths, (input.count, output.count), digest)
            }
            Collective::GatherV if is_root => {
                let lengths = received()?;
                own("input", lengths[rank], input.count)?;
                one(lengths, (input.count, output.count), 0)
            }
            Collective::ScatterV if is_root => {
                let lengths = sent()?;
                own("output", lengths[rank], output.count)?;
                one(lengths, (input.count, output.count), 0)
            }
            Collective::GatherV | Collective::ScatterV => {
                // Only the root knows more than its own part.
                let part = if call.collective == Collective::GatherV { input } else { output };
                let partition = Partition::only(rank, part.count, world_size);
                let counts = (input.count, output.count);
                Self { partition, received: None, digest: 0, counts }
            }
            _ => {
                let (sent, received) = (sent()?, received()?);
                let (kept, expected) = (sent[rank], received[rank]);
                if kept != expected {
                    return Err(format!(
                        "this rank has {kept} elements for itself, but expects {expected}"
                    ));
                }
                let received = Some(Partition::explicit(received));
                Self { received, ..one(sent, (input.count, output.count), 0) }
            }
        })
    }
}

fn all_blocks(count: usize, world_size: usize) -> Result<usize, String> {
    count
        .checked_mul(world_size)
        .ok_or_else(|| format!("no memory has room for {world_size} blocks of {count} elements"))
}

/// The counts for one buffer, if they are one for each rank and add up to its length.
pub(crate) fn check_counts<'a>(
    side: &str,
    counts: Option<&'a [usize]>,
    elements: usize,
    world_size: usize,
) -> Result<&'a [usize], String> {
    let counts = counts.ok_or_else(|| format!("no counts are given for the {side}"))?;
    if counts.len() != world_size {
        let given = counts.len();
        return Err(format!("{given} counts are given for the {side}, not one for each rank"));
    }
    let sum = counts.iter().try_fold(0usize, |sum, count| sum.checked_add(*count));
    if sum == Some(elements) {
        return Ok(counts);
    }
    let sum = sum.map_or_else(|| "more than fits in memory".to_owned(), |sum| sum.to_string());
    Err(format!("the {side} has {elements} elements, but its counts add up to {sum}"))
}

/// Whether the buffer of a rank's own block is as long as the counts say.
fn own(side: &str, count: usize, elements: usize) -> Result<(), String> {
    if count == elements {
        return Ok(());
    }
    Err(format!("the {side} has {elements} elements, but the counts say {count} for this rank"))
}
