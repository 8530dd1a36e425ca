//! Whatever is in the environment: a place in the job that keeps its promises, or an error.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use paceline_rendezvous::{RankInfo, env};

fuzz_target!(|input: Vec<(u8, String)>| {
    let environment: BTreeMap<&str, String> = input
        .into_iter()
        .map(|(index, value)| (env::ALL[usize::from(index) % env::ALL.len()].name, value))
        .collect();
    let Ok((info, _)) = RankInfo::from_environment(&environment) else { return };
    assert!(info.rank < info.world_size);
    assert!(info.local_rank < info.local_size && info.local_size <= info.world_size);
    assert!(info.node_rank < info.node_count);
});
