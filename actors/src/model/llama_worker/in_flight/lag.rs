//! The measures of a worker's lag.

use std::time::{Duration, Instant};

use super::{Entry, InFlight};

impl InFlight {
    /// Returns `true` if a request waits for its tokens alone, not for a constraint of its own to be compiled.
    pub(super) fn is_plain(&self, id: u64) -> bool {
        let is_kept = |entry: &Entry| entry.request.constraint.is_some() || entry.request.tools.is_some();
        !self.entries.get(&id).is_some_and(is_kept)
    }

    /// Returns the time for which the worker has prepared none of the requests that have nothing to be compiled, if it has any.
    pub fn unprepared_for(&self, now: Instant) -> Option<Duration> {
        let waiting = self
            .trials()
            .filter(|(id, trial)| trial.submitted && !trial.prepared && !trial.running && self.is_plain(*id));
        let since = waiting.filter_map(|(_, trial)| trial.submitted_at).min()?;
        Some(now.saturating_duration_since(self.last_prepared.map_or(since, |last| last.max(since))))
    }

    /// Returns the time for which the worker has owed a step, if it owes one.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let sign = self.last_sign?;
        self.trials().any(|(_, t)| t.submitted).then(|| now.saturating_duration_since(sign))
    }
}
