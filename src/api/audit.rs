//! `/admin/audit`: the audit log, for administrators.

use std::net::IpAddr;

use http::StatusCode;
use jan_actors::audit::{
    ACTIONS, Actor, AuditError, AuditFilter, AuditId, AuditOutcome, AuditPage, AuditRecord,
};
use jan_actors::identity::Right;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    respond::{parse_query, private},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, RawQuery, route};
use crate::http::{ApiError, Response};

/// Default number of records on a page.
const PAGE: usize = 50;
/// Maximum number of records on a page.
const MAX_PAGE: usize = 500;
/// The latest time that can be requested: the end of the year 9999, in Unix seconds.
const MAX_TIME: u64 = 253_402_300_799;

/// `/admin/audit`
pub fn routes() -> Vec<Route> {
    vec![route!(list, Place::Api, Access::Needs(Right::Administer))]
}

/// Records of the audit log, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditRecordList)]
pub struct Page {
    /// Always `list`.
    object: &'static str,
    /// The records. There may be fewer than `limit`, or none, even if there are more.
    data: Vec<Entry>,
    /// True if there may be more.
    has_more: bool,
    /// The value of `after` for the next page; null if there is none.
    next: Option<String>,
}

impl From<AuditPage> for Page {
    fn from(page: AuditPage) -> Self {
        Self {
            object: "list",
            data: page.records.into_iter().map(Entry::from).collect(),
            has_more: page.next.is_some(),
            next: page.next.map(|next| next.to_string()),
        }
    }
}

/// One action or attempt.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditRecord)]
pub struct Entry {
    /// Its id.
    #[schema(example = "audit_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    id: String,
    /// Always `audit.record`.
    object: &'static str,
    /// Unix seconds.
    created_at: u64,
    /// The action.
    #[schema(example = "key.create")]
    action: String,
    /// The outcome.
    outcome: Outcome,
    /// The HTTP status of the response; null if there was none.
    #[schema(example = 201)]
    status: Option<u16>,
    /// The error code; null if there was none.
    #[schema(example = json!(null))]
    code: Option<String>,
    /// The actor; all fields null if no valid credential was presented.
    actor: Who,
    /// The client's address, subject to `http.trusted_proxies`; null for actions of the server itself.
    #[schema(example = "192.0.2.7")]
    address: Option<String>,
    /// The request's id, unless the client chose it.
    request_id: Option<String>,
    /// The affected user account.
    #[schema(example = "user_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    user_id: Option<String>,
    /// The affected key, session or conversation.
    #[schema(example = "key_0197f3c2b6f97d3a8c6d2f9e1b4a5c7d")]
    target: Option<String>,
    /// The method, for example of `session.begin`: `google`, `exchange`, `guest` or `admin`.
    #[schema(example = json!(null))]
    how: Option<String>,
    /// The names of the changed fields, never the values.
    fields: Vec<String>,
    /// The number of occurrences: repeated refusals are counted.
    #[schema(minimum = 1, example = 1)]
    count: u64,
}

/// The actor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditActor)]
pub struct Who {
    /// The user.
    user_id: Option<String>,
    /// The API key, if one was used.
    key_id: Option<String>,
    /// The session, if one was used.
    session_id: Option<String>,
}

impl From<Actor> for Who {
    fn from(actor: Actor) -> Self {
        Self {
            user_id: actor.user_id.map(|id| id.to_string()),
            key_id: actor.key_id.map(|id| id.to_string()),
            session_id: actor.session_id.map(|id| id.to_string()),
        }
    }
}

/// The outcome of an action.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = AuditOutcome)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It succeeded.
    Ok,
    /// It was refused because of the request.
    Refused,
    /// It failed because of the server.
    Failed,
    /// The client disconnected before the response; it may have succeeded.
    Unknown,
}

impl From<AuditOutcome> for Outcome {
    fn from(outcome: AuditOutcome) -> Self {
        match outcome {
            AuditOutcome::Ok => Self::Ok,
            AuditOutcome::Refused => Self::Refused,
            AuditOutcome::Failed => Self::Failed,
            AuditOutcome::Unknown => Self::Unknown,
        }
    }
}

impl From<AuditRecord> for Entry {
    fn from(record: AuditRecord) -> Self {
        Self {
            id: record.id.to_string(),
            object: "audit.record",
            created_at: record.created_at,
            action: record.action.into_owned(),
            outcome: record.outcome.into(),
            status: record.status,
            code: record.code.map(Into::into),
            actor: record.actor.into(),
            address: record.address.as_ref().map(IpAddr::to_string),
            request_id: record.request_id,
            user_id: record.user_id.map(|id| id.to_string()),
            target: record.target,
            how: record.how.map(Into::into),
            fields: record.fields.into_iter().map(Into::into).collect(),
            count: record.count,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    user_id: Option<String>,
    actor: Option<String>,
    action: Option<String>,
    outcome: Option<String>,
    since: Option<String>,
    until: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

impl Query {
    fn check(self) -> Result<(AuditFilter, usize), ApiError> {
        let wrong = |param: &str, message: String| ApiError::invalid_value(param, message);
        let user = match self.user_id.as_deref().map(str::parse) {
            None => None,
            Some(Ok(user)) => Some(user),
            Some(Err(_)) => return Err(wrong("user_id", "'user_id' must be a user's id, `user_…`.".into())),
        };
        let actor = match self.actor.as_deref().map(str::parse) {
            None => None,
            Some(Ok(actor)) => Some(actor),
            Some(Err(_)) => {
                let message =
                    "'actor' must be the id of a user, a key or a session: `user_…`, `key_…` or `sess_…`.";
                return Err(wrong("actor", message.into()));
            }
        };
        if self.action.as_deref().is_some_and(|action| !is_action(action)) {
            let known: Vec<_> = ACTIONS.iter().map(|action| format!("`{action}`")).collect();
            let known = known.join(", ");
            let message =
                format!("'action' must be one of {known}, or the part before the dot, such as `key`.");
            return Err(wrong("action", message));
        }
        let outcome = match self.outcome {
            None => None,
            Some(name) => match AuditOutcome::ALL.iter().find(|(known, _)| *known == name) {
                Some((_, outcome)) => Some(*outcome),
                None => {
                    let message = "'outcome' must be `ok`, `refused`, `failed` or `unknown`.";
                    return Err(wrong("outcome", message.into()));
                }
            },
        };
        let (since, until) = (time("since", self.since)?, time("until", self.until)?);
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            let message = format!("'since' ({since}) must not be after 'until' ({until}).");
            return Err(wrong("since", message));
        }
        let after: Option<AuditId> = match self.after.as_deref().map(str::parse) {
            None => None,
            Some(Ok(after)) => Some(after),
            Some(Err(_)) => {
                let message = "'after' must be `next` of the previous page, or a record's id, `audit_…`.";
                return Err(wrong("after", message.into()));
            }
        };
        let limit = match self.limit.as_deref().map(str::parse) {
            None => PAGE,
            Some(Ok(limit @ 1..=MAX_PAGE)) => limit,
            Some(_) => {
                return Err(wrong("limit", format!("'limit' must be an integer from 1 to {MAX_PAGE}.")));
            }
        };
        let filter = AuditFilter { user, actor, action: self.action, outcome, since, until, after };
        Ok((filter, limit))
    }
}

fn is_action(text: &str) -> bool {
    let families = || ACTIONS.iter().filter_map(|action| action.split_once('.'));
    ACTIONS.contains(&text) || families().any(|(family, _)| family == text)
}

fn time(name: &'static str, text: Option<String>) -> Result<Option<u64>, ApiError> {
    match text.as_deref().map(str::parse) {
        None => Ok(None),
        Some(Ok(time @ 0..=MAX_TIME)) => Ok(Some(time)),
        Some(_) => {
            let message =
                format!("'{name}' must be a time in Unix seconds, an integer from 0 to {MAX_TIME}.");
            Err(ApiError::invalid_value(name, message))
        }
    }
}

/// The audit log: changes to users, keys, sessions, limits and shares, sign-ins, exports and imports, and
/// refused requests.
///
/// Records contain ids and names of fields, no secrets and no content. They are kept for
/// `audit.retention_days`, also those about deleted users.
#[utoipa::path(
    get,
    path = "/admin/audit",
    tag = "admin",
    operation_id = "listAuditRecords",
    params(
        ("user_id" = Option<String>, Query, description = "Records about this user's account: an id, `user_…`"),
        ("actor" = Option<String>, Query, description = "Records of actions by this user, key or session: an id, `user_…`, `key_…` or `sess_…`"),
        ("action" = Option<String>, Query, description = "Records of this action, such as `key.create`, or of all actions with this prefix, such as `key`"),
        ("outcome" = Option<Outcome>, Query, description = "Records with this outcome"),
        ("since" = Option<u64>, Query, description = "Unix seconds: records from this time on", minimum = 0, maximum = 253_402_300_799_u64),
        ("until" = Option<u64>, Query, description = "Unix seconds: records before this time, which must not be before `since`", minimum = 0, maximum = 253_402_300_799_u64),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50", minimum = 1, maximum = 500),
        ("after" = Option<String>, Query, description = "`next` of the previous page"),
    ),
    responses(
        (status = 200, description = "A page of records", body = Page),
        (status = 400, description = "A parameter is invalid", body = ErrorResponse),
    )
)]
async fn list(state: AppState, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let (filter, limit) = parse_query::<Query>(&query)?.check()?;
    let page = state.audit.page(filter, limit).await.map_err(|error| match error {
        AuditError::Store(error) => ApiError::from_store(error),
        AuditError::Timeout => ApiError::from_store_timeout(),
    })?;
    Ok(private(StatusCode::OK, &Page::from(page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str) -> Result<(AuditFilter, usize), Option<String>> {
        let checked = parse_query::<Query>(query).unwrap().check();
        checked.map_err(|error| error.param().map(str::to_owned))
    }

    #[test]
    fn every_parameter_is_checked() {
        assert_eq!(check("").unwrap(), (AuditFilter::default(), PAGE));
        let zeros = "0".repeat(32);
        let fine = format!(
            "user_id=user_{zeros}&actor=sess_{zeros}&action=key&outcome=ok&since=5&until=5&limit=500"
        );
        let (filter, limit) = check(&fine).unwrap();
        assert_eq!((filter.since, filter.until, limit), (Some(5), Some(5), 500));
        for (query, param) in [
            ("user_id=ann", "user_id"),
            ("user_id=", "user_id"),
            ("actor=conv_1", "actor"),
            ("action=key.", "action"),
            ("action=keys", "action"),
            ("outcome=OK", "outcome"),
            ("since=yesterday", "since"),
            ("until=-1", "until"),
            ("until=99999999999999999999", "until"),
            ("since=6&until=5", "since"),
            ("after=user_1", "after"),
            ("limit=0", "limit"),
            ("limit=501", "limit"),
        ] {
            assert_eq!(check(query).unwrap_err().as_deref(), Some(param), "{query}");
        }
        assert!(ACTIONS.iter().all(|action| check(&format!("action={action}")).is_ok()));
    }
}
