//! Values that can be taken once and for a limited time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Values by secret, each of which can be taken once, within `lifetime`. Holds at most `capacity`; inserting one more
/// evicts the oldest.
#[derive(Debug)]
pub struct OneTime<T> {
    lifetime: Duration,
    capacity: usize,
    values: HashMap<String, (Instant, T)>,
    /// Secrets by age; may include those of values that have been taken.
    ages: VecDeque<(Instant, String)>,
}

impl<T> OneTime<T> {
    /// Creates an empty collection.
    pub fn new(lifetime: Duration, capacity: usize) -> Self {
        Self { lifetime, capacity, values: HashMap::new(), ages: VecDeque::new() }
    }

    /// Keeps `value` under `secret`, starting at `now`.
    pub fn insert(&mut self, now: Instant, secret: String, value: T) {
        self.forget(now, self.capacity.saturating_sub(1));
        self.ages.push_back((now, secret.clone()));
        self.values.insert(secret, (now, value));
    }

    /// Removes and returns the value under `secret`.
    pub fn take(&mut self, now: Instant, secret: &str) -> Option<T> {
        self.forget(now, self.capacity);
        self.values.remove(secret).map(|(_, value)| value)
    }

    fn forget(&mut self, now: Instant, most: usize) {
        while let Some((since, _)) = self.ages.front() {
            if self.ages.len() <= most && now.saturating_duration_since(*since) < self.lifetime {
                break;
            }
            if let Some((_, secret)) = self.ages.pop_front() {
                self.values.remove(&secret);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    #[test]
    fn a_value_is_taken_once_and_in_time() {
        let start = Instant::now();
        let mut values = OneTime::new(LIFETIME, 10);
        values.insert(start, "a".to_owned(), 1);
        values.insert(start, "b".to_owned(), 2);
        assert_eq!(values.take(start, "c"), None);
        assert_eq!(values.take(start, "a"), Some(1));
        assert_eq!(values.take(start, "a"), None);
        assert_eq!(values.take(start + LIFETIME, "b"), None);
    }

    proptest! {
        /// The collection never exceeds its capacity, returns no value twice, and returns no expired value.
        #[test]
        fn it_forgets_as_it_should(steps in prop::collection::vec((0u8..2, 0u64..300, 0usize..40), 1..80)) {
            let (mut now, mut values, mut given) = (Instant::now(), OneTime::new(LIFETIME, 5), Vec::new());
            for (number, (action, wait, which)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(wait);
                if action == 0 {
                    values.insert(now, number.to_string(), now);
                    given.push(number);
                } else if let Some(number) = given.get(which).copied()
                    && let Some(since) = values.take(now, &number.to_string())
                {
                    prop_assert!(now - since < LIFETIME);
                    prop_assert!(given.iter().rev().position(|&g| g == number).unwrap() < 5);
                    prop_assert_eq!(values.take(now, &number.to_string()), None);
                }
                prop_assert!(values.values.len() <= 5 && values.ages.len() <= 5);
            }
        }
    }
}
