//! Issuing and checking of tokens with the current signing keys.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use super::cache::TokenCache;
use super::error::AuthError;
use super::family::FamilyRules;
use super::sessions::Granted;
use super::signing::{KeyRing, SigningKeyStore};
use super::token::{Checked, Grant, MAX_LENGTH, Parties, TokenType};
use super::types::{RefreshProof, TokenPair};
use crate::config::AuthConfig;

/// Maximum lifetime of an access token in seconds. No token lives longer than the settings say, but tokens issued before a
/// setting was lowered may live this long.
const MAX_ACCESS_S: u64 = 24 * 3600;
/// The same for refresh tokens.
const MAX_REFRESH_S: u64 = 365 * 24 * 3600;

/// Interval in seconds at which replaced keys are deleted, in addition to when the folder changes.
const SWEEP_S: u64 = 3600;

/// Issuer and verifier of this server's tokens.
#[derive(Debug)]
pub struct Tokens {
    parties: Parties,
    access_ttl_s: u64,
    refresh_window_s: u64,
    expired_token_refresh_s: u64,
    session_lifetime_s: u64,
    keys: Box<dyn SigningKeyStore>,
    ring: RwLock<Arc<KeyRing>>,
    /// Times at which the keys of `ring` had last changed and were read (epoch seconds).
    read: Mutex<(Option<SystemTime>, u64)>,
    cache: TokenCache,
}

impl Tokens {
    /// Reads the signing keys, and creates the first one if there is none.
    ///
    /// # Errors
    /// The keys cannot be read or written.
    pub fn open(config: &AuthConfig, keys: Box<dyn SigningKeyStore>, now: u64) -> io::Result<Self> {
        let keep_ms = keep_ms(config.access_token_ttl_s, config.refresh_window_s);
        let ring = keys.load(now.saturating_mul(1000), keep_ms)?;
        let tokens = Self {
            parties: Parties { issuer: config.issuer.clone(), audience: config.audience.clone() },
            access_ttl_s: config.access_token_ttl_s,
            refresh_window_s: config.refresh_window_s,
            expired_token_refresh_s: config.expired_token_refresh_s,
            session_lifetime_s: config.session_lifetime_s,
            read: Mutex::new((None, now)),
            ring: RwLock::new(Arc::new(ring)),
            cache: TokenCache::default(),
            keys,
        };
        Ok(tokens)
    }

    /// Reads the signing keys again if they have changed, and regularly to delete expired ones.
    ///
    /// # Errors
    /// They cannot be read; those known so far remain.
    pub fn reload(&self, now: u64) -> io::Result<()> {
        let changed_at = self.keys.changed_at()?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 == Some(changed_at) && now.abs_diff(read.1) < SWEEP_S {
            return Ok(());
        }
        let keep_ms = keep_ms(self.access_ttl_s, self.refresh_window_s);
        let ring = self.keys.load(now.saturating_mul(1000), keep_ms)?;
        // A change within the resolution of the folder's time, or the deletion of a dead key, is read once more.
        *read = (Some(changed_at), now);
        let before = self.ring();
        if before.kids() != ring.kids() {
            tracing::info!(kid = ring.newest().kid, honoured = ring.kids().len(), "signing keys read again");
            *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
            self.cache.clear();
        }
        Ok(())
    }

    /// Returns the grant of a valid access token.
    ///
    /// # Errors
    /// The reason why it is not valid.
    pub fn access(&self, token: &str, now: u64) -> Result<Grant, AuthError> {
        let checked = self.signed(token, now)?;
        checked.check_times(now, self.access_ttl_s.max(MAX_ACCESS_S))?;
        Ok(checked.grant)
    }

    /// Returns the grant of a token that is presented for new ones.
    ///
    /// # Errors
    /// The reason why it is not valid.
    pub fn refreshable(&self, proof: RefreshProof<'_>, now: u64) -> Result<Grant, AuthError> {
        match proof {
            RefreshProof::Access(token) => {
                let checked = self.parties.check(&self.ring(), TokenType::Access, token)?;
                checked.check_start(now, self.access_ttl_s.max(MAX_ACCESS_S))?;
                // An access token travels with every request and is stored in more places than a refresh token.
                if checked.has_expired(now.saturating_sub(self.expired_token_refresh_s)) {
                    return Err(AuthError::RefreshWindowOver);
                }
                Ok(checked.grant)
            }
            RefreshProof::Refresh(token) => {
                let checked = self.parties.check(&self.ring(), TokenType::Refresh, token)?;
                checked.check_times(now, self.refresh_window_s.max(MAX_REFRESH_S)).map_err(|error| {
                    if error == AuthError::Expired { AuthError::RefreshWindowOver } else { error }
                })?;
                Ok(checked.grant)
            }
        }
    }

    /// Issues the tokens of a generation. None is valid for longer than its session.
    pub fn issue(&self, granted: Granted, now: u64) -> TokenPair {
        let ring = self.ring();
        let Granted { grant, ends_at } = granted;
        let left = ends_at.saturating_sub(now);
        let (access_s, refresh_s) = (self.access_ttl_s.min(left), self.refresh_window_s.min(left));
        TokenPair {
            access_token: self.parties.issue(&ring, TokenType::Access, grant, now, access_s),
            expires_in: access_s,
            refresh_token: self.parties.issue(&ring, TokenType::Refresh, grant, now, refresh_s),
            session: grant.session,
            user: grant.user,
        }
    }

    /// Returns the number of seconds after its sign-in at which a session ends.
    pub const fn session_lifetime_s(&self) -> u64 {
        self.session_lifetime_s
    }

    /// Returns the current keys.
    pub fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn signed(&self, token: &str, now: u64) -> Result<Checked, AuthError> {
        if token.len() > MAX_LENGTH {
            return Err(AuthError::TooLong);
        }
        let hash = TokenCache::hash(token);
        if let Some(checked) = self.cache.get(&hash) {
            return Ok(checked);
        }
        let checked = self.parties.check(&self.ring(), TokenType::Access, token)?;
        if !checked.has_expired(now) {
            self.cache.put(hash, checked, now);
        }
        Ok(checked)
    }
}

/// Returns how many milliseconds after its replacement a key may have valid tokens. Expired ones refresh no longer than the
/// window since their session's last refresh, so `auth.expired_token_refresh_s` adds nothing.
pub fn keep_ms(access_ttl_s: u64, refresh_window_s: u64) -> u64 {
    access_ttl_s.max(refresh_window_s).saturating_mul(1000)
}

/// Returns the rules by which a session's generations are judged.
pub fn family_rules(config: &AuthConfig) -> FamilyRules {
    FamilyRules {
        window_s: config.refresh_window_s,
        grace_s: config.refresh_grace_s,
        lifetime_s: config.session_lifetime_s,
    }
}
