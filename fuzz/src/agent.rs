//! What a broken launcher or agent says on the pipes between them: frames or an error, and what can be
//! decoded survives encoding.

/// Lets both directions of the agent protocol read `bytes`, cut as the first byte says.
pub fn run(bytes: &[u8]) {
    paceline_launcher::check_agent_protocol(bytes);
}

/// Whole conversations.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, body: &str| {
        let length = u32::try_from(body.len()).expect("they are short");
        [&length.to_le_bytes()[..], &[kind], body.as_bytes()].concat()
    };
    let bodies = [
        "[0,1]",
        "9",
        "[1,\"Stdout\",4096]",
        "{\"rank\":1,\"pid\":7,\"ending\":{\"Code\":0},\"ran\":{\"secs\":1,\"nanos\":5}}",
        "\0\0\0\0\x01text",
        "[{\"rank\":null,\"process\":{\"pid\":3,\"name\":\"sleep\"}}]",
        "{\"NotFound\":{\"program\":\"nope\",\"host\":\"node1\"}}",
        "[77,\"node1\"]",
    ];
    let preamble = b"paceline-agent\x00\x03".to_vec();
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for kind in 0..96 {
        let frames = bodies.iter().flat_map(|body| frame(kind, body)).collect();
        seeds.push([vec![7], preamble.clone(), frames].concat());
    }
    seeds
}
