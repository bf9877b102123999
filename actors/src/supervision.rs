//! The restart policy of all supervisors: rate, delay, and pause of restarts.
//!
//! Intensity is counted as Erlang/OTP's supervisor counts it ([Supervisor Behaviour, "Maximum Restart Intensity"]): more than
//! `max_restarts` restarts within a sliding window mean that restarting does not help. OTP's supervisor then terminates and
//! escalates to its own supervisor; here the child is given up for a while and then restarted, since a model file can be replaced
//! and memory can become free.
//!
//! Pure: time is an argument, nothing sleeps. The supervisor asks for a decision at each failure and follows it.
//!
//! [Supervisor Behaviour, "Maximum Restart Intensity"]: https://www.erlang.org/doc/system/sup_princ.html

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Rate and delay of the restarts of a failed child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Maximum number of restarts in any window of `within` (OTP's `intensity`). 0: no immediate restart, only after the
    /// cooldown.
    pub max_restarts: u32,
    /// The window over which restarts are counted (OTP's `period`).
    pub within: Duration,
    /// Wait before the second consecutive restart; the first is immediate. Doubles with each further one.
    pub initial_backoff: Duration,
    /// Maximum wait before a restart.
    pub max_backoff: Duration,
    /// Minimum time for which the child is given up once `max_restarts` are used.
    pub cooldown: Duration,
}

impl Default for RestartPolicy {
    /// 5 restarts per minute, immediately and then after 100 ms doubling up to 5 s; given up for at least 30 s.
    fn default() -> Self {
        Self {
            max_restarts: 5,
            within: Duration::from_secs(60),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            cooldown: Duration::from_secs(30),
        }
    }
}

impl RestartPolicy {
    /// Returns the wait before a restart that follows `previous` restarts without a stable period between them.
    pub fn backoff(&self, previous: u32) -> Duration {
        let Some(doublings) = previous.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.initial_backoff.saturating_mul(factor).min(self.max_backoff)
    }
}

/// The reaction to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Restart after this delay.
    RestartAfter(Duration),
    /// Too many restarts: report the child as unhealthy, and start it again after `retry_after`.
    GiveUp {
        /// At least the policy's cooldown, and until the window has room for a restart.
        retry_after: Duration,
    },
}

impl Decision {
    /// Returns the delay until the child is started again, for either decision.
    pub fn delay(&self) -> Duration {
        match *self {
            Self::RestartAfter(delay) => delay,
            Self::GiveUp { retry_after } => retry_after,
        }
    }
}

/// The failure history of one child.
#[derive(Clone, Debug)]
pub struct RestartTracker {
    policy: RestartPolicy,
    /// Due times of the restarts in the current window, oldest first. At most `max_restarts` (or 1) of them.
    restarts: VecDeque<Instant>,
    /// Number of restarts since the child was last stable or given up.
    in_a_row: u32,
}

impl RestartTracker {
    /// Returns a tracker of a child that has not failed yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, restarts: VecDeque::new(), in_a_row: 0 }
    }

    /// Returns the policy.
    pub fn policy(&self) -> &RestartPolicy {
        &self.policy
    }

    /// Records a failure at `now` (or a failed start), and decides. The start that the decision names counts as a restart at its
    /// due time, also the one after giving up, so the intensity holds over any window.
    pub fn on_failure(&mut self, now: Instant) -> Decision {
        self.forget_before(now);
        let used = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        let decision = if used < self.policy.max_restarts {
            let delay = self.policy.backoff(self.in_a_row);
            self.in_a_row = self.in_a_row.saturating_add(1);
            Decision::RestartAfter(delay)
        } else {
            // After the cooldown it is a new attempt, with the backoff of a new one.
            self.in_a_row = 0;
            Decision::GiveUp { retry_after: self.policy.cooldown.max(self.until_room(now)) }
        };
        let due = now + decision.delay();
        self.forget_before(due);
        self.restarts.push_back(due);
        decision
    }

    /// Records that the child has run long enough at `now` to count as recovered: the next restart is immediate again. Earlier
    /// restarts still count towards the intensity.
    pub fn on_stable(&mut self, now: Instant) {
        self.forget_before(now);
        self.in_a_row = 0;
    }

    /// Drops the restarts that lie a whole window or more before `now`.
    fn forget_before(&mut self, now: Instant) {
        while self
            .restarts
            .front()
            .is_some_and(|&restart| now.saturating_duration_since(restart) >= self.policy.within)
        {
            self.restarts.pop_front();
        }
    }

    /// Returns the time until the oldest restart leaves the window.
    fn until_room(&self, now: Instant) -> Duration {
        match self.restarts.front() {
            Some(&oldest) => (oldest + self.policy.within).saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RestartPolicy {
        RestartPolicy {
            max_restarts: 3,
            within: Duration::from_secs(10),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(350),
            cooldown: Duration::from_secs(20),
        }
    }

    fn after(ms: u64) -> Decision {
        Decision::RestartAfter(Duration::from_millis(ms))
    }

    #[test]
    fn restarts_at_once_then_backs_off_then_gives_up_then_recovers() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut tracker = RestartTracker::new(policy());
        assert_eq!(tracker.on_failure(at(0)), after(0));
        assert_eq!(tracker.on_failure(at(1)), after(100));
        assert_eq!(tracker.on_failure(at(200)), after(200));
        assert_eq!(tracker.on_failure(at(500)), Decision::GiveUp { retry_after: Duration::from_secs(20) });
        // Started again at 20.5 s: the window holds that start alone.
        assert_eq!(tracker.on_failure(at(20_600)), after(0));
        assert_eq!(tracker.on_failure(at(20_700)), after(100));
        assert!(matches!(tracker.on_failure(at(20_900)), Decision::GiveUp { .. }));
    }

    #[test]
    fn stability_resets_the_backoff_but_not_the_intensity() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut tracker = RestartTracker::new(policy());
        for second in [0, 2, 4] {
            assert_eq!(tracker.on_failure(at(second)), after(0));
            tracker.on_stable(at(second + 1));
        }
        assert!(matches!(tracker.on_failure(at(6)), Decision::GiveUp { .. }));
    }

    #[test]
    fn short_cooldown_waits_for_the_window() {
        let start = Instant::now();
        let mut tracker = RestartTracker::new(RestartPolicy { cooldown: Duration::from_secs(1), ..policy() });
        for _ in 0..3 {
            tracker.on_failure(start);
        }
        assert_eq!(tracker.on_failure(start), Decision::GiveUp { retry_after: Duration::from_secs(10) });
    }

    #[test]
    fn zero_restarts_mean_one_attempt_per_cooldown() {
        let start = Instant::now();
        let mut tracker = RestartTracker::new(RestartPolicy { max_restarts: 0, ..policy() });
        let give_up = Decision::GiveUp { retry_after: Duration::from_secs(20) };
        assert_eq!(tracker.on_failure(start), give_up);
        assert_eq!(tracker.on_failure(start + Duration::from_secs(20)), give_up);
    }

    fn policies() -> impl Strategy<Value = RestartPolicy> {
        (0u32..6, 1u64..20_000, 0u64..2_000, 0u64..10_000, 0u64..40_000).prop_map(
            |(max_restarts, within, initial, max, cooldown)| RestartPolicy {
                max_restarts,
                within: Duration::from_millis(within),
                initial_backoff: Duration::from_millis(initial),
                max_backoff: Duration::from_millis(max),
                cooldown: Duration::from_millis(cooldown),
            },
        )
    }

    proptest! {
        #[test]
        fn starts_in_a_window_never_exceed_the_maximum(
            policy in policies(),
            lifetimes in prop::collection::vec((0u64..5_000, any::<bool>()), 1..60),
        ) {
            let mut tracker = RestartTracker::new(policy);
            let mut now = Instant::now();
            let mut starts = Vec::new();
            for (lived, stable) in lifetimes {
                now += Duration::from_millis(lived);
                if stable {
                    tracker.on_stable(now);
                }
                now += tracker.on_failure(now).delay();
                starts.push(now);
            }
            let allowed = policy.max_restarts.max(1) as usize;
            for window in starts.windows(allowed + 1) {
                prop_assert!(window[allowed] - window[0] >= policy.within);
            }
        }

        #[test]
        fn backoff_starts_at_once_never_falls_and_is_bounded(policy in policies(), n in 0u32..200) {
            prop_assert_eq!(policy.backoff(0), Duration::ZERO);
            prop_assert!(policy.backoff(n) <= policy.backoff(n + 1));
            prop_assert!(policy.backoff(n) <= policy.max_backoff);
        }

        #[test]
        fn gives_up_for_the_cooldown_and_not_for_good(
            policy in policies(),
            lifetimes in prop::collection::vec(0u64..3_000, 1..60),
        ) {
            let mut tracker = RestartTracker::new(policy);
            let mut now = Instant::now();
            for lived in lifetimes {
                now += Duration::from_millis(lived);
                let decision = tracker.on_failure(now);
                now += decision.delay();
                if let Decision::GiveUp { retry_after } = decision {
                    prop_assert!(retry_after >= policy.cooldown);
                    prop_assert!(retry_after <= policy.cooldown.max(policy.within));
                    // For any history: a child that then runs for a whole window is restarted immediately.
                    if policy.max_restarts > 0 {
                        prop_assert_eq!(tracker.clone().on_failure(now + policy.within), after(0));
                    }
                }
            }
        }
    }
}
