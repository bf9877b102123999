//! Retry policy of searches.

use std::time::Duration;

/// Upper bound of the first wait; it doubles with each further one.
const BASE: Duration = Duration::from_millis(200);
/// Maximum wait, unless the service asks for a longer one.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// Returns the wait after try number `failed` (from 0), with a `draw` from 0 to 1: any value up to the bound ("full jitter"), so
/// that clients that failed together do not retry together. The service's requested delay is never undercut.
pub fn wait(failed: u32, draw: f64, retry_after: Option<Duration>) -> Duration {
    let bound = BASE.saturating_mul(1 << failed.min(10)).min(MAX_WAIT);
    let draw = if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 1.0 };
    retry_after.unwrap_or_default().saturating_add(bound.mul_f64(draw))
}

/// Returns whether a retry may change the status.
pub const fn is_worth_it(status: u16) -> bool {
    status == 429 || (status >= 500 && status != 501)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_are_bounded_and_never_too_early(
            failed in 0u32..100, draw in proptest::num::f64::ANY, asked in prop::option::of(0u64..100_000)
        ) {
            let asked = asked.map(Duration::from_millis);
            let waited = wait(failed, draw, asked);
            prop_assert!(waited >= asked.unwrap_or_default());
            prop_assert!(waited <= asked.unwrap_or_default() + MAX_WAIT);
            prop_assert!(wait(failed, 1.0, None) <= wait(failed + 1, 1.0, None));
        }
    }

    #[test]
    fn client_errors_are_not_retried() {
        assert!([429, 500, 502, 503, 504].into_iter().all(is_worth_it));
        assert!(![400, 401, 402, 403, 404, 422, 501].into_iter().any(is_worth_it));
        assert_eq!(wait(0, 0.0, None), Duration::ZERO);
        assert_eq!(wait(0, 1.0, None), BASE);
    }
}
