//! Records of the audit log, and filters over them. Pure.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::identity::ids::id;
use crate::identity::{InvalidId, KeyId, Principal, PrincipalKind, SessionId, UserId, now_s};

id!(
    /// A record's id, `audit_…`, ordered by time.
    AuditId,
    "audit_"
);

impl AuditId {
    /// Returns a lower bound of the ids created from that second on; ids created before are smaller.
    #[must_use]
    pub fn first_of(second: u64) -> Self {
        let mut bytes = [0; 16];
        let ms = second.saturating_mul(1000).min((1 << 48) - 1);
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        Self::from_bytes(bytes)
    }

    /// Returns the time of creation (epoch seconds) that the id contains.
    #[must_use]
    pub const fn made_at_s(self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0.into_bytes();
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]) / 1000
    }
}

/// Action of records that could not be stored or written; `count` is their number.
pub const LOST: &str = "audit.lost";
/// Action of refusals, of any kind, beyond those that are recorded individually.
pub const OVERFLOW: &str = "audit.overflow";

/// Every action.
pub const ACTIONS: &[&str] = &[
    "session.begin",
    "session.refresh",
    "session.end",
    "sign_in",
    "token.reused",
    "credential.refused",
    "key.create",
    "key.update",
    "key.revoke",
    "user.create",
    "user.update",
    "user.disable",
    "user.enable",
    "user.delete",
    "limits.update",
    "share.create",
    "share.end",
    "import",
    "export",
    "settings.load",
    LOST,
    OVERFLOW,
];

/// Maximum number of field names in a record.
pub const MAX_FIELDS: usize = 128;
/// Maximum length of a name in a record, in bytes.
const MAX_NAME: usize = 64;
/// Maximum time that a record of an import may be ahead of this machine's clock (seconds).
const MAX_AHEAD_S: u64 = 24 * 3600;

/// The outcome of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// The action succeeded.
    Ok,
    /// The action failed for a reason in the request.
    Refused,
    /// The action failed for a reason in the server.
    Failed,
    /// The caller left before the answer; the action may have succeeded.
    Unknown,
}

impl AuditOutcome {
    /// All outcomes with their names.
    pub const ALL: [(&'static str, Self); 4] =
        [("ok", Self::Ok), ("refused", Self::Refused), ("failed", Self::Failed), ("unknown", Self::Unknown)];

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The actor of a record: empty if no credential was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

impl From<&Principal> for Actor {
    fn from(principal: &Principal) -> Self {
        match principal.kind {
            PrincipalKind::User { user, session } => {
                Self { user_id: Some(user), session_id: Some(session), key_id: None }
            }
            PrincipalKind::Key { user, key } => {
                Self { user_id: Some(user), key_id: Some(key), session_id: None }
            }
            PrincipalKind::Anonymous { .. } => Self::default(),
        }
    }
}

impl Actor {
    fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

/// An action that was performed or attempted. Its serde form is stored, exported and written to the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The record's id.
    pub id: AuditId,
    /// Time of the action (epoch seconds).
    pub created_at: u64,
    /// The action, one of [`ACTIONS`].
    pub action: Cow<'static, str>,
    /// The outcome.
    pub outcome: AuditOutcome,
    /// The HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// The actor.
    #[serde(default, skip_serializing_if = "Actor::is_nobody")]
    pub actor: Actor,
    /// The client's address, as reported by a trusted proxy if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The id of the request, if the server assigned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The user whose account the action concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The id of the key, session or conversation that the action concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The method of the action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<Cow<'static, str>>,
    /// The names of the fields that were changed or set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Cow<'static, str>>,
    /// Number of such actions that the record stands for.
    pub count: u64,
}

impl AuditRecord {
    /// Returns a record with the current time.
    #[must_use]
    pub fn new(action: &'static str, outcome: AuditOutcome) -> Self {
        Self {
            id: AuditId::new(),
            created_at: now_s(),
            action: action.into(),
            outcome,
            status: None,
            code: None,
            actor: Actor::default(),
            address: None,
            request_id: None,
            user_id: None,
            target: None,
            how: None,
            fields: Vec::new(),
            count: 1,
        }
    }

    /// Returns the class in which the record is counted and expires.
    #[must_use]
    pub fn class(&self) -> Class {
        let is_done = self.outcome == AuditOutcome::Ok && self.action != "session.refresh";
        if is_done { Class::Done } else { Class::Minor }
    }

    /// Checks that the record is one that this program writes: an import must not add anything else to the log.
    ///
    /// # Errors
    /// A description of the problem.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |field: &str| Err(format!("its {field} is not what this program writes"));
        if self.id.made_at_s().abs_diff(self.created_at) > 1 {
            return wrong("created_at");
        }
        if self.created_at > now_s() + MAX_AHEAD_S {
            return Err("its time is in the future".to_owned());
        }
        if !is_name(&self.action) {
            return wrong("action");
        }
        if self.code.as_deref().is_some_and(|code| !is_name(code)) {
            return wrong("code");
        }
        if self.how.as_deref().is_some_and(|how| !is_name(how)) {
            return wrong("how");
        }
        if self.target.as_deref().is_some_and(|target| !is_id(target)) {
            return wrong("target");
        }
        if self.fields.len() > MAX_FIELDS || !self.fields.iter().all(|field| is_name(field)) {
            return wrong("fields");
        }
        if self.request_id.as_deref().is_some_and(|id| Uuid::try_parse(id).is_err()) {
            return wrong("request_id");
        }
        if self.status.is_some_and(|status| !(100..600).contains(&status)) {
            return wrong("status");
        }
        if self.count == 0 { wrong("count") } else { Ok(()) }
    }
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
}

fn is_id(text: &str) -> bool {
    let parts = text.split_once('_');
    parts.is_some_and(|(prefix, digits)| {
        (1..=8).contains(&prefix.len())
            && prefix.bytes().all(|byte| byte.is_ascii_lowercase())
            && digits.len() == 32
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// A class of records that are counted and expire together, so that frequent events do not displace important ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Successful actions.
    Done = 0,
    /// Refused and failed actions, and refreshes of sessions.
    Minor = 1,
}

impl Class {
    /// Both classes.
    pub const ALL: [Self; 2] = [Self::Done, Self::Minor];
}

/// A user, a key or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditWho {
    /// Any key or session of that user.
    User(UserId),
    /// That key.
    Key(KeyId),
    /// That session.
    Session(SessionId),
}

impl AuditWho {
    fn is(self, actor: &Actor) -> bool {
        match self {
            Self::User(user) => actor.user_id == Some(user),
            Self::Key(key) => actor.key_id == Some(key),
            Self::Session(session) => actor.session_id == Some(session),
        }
    }
}

impl FromStr for AuditWho {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let user = text.parse().map(Self::User);
        user.or_else(|_| text.parse().map(Self::Key)).or_else(|_| text.parse().map(Self::Session))
    }
}

impl fmt::Display for AuditWho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Key(key) => key.fmt(f),
            Self::Session(session) => session.fmt(f),
        }
    }
}

/// A filter of records. A field that is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Records about that user's account.
    pub user: Option<UserId>,
    /// Records of actions by that actor.
    pub actor: Option<AuditWho>,
    /// Records of that action, or of all actions with that prefix and a dot.
    pub action: Option<String>,
    /// Records with that outcome.
    pub outcome: Option<AuditOutcome>,
    /// Records from that second on.
    pub since: Option<u64>,
    /// Records before that second.
    pub until: Option<u64>,
    /// Records before that one, which need not exist.
    pub after: Option<AuditId>,
}

impl AuditFilter {
    /// Returns whether a record matches.
    #[must_use]
    pub fn lets_through(&self, record: &AuditRecord) -> bool {
        let (low, high) = self.bounds();
        record.id >= low
            && high.is_none_or(|high| record.id < high)
            && self.user.is_none_or(|user| record.user_id == Some(user))
            && self.actor.is_none_or(|actor| actor.is(&record.actor))
            && self.action.as_deref().is_none_or(|action| is_of(&record.action, action))
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
    }

    /// Returns the first matching id, and the first id after the matching ones.
    #[must_use]
    pub fn bounds(&self) -> (AuditId, Option<AuditId>) {
        let low = AuditId::first_of(self.since.unwrap_or(0));
        let until = self.until.map(AuditId::first_of);
        let high = match (until, self.after) {
            (Some(until), Some(after)) => Some(until.min(after)),
            (until, after) => until.or(after),
        };
        (low, high)
    }
}

/// Returns whether an action is the requested one or belongs to the requested family.
fn is_of(action: &str, asked: &str) -> bool {
    action.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A page of records, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The records.
    pub records: Vec<AuditRecord>,
    /// The position of the next page, for [`AuditFilter::after`]; `None`: there are no more records.
    pub next: Option<AuditId>,
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
