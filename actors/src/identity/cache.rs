//! Cache of tokens whose signature is valid, so that it is checked once and not with every request: a check takes some 50 µs,
//! more than everything else that a request costs before it is answered.
//!
//! Only the immutable parts are cached, the signature and the claims. Times, the session and the user are checked every time, so
//! an expired or revoked token is refused even if it is cached.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::token::Checked;

const SHARDS: usize = 16;

/// Maximum number of tokens per shard; 16 Ki in all, some 2 MB.
const PER_SHARD: usize = 1024;

/// SHA-256 of a token; it cannot be used as the token.
pub type TokenHash = [u8; 32];

type Shard = HashMap<TokenHash, Checked>;

/// The tokens whose signature is valid.
#[derive(Debug)]
pub struct TokenCache {
    shards: Vec<Mutex<Shard>>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl TokenCache {
    /// Returns the cache key of a token.
    pub fn hash(token: &str) -> TokenHash {
        Sha256::digest(token).into()
    }

    /// Returns the claims of a cached token.
    pub fn get(&self, hash: &TokenHash) -> Option<Checked> {
        self.shard(hash).get(hash).copied()
    }

    /// Adds a token. A full shard drops its expired tokens, or else all tokens, which are added again when they are next used.
    pub fn put(&self, hash: TokenHash, checked: Checked, now: u64) {
        let mut shard = self.shard(&hash);
        if shard.len() >= PER_SHARD {
            shard.retain(|_, checked| !checked.has_expired(now));
            if shard.len() >= PER_SHARD {
                shard.clear();
            }
        }
        shard.insert(hash, checked);
    }

    /// Removes all tokens, after a change of the signing keys.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn shard(&self, hash: &TokenHash) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(hash[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
