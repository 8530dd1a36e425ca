//! Who is let in, and what the others hear.

use super::*;

#[test]
fn a_group_of_five_is_fully_connected() {
    let bind = |_| TcpTransport::bind(&config(V4, 2)).unwrap();
    for (rank, joined) in (0..5).zip(join_all((0..5).map(bind).collect(), limit())) {
        let peers: Vec<Option<u32>> = joined
            .unwrap()
            .iter()
            .map(|endpoint| endpoint.as_ref().map(|endpoint| endpoint.peer()))
            .collect();
        let expected: Vec<Option<u32>> =
            (0..5).map(|peer| (peer != rank).then_some(peer)).collect();
        assert_eq!(peers, expected);
    }
}
