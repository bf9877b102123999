//! Errors of checking credentials and of operations on users, keys and sessions.

use std::time::Duration;

use super::permissions::Permissions;
use crate::store::StoreError;

/// The reason why a credential was not accepted. One variant per cause, so that each has its own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither a JWT nor an API key.
    #[error("the credential is neither a token nor an API key of this server")]
    Malformed,
    /// A JWT longer than any that this server issues.
    #[error("the token is longer than any that this server issues")]
    TooLong,
    /// A JWT of an algorithm other than EdDSA, including `none` (RFC 8725, section 3.1).
    #[error("the token's algorithm is not the one that this server uses")]
    WrongAlgorithm,
    /// A JWT of a key that is not, or no longer, this server's.
    #[error("the token names a signing key that this server does not have")]
    UnknownSigningKey,
    /// The signature is invalid.
    #[error("the token's signature is invalid")]
    BadSignature,
    /// A JWT of another issuer.
    #[error("the token was issued by another server")]
    WrongIssuer,
    /// A JWT for another audience.
    #[error("the token is for another audience")]
    WrongAudience,
    /// A refresh token where an access token is required, or the reverse (RFC 8725, section 3.11).
    #[error("the token has the wrong type for this route")]
    WrongType,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is too old to be refreshed.
    #[error("the token is too old to be refreshed; sign in again")]
    RefreshWindowOver,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token's lifetime exceeds the maximum of this server.
    #[error("the token is valid for longer than this server allows")]
    LifetimeTooLong,
    /// The session was ended by its user, by an administrator, or because a token was used twice.
    #[error("the session has ended; sign in again")]
    SessionRevoked,
    /// An older generation of the session's tokens was presented again, which ended the session (RFC 9700, section 4.14).
    #[error(
        "the token was superseded by a refresh and presented again, so its session has ended; sign in again"
    )]
    TokenReused,
    /// The user is disabled.
    #[error("the user is disabled")]
    UserDisabled,
    /// No key has this secret.
    #[error("Incorrect API key provided")]
    UnknownKey,
    /// The key has expired.
    #[error("the API key has expired")]
    ExpiredKey,
    /// The key was revoked.
    #[error("the API key was revoked")]
    RevokedKey,
    /// This server cannot reach its database, and so cannot know whether the credential has been revoked by another server.
    #[error("credentials cannot be checked now, because the database does not answer; try again in a moment")]
    Unchecked,
    /// The key is restricted to other addresses.
    #[error("the API key does not permit this address")]
    AddressNotAllowed,
}

impl From<StoreError> for IdentityError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Reopening | StoreError::Conflict => {
                Self::Unavailable { part: "database", retry_after: RETRY_AFTER }
            }
            StoreError::OutOfSpace(_) => Self::StorageFull,
            StoreError::Quota { .. } => Self::StorageQuota(error.to_string()),
            error => Self::Storage(error.to_string()),
        }
    }
}

/// Delay after which to retry where no better estimate is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The reason why an operation on users, keys or sessions failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A credential was not accepted.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The object does not exist, or belongs to somebody else.
    #[error("the {what} {id} does not exist")]
    NotFound {
        /// `user`, `API key` or `session`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// Another user has that email address.
    #[error("another user has the email address {0}")]
    EmailTaken(String),
    /// A field has an invalid value.
    #[error("{field} {problem}")]
    Invalid {
        /// The name of the field.
        field: &'static str,
        /// The problem and the allowed values.
        problem: String,
    },
    /// A key would grant permissions that its maker lacks.
    #[error("a key cannot grant permissions that its creator or its user does not have: {lacking}")]
    ExceedsMaker {
        /// The permissions that the maker lacks.
        lacking: Permissions,
    },
    /// A key would exceed the keys that it is created or changed with.
    #[error("{field} would exceed that of the key of this request; allowed is {allowed}")]
    Exceeds {
        /// The name of the field.
        field: &'static str,
        /// The allowed value.
        allowed: String,
    },
    /// The chain of credentials that were created one with the other would become too long.
    #[error(
        "at most {limit} credentials can have been made one with the other before this one; make it with an earlier one"
    )]
    TooManyParents {
        /// The maximum.
        limit: usize,
    },
    /// The user has the maximum number of keys, including those revoked in the last 30 days.
    #[error("a user can have at most {limit} API keys, including those revoked in the last 30 days")]
    TooManyKeys {
        /// The maximum.
        limit: usize,
    },
    /// The maximum number of guests is reached.
    #[error(
        "there are {limit} guests, the most that {whose}; sign in, or come back once others are forgotten"
    )]
    TooManyGuests {
        /// The maximum.
        limit: usize,
        /// The owner of the limit: a network or the server.
        whose: &'static str,
    },
    /// No administrator would be left.
    #[error("this is the last enabled administrator; create another one first")]
    LastAdmin,
    /// Too many changes are pending.
    #[error("too many changes are pending; try again in {} s", retry_after.as_secs())]
    Busy {
        /// Delay after which to retry.
        retry_after: Duration,
    },
    /// The responsible component is being restarted or did not answer in time.
    #[error("the {part} does not respond; try again in {} s", retry_after.as_secs())]
    Unavailable {
        /// The name of the component.
        part: &'static str,
        /// Delay after which to retry.
        retry_after: Duration,
    },
    /// The disk is full.
    #[error("the server's disk is full")]
    StorageFull,
    /// The user's storage quota is used up.
    #[error("{0}")]
    StorageQuota(String),
    /// The store failed; the requested change may or may not have been made.
    #[error("the database failed: {0}")]
    Storage(String),
}
