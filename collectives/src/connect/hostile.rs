//! What a broken rank can publish before it connects: for tests.

use paceline_transports::TransportKind;

use super::cards::{Card, Terms, is_oversubscribed};
use crate::trouble::{Trouble, cause};

/// Reads `bytes` as everything that ranks publish before they connect.
pub fn check_cards(bytes: &[u8]) {
    if let Ok(card) = serde_json::from_slice::<Card>(bytes) {
        is_oversubscribed(&[card]);
    }
    if let Ok((terms, _)) = serde_json::from_slice::<(Terms, Option<Trouble>)>(bytes) {
        let _ = terms.to_string();
    }
    if let Ok(Some(trouble)) = serde_json::from_slice::<Option<Trouble>>(bytes) {
        let told = cause([trouble.clone()].into_iter()).map(Trouble::into_error);
        let error = told.expect("there is one");
        assert_eq!(
            Trouble::new(0, TransportKind::Tcp, &error).into_error().explain(),
            error.explain()
        );
    }
}
