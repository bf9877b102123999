//! Values that can be taken once and for a limited time: sign-ins under way, and exchange codes.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// Values by secret, each of which can be taken once and for a limited time, by whichever server a browser comes back to.
///
/// # Contract
///
/// - A value is there, on every server, once [`put`](Self::put) has returned.
/// - Of all takings on all servers at most one gets a value, however concurrent they are.
/// - A value is taken within its lifetime or never, by one clock for all servers.
/// - The number of values is bounded: one more takes the place of the oldest.
/// - Dropping the future of a taking may lose the value, which makes a person sign in again, but never leaves it to be taken
///   twice. So may a failure: an implementation that cannot reach its database logs that and has no value.
/// - An implementation that writes values elsewhere than in memory writes a hash of the secret, so that its copies are useless.
pub trait OneTimeValues<T: Serialize + DeserializeOwned>: Debug + Send + Sync {
    /// Keeps a value under a secret that is new.
    fn put(&self, secret: String, value: T) -> BoxFuture<'_, ()>;

    /// Removes and returns the value under a secret.
    fn take<'a>(&'a self, secret: &'a str) -> BoxFuture<'a, Option<T>>;
}

/// Values in this process's memory, for one server.
#[derive(Debug)]
pub struct LocalOneTime<T>(Mutex<OneTime<T>>);

impl<T> LocalOneTime<T> {
    /// Creates an empty collection of at most `capacity` values.
    pub fn new(lifetime: Duration, capacity: usize) -> Self {
        Self(Mutex::new(OneTime::new(lifetime, capacity)))
    }

    fn with<R>(&self, work: impl FnOnce(&mut OneTime<T>) -> R) -> R {
        // The collection is consistent after every step, so a poisoned lock can be used.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Debug + Send + Serialize + DeserializeOwned> OneTimeValues<T> for LocalOneTime<T> {
    fn put(&self, secret: String, value: T) -> BoxFuture<'_, ()> {
        async move { self.with(|values| values.insert(Instant::now(), secret, value)) }.boxed()
    }

    fn take<'a>(&'a self, secret: &'a str) -> BoxFuture<'a, Option<T>> {
        async move { self.with(|values| values.take(Instant::now(), secret)) }.boxed()
    }
}

/// Values by secret, each of which can be taken once, within `lifetime`. Holds at most `capacity`; inserting one more
/// evicts the oldest.
#[derive(Debug)]
struct OneTime<T> {
    lifetime: Duration,
    capacity: usize,
    values: HashMap<String, (Instant, T)>,
    /// Secrets by age; may include those of values that have been taken.
    ages: VecDeque<(Instant, String)>,
}

impl<T> OneTime<T> {
    /// Creates an empty collection.
    fn new(lifetime: Duration, capacity: usize) -> Self {
        Self { lifetime, capacity, values: HashMap::new(), ages: VecDeque::new() }
    }

    /// Keeps `value` under `secret`, starting at `now`.
    fn insert(&mut self, now: Instant, secret: String, value: T) {
        self.forget(now, self.capacity.saturating_sub(1));
        self.ages.push_back((now, secret.clone()));
        self.values.insert(secret, (now, value));
    }

    /// Removes and returns the value under `secret`.
    fn take(&mut self, now: Instant, secret: &str) -> Option<T> {
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
#[path = "one_time_tests.rs"]
mod contract;

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
