//! Tokens whose signature was found good, so that it is checked once and not with every request: checking one takes
//! some 50 µs, more than everything else that a request costs before it is answered.
//!
//! Only what never changes is remembered, the signature and the claims. Times, the session and the user are looked at
//! every time, so a token that has expired or was revoked is refused however well it is known.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::token::Checked;

const SHARDS: usize = 16;

/// Most tokens in one shard; 16 Ki in all, some 2 MB.
const PER_SHARD: usize = 1024;

/// SHA-256 of a token: what is remembered can't be used as one.
pub type TokenHash = [u8; 32];

type Shard = HashMap<TokenHash, Checked>;

/// Tokens whose signature is good.
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
    /// What a token is known by.
    pub fn hash(token: &str) -> TokenHash {
        Sha256::digest(token).into()
    }

    /// What it says, if it is known.
    pub fn get(&self, hash: &TokenHash) -> Option<Checked> {
        self.shard(hash).get(hash).copied()
    }

    /// Remembers it. A full shard forgets those that have expired, or else all: they come again or they don't.
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

    /// Forgets all, since the signing keys changed.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn shard(&self, hash: &TokenHash) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(hash[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
