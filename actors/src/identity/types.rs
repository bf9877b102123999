//! Users, keys, sessions and principals: the types shared by the edge and the actors.
//!
//! Times are seconds since the epoch.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ids::{KeyId, SessionId, UserId};
use super::party::{ClientNet, Party};
use super::permissions::{Permissions, Right};
use super::restrictions::{Network, Restrictions};
use crate::limits::LimitOverrides;

/// The kind of a user, ordered by what it is allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserKind {
    /// Unidentified; becomes a member by signing in.
    Guest,
    /// Signed in, or created by an administrator.
    Member,
    /// Allowed to do everything.
    Admin,
}

impl UserKind {
    /// Returns the maximum permissions of a credential of such a user.
    #[must_use]
    pub const fn permissions(self) -> Permissions {
        match self {
            Self::Guest | Self::Member => Permissions::MEMBER,
            Self::Admin => Permissions::ALL,
        }
    }
}

/// A user's identity at an identity provider (OpenID Connect Core, section 2: `iss` and `sub` together).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExternalId {
    /// The provider's issuer.
    pub issuer: String,
    /// The user's id at the issuer, which never changes, unlike the email address.
    pub subject: String,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// The user's id.
    pub id: UserId,
    /// The user's kind.
    pub kind: UserKind,
    /// The email address in lower case, unique among users. `None` for a guest.
    pub email: Option<String>,
    /// The display name.
    pub name: String,
    /// The URL of a picture, from the identity provider.
    #[serde(default)]
    pub picture: Option<String>,
    /// Time of creation.
    pub created_at: u64,
    /// True if the user is disabled: none of its credentials is accepted, but nothing of the user is deleted.
    #[serde(default)]
    pub disabled: bool,
    /// Limits that override those of the settings.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// The network that a guest was created from, which counts towards that network's limit of guests; `None` after a sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_net: Option<ClientNet>,
    /// The user's identity at the identity provider.
    #[serde(default)]
    pub external: Option<ExternalId>,
    /// Time at which the user was last disabled; share links created until then no longer work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares_ended_at: Option<u64>,
}

/// Changes to a user; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserUpdate {
    /// The new name.
    pub name: Option<String>,
    /// True disables the user, false enables it.
    pub disabled: Option<bool>,
    /// The limits, which replace all limits of the user.
    pub limits: Option<LimitOverrides>,
    /// The new kind.
    pub kind: Option<UserKind>,
}

/// A person authenticated by an identity provider; the caller has checked that the email address is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalProfile {
    /// The identity at the provider.
    pub id: ExternalId,
    /// The verified address.
    pub email: String,
    /// The display name; may be empty.
    pub name: String,
    /// The URL of a picture.
    pub picture: Option<String>,
}

/// The outcome of a sign-in through an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// The user.
    pub user: UserRecord,
    /// True if the user is new to this server, also if it was a guest before.
    pub created: bool,
    /// The guest that turned out to be an existing user; the guest is deleted, and its data belongs to the user.
    pub merged_guest: Option<UserId>,
}

/// An API key without its secret, of which only a hash is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// The key's id.
    pub id: KeyId,
    /// The user that owns the key.
    pub user: UserId,
    /// The display name.
    pub name: String,
    /// The secret's beginning and end, which distinguish keys for a reader: `sk-jan-…x7Qk`.
    pub hint: String,
    /// The maximum permissions of the key. Permissions that the user lacks are not granted either.
    pub permissions: Permissions,
    /// Time of creation.
    pub created_at: u64,
    /// Time at which the key was last accepted; stored with a delay of up to a minute. `None`: never.
    #[serde(default)]
    pub last_used_at: Option<u64>,
    /// Time from which the key is refused. `None`: never.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// Time of its revocation; a revoked key is kept for a while, so that its user gets a specific error.
    #[serde(default)]
    pub revoked_at: Option<u64>,
    /// Limits of this key, in addition to its user's.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// The addresses and models that the key is restricted to.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub only: Restrictions,
    /// The key of the same user that this one was created with. This key grants no more than its parent and ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<KeyId>,
    /// The credential that this key was created with, followed by the one that that one was created with, and so on; empty for a
    /// key with a parent. The key ends with any of them where that is requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_by: Vec<Origin>,
}

/// The id of a key or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CredentialId {
    /// An API key.
    Key(KeyId),
    /// A login session.
    Session(SessionId),
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Session(session) => session.fmt(f),
        }
    }
}

/// A credential that was used to create a key or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The user that owns the credential.
    pub user: UserId,
    /// The credential.
    pub with: CredentialId,
}

/// The caller that creates or changes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// The caller's permissions.
    pub permissions: Permissions,
    /// The credential of the caller; `None` for the server itself.
    pub with: Option<Origin>,
}

impl Maker {
    /// Returns the key that the caller acts with, if it is one of `user`.
    pub(crate) fn own_key(&self, user: UserId) -> Option<KeyId> {
        match self.with {
            Some(Origin { user: own, with: CredentialId::Key(key) }) if own == user => Some(key),
            _ => None,
        }
    }
}

impl From<Permissions> for Maker {
    fn from(permissions: Permissions) -> Self {
        Self { permissions, with: None }
    }
}

impl From<&Principal> for Maker {
    fn from(principal: &Principal) -> Self {
        let with = match principal.kind {
            PrincipalKind::User { user, session } => Some((user, CredentialId::Session(session))),
            PrincipalKind::Key { user, key } => Some((user, CredentialId::Key(key))),
            PrincipalKind::Anonymous { .. } => None,
        };
        let with = with.map(|(user, with)| Origin { user, with });
        Self { permissions: principal.permissions, with }
    }
}

/// A key to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// The display name.
    pub name: String,
    /// The permissions that it grants.
    pub permissions: Permissions,
    /// Time from which it is refused. `None`: never.
    pub expires_at: Option<u64>,
    /// The key's own limits.
    pub limits: LimitOverrides,
    /// The addresses and models that the key is restricted to.
    pub only: Restrictions,
}

/// Changes to a key; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUpdate {
    /// The new name.
    pub name: Option<String>,
    /// The permissions, which replace all of the key's; at most the maker's.
    pub permissions: Option<Permissions>,
    /// Time at which the key expires; `Some(None)`: never.
    pub expires_at: Option<Option<u64>>,
    /// The limits, which replace all of the key's own.
    pub limits: Option<LimitOverrides>,
    /// The models, which replace all of the key's; `Some(None)`: any.
    pub models: Option<Option<Vec<String>>>,
    /// The addresses, which replace all of the key's; `Some(None)`: any.
    pub addresses: Option<Option<Vec<Network>>>,
}

/// A key just created, with its secret, which is stored nowhere.
#[derive(Clone, Debug)]
pub struct CreatedKey {
    /// The record that is stored.
    pub record: ApiKeyRecord,
    /// The secret, to be shown once.
    pub secret: Secret,
}

/// A login session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session's id.
    pub id: SessionId,
    /// The user that owns the session.
    pub user: UserId,
    /// Time at which the user signed in.
    pub created_at: u64,
    /// Time of the last refresh, or of the session's beginning.
    pub refreshed_at: u64,
    /// Time until which the session can be refreshed.
    pub expires_at: u64,
    /// The credential that the session was created with, if it did not begin with a sign-in.
    pub made_by: Option<CredentialId>,
}

/// The tokens returned by signing in and refreshing.
#[derive(Clone, Debug)]
pub struct TokenPair {
    /// A JWT for `Authorization: Bearer`.
    pub access_token: Secret,
    /// Lifetime of the access token in seconds.
    pub expires_in: u64,
    /// A JWT that only [`Identity::refresh`](super::Identity::refresh) accepts.
    pub refresh_token: Secret,
    /// The session that both tokens belong to.
    pub session: SessionId,
    /// The user that owns the session.
    pub user: UserId,
}

/// The token presented to refresh a session.
#[derive(Clone, Copy, Debug)]
pub enum RefreshProof<'a> {
    /// The access token, possibly expired.
    Access(&'a str),
    /// The refresh token.
    Refresh(&'a str),
}

/// Text that must not be logged. Only [`reveal`](Self::reveal) returns it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The authenticated caller of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// A user, through a session.
    User {
        /// The user.
        user: UserId,
        /// The session.
        session: SessionId,
    },
    /// A user's API key.
    Key {
        /// The user that owns the key.
        user: UserId,
        /// The key.
        key: KeyId,
    },
    /// An anonymous caller of a network.
    Anonymous {
        /// The client's network.
        net: ClientNet,
    },
}

/// The caller of a request and its permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The caller.
    pub kind: PrincipalKind,
    /// The caller's permissions. None for an anonymous caller: the edge decides which routes are open to those.
    pub permissions: Permissions,
    /// The user's kind; `None` for an anonymous caller.
    pub user_kind: Option<UserKind>,
    /// The network whose limits apply to a guest; `None` for everybody else, and before [`Principal::at`].
    pub guest_net: Option<ClientNet>,
    /// The user's own limits.
    pub user_limits: LimitOverrides,
    /// The key's own limits.
    pub key_limits: LimitOverrides,
    /// The keys that the key was created with, and their own limits, which this key's requests count towards, too.
    pub parents: [Option<(KeyId, LimitOverrides)>; MAX_PARENTS],
}

/// Maximum number of ancestors of a key: keys that were created one with the other, ending with this one.
pub const MAX_PARENTS: usize = 3;

impl Principal {
    /// Returns the principal of a caller without a credential.
    #[must_use]
    pub fn anonymous(address: IpAddr) -> Self {
        Self {
            kind: PrincipalKind::Anonymous { net: address.into() },
            permissions: Permissions::NONE,
            user_kind: None,
            guest_net: None,
            user_limits: LimitOverrides::default(),
            key_limits: LimitOverrides::default(),
            parents: [None; MAX_PARENTS],
        }
    }

    /// Returns the same principal with the client's address, whose limits apply to a guest.
    #[must_use]
    pub fn at(self, address: IpAddr) -> Self {
        let is_guest = self.user_kind == Some(UserKind::Guest);
        Self { guest_net: is_guest.then(|| address.into()), ..self }
    }

    /// Returns the entity that limits, shares and places of the caller's requests are counted for.
    #[must_use]
    pub const fn party(&self) -> Party {
        match (self.kind, self.guest_net) {
            (PrincipalKind::Anonymous { net }, _) | (_, Some(net)) => Party::Net(net),
            (PrincipalKind::User { user, .. } | PrincipalKind::Key { user, .. }, None) => Party::User(user),
        }
    }

    /// Returns the user, if there is one.
    #[must_use]
    pub const fn user(&self) -> Option<UserId> {
        match self.kind {
            PrincipalKind::User { user, .. } | PrincipalKind::Key { user, .. } => Some(user),
            PrincipalKind::Anonymous { .. } => None,
        }
    }

    /// Returns the session, if a session's token was presented.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self.kind {
            PrincipalKind::User { session, .. } => Some(session),
            PrincipalKind::Key { .. } | PrincipalKind::Anonymous { .. } => None,
        }
    }

    /// Returns whether the principal has a right.
    #[must_use]
    pub const fn may(&self, right: Right) -> bool {
        self.permissions.has(right)
    }

    /// Returns the fair-queueing key of the engine: the user, or the network of an anonymous caller or a guest.
    #[must_use]
    pub fn fairness_key(&self) -> String {
        self.party().to_string()
    }
}

/// A part of a list, in order of creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items of this part.
    pub items: Vec<T>,
    /// True if more items follow.
    pub has_more: bool,
}
