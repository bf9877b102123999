//! The division of a model's queue among callers.
//!
//! While there are places, any caller gets them. Once all are taken, each caller still gets as many as a fair division among
//! those who have any, and itself, would give: one caller's thousand answers do not keep others out, and places that are taken
//! are never taken away again. So the queue can hold more than its places: with `k` callers at most `places * (1 + 1 + 1/2 + … +
//! 1/k)`, since the second gets at most a half, the third a third, and so on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The arithmetic, without anything that waits.
#[derive(Debug)]
struct Shares {
    places: usize,
    taken: usize,
    /// Never 0.
    callers: HashMap<Arc<str>, usize>,
}

impl Shares {
    /// Takes `count` for `caller`, or nothing.
    fn take(&mut self, caller: &Arc<str>, count: usize) -> bool {
        let own = self.callers.get(caller).copied();
        let callers = self.callers.len() + usize::from(own.is_none());
        let own = own.unwrap_or(0).saturating_add(count);
        let taken = self.taken.saturating_add(count);
        let fits = taken <= self.places || own <= self.places / callers;
        if fits && count > 0 {
            self.callers.insert(Arc::clone(caller), own);
            self.taken = taken;
        }
        fits
    }

    fn give_back(&mut self, caller: &Arc<str>, count: usize) {
        self.taken = self.taken.saturating_sub(count);
        if let Some(own) = self.callers.get_mut(caller) {
            *own = own.saturating_sub(count);
            if *own == 0 {
                self.callers.remove(caller);
            }
        }
    }
}

/// The places of a model's queue.
#[derive(Clone, Debug)]
pub struct Places(Arc<Mutex<Shares>>);

impl Places {
    /// So many, 1 or more, none of them taken.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares { places: places.max(1), taken: 0, callers: HashMap::new() })))
    }

    /// Returns the number of places.
    pub fn count(&self) -> usize {
        self.lock().places
    }

    /// Takes so many for a caller, all of them or none.
    pub fn take(&self, caller: &str, count: usize) -> Option<Place> {
        let caller = Arc::from(caller);
        let taken = self.lock().take(&caller, count);
        taken.then(|| Place { places: self.clone(), caller, count })
    }

    /// Returns the number of taken places.
    #[cfg(any(test, feature = "testing"))]
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    fn lock(&self) -> MutexGuard<'_, Shares> {
        // Every change is whole before anything else happens.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places that are taken. Dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping it gives the places back"]
pub struct Place {
    places: Places,
    caller: Arc<str>,
    count: usize,
}

impl Place {
    /// One of them by itself; without any left, an empty one.
    pub fn split_one(&mut self) -> Self {
        let count = self.count.min(1);
        self.count -= count;
        Self { places: self.places.clone(), caller: Arc::clone(&self.caller), count }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().give_back(&self.caller, self.count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_caller_does_not_keep_others_out() {
        let places = Places::new(1024);
        let hog = places.take("hog", 1016).unwrap();
        let others: Vec<Place> = (0..63).map(|n| places.take(&format!("user {n}"), 1).unwrap()).collect();
        assert!(places.take("hog", 9).is_none(), "nothing is left for who has more than a share");
        let more = places.take("user 0", 15).unwrap();
        assert!(places.take("user 0", 1).is_none(), "1024 divided by 64 callers");
        drop((others, more));
        assert!(places.take("hog", 9).is_none());
        drop(hog);
        assert_eq!(places.taken(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take { caller: u8, count: usize },
        GiveBack(usize),
        GiveOneBack(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0u8..12, prop_oneof![3 => 1usize..4, 1 => 1usize..50])
                .prop_map(|(caller, count)| Step::Take { caller, count }),
            2 => any::<usize>().prop_map(Step::GiveBack),
            1 => any::<usize>().prop_map(Step::GiveOneBack),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        /// In any order of requests and ends: no caller is refused while there is a place or while it has less than its part, a
        /// refusal changes nothing, the sum is bounded, and all comes back.
        #[test]
        fn nobody_is_refused_who_has_room_by_fair_division(places in 1usize..60, steps in steps()) {
            let queue = Places::new(places);
            let mut held: Vec<(u8, Place)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take { caller, count } => {
                        let of = |who: u8| held.iter().filter(|(c, _)| *c == who).map(|(_, p)| p.count).sum::<usize>();
                        let taken: usize = held.iter().map(|(_, place)| place.count).sum();
                        let callers = (0..12).filter(|who| *who == caller || of(*who) > 0).count();
                        let room = taken + count <= places || of(caller) + count <= places / callers;
                        let place = queue.take(&caller.to_string(), count);
                        prop_assert_eq!(place.is_some(), room);
                        held.extend(place.map(|place| (caller, place)));
                    }
                    Step::GiveBack(at) if !held.is_empty() => drop(held.remove(at % held.len())),
                    Step::GiveOneBack(at) if !held.is_empty() => {
                        let at = at % held.len();
                        drop(held[at].1.split_one());
                        held.retain(|(_, place)| place.count > 0);
                    }
                    Step::GiveBack(_) | Step::GiveOneBack(_) => {}
                }
                let taken: usize = held.iter().map(|(_, place)| place.count).sum();
                prop_assert_eq!(queue.taken(), taken);
                let callers = queue.lock().callers.len();
                let most: usize = places + (1..=callers).map(|k| places / k).sum::<usize>();
                prop_assert!(taken <= most, "{} of {} by {}", taken, places, callers);
            }
            drop(held);
            prop_assert!(queue.taken() == 0 && queue.lock().callers.is_empty());
        }

        /// A single caller gets all places, in all splits.
        #[test]
        fn who_is_alone_gets_all(places in 1usize..60, counts in prop::collection::vec(1usize..20, 1..40)) {
            let queue = Places::new(places);
            let (mut held, mut taken) = (Vec::new(), 0);
            for count in counts {
                let place = queue.take("one", count);
                prop_assert_eq!(place.is_some(), taken + count <= places);
                taken += place.as_ref().map_or(0, |place| place.count);
                held.extend(place);
            }
        }
    }
}
