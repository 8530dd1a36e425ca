//! What a broken rank publishes in the store before connections are made.

/// Reads `bytes` as each kind of card.
pub fn run(bytes: &[u8]) {
    paceline_collectives::check_cards(bytes);
}

/// One of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "{\"address\":{\"Ok\":[1,2,255]},\"cpus\":[0,1],\"node_rank\":0}",
        "{\"address\":{\"Err\":{\"rank\":1,\"weight\":\"Own\",\"reason\":\"no\",\"hint\":null}},\
         \"cpus\":[],\"node_rank\":4294967295}",
        "{\"transport\":\"auto\",\"sockets\":1,\"algorithm\":\"auto\",\"tune\":\"auto\",\
         \"has_plan\":false,\"any_plan\":false,\"checksum\":\"none\"}",
        "{\"rank\":1,\"weight\":\"Consequence\",\"reason\":\"no\",\"hint\":\"try\"}",
        "null",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
