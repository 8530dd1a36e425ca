use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use paceline_rendezvous::message::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use paceline_rendezvous::{FileStore, InProcessStore, Store, StoreError};

use crate::support::{config, connect, generous, soon, start};

/// What every store must do; `one` and `two` are two ranks' views of it.
fn conformance(one: Arc<dyn Store>, two: Arc<dyn Store>) {
    one.set("a", b"first").unwrap();
    assert_eq!(two.get("a", generous()).unwrap(), b"first");
    two.set("a", b"second").unwrap();
    assert_eq!(one.get("a", soon()).unwrap(), b"second");
    one.set("empty", b"").unwrap();
    assert_eq!(two.get("empty", generous()).unwrap(), b"");

    match two.get("nobody sets this", soon()) {
        Err(error @ StoreError::TimedOut { .. }) => {
            assert!(error.to_string().contains("nobody sets this"), "{error}");
            assert!(error.is_timeout());
        }
        other => panic!("{other:?}"),
    }

    let waiting = Arc::clone(&two);
    let getter = std::thread::Builder::new()
        .spawn(move || waiting.get("later/[::1]:99 \u{fc}", generous()))
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    one.set("later/[::1]:99 \u{fc}", b"now").unwrap();
    assert_eq!(getter.join().unwrap().unwrap(), b"now");

    let long_key = "k".repeat(KEY_BYTES_MAX);
    let long_value = vec![0xa5; VALUE_BYTES_MAX];
    one.set(&long_key, &long_value).unwrap();
    assert_eq!(two.get(&long_key, generous()).unwrap(), long_value);
    for bad in ["", &"k".repeat(KEY_BYTES_MAX + 1)] {
        assert!(matches!(one.set(bad, b""), Err(StoreError::KeyLength { .. })));
        assert!(matches!(one.get(bad, soon()), Err(StoreError::KeyLength { .. })));
    }
    let too_long = vec![0; VALUE_BYTES_MAX + 1];
    assert!(matches!(one.set("v", &too_long), Err(StoreError::ValueTooLong { .. })));
}

#[test]
fn in_process() {
    let store = InProcessStore::new();
    conformance(Arc::new(store.clone()), Arc::new(store));
}

#[test]
fn files() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("job");
    let one = FileStore::open(&path).unwrap();
    let two = FileStore::open(&path).unwrap();
    conformance(Arc::new(one), Arc::new(two));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(!entry.file_name().to_string_lossy().ends_with(".partial"), "{entry:?}");
    }
}

#[test]
fn network() {
    let (server, _events) = start(config(2));
    let one = connect(&server, 0).unwrap();
    let two = connect(&server, 1).unwrap();
    conformance(Arc::new(one), Arc::new(two));
}

#[test]
fn keys_do_not_collide_in_files() {
    let parent = tempfile::tempdir().unwrap();
    let store = FileStore::open(&parent.path().join("job")).unwrap();
    let keys = ["a", "a/b", "../a", ".a", "a.partial", "A", "key-a", "a b", "\0"];
    for key in keys {
        store.set(key, key.as_bytes()).unwrap();
    }
    for key in keys {
        assert_eq!(store.get(key, soon()).unwrap(), key.as_bytes());
    }
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "a key left its directory");
    for key in keys {
        store.remove(key).unwrap();
    }
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "the empty directory stayed");
    assert!(FileStore::open_existing(store.directory()).unwrap().is_none());
}

#[test]
fn a_directory_or_file_open_to_others_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("job");
    let store = FileStore::open(&path).unwrap();
    store.set("a", b"1").unwrap();
    fs::set_permissions(path.join("a"), Permissions::from_mode(0o622)).unwrap();
    assert!(matches!(store.get("a", soon()), Err(StoreError::NotPrivate { .. })));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let error = FileStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("0755"), "{error}");
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    let link = parent.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(FileStore::open(&link), Err(StoreError::NotPrivate { .. })));
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(FileStore::open(&file), Err(StoreError::NotPrivate { .. })));
}
