//! What a broken rank can announce: for tests.

use paceline_devices::{DType, ReduceOp};

use super::request::{Announcement, Entry, Operator, Request, Settings, Tensor, Verb};
use crate::reduction::Scale;

/// Reads `bytes` as an announcement and says what it is about.
pub fn check_announcement(bytes: &[u8]) {
    let Ok(announcement) = serde_json::from_slice::<Announcement>(bytes) else { return };
    for entry in &announcement.entries {
        if let Tensor::Named(_, request) = &entry.tensor {
            let _ = (request.to_string(), request.bytes(), request.fuses_with(request));
        }
    }
    let again = serde_json::to_vec(&announcement).expect("it is plain data");
    let twice: Announcement = serde_json::from_slice(&again).expect("our own encoding");
    assert_eq!(serde_json::to_vec(&twice).expect("it is plain data"), again);
}

/// An announcement of each kind of operation.
pub fn announcements_to_change() -> Vec<Vec<u8>> {
    let sum = Operator::new(Some(ReduceOp::Sum), None, Scale { before: 0.5, after: 1.0 });
    let users = Operator::new(None, Some("mine"), Scale::default());
    let verbs = [
        Verb::AllReduce(sum.clone(), None),
        Verb::AllReduce(sum.clone(), Some(DType::F16 as u8)),
        Verb::AllReduce(users, None),
        Verb::Adasum,
        Verb::ReduceScatter(sum),
        Verb::Broadcast { root: 1 },
        Verb::AllGather,
        Verb::AllGatherV,
        Verb::AllToAll,
        Verb::AllToAllV,
        Verb::Barrier,
    ];
    let announcement = |verb: &Verb| {
        let request = Request::new(verb.clone(), DType::F32, vec![10, 20], -1);
        let named = Tensor::Named("layer.1".to_owned(), request);
        let entry = |tensor| Entry { tensor, waited_ms: 7, is_expired: false };
        let entries = vec![entry(named), entry(Tensor::Cached(3))];
        let settings = Settings { fusion_threshold: 64, cache_capacity: 8 };
        let announcement = Announcement { entries, joined_in: Some(3), leaves: false, settings };
        serde_json::to_vec(&announcement).expect("it is plain data")
    };
    verbs.iter().map(announcement).collect()
}
