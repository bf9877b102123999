//! `/usage` and `/admin/usage`: usage by day.
//!
//! The formats are those of OpenAI's organization usage (`UsageResponse` in its API description).

use http::StatusCode;
use jan_actors::identity::Right;
use jan_actors::usage::{Day, UsageError, UsageFilter, UsageGrouping, UsageOwner, UsagePage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    respond::{parse_query, private, user_of},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, RawQuery, route};
use crate::http::{ApiError, RequestContext, Response};

/// Default number of days on a page, and of days before today that are reported.
const PAGE: usize = 31;
/// Maximum number of days on a page.
const MAX_PAGE: usize = 366;

/// `/usage` and `/admin/usage`
pub fn routes() -> Vec<Route> {
    vec![
        route!(list, Place::Api, Access::Needs(Right::ReadUsage)),
        route!(list_all, Place::Api, Access::Needs(Right::Administer)),
    ]
}

/// Days with usage, oldest first. Days without usage are omitted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsagePage)]
pub struct Page {
    /// Always `page`.
    object: &'static str,
    /// The days.
    data: Vec<Bucket>,
    /// True if there are more days.
    has_more: bool,
    /// The value of `after` for the next page.
    next_page: Option<String>,
}

/// One day (UTC).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageBucket)]
pub struct Bucket {
    /// Always `bucket`.
    object: &'static str,
    /// The day.
    #[schema(example = "2026-07-01")]
    date: String,
    /// Its first second (Unix time).
    start_time: i64,
    /// The first second after it.
    end_time: i64,
    /// One total, or one for each user, key and model if `group_by` requests it.
    results: Vec<Sum>,
}

/// The usage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageSum)]
pub struct Sum {
    /// Always `organization.usage.completions.result`.
    object: &'static str,
    /// Tokens of prompts, including those from the prefix cache.
    input_tokens: u64,
    /// Tokens of prompts that came from the prefix cache.
    input_cached_tokens: u64,
    /// Tokens of answers.
    output_tokens: u64,
    /// Requests that a model accepted.
    num_model_requests: u64,
    /// The user, with `group_by=user`; `anonymous`: callers without a credential, `deleted`: deleted users.
    user_id: Option<String>,
    /// The key, with `group_by=key`; null also for requests without one.
    api_key_id: Option<String>,
    /// The model, with `group_by=model`. An alias counts for its model.
    model: Option<String>,
}

impl Page {
    fn new(page: UsagePage) -> Self {
        let next_page = page.buckets.last().filter(|_| page.has_more).map(|last| last.day.to_string());
        let data = page.buckets.into_iter().map(|bucket| {
            let results = bucket.results.into_iter().map(|result| Sum {
                object: "organization.usage.completions.result",
                input_tokens: result.counts.prompt_tokens,
                input_cached_tokens: result.counts.cached_tokens,
                output_tokens: result.counts.completion_tokens,
                num_model_requests: result.counts.requests,
                user_id: result.group.user.map(|user| user.to_string()),
                api_key_id: result.group.key.flatten().map(|key| key.to_string()),
                model: result.group.model.map(|model| model.to_string()),
            });
            Bucket {
                object: "bucket",
                date: bucket.day.to_string(),
                start_time: bucket.day.start_s(),
                end_time: bucket.day.start_s() + 86_400,
                results: results.collect(),
            }
        });
        Self { object: "page", data: data.collect(), has_more: page.has_more, next_page }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    start: Option<String>,
    end: Option<String>,
    after: Option<String>,
    limit: Option<String>,
    group_by: Option<String>,
    user: Option<String>,
}

/// A validated query.
#[derive(Debug, PartialEq)]
struct Checked {
    start: Day,
    end: Day,
    limit: usize,
    grouping: UsageGrouping,
    user: Option<UsageOwner>,
}

impl Query {
    fn check(self, today: Day, admin: bool) -> Result<Checked, ApiError> {
        let end = day("end", self.end)?.unwrap_or(today);
        let start = day("start", self.start)?;
        let start = start.unwrap_or_else(|| end.back(u32::try_from(PAGE - 1).unwrap_or(0)));
        if start > end {
            let message = format!("'start' ({start}) must not be after 'end' ({end}).");
            return Err(ApiError::invalid_value("start", message));
        }
        // An `after` before the start has no effect.
        let behind = day("after", self.after)?.map(|day| Day::from_number(day.number().saturating_add(1)));
        let limit = match self.limit.as_deref().map(str::parse) {
            None => PAGE,
            Some(Ok(limit @ 1..=MAX_PAGE)) => limit,
            Some(_) => {
                let message = format!("'limit' must be an integer from 1 to {MAX_PAGE}: the number of days.");
                return Err(ApiError::invalid_value("limit", message));
            }
        };
        let user = match self.user.as_deref() {
            None => None,
            Some(_) if !admin => {
                let message = "'user' is available to administrators only, under /admin/usage.";
                return Err(ApiError::unsupported("user", message));
            }
            Some(text) => Some(text.parse().map_err(|_| {
                let message = "'user' must be a user's id, `user_…`, or `anonymous` or `deleted`.";
                ApiError::invalid_value("user", message)
            })?),
        };
        let start = behind.map_or(start, |behind| start.max(behind));
        Ok(Checked { start, end, limit, grouping: grouping(self.group_by.as_deref(), admin)?, user })
    }
}

fn day(name: &'static str, text: Option<String>) -> Result<Option<Day>, ApiError> {
    let parsed = text.map(|text| {
        text.parse().map_err(|_| {
            ApiError::invalid_value(name, format!("'{name}' must be a day in UTC such as 2026-07-01."))
        })
    });
    parsed.transpose()
}

fn grouping(text: Option<&str>, admin: bool) -> Result<UsageGrouping, ApiError> {
    let mut grouping = UsageGrouping::default();
    for word in text.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word {
            "day" => {}
            "model" => grouping.model = true,
            "key" | "api_key_id" => grouping.key = true,
            "user" | "user_id" if admin => grouping.user = true,
            _ => {
                let all = if admin { "`day`, `model`, `key` and `user`" } else { "`day`, `model` and `key`" };
                let message = format!(
                    "'group_by' must be some of {all}, separated by commas; results are always grouped by day."
                );
                return Err(ApiError::invalid_value("group_by", message));
            }
        }
    }
    Ok(grouping)
}

/// Report the caller's own usage.
#[utoipa::path(
    get,
    path = "/usage",
    tag = "usage",
    operation_id = "listUsage",
    params(
        ("start" = Option<String>, Query, description = "First day (UTC, YYYY-MM-DD); default: 30 days before `end`"),
        ("end" = Option<String>, Query, description = "Last day; default: today"),
        ("group_by" = Option<String>, Query, description = "Some of `day`, `model`, `key`, separated by commas"),
        ("limit" = Option<u32>, Query, description = "Days per page, 1 to 366, default 31"),
        ("after" = Option<String>, Query, description = "`next_page` of the previous page"),
    ),
    responses(
        (status = 200, description = "Usage by day", body = Page),
        (status = 400, description = "A parameter is invalid", body = ErrorResponse),
    )
)]
async fn list(
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let user = user_of(&context)?;
    let checked = parse_query::<Query>(&query)?.check(Day::today(), false)?;
    report(&state, Checked { user: Some(UsageOwner::User(user)), ..checked }).await
}

/// Usage of all users.
#[utoipa::path(
    get,
    path = "/admin/usage",
    tag = "usage",
    operation_id = "listAllUsage",
    params(
        ("start" = Option<String>, Query, description = "First day (UTC, YYYY-MM-DD); default: 30 days before `end`"),
        ("end" = Option<String>, Query, description = "Last day; default: today"),
        ("user" = Option<String>, Query, description = "A user's id, `anonymous` or `deleted`; default: all users"),
        ("group_by" = Option<String>, Query, description = "Some of `day`, `model`, `key`, `user`, separated by commas"),
        ("limit" = Option<u32>, Query, description = "Days per page, 1 to 366, default 31"),
        ("after" = Option<String>, Query, description = "`next_page` of the previous page"),
    ),
    responses(
        (status = 200, description = "Usage by day", body = Page),
        (status = 400, description = "A parameter is invalid", body = ErrorResponse),
    )
)]
async fn list_all(state: AppState, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let checked = parse_query::<Query>(&query)?.check(Day::today(), true)?;
    report(&state, checked).await
}

async fn report(state: &AppState, query: Checked) -> Result<Response, ApiError> {
    let Checked { start, end, limit, grouping, user } = query;
    let page = state.usage.report(UsageFilter { user, start, end }, grouping, limit).await;
    let page = page.map_err(|error| match error {
        UsageError::Store(error) => ApiError::from_store(error),
        UsageError::Timeout => ApiError::from_store_timeout(),
    })?;
    Ok(private(StatusCode::OK, &Page::new(page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, admin: bool) -> Result<Checked, (Option<String>, String)> {
        let query = parse_query::<Query>(query).unwrap();
        let checked = query.check("2026-03-31".parse().unwrap(), admin);
        checked.map_err(|error| (error.param().map(str::to_owned), error.message().to_owned()))
    }

    #[test]
    fn a_month_where_nothing_is_said() {
        let checked = check("", false).unwrap();
        assert_eq!((checked.start.to_string().as_str(), checked.limit), ("2026-03-01", 31));
        assert_eq!(checked.grouping, UsageGrouping::default());
    }

    #[test]
    fn the_next_page_begins_behind_the_last_day() {
        let checked = check("start=2026-03-01&after=2026-03-05&group_by=key,%20model", false).unwrap();
        assert_eq!(checked.start.to_string(), "2026-03-06");
        assert_eq!(checked.grouping, UsageGrouping { key: true, model: true, user: false });
        assert_eq!(
            check("start=2026-03-01&after=2026-01-05", false).unwrap().start.to_string(),
            "2026-03-01"
        );
        let behind = check("after=2026-03-31", false).unwrap();
        assert!(behind.start > behind.end, "an empty page");
    }

    #[test]
    fn errors_name_the_invalid_field() {
        for (query, param) in [
            ("start=yesterday", "start"),
            ("end=2026-02-30", "end"),
            ("after=x", "after"),
            ("start=2026-03-02&end=2026-03-01", "start"),
            ("limit=0", "limit"),
            ("limit=367", "limit"),
            ("limit=-1", "limit"),
            ("group_by=user", "group_by"),
            ("group_by=model;key", "group_by"),
            ("user=anonymous", "user"),
        ] {
            assert_eq!(check(query, false).unwrap_err().0.as_deref(), Some(param), "{query}");
        }
        assert!(check("group_by=user&user=anonymous", true).is_ok());
        assert_eq!(check("user=ann", true).unwrap_err().0.as_deref(), Some("user"));
    }
}
