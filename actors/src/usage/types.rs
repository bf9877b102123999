//! The counted quantities, and the keys that they are counted by.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::identity::{KeyId, Principal, PrincipalKind, UserId};

/// A day in UTC, as days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(u32);

/// A text that is not a day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a day reads YYYY-MM-DD and is not before 1970-01-01")]
pub struct InvalidDay;

impl Day {
    /// The earliest day.
    pub const FIRST: Self = Self(0);

    /// Returns the current day.
    #[must_use]
    pub fn today() -> Self {
        Self::of(Timestamp::now())
    }

    /// Returns the day of a point in time.
    #[must_use]
    pub fn of(moment: Timestamp) -> Self {
        Self(u32::try_from(moment.as_second().div_euclid(86_400)).unwrap_or(0))
    }

    /// Returns the days since 1970-01-01.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the day of that number; numbers beyond the calendar give its last day.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self(number.min(Self::last().0))
    }

    /// Returns the last day of the calendar: 9999-12-31.
    #[must_use]
    pub fn last() -> Self {
        Self(2_932_896)
    }

    /// Returns the day that many days earlier, or the first day.
    #[must_use]
    pub fn back(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Returns its first second since the epoch.
    #[must_use]
    pub fn start_s(self) -> i64 {
        i64::from(self.0) * 86_400
    }

    fn date(self) -> Date {
        let epoch = jiff::civil::date(1970, 1, 1);
        epoch.saturating_add(i64::from(self.0).days())
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.date())
    }
}

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let date: Date = text.parse().map_err(|_| InvalidDay)?;
        let since: SignedDuration = date.duration_since(jiff::civil::date(1970, 1, 1));
        // A day has a single text form: an accepted text formats to itself.
        let day = u32::try_from(since.as_hours() / 24).map(Self).map_err(|_| InvalidDay)?;
        if day.to_string() == text { Ok(day) } else { Err(InvalidDay) }
    }
}

impl TryFrom<String> for Day {
    type Error = InvalidDay;

    fn try_from(text: String) -> Result<Self, InvalidDay> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

/// The owner of usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UsageOwner {
    /// All callers without a credential, together.
    Anonymous,
    /// A user.
    User(UserId),
    /// All deleted users, together: the total remains, the identity does not.
    Deleted,
}

impl UsageOwner {
    /// Returns 16 bytes that sort.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        match self {
            Self::Anonymous => [0; 16],
            Self::User(id) => id.to_bytes(),
            Self::Deleted => [0xff; 16],
        }
    }

    /// Returns the user, if there is one.
    #[must_use]
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::User(id) => Some(id),
            Self::Anonymous | Self::Deleted => None,
        }
    }
}

impl fmt::Display for UsageOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(id) => id.fmt(f),
            Self::Deleted => f.write_str("deleted"),
        }
    }
}

impl FromStr for UsageOwner {
    type Err = crate::identity::InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "anonymous" => Ok(Self::Anonymous),
            "deleted" => Ok(Self::Deleted),
            id => id.parse().map(Self::User),
        }
    }
}

impl TryFrom<String> for UsageOwner {
    type Error = crate::identity::InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UsageOwner> for String {
    fn from(payer: UsageOwner) -> Self {
        payer.to_string()
    }
}

/// The key that usage is counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UsageKey {
    /// The owner of the usage.
    pub user: UsageOwner,
    /// The day on which the request was accepted.
    pub day: Day,
    /// The API key; `None` for a session or no credential.
    pub key: Option<KeyId>,
    /// The model's own id, whichever alias was requested.
    #[serde(with = "shared_text")]
    pub model: Arc<str>,
}

impl UsageKey {
    /// Returns the key for a request that a principal makes today.
    #[must_use]
    pub fn of(principal: &Principal, model: &str) -> Self {
        let (user, key) = match principal.kind {
            PrincipalKind::User { user, .. } => (UsageOwner::User(user), None),
            PrincipalKind::Key { user, key } => (UsageOwner::User(user), Some(key)),
            PrincipalKind::Anonymous { .. } => (UsageOwner::Anonymous, None),
        };
        Self { user, day: Day::today(), key, model: model.into() }
    }

    /// Returns the same key without the caller's identity.
    #[must_use]
    pub fn anonymised(&self) -> Self {
        Self { user: UsageOwner::Deleted, key: None, ..self.clone() }
    }
}

/// Serde conversion of reference-counted text.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Into::into)
    }
}

/// The counted quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageCounts {
    /// Requests that a model accepted.
    pub requests: u64,
    /// Prompt tokens, including those from the cache.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

impl UsageCounts {
    /// Adds other counts, saturating.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_have_a_single_text_form() {
        assert_eq!("1970-01-01".parse(), Ok(Day::FIRST));
        assert_eq!("2000-03-01".parse::<Day>().unwrap().start_s(), 951_868_800);
        assert_eq!("9999-12-31".parse(), Ok(Day::last()));
        for wrong in ["", "today", "1969-12-31", "2026-02-30", "2026-1-1", "20260101", "2026-01-01T00:00"] {
            assert_eq!(wrong.parse::<Day>(), Err(InvalidDay), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn days_round_trip(number in 0..=2_932_896u32) {
            let day = Day::from_number(number);
            prop_assert_eq!(day.to_string().parse(), Ok(day));
            prop_assert_eq!(day.number(), number);
            prop_assert_eq!(Day::of(Timestamp::from_second(day.start_s()).unwrap()), day);
        }
    }

    #[test]
    fn owners_round_trip() {
        for payer in [UsageOwner::Anonymous, UsageOwner::Deleted, UsageOwner::User(UserId::new())] {
            assert_eq!(payer.to_string().parse(), Ok(payer));
        }
        assert!("somebody".parse::<UsageOwner>().is_err());
    }
}
