//! The contract of the buckets, as tests that run on any implementation.
//!
//! A new implementation gets a function that makes the buckets of several servers under the same limits, and a line in [`suite`].

use std::sync::Arc;

use proptest::prelude::*;

use super::super::types::CheckKind;
use super::*;
use crate::identity::UserId;

/// Makes the buckets of so many servers.
type NewBuckets = fn(usize) -> Vec<Arc<dyn RateBuckets>>;

/// The buckets of the only server.
fn local(number: usize) -> Vec<Arc<dyn RateBuckets>> {
    let table: Arc<dyn RateBuckets> = Arc::<Table>::default();
    vec![table; number]
}

macro_rules! suite {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn concurrent_charges_spend_no_unit_twice() {
                super::concurrent_charges_spend_no_unit_twice(super::$name);
            }

            proptest! {
                #[test]
                fn charges_are_whole_and_exact(steps in prop::collection::vec(step(), 1..80)) {
                    super::charges_are_whole_and_exact(super::$name, steps)?;
                }

                #[test]
                fn servers_together_grant_no_more(steps in prop::collection::vec((0u64..2_000_000, 0..3usize), 1..80)) {
                    super::servers_together_grant_no_more(super::$name, steps)?;
                }
            }
        }
    )* };
}

suite! { local }

const LIMITS: Limits = Limits {
    requests: Rate::per_hour(9),
    inference: Rate::per_minute(3),
    answers: Rate::per_minute(7),
    tokens: Rate::per_minute(50),
    failures: Rate::per_hour(2),
    streams: 2,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Charge(Charge),
    /// A charge that is reverted at once, if it was made.
    Revert(Charge, Charge),
    EndStream,
    ForgetIdle,
    /// Limits that change for one call change nothing of what was charged.
    PeekWith(u32),
}

/// Milliseconds that pass, and a step.
fn step() -> impl Strategy<Value = (u64, Step)> {
    let kind = prop_oneof![Just(CheckKind::Request), Just(CheckKind::Inference)];
    let charge = prop_oneof![
        4 => kind.clone().prop_map(Charge::Request),
        2 => (1u32..9).prop_map(Charge::Answers),
        2 => (0u32..200).prop_map(Charge::Tokens),
        1 => Just(Charge::Failure),
        2 => Just(Charge::Stream),
    ];
    let step = prop_oneof![
        8 => charge.prop_map(Step::Charge),
        2 => kind.prop_map(|kind| Step::Revert(Charge::Request(kind), Charge::RevertRequest(kind))),
        1 => (1u32..9).prop_map(|number| Step::Revert(Charge::Answers(number), Charge::RevertAnswers(number))),
        2 => Just(Step::EndStream),
        1 => Just(Step::ForgetIdle),
        1 => (0u32..20).prop_map(Step::PeekWith),
    ];
    (prop_oneof![4 => 0u64..30_000, 1 => 0u64..8_000_000], step)
}

/// A bucket's level in units of one `period`-th, counted down; negative for a debt.
#[derive(Clone, Copy)]
struct Level(i128, Rate);

impl Level {
    fn full(rate: Rate) -> Self {
        Self(i128::from(rate.limit) * i128::from(rate.period_ms), rate)
    }

    fn refill(&mut self, elapsed_ms: u64) {
        let full = Self::full(self.1).0;
        self.0 = (self.0 + i128::from(elapsed_ms) * i128::from(self.1.limit)).min(full);
    }

    fn has(&self, amount: u32) -> bool {
        self.0 >= i128::from(amount) * i128::from(self.1.period_ms)
    }

    fn take(&mut self, amount: u32) {
        self.0 -= i128::from(amount) * i128::from(self.1.period_ms);
        // A debt is at most what an hour refills.
        let least = Self::full(self.1).0 - i128::from(self.1.limit) * i128::from(Rate::HOUR_MS);
        self.0 = self.0.max(least);
    }

    fn remaining(&self) -> u32 {
        u32::try_from(self.0.max(0) / i128::from(self.1.period_ms)).unwrap()
    }
}

fn charges_are_whole_and_exact(buckets: NewBuckets, steps: Vec<(u64, Step)>) -> Result<(), TestCaseError> {
    let buckets = &*buckets(1)[0];
    let subject = Subject::from(UserId::new());
    let [mut requests, mut inference, mut answers, mut tokens, mut failures] =
        [LIMITS.requests, LIMITS.inference, LIMITS.answers, LIMITS.tokens, LIMITS.failures].map(Level::full);
    let (mut streams, mut now) = (0u32, 5_000_000);
    for (wait, step) in steps {
        now += wait;
        for level in [&mut requests, &mut inference, &mut answers, &mut tokens, &mut failures] {
            level.refill(wait);
        }
        let before = buckets.peek(subject, now, &LIMITS);
        prop_assert_eq!(before, buckets.peek(subject, now, &LIMITS), "peeking changes nothing");
        match step {
            Step::Charge(charge) => {
                let expected = match charge {
                    Charge::Request(CheckKind::Request) => requests.has(1),
                    Charge::Request(CheckKind::Inference) => {
                        requests.has(1) && inference.has(1) && tokens.has(1)
                    }
                    Charge::Answers(number) => answers.has(number),
                    Charge::Failure => failures.has(1),
                    Charge::Stream => streams < LIMITS.streams,
                    _ => true,
                };
                let charged = buckets.charge(subject, now, &LIMITS, charge);
                prop_assert_eq!(charged.made, expected);
                prop_assert_eq!(charged.entry, buckets.peek(subject, now, &LIMITS));
                if !expected {
                    prop_assert_eq!(charged.entry, before, "a refused charge changes nothing");
                    continue;
                }
                match charge {
                    Charge::Request(kind) => {
                        requests.take(1);
                        if kind == CheckKind::Inference {
                            inference.take(1);
                        }
                    }
                    Charge::Answers(number) => answers.take(number),
                    Charge::Tokens(number) => tokens.take(number),
                    Charge::Failure => failures.take(1),
                    _ => streams += 1,
                }
            }
            Step::Revert(charge, revert) => {
                if buckets.charge(subject, now, &LIMITS, charge).made {
                    buckets.charge(subject, now, &LIMITS, revert);
                }
                prop_assert_eq!(buckets.peek(subject, now, &LIMITS), before);
            }
            Step::EndStream => {
                if streams > 0 {
                    buckets.end_stream(subject);
                    streams -= 1;
                }
            }
            Step::ForgetIdle => {
                for part in 0..PARTS {
                    buckets.forget_idle(part, now);
                }
                prop_assert_eq!(buckets.peek(subject, now, &LIMITS), before);
            }
            Step::PeekWith(limit) => {
                buckets.peek(subject, now, &Limits { requests: Rate::per_hour(limit), ..LIMITS });
            }
        }
        let entry = buckets.peek(subject, now, &LIMITS);
        let found = [
            entry.requests.remaining(LIMITS.requests),
            entry.inference.remaining(LIMITS.inference),
            entry.answers.remaining(LIMITS.answers),
            entry.tokens.remaining(LIMITS.tokens),
            entry.failures.remaining(LIMITS.failures),
            entry.streams,
        ];
        let expected = [&requests, &inference, &answers, &tokens, &failures].map(Level::remaining);
        prop_assert_eq!(&found[..5], &expected[..]);
        prop_assert_eq!(found[5], streams);
    }
    Ok(())
}

/// Each step lets time pass, and one of three servers is asked for a request.
fn servers_together_grant_no_more(
    buckets: NewBuckets,
    steps: Vec<(u64, usize)>,
) -> Result<(), TestCaseError> {
    let servers = buckets(3);
    let subject = Subject::from(UserId::new());
    let (mut now, mut granted) = (0u64, Vec::new());
    for (wait, at) in steps {
        now += wait;
        while servers[at].charge(subject, now, &LIMITS, Charge::Request(CheckKind::Request)).made {
            granted.push(now);
        }
    }
    let (limit, hour) = (u64::from(LIMITS.requests.limit), Rate::HOUR_MS);
    for (first, &from) in granted.iter().enumerate() {
        for (last, &to) in granted.iter().enumerate().skip(first) {
            let number = u64::try_from(last - first).unwrap() + 1;
            prop_assert!(number * hour <= limit * hour + (to - from) * limit);
        }
    }
    Ok(())
}

fn concurrent_charges_spend_no_unit_twice(buckets: NewBuckets) {
    const THREADS: usize = 8;
    const EACH: usize = 40;
    let limits = Limits { requests: Rate::per_hour(100), streams: 5, ..LIMITS };
    for number in [1, 2] {
        let servers = buckets(number);
        let subject = Subject::from(UserId::new());
        let made: Vec<[usize; 2]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let buckets = &servers[thread % number];
                    let count = move |charge| {
                        (0..EACH).filter(|_| buckets.charge(subject, 1, &limits, charge).made).count()
                    };
                    scope.spawn(move || [count(Charge::Request(CheckKind::Request)), count(Charge::Stream)])
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let [requests, streams] = [0, 1].map(|which| made.iter().map(|made| made[which]).sum::<usize>());
        assert!(requests <= 100 && streams <= 5, "{requests} {streams}");
        if number == 1 {
            assert_eq!((requests, streams), (100, 5));
        }
    }
}
