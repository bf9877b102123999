//! Further tries of requests that have no token yet.
//!
//! Pure: time and chance are arguments. A request is tried again where another try can help and costs nothing twice: after a
//! failed or cut connection, 429, 502, 503 and 504. All tries of a model together are bounded by a budget relative to its requests,
//! as in [Finagle](https://twitter.github.io/finagle/guide/Clients.html#retries) and linkerd, so that an outage does not multiply
//! the load.

use std::time::Duration;

/// Wait before the first further try; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(50);
/// Longest of these waits.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that a request waits for; beyond, its caller is told.
const MAX_PATIENCE: Duration = Duration::from_secs(5);
/// Tries that are free at the start and after quiet times.
const RESERVE: u32 = 10;

/// A bound on further tries, relative to the requests.
#[derive(Debug)]
pub struct RetryBudget {
    /// Hundredths of a try that a request adds.
    percent: u32,
    /// Hundredths of tries that are left.
    left: u32,
}

impl RetryBudget {
    /// A budget of so many tries for 100 requests.
    #[must_use]
    pub const fn new(percent: u32) -> Self {
        Self { percent, left: if percent == 0 { 0 } else { RESERVE * 100 } }
    }

    /// Notes a request.
    pub fn on_request(&mut self) {
        self.left = self.left.saturating_add(self.percent).min(RESERVE * 100);
    }

    /// Takes a further try, if one is left.
    pub fn take(&mut self) -> bool {
        let is_left = self.left >= 100;
        if is_left {
            self.left -= 100;
        }
        is_left
    }
}

/// A try that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedTry {
    /// Number of tries before this one.
    pub before: u32,
    /// `Retry-After` of the upstream.
    pub retry_after: Option<Duration>,
    /// `true` if another upstream can take the request.
    pub others: bool,
}

/// Returns `true` for a status after which another try may succeed.
#[must_use]
pub const fn is_worth_it(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// Returns the wait before the next try; `None` if there is none. `most`: the number of further tries; `chance`: from 0 to 1.
#[must_use]
pub fn next_try(failed: FailedTry, most: u32, chance: f64) -> Option<Duration> {
    if failed.before >= most {
        return None;
    }
    let doubled =
        BACKOFF.saturating_mul(1u32.checked_shl(failed.before).unwrap_or(u32::MAX)).min(MAX_BACKOFF);
    // Between a half and the whole, so that requests that failed together do not come back together.
    let backoff = doubled.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
    match failed.retry_after {
        // The upstream that asked for a pause gets one; another one has not asked.
        Some(wait) if !failed.others => (wait <= MAX_PATIENCE).then(|| wait.max(backoff)),
        _ => Some(backoff),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pause_that_was_asked_for_is_kept() {
        let failed = |retry_after, others| FailedTry { before: 0, retry_after, others };
        let second = Duration::from_secs(1);
        assert_eq!(next_try(failed(Some(second), false), 3, 0.5), Some(second));
        assert_eq!(next_try(failed(Some(MAX_PATIENCE * 2), false), 3, 0.5), None);
        assert!(next_try(failed(Some(MAX_PATIENCE * 2), true), 3, 0.5).unwrap() <= BACKOFF);
        assert_eq!(next_try(failed(None, true), 0, 0.5), None);
    }

    proptest! {
        /// No sequence of requests has more further tries than the reserve and the share of its requests.
        #[test]
        fn tries_are_within_the_budget(percent in 0u32..=100, steps in prop::collection::vec(any::<bool>(), 0..400)) {
            let mut budget = RetryBudget::new(percent);
            let (mut requests, mut tries) = (0u32, 0u32);
            for is_request in steps {
                if is_request {
                    requests += 1;
                    budget.on_request();
                } else if budget.take() {
                    tries += 1;
                }
                let reserve = if percent == 0 { 0 } else { RESERVE };
                prop_assert!(tries * 100 <= reserve * 100 + requests * percent);
            }
        }

        /// A budget that was exhausted recovers with requests.
        #[test]
        fn budgets_recover(percent in 1u32..=100) {
            let mut budget = RetryBudget::new(percent);
            while budget.take() {}
            for _ in 0..100 {
                budget.on_request();
            }
            prop_assert!(budget.take());
        }

        /// Waits are bounded, never before the time that was asked for where there is no other upstream, and end with the tries.
        #[test]
        fn waits_are_bounded(before in 0u32..40, most in 0u32..=3, chance in 0.0f64..=1.0, asked in prop::option::of(0u64..20_000), others: bool) {
            let retry_after = asked.map(Duration::from_millis);
            let next = next_try(FailedTry { before, retry_after, others }, most, chance);
            prop_assert!(next.is_none() || before < most);
            if let Some(wait) = next {
                prop_assert!(wait <= MAX_BACKOFF.max(MAX_PATIENCE) && wait >= BACKOFF / 2);
                if let Some(asked) = retry_after.filter(|_| !others) {
                    prop_assert!(wait >= asked);
                }
            }
        }
    }
}
