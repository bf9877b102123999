//! How the service is, as real calls have shown.

use super::types::SearchError;

/// So many failures in a row are no accident.
const NOT_WELL: u32 = 3;

/// How the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchHealth {
    /// There is no key.
    NotConfigured,
    /// It was not asked yet.
    Unknown,
    /// Its last answer was good.
    Healthy,
    /// It failed once or twice in a row.
    Degraded,
    /// It failed more often in a row, or does not take the key.
    Unhealthy,
}

/// What the last calls came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    asked: bool,
    failures: u32,
    refused: bool,
}

impl Record {
    /// A call has ended.
    pub fn note<T>(&mut self, outcome: &Result<T, SearchError>) {
        self.asked = true;
        self.refused = matches!(outcome, Err(SearchError::KeyRefused(_)));
        self.failures = if outcome.is_ok() { 0 } else { self.failures.saturating_add(1) };
    }

    /// What that says.
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
    fn one_failure_is_not_many_and_one_success_is_enough() {
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
