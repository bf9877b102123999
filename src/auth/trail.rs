//! Audit records of requests; the one place that creates them.
//!
//! The action comes from the route's declaration, the target from the path, the actor from the gate, and the outcome
//! from the response. A handler notes only what none of these know. A record is written even if the client disconnects
//! before the response: disconnecting must not hide a change.

use std::borrow::Cow;

use http::StatusCode;
use jan_actors::audit::{Audit, AuditOutcome, AuditRecord};
use jan_actors::conversations::ConversationId;
use jan_actors::identity::{KeyId, SessionId, UserId};

use super::gate::Admission;
use crate::http::{ApiError, Response};

/// Error codes that need no record: requests without a credential, and clients whose token is due for a refresh.
const ROUTINE: [&str; 2] = ["missing_credentials", "token_expired"];

/// Details of an action that only its handler knows.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// The actions, if other than the one that the route declares.
    pub actions: Vec<&'static str>,
    /// The affected account.
    pub user: Option<UserId>,
    /// The id of the affected key or session.
    pub target: Option<String>,
    /// The names of the changed fields.
    pub fields: Vec<&'static str>,
}

impl Noted {
    /// Notes the update of a user or a key: each action that it amounts to, and the names of all changed fields.
    ///
    /// `action`: the action of changes other than limits and disabling.
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

/// Attaches details for the audit log to a response.
pub fn note(response: &mut Response, change: impl FnOnce(&mut Noted)) {
    let mut noted: Noted = response.extensions_mut().remove().unwrap_or_default();
    change(&mut noted);
    response.extensions_mut().insert(noted);
}

/// The audit record of a request in progress. Dropping it without [`Self::end`] means that the client disconnected.
#[derive(Debug)]
pub struct Trail {
    audit: Audit,
    /// `None` after it was recorded.
    record: Option<AuditRecord>,
}

impl Trail {
    /// Starts the record with the facts known before the request is handled; `None` if the request is not recorded.
    /// `request_id`: only an id that this server generated, since a caller's own id can be anything. `captured`: the
    /// parameters of the path.
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

    /// Completes the record with the response.
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
            // A session or a key is not part of an action on the user.
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

/// Sets the user and target that the path names; segments that are not ids are ignored.
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
    // Outside `/admin` every request concerns the caller's own account.
    if !is_users && !pattern.starts_with("/admin/") {
        record.user_id = record.actor.user_id;
    }
}

/// Returns the text form of an id, of whichever of these kinds it is.
fn known_id(text: &str) -> Option<String> {
    let key = text.parse::<KeyId>().map(|id| id.to_string());
    let session = || text.parse::<SessionId>().map(|id| id.to_string());
    let conversation = || text.parse::<ConversationId>().map(|id| id.to_string());
    key.or_else(|_| session()).or_else(|_| conversation()).ok()
}
