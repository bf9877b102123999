//! What a record of the audit log holds, and which records a question is about. Pure.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::identity::ids::id;
use crate::identity::{InvalidId, KeyId, Principal, PrincipalKind, SessionId, UserId, now_s};

id!(
    /// A record's id, `audit_…`, in the order of time.
    AuditId,
    "audit_"
);

impl AuditId {
    /// No id that was made before that second is as large, and none since is smaller.
    #[must_use]
    pub fn first_of(second: u64) -> Self {
        let mut bytes = [0; 16];
        let ms = second.saturating_mul(1000).min((1 << 48) - 1);
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        Self::from_bytes(bytes)
    }

    /// When it was made (epoch seconds), as the id says.
    #[must_use]
    pub const fn made_at_s(self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0.into_bytes();
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]) / 1000
    }
}

/// Records could not be kept or written; `count` says how many.
pub const LOST: &str = "audit.lost";
/// So many refusals, of whatever kind, were more than are recorded one by one.
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

/// Most names of fields in a record.
pub const MAX_FIELDS: usize = 128;
/// Longest name in a record, in bytes.
const MAX_NAME: usize = 64;
/// How far ahead of this machine's clock a record of an import may be (seconds).
const MAX_AHEAD_S: u64 = 24 * 3600;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Ok,
    /// It was not done, for a reason in the request.
    Refused,
    /// It was not done, for a reason in the server.
    Failed,
    /// Whoever asked went away before the answer; it may have been done.
    Unknown,
}

impl AuditOutcome {
    /// Every one, with its name.
    pub const ALL: [(&'static str, Self); 4] =
        [("ok", Self::Ok), ("refused", Self::Refused), ("failed", Self::Failed), ("unknown", Self::Unknown)];

    /// Its name.
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

/// Who did it: nothing where no credential was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// With which API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// With which session.
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

/// One thing that somebody did or tried. Its serde form is what is stored, exported and written to the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its id.
    pub id: AuditId,
    /// When (epoch seconds).
    pub created_at: u64,
    /// What, one of [`ACTIONS`].
    pub action: Cow<'static, str>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// Who.
    #[serde(default, skip_serializing_if = "Actor::is_nobody")]
    pub actor: Actor,
    /// From where, a trusted proxy's word taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The request, where the server named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whose account it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The id of the key, session or conversation that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// In which way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<Cow<'static, str>>,
    /// The names of what was changed or set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Cow<'static, str>>,
    /// How many such things it stands for.
    pub count: u64,
}

impl AuditRecord {
    /// A record of now.
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

    /// Among which records it is counted and grows old.
    #[must_use]
    pub fn class(&self) -> Class {
        let is_done = self.outcome == AuditOutcome::Ok && self.action != "session.refresh";
        if is_done { Class::Done } else { Class::Minor }
    }

    /// Looks whether it is what this program writes: an import must not bring anything else into the log.
    ///
    /// # Errors
    /// What is wrong with it.
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

/// Records that are counted and grow old together, so that what is easily repeated does not push out what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What was done.
    Done = 0,
    /// What was refused or failed, and sessions' refreshes.
    Minor = 1,
}

impl Class {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Done, Self::Minor];
}

/// A user, a key or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditWho {
    /// Whatever key or session of that user.
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

/// Which records are asked for. Whatever is `None` lets all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Those about that user's account.
    pub user: Option<UserId>,
    /// Those of what that one did.
    pub actor: Option<AuditWho>,
    /// Those of that action, or of all that begin with it and a dot.
    pub action: Option<String>,
    /// Those that ended so.
    pub outcome: Option<AuditOutcome>,
    /// Those of that second and since.
    pub since: Option<u64>,
    /// Those before that second.
    pub until: Option<u64>,
    /// Those before that one, which need not be there.
    pub after: Option<AuditId>,
}

impl AuditFilter {
    /// Whether it lets a record through.
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

    /// The first id that it lets through and the first behind that it does not.
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

/// Whether an action is that one or one of that family.
fn is_of(action: &str, asked: &str) -> bool {
    action.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Some records, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The records.
    pub records: Vec<AuditRecord>,
    /// Where to go on, as [`AuditFilter::after`]; `None`: there are no more.
    pub next: Option<AuditId>,
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
