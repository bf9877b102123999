//! From a request to its record in the audit log: the one place where records of requests are made.
//!
//! The name of a request's action comes from the declaration of its route, whom it is about from its path, who made it from
//! the gate, and how it ended from the answer. A handler notes only what none of these know. A record is made also where the
//! client goes away before the answer: nobody can change something unseen by hanging up.

use std::borrow::Cow;

use http::StatusCode;
use jan_actors::audit::{Audit, AuditOutcome, AuditRecord};
use jan_actors::conversations::ConversationId;
use jan_actors::identity::{KeyId, SessionId, UserId};

use super::gate::Admission;
use crate::http::{ApiError, Response};

/// Of what needs no record: whoever shows nothing, and a client whose token is due for a refresh.
const ROUTINE: [&str; 2] = ["missing_credentials", "token_expired"];

/// What a handler knows of what it did and nobody else.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// What was done, where that is not what the declaration of the route says.
    pub actions: Vec<&'static str>,
    /// Whose account it is about.
    pub user: Option<UserId>,
    /// The id of the key or session.
    pub target: Option<String>,
    /// The names of what was changed.
    pub fields: Vec<&'static str>,
}

impl Noted {
    /// What an update of a user or a key changed: each action that it is, and the names of all fields.
    ///
    /// `action`: what it is beside limits and disabling.
    pub fn changed(&mut self, fields: &[(&'static str, bool)], action: &'static str, disabled: Option<bool>) {
        let changed = fields.iter().filter(|(_, is_changed)| *is_changed);
        self.fields = changed.map(|(name, _)| *name).collect();
        let is_other = |name: &&str| !matches!(*name, "limits" | "disabled");
        let is_limited = self.fields.contains(&"limits");
        if self.fields.is_empty() || self.fields.iter().any(is_other) {
            self.actions.push(action);
        }
        if let Some(disabled) = disabled {
            self.actions.push(if disabled { "user.disable" } else { "user.enable" });
        }
        if is_limited {
            self.actions.push("limits.update");
        }
    }
}

/// Notes something for the audit log with an answer.
pub fn note(response: &mut Response, change: impl FnOnce(&mut Noted)) {
    let mut noted: Noted = response.extensions_mut().remove().unwrap_or_default();
    change(&mut noted);
    response.extensions_mut().insert(noted);
}

/// A request that is to be recorded. Dropped without an end, its client went away.
#[derive(Debug)]
pub struct Trail {
    audit: Audit,
    /// `None` once it is recorded.
    record: Option<AuditRecord>,
}

impl Trail {
    /// Begins with what is known before the request is answered; `None`: it is none that is recorded. `request_id`:
    /// where this server made it, for a caller's own may say anything. `captured`: the parameters of its path.
    #[must_use]
    pub fn begin<'p>(
        audit: &Audit,
        admission: &Admission<'_>,
        captured: impl Iterator<Item = &'p str>,
        request_id: Option<&str>,
    ) -> Option<Self> {
        let audited = admission.rule.and_then(|rule| rule.audit);
        let refused = admission.refusal.as_ref();
        let is_wrong_credential = refused.is_some_and(|error| {
            error.status() == StatusCode::UNAUTHORIZED && !ROUTINE.contains(&error.code())
        });
        let (action, how) = match audited {
            Some(audited) => (audited.action, audited.how),
            None if is_wrong_credential => ("credential.refused", None),
            None => return None,
        };
        let caller = &admission.caller;
        let mut record = AuditRecord {
            actor: (&caller.principal).into(),
            address: Some(caller.address),
            request_id: request_id.map(str::to_owned),
            how: how.map(Cow::Borrowed),
            ..AuditRecord::new(action, AuditOutcome::Unknown)
        };
        if let Some(rule) = admission.rule.filter(|_| audited.is_some()) {
            name_target(&mut record, &rule.path, captured);
        }
        Some(Self { audit: audit.clone(), record: Some(record) })
    }

    /// The request is answered.
    pub fn end(mut self, status: StatusCode, error: Option<&ApiError>, noted: Option<Noted>) {
        let Some(mut record) = self.record.take() else { return };
        record.outcome = match status.as_u16() {
            ..400 => AuditOutcome::Ok,
            400..500 => AuditOutcome::Refused,
            _ => AuditOutcome::Failed,
        };
        record.status = Some(status.as_u16());
        record.code = error.map(|error| Cow::Borrowed(error.code()));
        if record.action == "session.refresh" && record.code.as_deref() == Some("token_reused") {
            record.action = "token.reused".into();
        }
        let noted = noted.unwrap_or_default();
        record.user_id = noted.user.or(record.user_id);
        record.target = noted.target.or(record.target);
        record.fields = noted.fields.into_iter().map(Cow::Borrowed).collect();
        let mut actions = noted.actions.into_iter();
        if let Some(first) = actions.next() {
            record.action = first.into();
        }
        for action in actions {
            let AuditRecord { id, created_at, .. } = AuditRecord::new(action, record.outcome);
            // A session or a key is no part of what happened to the user.
            let target = record.target.clone().filter(|_| !action.starts_with("user."));
            self.audit.record(AuditRecord {
                id,
                created_at,
                target,
                action: action.into(),
                ..record.clone()
            });
        }
        self.audit.record(record);
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.audit.record(record);
        }
    }
}

/// Whom and what a request is about, as far as its path says. What is no id there is left out.
fn name_target<'p>(record: &mut AuditRecord, pattern: &str, captured: impl Iterator<Item = &'p str>) {
    let mut is_users = false;
    for text in captured {
        if let Ok(user) = text.parse::<UserId>() {
            record.user_id = Some(user);
            is_users = true;
        } else if let Some(id) = known_id(text) {
            record.target = Some(id);
        }
    }
    // Beyond `/admin` everything is about the caller's own account.
    if !is_users && !pattern.starts_with("/admin/") {
        record.user_id = record.actor.user_id;
    }
}

/// The text form of an id, whatever of these it is of.
fn known_id(text: &str) -> Option<String> {
    let key = text.parse::<KeyId>().map(|id| id.to_string());
    let session = || text.parse::<SessionId>().map(|id| id.to_string());
    let conversation = || text.parse::<ConversationId>().map(|id| id.to_string());
    key.or_else(|_| session()).or_else(|_| conversation()).ok()
}
