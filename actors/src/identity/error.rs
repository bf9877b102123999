//! Why a credential is not accepted, and why something cannot be done.

use std::time::Duration;

use super::permissions::Permissions;
use crate::store::StoreError;

/// Why a credential was not accepted. One variant a cause, so that each has its own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither a JWT nor an API key.
    #[error("the credential is neither a token nor an API key of this server")]
    Malformed,
    /// A JWT longer than any that this server makes.
    #[error("the token is longer than any that this server issues")]
    TooLong,
    /// A JWT of an algorithm other than EdDSA, `none` among them (RFC 8725, section 3.1).
    #[error("the token's algorithm is not the one that this server uses")]
    WrongAlgorithm,
    /// A JWT of a key that is not, or no longer, this server's.
    #[error("the token names a signing key that this server does not have")]
    UnknownSigningKey,
    /// The signature does not fit.
    #[error("the token's signature is invalid")]
    BadSignature,
    /// Another issuer's.
    #[error("the token was issued by another server")]
    WrongIssuer,
    /// For another audience.
    #[error("the token is for another audience")]
    WrongAudience,
    /// A refresh token where an access token is wanted or the other way round (RFC 8725, section 3.11).
    #[error("the token has the wrong type for this route")]
    WrongType,
    /// Too old.
    #[error("the token has expired")]
    Expired,
    /// Too old to be refreshed.
    #[error("the token is too old to be refreshed; sign in again")]
    RefreshWindowOver,
    /// From the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Valid for longer than this server lets any token be.
    #[error("the token is valid for longer than this server allows")]
    LifetimeTooLong,
    /// Its session was ended, by its user, by an administrator, or since a token was used twice.
    #[error("the session has ended; sign in again")]
    SessionRevoked,
    /// An older generation of the session's tokens was presented again: the session is over (RFC 9700, section 4.14).
    #[error(
        "the token was superseded by a refresh and presented again, so its session has ended; sign in again"
    )]
    TokenReused,
    /// The user is disabled.
    #[error("the user is disabled")]
    UserDisabled,
    /// No such key.
    #[error("Incorrect API key provided")]
    UnknownKey,
    /// The key has expired.
    #[error("the API key has expired")]
    ExpiredKey,
    /// The key was revoked.
    #[error("the API key was revoked")]
    RevokedKey,
    /// The key is bound to other addresses.
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

/// When to try again where nothing better is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why something about users, keys or sessions could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A credential was not accepted.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// There is no such thing, or it is somebody else's.
    #[error("the {what} {id} does not exist")]
    NotFound {
        /// `user`, `API key` or `session`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// Another user has that address.
    #[error("another user has the email address {0}")]
    EmailTaken(String),
    /// A field cannot hold that.
    #[error("{field} {problem}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A key would grant what its maker lacks.
    #[error("a key cannot grant permissions that its creator or its user does not have: {lacking}")]
    ExceedsMaker {
        /// What the maker lacks.
        lacking: Permissions,
    },
    /// A key would be more than the keys that it is made or changed with.
    #[error("{field} would exceed that of the key of this request; allowed is {allowed}")]
    Exceeds {
        /// Which field.
        field: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// It would be made with what was made with what was made with something, and so on.
    #[error(
        "at most {limit} credentials can have been made one with the other before this one; make it with an earlier one"
    )]
    TooManyParents {
        /// How many.
        limit: usize,
    },
    /// The user has as many keys as one may have, those revoked in the last 30 days among them.
    #[error("a user can have at most {limit} API keys, including those revoked in the last 30 days")]
    TooManyKeys {
        /// How many.
        limit: usize,
    },
    /// There are as many guests as may be.
    #[error(
        "there are {limit} guests, the most that {whose}; sign in, or come back once others are forgotten"
    )]
    TooManyGuests {
        /// How many.
        limit: usize,
        /// Whose limit it is.
        whose: &'static str,
    },
    /// Nobody would be left to administer.
    #[error("this is the last enabled administrator; create another one first")]
    LastAdmin,
    /// Too much is being changed at a time.
    #[error("too many changes are pending; try again in {} s", retry_after.as_secs())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The part that would do it is being restarted or did not answer in time.
    #[error("the {part} does not respond; try again in {} s", retry_after.as_secs())]
    Unavailable {
        /// Which one.
        part: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// There is no room on the disk.
    #[error("the server's disk is full")]
    StorageFull,
    /// The user keeps as much as one may.
    #[error("{0}")]
    StorageQuota(String),
    /// The store failed; what was asked for may or may not have been done.
    #[error("the database failed: {0}")]
    Storage(String),
}
