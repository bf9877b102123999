//! Tokens: JWTs ([RFC 7519]) signed with Ed25519 and checked according to [RFC 8725].
//!
//! The algorithm is pinned, a key is looked up by id among this server's own, and no reference in a token is followed. Access and
//! refresh tokens are distinguished by header and by claim, and issuer and audience must be this server's. The times among the
//! claims are checked apart from the signature, so that an access token that has expired can still refresh its session, and so
//! that the clock is an argument.
//!
//! [RFC 7519]: https://www.rfc-editor.org/rfc/rfc7519
//! [RFC 8725]: https://www.rfc-editor.org/rfc/rfc8725

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::AuthError;
use super::ids::{SessionId, UserId};
use super::signing::KeyRing;
use super::types::Secret;

/// Maximum length of a token in bytes. No token issued here is longer; longer ones are refused unread.
pub const MAX_LENGTH: usize = 4096;

/// Seconds that a token's `nbf` may be ahead of this server's clock: two servers of one data folder, or a clock set back.
const LEEWAY_S: u64 = 30;

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// Presented with requests.
    Access,
    /// Presented for new tokens only.
    Refresh,
}

impl TokenType {
    /// Returns the header's `typ`: `at+jwt` is RFC 9068's.
    const fn header(self) -> &'static str {
        match self {
            Self::Access => "at+jwt",
            Self::Refresh => "rt+jwt",
        }
    }
}

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// The audience.
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The session.
    pub sid: SessionId,
    /// The token's own id.
    pub jti: String,
    /// Time of issue (epoch seconds).
    pub iat: u64,
    /// Time from which the token is valid.
    pub nbf: u64,
    /// Time at which the token expires.
    pub exp: u64,
    /// The token's purpose.
    pub typ: TokenType,
    /// The generation of the session's tokens that it belongs to.
    #[serde(rename = "gen")]
    pub generation: u32,
}

/// The claims that the tokens of one session's generation share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The user that owns the session.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// The generation.
    pub generation: u32,
}

/// The part of a token that is checked after its signature and origin are found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The grant that the token stands for.
    pub grant: Grant,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl Checked {
    /// Checks that the token is valid at `now`.
    ///
    /// # Errors
    /// `NotYetValid`, `LifetimeTooLong` or `Expired`.
    pub fn check_times(&self, now: u64, max_lifetime_s: u64) -> Result<(), AuthError> {
        self.check_start(now, max_lifetime_s)?;
        if self.has_expired(now) { Err(AuthError::Expired) } else { Ok(()) }
    }

    /// Checks like [`check_times`](Self::check_times), but accepts an expired token.
    ///
    /// # Errors
    /// `NotYetValid` or `LifetimeTooLong`.
    pub fn check_start(&self, now: u64, max_lifetime_s: u64) -> Result<(), AuthError> {
        if now.saturating_add(LEEWAY_S) < self.nbf {
            return Err(AuthError::NotYetValid);
        }
        if self.exp.saturating_sub(self.iat.min(self.nbf)) > max_lifetime_s {
            return Err(AuthError::LifetimeTooLong);
        }
        Ok(())
    }

    /// Returns whether the token has expired at `now`.
    pub const fn has_expired(&self, now: u64) -> bool {
        now >= self.exp
    }
}

/// The issuer and the audience of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
}

impl Parties {
    /// Issues a signed token.
    pub fn issue(&self, ring: &KeyRing, typ: TokenType, grant: Grant, now: u64, lifetime_s: u64) -> Secret {
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: grant.user,
            sid: grant.session,
            jti: Uuid::new_v4().as_simple().to_string(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(lifetime_s),
            typ,
            generation: grant.generation,
        };
        sign(ring, &claims)
    }

    /// Checks a token except for its times, and returns its claims.
    ///
    /// # Errors
    /// The reason why it is not accepted.
    pub fn check(&self, ring: &KeyRing, typ: TokenType, token: &str) -> Result<Checked, AuthError> {
        if token.len() > MAX_LENGTH {
            return Err(AuthError::TooLong);
        }
        let header = RawHeader::of(token).ok_or(AuthError::Malformed)?;
        if header.alg != "EdDSA" {
            return Err(AuthError::WrongAlgorithm);
        }
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: extensions that are not understood make the token invalid. None is understood here.
            return Err(AuthError::Malformed);
        }
        let key = header.kid.and_then(|kid| ring.find(&kid)).ok_or(AuthError::UnknownSigningKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        // Checked below, each with an error of its own.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let data = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation);
        let claims = data.map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => AuthError::BadSignature,
            _ => AuthError::Malformed,
        })?;
        let claims = claims.claims;
        if header.typ.as_deref() != Some(typ.header()) || claims.typ != typ {
            return Err(AuthError::WrongType);
        }
        if claims.iss != self.issuer {
            return Err(AuthError::WrongIssuer);
        }
        if claims.aud != self.audience {
            return Err(AuthError::WrongAudience);
        }
        let grant = Grant { user: claims.sub, session: claims.sid, generation: claims.generation };
        Ok(Checked { grant, iat: claims.iat, nbf: claims.nbf, exp: claims.exp })
    }
}

fn sign(ring: &KeyRing, claims: &Claims) -> Secret {
    let key = ring.newest();
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(claims.typ.header().to_owned());
    header.kid = Some(key.kid.clone());
    let token = jsonwebtoken::encode(&header, claims, &key.encoding);
    Secret::new(token.expect("claims of texts and numbers have a JSON form, and the key was read as Ed25519"))
}

/// A header before it is verified.
#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde_json::Value>,
}

impl RawHeader {
    fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, _, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
            return None;
        };
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
