//! Health of the service, derived from real calls.

use super::types::SearchError;

/// Number of consecutive failures from which the service counts as unhealthy.
const NOT_WELL: u32 = 3;

/// The health of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchHealth {
    /// No key is configured.
    NotConfigured,
    /// No call was made yet.
    Unknown,
    /// The last call succeeded.
    Healthy,
    /// One or two consecutive calls failed.
    Degraded,
    /// More consecutive calls failed, or the service rejects the key.
    Unhealthy,
}

/// The outcomes of the last calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    asked: bool,
    failures: u32,
    refused: bool,
}

impl Record {
    /// Records the outcome of a call.
    pub fn note<T>(&mut self, outcome: &Result<T, SearchError>) {
        self.asked = true;
        self.refused = matches!(outcome, Err(SearchError::KeyRefused(_)));
        self.failures = if outcome.is_ok() { 0 } else { self.failures.saturating_add(1) };
    }

    /// Returns the health.
    pub const fn health(self) -> SearchHealth {
        match self {
            Self { asked: false, .. } => SearchHealth::Unknown,
            Self { refused: true, .. } | Self { failures: NOT_WELL.., .. } => SearchHealth::Unhealthy,
            Self { failures: 0, .. } => SearchHealth::Healthy,
            _ => SearchHealth::Degraded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_consecutive_failures() {
        let mut record = Record::default();
        assert_eq!(record.health(), SearchHealth::Unknown);
        let failed = Err::<(), _>(SearchError::Unreachable);
        for expected in [SearchHealth::Degraded, SearchHealth::Degraded, SearchHealth::Unhealthy] {
            record.note(&failed);
            assert_eq!(record.health(), expected);
        }
        record.note(&Ok(()));
        assert_eq!(record.health(), SearchHealth::Healthy);
        record.note(&Err::<(), _>(SearchError::KeyRefused(403)));
        assert_eq!(record.health(), SearchHealth::Unhealthy);
    }
}
