use std::time::Duration;

use jan_actors::config::{AnonymousPolicy, AuthConfig, GuestPolicy};
use serde::{Deserialize, Serialize};

/// `[auth]`: the actors' part of it, and sign-in at a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthSettings {
    /// Policy for callers without a credential.
    pub anonymous: AnonymousPolicy,
    /// Policy for creating guests.
    pub guests: GuestPolicy,
    /// Maximum number of guests created from one address.
    pub max_guests_per_address: usize,
    /// Maximum number of guests.
    pub max_guests: usize,
    /// A guest that is unused for this long is deleted (seconds).
    pub guest_idle_s: u64,
    /// `iss` of the tokens issued here.
    pub issuer: String,
    /// `aud` of the tokens issued here.
    pub audience: String,
    /// Lifetime of an access token (seconds).
    pub access_token_ttl_s: u64,
    /// Time after its last refresh during which a session can be refreshed (seconds).
    pub refresh_window_s: u64,
    /// Time after its expiry during which an access token can still refresh its session (seconds).
    pub expired_token_refresh_s: u64,
    /// Lifetime of a session after its sign-in, regardless of refreshes (seconds).
    pub session_lifetime_s: u64,
    /// Time during which the replaced tokens are still accepted (seconds).
    pub refresh_grace_s: u64,
    /// Longest time that credentials are accepted without news from a shared database (milliseconds).
    pub max_staleness_ms: u64,
    /// Sign-in with Google.
    pub google: GoogleConfig,
}

impl Default for AuthSettings {
    fn default() -> Self {
        let actors = AuthConfig::default();
        Self {
            anonymous: actors.anonymous,
            guests: actors.guests,
            max_guests_per_address: actors.max_guests_per_address,
            max_guests: actors.max_guests,
            guest_idle_s: actors.guest_idle_s,
            issuer: actors.issuer,
            audience: actors.audience,
            access_token_ttl_s: actors.access_token_ttl_s,
            refresh_window_s: actors.refresh_window_s,
            expired_token_refresh_s: actors.expired_token_refresh_s,
            session_lifetime_s: actors.session_lifetime_s,
            refresh_grace_s: actors.refresh_grace_s,
            max_staleness_ms: actors.max_staleness_ms,
            google: GoogleConfig::default(),
        }
    }
}

impl AuthSettings {
    /// Returns the actors' part.
    #[must_use]
    pub fn actors(&self) -> AuthConfig {
        AuthConfig {
            anonymous: self.anonymous,
            guests: self.guests,
            max_guests_per_address: self.max_guests_per_address,
            max_guests: self.max_guests,
            guest_idle_s: self.guest_idle_s,
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            access_token_ttl_s: self.access_token_ttl_s,
            refresh_window_s: self.refresh_window_s,
            expired_token_refresh_s: self.expired_token_refresh_s,
            session_lifetime_s: self.session_lifetime_s,
            refresh_grace_s: self.refresh_grace_s,
            max_staleness_ms: self.max_staleness_ms,
        }
    }
}

/// `[auth.google]`: Google, or another OpenID provider.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GoogleConfig {
    /// This server's id at the provider.
    pub client_id: Option<String>,
    /// This server's secret at the provider.
    pub client_secret: Option<String>,
    /// This server's callback URL as browsers reach it.
    pub redirect_url: Option<String>,
    /// The URL of the provider's authorization page.
    pub auth_url: String,
    /// The URL at which the provider exchanges codes.
    pub token_url: String,
    /// The URL of the provider's public keys.
    pub jwks_url: String,
    /// `iss` of the provider's id_tokens.
    pub issuer: String,
    /// Domains whose accounts may sign in; empty allows any.
    pub allowed_domains: Vec<String>,
    /// URLs that a sign-in may return to.
    pub allowed_return_urls: Vec<String>,
    /// Time limit for each of the provider's responses (milliseconds).
    pub timeout_ms: u64,
    /// Time that a person may take at the provider's page (seconds).
    pub state_ttl_s: u64,
}

impl std::fmt::Debug for GoogleConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GoogleConfig").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl Default for GoogleConfig {
    fn default() -> Self {
        Self {
            client_id: None,
            client_secret: None,
            redirect_url: None,
            auth_url: "https://accounts.google.com/o/oauth2/v2/auth".to_owned(),
            token_url: "https://oauth2.googleapis.com/token".to_owned(),
            jwks_url: "https://www.googleapis.com/oauth2/v3/certs".to_owned(),
            issuer: "https://accounts.google.com".to_owned(),
            allowed_domains: Vec::new(),
            allowed_return_urls: Vec::new(),
            timeout_ms: 10_000,
            state_ttl_s: 600,
        }
    }
}

impl GoogleConfig {
    /// [`Self::timeout_ms`] as a duration.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// [`Self::state_ttl_s`] as a duration.
    #[must_use]
    pub fn state_ttl(&self) -> Duration {
        Duration::from_secs(self.state_ttl_s)
    }
}
