use proptest::prelude::*;

use super::*;

fn rates() -> impl Strategy<Value = Rate> {
    let limit = prop_oneof![1u32..100, 1u32..5000, Just(u32::MAX)];
    (limit, prop_oneof![Just(Rate::HOUR_MS), Just(Rate::MINUTE_MS)])
        .prop_map(|(limit, period_ms)| Rate { limit, period_ms })
}

/// Waits and attempts: the time until the next burst, and its size.
fn bursts() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let wait = prop_oneof![0u64..5, 0u64..5_000, 0u64..200_000, 0u64..8_000_000];
    prop::collection::vec((wait, 0u32..80), 1..40)
}

/// The model: exact fractions of a request in u128, the obvious form of a bucket.
struct Model {
    /// In 1/period requests.
    level: u128,
}

impl Model {
    fn full(rate: Rate) -> Self {
        Self { level: u128::from(rate.limit) * u128::from(rate.period_ms) }
    }

    fn pass(&mut self, ms: u64, rate: Rate) {
        let full = u128::from(rate.limit) * u128::from(rate.period_ms);
        self.level = (self.level + u128::from(ms) * u128::from(rate.limit)).min(full);
    }

    fn take(&mut self, rate: Rate) -> bool {
        let one = u128::from(rate.period_ms);
        let free = self.level >= one;
        if free {
            self.level -= one;
        }
        free
    }
}

proptest! {
    #[test]
    fn bucket_equals_the_model(rate in rates(), bursts in bursts()) {
        let (mut bucket, mut model) = (Bucket::default(), Model::full(rate));
        for (wait, attempts) in bursts {
            bucket.refill(wait, rate);
            model.pass(wait, rate);
            for _ in 0..attempts {
                prop_assert_eq!(bucket.take(rate), model.take(rate));
                prop_assert_eq!(u128::from(bucket.remaining(rate)), model.level / u128::from(rate.period_ms));
            }
        }
    }

    #[test]
    fn bucket_never_admits_more_than_capacity_and_refill_over_any_span(rate in rates(), bursts in bursts()) {
        let mut bucket = Bucket::default();
        let mut now = 0u64;
        let mut admitted: Vec<u64> = Vec::new();
        for (wait, attempts) in bursts {
            now += wait;
            bucket.refill(wait, rate);
            admitted.extend((0..attempts).filter(|_| bucket.take(rate)).map(|_| now));
        }
        for first in 0..admitted.len() {
            for last in first..admitted.len() {
                let count = (last - first + 1) as u128;
                let span = u128::from(admitted[last] - admitted[first]);
                let (limit, period) = (u128::from(rate.limit), u128::from(rate.period_ms));
                prop_assert!(count * period <= limit * period + span * limit);
            }
        }
    }

    /// The waits of `one_in_ms` and `full_in_ms` are sufficient, and not a millisecond too long.
    #[test]
    fn waits_are_exact(rate in rates(), bursts in bursts(), debt in 0u32..1000) {
        let mut bucket = Bucket::default();
        for (wait, attempts) in bursts {
            bucket.refill(wait, rate);
            for _ in 0..attempts {
                bucket.take(rate);
            }
        }
        bucket.charge(debt, rate);
        for (promise, kept) in [
            (bucket.one_in_ms(rate), (|b, rate| b.remaining(rate) >= 1) as fn(Bucket, Rate) -> bool),
            (bucket.full_in_ms(rate), |b, rate| b.remaining(rate) == rate.limit),
        ] {
            let after = |ms| {
                let mut later = bucket;
                later.refill(ms, rate);
                later
            };
            prop_assert!(kept(after(promise), rate));
            prop_assert!(promise == 0 || !kept(after(promise - 1), rate));
        }
        bucket.refill(Rate::HOUR_MS, rate);
        prop_assert_eq!(bucket, Bucket::default(), "an hour fills any bucket");
    }

    /// Frequent reads lose nothing: many small refills add up to one large one.
    #[test]
    fn refills_add_up(rate in rates(), taken in 0u32..200, waits in prop::collection::vec(0u64..10_000, 0..30)) {
        let mut bucket = Bucket::default();
        bucket.charge(taken, rate);
        let mut at_once = bucket;
        at_once.refill(waits.iter().sum(), rate);
        for wait in waits {
            bucket.refill(wait, rate);
        }
        prop_assert_eq!(bucket, at_once);
    }

    /// A changed limit takes effect at once and cannot make a bucket hold more than it.
    #[test]
    fn limits_may_change(before in rates(), after in rates(), taken in 0u32..5000) {
        let after = Rate { period_ms: before.period_ms, ..after };
        let mut bucket = Bucket::default();
        bucket.charge(taken, before);
        bucket.refill(0, after);
        prop_assert!(bucket.remaining(after) <= after.limit);
        bucket.refill(Rate::HOUR_MS, after);
        prop_assert_eq!(bucket.remaining(after), after.limit);
    }

    #[test]
    fn giving_back_undoes_taking(rate in rates(), taken in 0u32..50) {
        let mut bucket = Bucket::default();
        for _ in 0..taken {
            bucket.take(rate);
        }
        let before = bucket;
        if bucket.take(rate) {
            bucket.give_back(rate);
        }
        prop_assert_eq!(bucket, before);
    }
}

#[test]
fn unlimited_takes_for_ever_and_spends_nothing() {
    let rate = Rate::per_hour(0);
    let mut bucket = Bucket::default();
    assert!((0..10_000).all(|_| bucket.take(rate)));
    bucket.charge(u32::MAX, rate);
    assert_eq!(bucket, Bucket::default());
}

#[test]
fn documented_example_holds() {
    let rate = Rate::per_hour(1000);
    let mut bucket = Bucket::default();
    assert!(bucket.take(rate));
    assert_eq!(bucket.remaining(rate), 999);
    assert_eq!(bucket.full_in_ms(rate), 3600);
}
