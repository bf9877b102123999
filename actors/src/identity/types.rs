//! Users, keys, sessions and principals: the vocabulary between the edge and the actors.
//!
//! Times are seconds since the epoch.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::{KeyId, SessionId, UserId};
use super::permissions::{Permissions, Right};
use super::restrictions::{Network, Restrictions};
use crate::limits::LimitOverrides;

/// What kind of user it is. In order of what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserKind {
    /// Nobody knows who; becomes a member by signing in.
    Guest,
    /// Signed in or made by an administrator.
    Member,
    /// May do everything.
    Admin,
}

impl UserKind {
    /// The most that a credential of such a user can do.
    #[must_use]
    pub const fn permissions(self) -> Permissions {
        match self {
            Self::Guest | Self::Member => Permissions::MEMBER,
            Self::Admin => Permissions::ALL,
        }
    }
}

/// Who a user is at an identity provider (OpenID Connect Core, section 2: `iss` and `sub` together).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExternalId {
    /// The provider's issuer.
    pub issuer: String,
    /// The user's id there, which never changes, unlike the email address.
    pub subject: String,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its id.
    pub id: UserId,
    /// What kind of user.
    pub kind: UserKind,
    /// In lower case; no two users have the same. A guest has none.
    pub email: Option<String>,
    /// For people to read.
    pub name: String,
    /// A picture's URL, from the identity provider.
    #[serde(default)]
    pub picture: Option<String>,
    /// When it was made.
    pub created_at: u64,
    /// No credential of a disabled user is accepted; nothing of the user is deleted.
    #[serde(default)]
    pub disabled: bool,
    /// Limits other than the settings'.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// The network that a guest was made from, which its address's number of guests counts; gone with the sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_net: Option<ClientNet>,
    /// Who it is at the identity provider.
    #[serde(default)]
    pub external: Option<ExternalId>,
    /// When the user was last disabled: share links made until then lead nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares_ended_at: Option<u64>,
}

/// What to change about a user; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserUpdate {
    /// A new name.
    pub name: Option<String>,
    /// Disable or enable.
    pub disabled: Option<bool>,
    /// All limits of the user.
    pub limits: Option<LimitOverrides>,
    /// Another kind.
    pub kind: Option<UserKind>,
}

/// Somebody whom an identity provider has vouched for; the caller has checked that the email is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalProfile {
    /// Who it is there.
    pub id: ExternalId,
    /// The verified address.
    pub email: String,
    /// For people to read; may be empty.
    pub name: String,
    /// A picture's URL.
    pub picture: Option<String>,
}

/// What came of signing in through an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// The user.
    pub user: UserRecord,
    /// Whether the user is new here (a guest that became a member is).
    pub created: bool,
    /// The guest that turned out to be a user that was here before; the guest is gone, and its data is the user's.
    pub merged_guest: Option<UserId>,
}

/// An API key, without its secret, of which only a hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub user: UserId,
    /// For people to read.
    pub name: String,
    /// The secret's beginning and end, to tell keys apart: `sk-jan-…x7Qk`.
    pub hint: String,
    /// What it grants, at most. What the user lacks it does not grant either.
    pub permissions: Permissions,
    /// When it was made.
    pub created_at: u64,
    /// When it was last accepted; written with a delay of up to a minute.
    #[serde(default)]
    pub last_used_at: Option<u64>,
    /// From when on it is refused.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// When it was revoked; kept for a while so that its user is told so.
    #[serde(default)]
    pub revoked_at: Option<u64>,
    /// Limits of this key, on top of its user's.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// Where and for which models it may be used.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub only: Restrictions,
    /// The key of the same user that it was made with. It grants no more than that one and ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<KeyId>,
    /// The credential that it was made with, behind the one that this was made with, and so on; empty for a key with a
    /// parent. It ends with any of them where that is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_by: Vec<Origin>,
}

/// A key or a session.
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

/// A credential that a key or a session was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Whose it is.
    pub user: UserId,
    /// Which one.
    pub with: CredentialId,
}

/// Who makes or changes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// What they may do.
    pub permissions: Permissions,
    /// With which credential; `None` for the server itself.
    pub with: Option<Origin>,
}

impl Maker {
    /// The key that it acts with, where that is one of `user`.
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

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// For people to read.
    pub name: String,
    /// What it grants.
    pub permissions: Permissions,
    /// From when on it is refused.
    pub expires_at: Option<u64>,
    /// Its own limits.
    pub limits: LimitOverrides,
    /// Where and for which models it may be used.
    pub only: Restrictions,
}

/// What to change about a key; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUpdate {
    /// A new name.
    pub name: Option<String>,
    /// All its permissions, at most the maker's.
    pub permissions: Option<Permissions>,
    /// When it expires; `Some(None)`: never.
    pub expires_at: Option<Option<u64>>,
    /// All its own limits.
    pub limits: Option<LimitOverrides>,
    /// All its models; `Some(None)`: any.
    pub models: Option<Option<Vec<String>>>,
    /// All its addresses; `Some(None)`: any.
    pub addresses: Option<Option<Vec<Network>>>,
}

/// A key just made, with its secret, which is nowhere else.
#[derive(Clone, Debug)]
pub struct CreatedKey {
    /// What is kept.
    pub record: ApiKeyRecord,
    /// To be shown once.
    pub secret: Secret,
}

/// A login session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// When the user signed in.
    pub created_at: u64,
    /// When it was last refreshed, or else began.
    pub refreshed_at: u64,
    /// Until when it can be refreshed.
    pub expires_at: u64,
    /// The credential that it was made with, where nobody signed in.
    pub made_by: Option<CredentialId>,
}

/// What signing in and refreshing give.
#[derive(Clone, Debug)]
pub struct TokenPair {
    /// A JWT for `Authorization: Bearer`.
    pub access_token: Secret,
    /// Seconds that the access token is valid for.
    pub expires_in: u64,
    /// A JWT that [`Identity::refresh`](super::Identity::refresh) alone accepts.
    pub refresh_token: Secret,
    /// The session that both belong to.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
}

/// What a session is refreshed with.
#[derive(Clone, Copy, Debug)]
pub enum RefreshProof<'a> {
    /// The access token, possibly expired.
    Access(&'a str),
    /// The refresh token.
    Refresh(&'a str),
}

/// Text that must not be logged. It is shown by [`reveal`](Self::reveal) alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
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

/// A client's network as limits count it: one IPv4 address, or an IPv6 /64, which is what one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientNet {
    /// One address.
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

impl From<IpAddr> for ClientNet {
    fn from(address: IpAddr) -> Self {
        // An IPv4 client of a dual-stack socket is that IPv4 client.
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// `192.0.2.1` or `2001:db8::/64`
impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(octets) => write!(f, "{}", IpAddr::from(octets)),
            Self::V6(prefix) => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&prefix);
                write!(f, "{}/64", Ipv6Addr::from(octets))
            }
        }
    }
}

impl FromStr for ClientNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, is_v6) = match text.strip_suffix("/64") {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        match address.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv6() == is_v6 => Ok(ip.into()),
            _ => Err(format!("{text:?} is neither an IPv4 address nor an IPv6 /64")),
        }
    }
}

// As text, as people read it in an export.
impl Serialize for ClientNet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientNet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whom limits, shares and places count a request against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// A user.
    User(UserId),
    /// The anonymous callers and the guests of a network: anybody can be any number of guests.
    Net(ClientNet),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

/// Who makes a request.
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
        /// Whose key it is.
        user: UserId,
        /// The key.
        key: KeyId,
    },
    /// Nobody in particular, from there.
    Anonymous {
        /// The client's network.
        net: ClientNet,
    },
}

/// Who makes a request and what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who.
    pub kind: PrincipalKind,
    /// What they may do. An anonymous caller has none: what is open to those is the edge's to say.
    pub permissions: Permissions,
    /// What kind of user it is; `None` for an anonymous caller.
    pub user_kind: Option<UserKind>,
    /// The network whose limits hold for a guest; `None` for everybody else, and before [`Principal::at`].
    pub guest_net: Option<ClientNet>,
    /// The user's own limits.
    pub user_limits: LimitOverrides,
    /// The key's own limits.
    pub key_limits: LimitOverrides,
    /// The keys that the key was made with, and their own limits: they count what it does, too.
    pub parents: [Option<(KeyId, LimitOverrides)>; MAX_PARENTS],
}

/// How many keys may have been made one with the other before a key.
pub const MAX_PARENTS: usize = 3;

impl Principal {
    /// A caller without a credential.
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

    /// The same principal with the client's address, whose limits hold for a guest.
    #[must_use]
    pub fn at(self, address: IpAddr) -> Self {
        let is_guest = self.user_kind == Some(UserKind::Guest);
        Self { guest_net: is_guest.then(|| address.into()), ..self }
    }

    /// Whom limits, shares and places count its requests against.
    #[must_use]
    pub const fn party(&self) -> Party {
        match (self.kind, self.guest_net) {
            (PrincipalKind::Anonymous { net }, _) | (_, Some(net)) => Party::Net(net),
            (PrincipalKind::User { user, .. } | PrincipalKind::Key { user, .. }, None) => Party::User(user),
        }
    }

    /// The user, where there is one.
    #[must_use]
    pub const fn user(&self) -> Option<UserId> {
        match self.kind {
            PrincipalKind::User { user, .. } | PrincipalKind::Key { user, .. } => Some(user),
            PrincipalKind::Anonymous { .. } => None,
        }
    }

    /// The session, where a session's token was shown.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self.kind {
            PrincipalKind::User { session, .. } => Some(session),
            PrincipalKind::Key { .. } | PrincipalKind::Anonymous { .. } => None,
        }
    }

    /// Whether it may do that.
    #[must_use]
    pub const fn may(&self, right: Right) -> bool {
        self.permissions.has(right)
    }

    /// Whom the engine's queue is to be fair to: the user, or the network of an anonymous caller or a guest.
    #[must_use]
    pub fn fairness_key(&self) -> String {
        self.party().to_string()
    }
}

/// A part of a list, in order of creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Whether there is more behind it.
    pub has_more: bool,
}
