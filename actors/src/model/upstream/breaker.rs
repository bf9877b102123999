//! The circuit breaker of an upstream: when it is given requests.
//!
//! Pure: time is an argument. Health is progress, not what a health route says: vLLM's answers 200 while its engine is dead
//! (vllm#39863, vllm#7633). So only a token closes a breaker: that of a trial, which the upstream's actor makes, so that no caller
//! waits for a dead engine. A probe that succeeds brings the trial of an upstream forward that could not be reached, and of no
//! other. The defaults are those of SGLang's gateway (5 failures, 30 s).

use std::time::{Duration, Instant};

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or one that was cut, or a refusal of the key or the model's name: a probe finds out whether it is over.
    Unreachable,
    /// 502, 503 or 504.
    Failed,
    /// 500, or an answer that is none: the request may be to blame.
    Suspect,
    /// It owes tokens, and sends none to anybody.
    Stalled,
}

/// The limits of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row after which it opens, 1 or more.
    pub failures: u32,
    /// Time after which a trial is made.
    pub cooldown: Duration,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests pass; so many failures in a row.
    Closed(u32),
    /// None passes; no trial before then.
    Open { until: Instant, kind: Failure },
    /// None passes but a trial, whose result decides.
    HalfOpen { kind: Failure, is_tried: bool },
}

/// The breaker of one upstream.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed(0) }
    }

    /// Returns `true` if a trial is due.
    #[must_use]
    pub fn wants_trial(&self, now: Instant) -> bool {
        match self.state {
            State::Open { until, .. } => until <= now,
            State::HalfOpen { is_tried, .. } => !is_tried,
            State::Closed(_) => false,
        }
    }

    /// Begins a trial, if one is due. Its result is to be noted, or that it has none.
    pub fn begin_trial(&mut self, now: Instant) -> bool {
        let is_due = self.wants_trial(now);
        if let (true, State::Open { kind, .. } | State::HalfOpen { kind, .. }) = (is_due, self.state) {
            self.state = State::HalfOpen { kind, is_tried: true };
        }
        is_due
    }

    /// Returns the time until a trial is due; zero if requests pass, and while a trial is due or made.
    #[must_use]
    pub fn retry_after(&self, now: Instant) -> Duration {
        match self.state {
            State::Open { until, .. } => until.saturating_duration_since(now),
            State::Closed(_) | State::HalfOpen { .. } => Duration::ZERO,
        }
    }

    /// Returns `true` if requests pass.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Notes that the upstream made a token.
    pub fn on_progress(&mut self) {
        self.state = State::Closed(0);
    }

    /// Notes the failure of a request.
    pub fn on_failure(&mut self, kind: Failure, now: Instant) {
        let failures = match self.state {
            State::Closed(failures) => failures.saturating_add(1),
            // A request that began earlier shows nothing new.
            State::Open { .. } => return,
            State::HalfOpen { .. } => u32::MAX,
        };
        self.state = if kind == Failure::Stalled && self.is_closed() {
            // One request alone may have taken that long, so a trial finds out at once.
            State::Open { until: now, kind }
        } else if kind == Failure::Stalled || failures >= self.policy.failures {
            State::Open { until: now + self.policy.cooldown, kind }
        } else {
            State::Closed(failures)
        };
    }

    /// Notes that a trial ended without a result.
    pub fn on_trial_abandoned(&mut self) {
        if let State::HalfOpen { kind, .. } = self.state {
            self.state = State::HalfOpen { kind, is_tried: false };
        }
    }

    /// Notes the result of a probe.
    pub fn on_probe(&mut self, is_fine: bool, now: Instant) {
        match self.state {
            State::Open { kind: Failure::Unreachable, .. } if is_fine => {
                self.state = State::HalfOpen { kind: Failure::Unreachable, is_tried: false };
            }
            // It is known to be unreachable still: no request has to find out.
            State::Open { kind: Failure::Unreachable, .. } => {
                self.state = State::Open { until: now + self.policy.cooldown, kind: Failure::Unreachable };
            }
            State::Closed(_) if !is_fine => self.on_failure(Failure::Unreachable, now),
            State::HalfOpen { is_tried: false, .. } if !is_fine => self.on_failure(Failure::Unreachable, now),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(30);

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(BreakerPolicy { failures, cooldown: COOLDOWN })
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_is_tried_again() {
        let start = Instant::now();
        let mut breaker = breaker(3);
        for _ in 0..2 {
            breaker.on_failure(Failure::Failed, start);
        }
        breaker.on_progress();
        for _ in 0..2 {
            breaker.on_failure(Failure::Failed, start);
            assert!(breaker.is_closed());
        }
        breaker.on_failure(Failure::Failed, start);
        assert_eq!((breaker.is_closed(), breaker.retry_after(start)), (false, COOLDOWN));
        assert!(!breaker.begin_trial(start));
        let later = start + COOLDOWN;
        assert!(breaker.begin_trial(later));
        assert!(!breaker.begin_trial(later), "one trial at a time");
        breaker.on_trial_abandoned();
        assert!(breaker.begin_trial(later));
        breaker.on_failure(Failure::Failed, later);
        assert!(!breaker.begin_trial(later));
        assert!(breaker.begin_trial(later + COOLDOWN));
        breaker.on_progress();
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_stall_opens_it_at_once_and_no_probe_helps() {
        let start = Instant::now();
        let mut breaker = breaker(5);
        breaker.on_failure(Failure::Stalled, start);
        breaker.on_probe(true, start);
        assert!(!breaker.is_closed(), "its health route lies");
        assert!(breaker.begin_trial(start), "a trial finds out at once");
        breaker.on_failure(Failure::Stalled, start);
        breaker.on_probe(true, start);
        assert!(!breaker.is_closed() && !breaker.wants_trial(start));
        assert!(breaker.wants_trial(start + COOLDOWN));
    }

    #[test]
    fn probes_find_out_whether_it_can_be_reached() {
        let start = Instant::now();
        let mut breaker = breaker(2);
        breaker.on_probe(false, start);
        assert!(breaker.is_closed());
        breaker.on_probe(false, start);
        assert!(!breaker.is_closed());
        let later = start + COOLDOWN;
        breaker.on_probe(false, later);
        assert!(!breaker.wants_trial(later), "the last probe failed");
        breaker.on_probe(true, later);
        assert!(!breaker.is_closed(), "a token closes it");
        assert!(breaker.begin_trial(later));
        breaker.on_progress();
        assert!(breaker.is_closed());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Trial,
        Progress,
        Failure(Failure),
        Abandon,
        Probe(bool),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let kind = prop_oneof![
            Just(Failure::Unreachable),
            Just(Failure::Failed),
            Just(Failure::Suspect),
            Just(Failure::Stalled)
        ];
        let step = prop_oneof![
            4 => Just(Step::Trial),
            2 => Just(Step::Progress),
            5 => kind.prop_map(Step::Failure),
            2 => Just(Step::Abandon),
            3 => any::<bool>().prop_map(Step::Probe),
            3 => (0u64..40).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..100)
    }

    proptest! {
        /// In any order: never two trials at once, none while requests pass, and a breaker is never shut for ever; only progress
        /// closes it.
        #[test]
        fn trials_are_single_and_come(failures in 1u32..6, steps in steps()) {
            let mut breaker = breaker(failures);
            let mut now = Instant::now();
            let mut trial = false;
            for step in steps {
                let was_closed = breaker.is_closed();
                match step {
                    Step::Trial => {
                        let begun = breaker.begin_trial(now);
                        prop_assert!(!begun || (!trial && !was_closed));
                        trial |= begun;
                    }
                    Step::Progress => {
                        breaker.on_progress();
                        trial = false;
                    }
                    Step::Failure(kind) => {
                        breaker.on_failure(kind, now);
                        prop_assert!(kind != Failure::Stalled || !breaker.is_closed());
                        trial = false;
                    }
                    Step::Abandon => {
                        breaker.on_trial_abandoned();
                        trial = false;
                    }
                    Step::Probe(is_fine) => breaker.on_probe(is_fine, now),
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                let is_progress = matches!(step, Step::Progress);
                prop_assert!(!breaker.is_closed() || was_closed || is_progress, "only a token closes it");
                prop_assert!(breaker.retry_after(now) <= COOLDOWN);
                let later = now + COOLDOWN;
                prop_assert!(breaker.is_closed() || trial || breaker.wants_trial(later), "it is shut for ever");
            }
        }
    }
}
