//! The memory budget of request bodies: per caller and in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ApiError;

/// A caller that holds at most this many bytes may also use the [reserve](Budget::reserve).
const SMALL: u64 = 64 * 1024;
/// `Retry-After` of a full budget.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes held by requests, by caller. It has an entry only for callers that hold some.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    of_caller: u64,
    of_all: u64,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    all: u64,
    callers: HashMap<String, u64>,
}

impl Budget {
    /// `of_caller` and `of_all` are the limits in bytes.
    pub fn new(of_caller: u64, of_all: u64) -> Self {
        Self { of_caller: of_caller.min(of_all), of_all, held: Arc::default() }
    }

    /// The part of `of_all` reserved for callers that hold little, so that a few stalled callers cannot block all
    /// others.
    fn reserve(&self) -> u64 {
        self.of_all / 8
    }

    /// Returns the `of_all` that is needed for one caller to get `of_caller`.
    pub fn at_least(of_caller: u64) -> u64 {
        of_caller.saturating_mul(8).div_ceil(7)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // No code under the lock leaves it half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes held by one request; released when dropped.
#[derive(Debug)]
pub(super) struct Holding {
    budget: Budget,
    caller: String,
    bytes: Mutex<u64>,
}

impl Holding {
    /// Creates an empty holding of `caller`.
    pub fn new(budget: Budget, caller: String) -> Self {
        Self { budget, caller, bytes: Mutex::new(0) }
    }

    /// Grows the holding to `bytes` in total.
    ///
    /// # Errors
    /// 503 `body_memory_full`: the caller or all callers together would hold too much. Bytes held before remain held.
    pub fn grow_to(&self, bytes: u64) -> Result<(), ApiError> {
        let mut mine = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let more = bytes.saturating_sub(*mine);
        if more == 0 {
            return Ok(());
        }
        let mut held = self.budget.lock();
        let of_caller = held.callers.get(&self.caller).copied().unwrap_or(0);
        let is_small = of_caller + more <= SMALL;
        let of_all = self.budget.of_all - if is_small { 0 } else { self.budget.reserve() };
        let (limit, whose, setting) = if of_caller + more > self.budget.of_caller {
            (self.budget.of_caller, "your requests'", "http.body_memory_per_caller_mib")
        } else if held.all + more > of_all {
            (of_all, "all requests'", "http.body_memory_mib")
        } else {
            held.all += more;
            held.callers.insert(self.caller.clone(), of_caller + more);
            *mine = bytes;
            return Ok(());
        };
        let message = format!(
            "The memory budget for request bodies is exhausted: {whose} concurrent bodies may take {limit} bytes \
             (`{setting}`). Try again when one of them has been answered."
        );
        Err(ApiError::unavailable("body_memory_full", message, RETRY_AFTER))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mine = *self.bytes.get_mut().unwrap_or_else(PoisonError::into_inner);
        if mine == 0 {
            return;
        }
        let mut held = self.budget.lock();
        held.all = held.all.saturating_sub(mine);
        match held.callers.get_mut(&self.caller) {
            Some(of_caller) if *of_caller > mine => *of_caller -= mine,
            _ => {
                held.callers.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_caller_and_all_have_their_bounds() {
        let budget = Budget::new(10, 15);
        let of = |caller: &str| Holding::new(budget.clone(), caller.to_owned());
        let (first, second, third) = (of("a"), of("a"), of("b"));
        first.grow_to(6).unwrap();
        first.grow_to(2).unwrap();
        let refusal = second.grow_to(5).unwrap_err();
        assert_eq!((refusal.status().as_u16(), refusal.code()), (503, "body_memory_full"));
        assert!(refusal.message().contains("`http.body_memory_per_caller_mib`"));
        second.grow_to(4).unwrap();
        assert!(third.grow_to(6).unwrap_err().message().contains("`http.body_memory_mib`"));
        third.grow_to(5).unwrap();
        drop(first);
        third.grow_to(10).unwrap();
        drop((second, third));
        let held = budget.lock();
        assert!(held.all == 0 && held.callers.is_empty());
    }

    #[test]
    fn callers_that_hold_little_may_use_the_reserve() {
        let mib = 1 << 20;
        let budget = Budget::new(Budget::at_least(4 * mib), Budget::at_least(4 * mib));
        let of = |caller: &str| Holding::new(budget.clone(), caller.to_owned());
        let (large, other, small) = (of("a"), of("b"), of("c"));
        large.grow_to(4 * mib).unwrap();
        assert!(other.grow_to(SMALL + 1).is_err() && large.grow_to(4 * mib + 10).is_err());
        small.grow_to(SMALL).unwrap();
        other.grow_to(SMALL).unwrap();
        assert!(of("c").grow_to(1).is_err(), "all that it holds counts");
    }

    proptest! {
        #[test]
        fn sums_hold_and_come_back(steps in proptest::collection::vec((0..4_usize, 0..3_usize, 0..40_u64), 0..60)) {
            let budget = Budget::new(50, 90);
            let mut holdings: Vec<Option<Holding>> = (0..4).map(|_| None).collect();
            for (slot, caller, bytes) in steps {
                match holdings[slot].take() {
                    Some(old) if bytes % 3 == 0 => drop(old),
                    Some(old) => {
                        let _ = old.grow_to(bytes);
                        holdings[slot] = Some(old);
                    }
                    None => {
                        let new = Holding::new(budget.clone(), caller.to_string());
                        let _ = new.grow_to(bytes);
                        holdings[slot] = Some(new);
                    }
                }
                let held = budget.lock();
                prop_assert!(held.all <= 90 && held.callers.values().all(|bytes| *bytes <= 50));
                prop_assert_eq!(held.all, held.callers.values().sum::<u64>());
                let mine: u64 = holdings.iter().flatten().map(|one| *one.bytes.lock().unwrap()).sum();
                prop_assert_eq!(held.all, mine);
            }
            holdings.clear();
            prop_assert!(budget.lock().callers.is_empty());
        }
    }
}
