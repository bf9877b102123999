//! What is limited and what a check says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one user or key in place of the settings' (`rate_limits`). For a user a value replaces the setting;
/// for a key it holds beside its user's, so that a key can be given less than its user has, never more.
/// `None`: no limit of its own. `Some(0)`: unlimited (for a user) or no limit of its own (for a key).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitOverrides {
    /// Requests an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_hour: Option<u32>,
    /// Inference requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_per_minute: Option<u32>,
    /// Answers a minute. Where it is unset and inference requests are not, ten times those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_per_minute: Option<u32>,
    /// Tokens a minute, prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Streams at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_streams: Option<u32>,
}

impl LimitOverrides {
    /// For each limit: 0, which is none, where this has one of its own, else `None`.
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

    /// These limits of a key, none above those of the key that it is made with. A limit that is absent becomes that
    /// one's.
    ///
    /// # Errors
    /// The name of one that is above, and what is allowed.
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

    /// The lower one of each limit.
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

/// 0 is no limit, as for keys.
fn lower(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a.filter(|&a| a > 0), b.filter(|&b| b > 0)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What kind of request is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Any request: counts against requests an hour.
    Request,
    /// A request that runs a model: counts against requests an hour and inference a minute, and needs tokens left.
    Inference,
}

/// Which limit a bucket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitName {
    /// Requests an hour.
    Requests,
    /// Inference requests a minute.
    Inference,
    /// Answers a minute.
    Answers,
    /// Tokens a minute.
    Tokens,
    /// Streams at the same time.
    Streams,
    /// Failed sign-ins an hour.
    SignInFailures,
}

impl LimitName {
    /// For messages: `requests an hour`.
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

/// What a bucket looks like from outside: the `X-RateLimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// Which limit it is.
    pub name: LimitName,
    /// What it holds when full (`X-RateLimit-Limit`).
    pub limit: u32,
    /// What it holds now, whole ones only (`X-RateLimit-Remaining`).
    pub remaining: u32,
    /// The epoch second by which it is full again (`X-RateLimit-Reset`).
    pub reset_epoch_s: u64,
}

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request may go on.
    pub allowed: bool,
    /// The bucket nearest its end (of a refusal: the one that refuses for longest); `None` when nothing is limited.
    pub nearest: Option<BucketView>,
    /// With a refusal: when it would be allowed.
    pub retry_after: Option<Duration>,
}

/// Why answers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswersRefused {
    /// There are more than the limit lets a full bucket hold, so that waiting is of no use.
    MoreThanAll {
        /// Answers a minute.
        limit: u32,
    },
    /// There are not so many left now.
    NotNow {
        /// Answers a minute.
        limit: u32,
        /// When there are.
        retry_after: Duration,
    },
}

impl Verdict {
    /// Allowed, and nothing is limited.
    pub const UNLIMITED: Self = Self { allowed: true, nearest: None, retry_after: None };
}
