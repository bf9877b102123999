//! The limited quantities and the results of checks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one user or key that override those of the settings (`rate_limits`). For a user a value replaces the setting; for a
/// key it applies in addition to its user's, so that a key can have lower limits than its user, but not higher ones. `None`: no
/// limit of its own. `Some(0)`: unlimited (for a user) or no limit of its own (for a key).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitOverrides {
    /// Requests per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_hour: Option<u32>,
    /// Inference requests per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_per_minute: Option<u32>,
    /// Answers per minute. If it is `None` and the limit of inference requests is not, ten times the latter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_per_minute: Option<u32>,
    /// Tokens per minute, prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Concurrent streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_streams: Option<u32>,
}

impl LimitOverrides {
    /// Returns 0, which means none, for each limit that is set, and `None` for the others.
    pub(super) fn lifted(&self) -> Self {
        let lift = |own: Option<u32>| own.map(|_| 0);
        Self {
            requests_per_hour: lift(self.requests_per_hour),
            inference_per_minute: lift(self.inference_per_minute),
            answers_per_minute: lift(self.answers_per_minute.or(self.inference_per_minute)),
            tokens_per_minute: lift(self.tokens_per_minute),
            concurrent_streams: lift(self.concurrent_streams),
        }
    }

    /// Returns these limits of a key, none above those of the key that it is created with. An absent limit becomes that key's.
    ///
    /// # Errors
    /// The name of a limit that is above, and the allowed value.
    pub fn within(self, bound: &Self) -> Result<Self, (&'static str, u32)> {
        let Self {
            requests_per_hour,
            inference_per_minute,
            answers_per_minute,
            tokens_per_minute,
            concurrent_streams,
        } = self;
        Ok(Self {
            requests_per_hour: within("requests_per_hour", requests_per_hour, bound.requests_per_hour)?,
            inference_per_minute: within(
                "inference_per_minute",
                inference_per_minute,
                bound.inference_per_minute,
            )?,
            answers_per_minute: within("answers_per_minute", answers_per_minute, bound.answers_per_minute)?,
            tokens_per_minute: within("tokens_per_minute", tokens_per_minute, bound.tokens_per_minute)?,
            concurrent_streams: within("concurrent_streams", concurrent_streams, bound.concurrent_streams)?,
        })
    }

    /// Returns the lower one of each limit.
    #[must_use]
    pub fn meet(self, other: &Self) -> Self {
        Self {
            requests_per_hour: lower(self.requests_per_hour, other.requests_per_hour),
            inference_per_minute: lower(self.inference_per_minute, other.inference_per_minute),
            answers_per_minute: lower(self.answers_per_minute, other.answers_per_minute),
            tokens_per_minute: lower(self.tokens_per_minute, other.tokens_per_minute),
            concurrent_streams: lower(self.concurrent_streams, other.concurrent_streams),
        }
    }
}

fn within(
    name: &'static str,
    wanted: Option<u32>,
    bound: Option<u32>,
) -> Result<Option<u32>, (&'static str, u32)> {
    match (wanted, bound.filter(|&bound| bound > 0)) {
        (wanted, None) => Ok(wanted),
        (None, bound) => Ok(bound),
        (Some(wanted), Some(bound)) if (1..=bound).contains(&wanted) => Ok(Some(wanted)),
        (Some(_), Some(bound)) => Err((name, bound)),
    }
}

/// Returns the lower limit; 0 is no limit, as for keys.
fn lower(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a.filter(|&a| a > 0), b.filter(|&b| b > 0)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The kind of a checked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Any request: counts towards requests per hour.
    Request,
    /// A request that runs a model: counts towards requests per hour and inference per minute, and requires that tokens are left.
    Inference,
}

/// The limit that a bucket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitName {
    /// Requests per hour.
    Requests,
    /// Inference requests per minute.
    Inference,
    /// Answers per minute.
    Answers,
    /// Tokens per minute.
    Tokens,
    /// Concurrent streams.
    Streams,
    /// Failed sign-ins per hour.
    SignInFailures,
}

impl LimitName {
    /// Returns the text for messages: `requests an hour`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Requests => "requests an hour",
            Self::Inference => "inference requests a minute",
            Self::Answers => "answers a minute",
            Self::Tokens => "tokens a minute",
            Self::Streams => "streams at the same time",
            Self::SignInFailures => "failed sign-ins an hour",
        }
    }
}

/// A bucket as the `X-RateLimit-*` headers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// The limit.
    pub name: LimitName,
    /// The amount of a full bucket (`X-RateLimit-Limit`).
    pub limit: u32,
    /// The remaining amount, rounded down (`X-RateLimit-Remaining`).
    pub remaining: u32,
    /// The epoch second at which it is full again (`X-RateLimit-Reset`).
    pub reset_epoch_s: u64,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitDecision {
    /// True if the request is allowed.
    pub allowed: bool,
    /// The bucket nearest its limit (of a refusal: the one that refuses for longest); `None` if nothing is limited.
    pub nearest: Option<BucketView>,
    /// Delay until the request would be allowed; `None` if it is allowed.
    pub retry_after: Option<Duration>,
}

/// The reason why answers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswersRefused {
    /// More answers than a full bucket holds, so that waiting does not help.
    MoreThanAll {
        /// Answers per minute.
        limit: u32,
    },
    /// Fewer answers are left at the moment.
    NotNow {
        /// Answers per minute.
        limit: u32,
        /// Delay until enough are left.
        retry_after: Duration,
    },
}

impl RateLimitDecision {
    /// Allowed, and nothing is limited.
    pub const UNLIMITED: Self = Self { allowed: true, nearest: None, retry_after: None };
}
