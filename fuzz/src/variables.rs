//! Whatever is in the environment: a place in the job that keeps its promises, or an error.

use std::collections::BTreeMap;

use paceline_rendezvous::{RankInfo, env};

use crate::Reader;

/// Numbers of variables, each with its value.
pub fn run(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut environment: BTreeMap<&str, String> = BTreeMap::new();
    while !reader.is_empty() {
        let name = env::ALL[usize::from(reader.byte()) % env::ALL.len()].name;
        environment.insert(name, String::from_utf8_lossy(reader.piece()).into_owned());
    }
    let Ok((info, _)) = RankInfo::from_environment(&environment) else { return };
    assert!(info.rank < info.world_size);
    assert!(info.local_rank < info.local_size && info.local_size <= info.world_size);
    assert!(info.node_rank < info.node_count);
}

/// Places in jobs, by our variables.
pub fn seeds() -> Vec<Vec<u8>> {
    let variable = |name: &str, value: &str| {
        let index = env::ALL.iter().position(|variable| variable.name == name);
        let index = index.and_then(|index| u8::try_from(index).ok()).unwrap_or(0);
        let length = u8::try_from(value.len()).expect("they are short");
        [&[index, length], value.as_bytes()].concat()
    };
    let place = |numbers: [&str; 6]| {
        let names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "NODE_RANK", "NODE_COUNT"];
        let set = names.iter().zip(numbers);
        set.flat_map(|(name, number)| variable(&format!("PACELINE_{name}"), number)).collect()
    };
    vec![place(["0", "1", "0", "1", "0", "1"]), place(["3", "4", "1", "2", "1", "2"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_seeds_exist() {
        for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "NODE_RANK", "NODE_COUNT"] {
            let name = format!("PACELINE_{name}");
            assert!(env::ALL.iter().any(|variable| variable.name == name), "{name}");
        }
        assert!(env::ALL.len() <= 256, "a byte chooses one");
    }
}
