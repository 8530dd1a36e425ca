//! Bytes that change on the way, in simulated worlds.

use paceline_collectives::simulated::SimulatedWorld;
use paceline_collectives::{Checksum, CollectiveError, ReduceOp};
use paceline_transports::EndpointError;
use paceline_transports::sim::{Fault, LinkProfile, SimConfig, SimNetwork, When};

/// What each of three ranks makes of a sum of which one bit changes between rank 1 and rank 2.
fn sum_with_a_wrong_bit(checksum: Checksum, bytes: u64) -> Vec<Result<bool, CollectiveError>> {
    let network = SimNetwork::new(SimConfig {
        seed: bytes,
        world_size: 3,
        streams_per_peer: 1,
        profile: LinkProfile::choppy(),
    });
    network.schedule(When::Sent { from: 1, to: 2, bytes }, Fault::Corrupt { from: 1, to: 2 });
    SimulatedWorld::new(network).checksum(checksum).run(|context| {
        let communicator = context.unwrap().communicator().unwrap();
        let mut data = vec![1u32; 300_000];
        communicator.all_reduce(&mut data, ReduceOp::Sum)?;
        communicator.barrier()?;
        Ok(data.iter().all(|sum| *sum == 3))
    })
}

#[test]
fn who_receives_them_says_so_and_all_ranks_are_told() {
    for bytes in [2_000, 2_001, 20_000, 100_000, 200_000] {
        let outcomes = sum_with_a_wrong_bit(Checksum::Crc32c, bytes);
        for outcome in &outcomes[..2] {
            let told = outcome.as_ref().unwrap_err();
            assert!(told.to_string().contains("bytes from rank 1"), "{told}");
            assert!(told.to_string().contains("corrupted on the way"), "{told}");
        }
        let error = outcomes[2].as_ref().unwrap_err();
        let CollectiveError::PeerLost { peer: 1, source, .. } = error else { panic!("{error}") };
        assert!(matches!(source, EndpointError::Corrupted { peer: 1, .. }), "{source}");
        assert!(source.to_string().contains("corrupted on the way"), "{source}");
        assert!(!source.is_peer_lost(), "rank 1 is there and may meet the others again");
        assert!(error.hint().is_some_and(|hint| hint.contains("ethtool -S")));
    }
}

#[test]
fn without_checksums_nobody_notices() {
    let outcomes = sum_with_a_wrong_bit(Checksum::None, 100_000);
    let wrong = outcomes.iter().filter(|outcome| matches!(outcome, Ok(false))).count();
    assert!(wrong > 0, "{outcomes:?}");
}
