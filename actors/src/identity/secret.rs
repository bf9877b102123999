//! API keys: their form, and the hash that is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::types::Secret;
use crate::store::KeyHash;

/// The prefix of every API key.
pub const PREFIX: &str = "sk-jan-";

/// 256 bits in base64url.
const BODY: usize = 43;

/// Number of characters of the secret that its hint shows: 24 bits of 256.
const SHOWN: usize = 4;

/// Generates a new key.
///
/// # Panics
/// Panics without randomness from the system, which would make every key guessable.
pub fn generate() -> Secret {
    let mut bytes = [0; 32];
    // Not from aws-lc-rs: its generator is seeded once per thread, which takes 0.1 s of it.
    getrandom::fill(&mut bytes).expect("the system's randomness is there once it has started");
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Returns whether the text has the form of a key.
pub fn is_well_formed(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|body| {
        body.len() == BODY
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// Returns the hash that is stored: 256 random bits need no slow hash.
pub fn hash(key: &str) -> KeyHash {
    Sha256::digest(key).into()
}

/// Returns a hint that distinguishes keys for a reader: the secret's last characters.
pub fn hint(key: &str) -> String {
    let shown = key.len().saturating_sub(SHOWN);
    format!("{PREFIX}…{}", key.get(shown..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let key = generate();
        assert!(is_well_formed(key.reveal()), "{}", key.reveal());
        assert_ne!(key, generate());
        assert_eq!(format!("{key:?}"), "***");
        let hint = hint(key.reveal());
        assert_eq!(hint.chars().count(), PREFIX.len() + 1 + 4);
        assert!(key.reveal().ends_with(hint.split_once('…').unwrap().1));
        assert_eq!(hash(key.reveal()), hash(key.reveal()));
    }

    #[test]
    fn other_texts() {
        let key = generate();
        let key = key.reveal();
        for text in [
            "",
            "sk-jan-",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key}A"),
            &key.replace("sk-jan", "sk-ant"),
        ] {
            assert!(!is_well_formed(text), "{text}");
        }
        assert!(!is_well_formed(&format!("{PREFIX}{}", "é".repeat(21))));
    }
}
