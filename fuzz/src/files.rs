//! Whatever key and value a rank has for the store: refused, or found again as they are, and in the
//! directory of the store alone.

use std::time::Instant;

use paceline_rendezvous::{InProcessStore, Store};

use crate::Reader;

/// The first piece is a key, the rest its value.
pub fn run(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let key = String::from_utf8_lossy(reader.piece()).into_owned();
    let other = String::from_utf8_lossy(reader.piece()).into_owned();
    let value = reader.rest();
    check(&InProcessStore::new(), &key, &other, value);
}

/// Stores two entries and looks for them.
pub(crate) fn check(store: &dyn Store, key: &str, other: &str, value: &[u8]) {
    let stored = store.set(key, value).is_ok();
    assert_eq!(stored, !key.is_empty(), "only what has no name is refused here");
    if store.set(other, b"other").is_ok() && stored && other != key {
        assert_eq!(store.get(key, Instant::now()).expect("it is there"), value);
    }
}

/// Names that could be mistaken for something else.
pub fn seeds() -> Vec<Vec<u8>> {
    let names = ["a", "../a", "/etc/passwd", "a/b", ".", "..", "key-00", "a.partial", "", "A\0b"];
    let piece = |name: &str| {
        let length = u8::try_from(name.len()).expect("they are short");
        [&[length], name.as_bytes()].concat()
    };
    let pairs = names.iter().zip(names.iter().skip(1));
    pairs.map(|(one, two)| [piece(one), piece(two), b"value".to_vec()].concat()).collect()
}
