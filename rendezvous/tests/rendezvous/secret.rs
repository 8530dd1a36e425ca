use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use paceline_rendezvous::{RunId, Secret, SecretError};

#[test]
fn a_secret_survives_its_file_and_stays_out_of_debug_output() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let secret = Secret::random().unwrap();
    secret.to_file(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(*Secret::from_file(&path).unwrap().to_hex(), *secret.to_hex());
    assert!(matches!(secret.to_file(&path), Err(SecretError::Write { .. })), "no overwriting");
    assert_eq!(format!("{secret:?}"), "Secret(..)");
    assert_ne!(*Secret::random().unwrap().to_hex(), *secret.to_hex());
}

#[test]
fn exposed_and_malformed_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    Secret::random().unwrap().to_file(&path).unwrap();
    for exposed in [0o640, 0o604, 0o660, 0o610] {
        fs::set_permissions(&path, Permissions::from_mode(exposed)).unwrap();
        match Secret::from_file(&path) {
            Err(error @ SecretError::Exposed { mode, .. }) if mode == exposed => {
                assert!(error.to_string().contains(&format!("{exposed:04o}")), "{error}");
                assert!(error.hint().unwrap().contains("chmod 600"));
            }
            other => panic!("{other:?}"),
        }
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let digits = "ab".repeat(32);
    for bad in ["", "xyz", &digits[1..], &format!("{digits}0"), &digits.repeat(9)] {
        fs::write(&path, bad).unwrap();
        let error = Secret::from_file(&path).unwrap_err();
        assert!(matches!(error, SecretError::MalformedFile { .. }), "{bad:?}: {error}");
        assert!(bad.is_empty() || !error.to_string().contains(bad), "the secret must not be shown");
    }
    fs::write(&path, [0xff; 64]).unwrap();
    assert!(matches!(Secret::from_file(&path), Err(SecretError::MalformedFile { .. })));
    fs::write(&path, format!(" {digits}\n")).unwrap();
    assert_eq!(*Secret::from_file(&path).unwrap().to_hex(), digits);
    let missing = directory.path().join("missing");
    assert!(matches!(Secret::from_file(&missing), Err(SecretError::Read { .. })));
}

#[test]
fn derived_run_ids_depend_on_secret_and_label() {
    let (one, two) = (Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
    assert_eq!(RunId::derived(&one, "a"), RunId::derived(&one, "a"));
    assert_ne!(RunId::derived(&one, "a"), RunId::derived(&one, "b"));
    assert_ne!(RunId::derived(&one, "a"), RunId::derived(&two, "a"));
    let run = RunId::random().unwrap();
    assert_eq!(run.to_string().parse(), Ok(run));
}
