//! The order in which waiting requests get their turn: callers one after the other, each caller's in order of arrival.
//!
//! Pure, like the shares of a queue (`model/shares.rs`), which bound how many can wait.

use std::collections::{HashMap, VecDeque};

/// Requests that wait.
#[derive(Debug)]
pub struct FairQueue<T> {
    /// The requests of each caller; none is empty.
    waiting: HashMap<String, VecDeque<(u64, T)>>,
    /// The callers, in the order of their turns.
    turns: VecDeque<String>,
    next_id: u64,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new(), next_id: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Adds a request; returns its number.
    pub fn push(&mut self, caller: &str, item: T) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        match self.waiting.get_mut(caller) {
            Some(items) => items.push_back((id, item)),
            None => {
                self.waiting.insert(caller.to_owned(), VecDeque::from([(id, item)]));
                self.turns.push_back(caller.to_owned());
            }
        }
        id
    }

    /// Removes a request that waits no longer.
    pub fn remove(&mut self, caller: &str, id: u64) -> Option<T> {
        let items = self.waiting.get_mut(caller)?;
        let place = items.iter().position(|(known, _)| *known == id)?;
        let item = items.remove(place).map(|(_, item)| item);
        if items.is_empty() {
            self.waiting.remove(caller);
            self.turns.retain(|name| name != caller);
        }
        item
    }

    /// Takes the first request that `fits`, in the order of turns. Its caller's next turn is the last.
    pub fn take_first(&mut self, mut fits: impl FnMut(&T) -> bool) -> Option<T> {
        for turn in 0..self.turns.len() {
            let caller = &self.turns[turn];
            let items = self.waiting.get_mut(caller)?;
            let Some(place) = items.iter().position(|(_, item)| fits(item)) else { continue };
            let item = items.remove(place).map(|(_, item)| item);
            let is_last = items.is_empty();
            let caller = self.turns.remove(turn)?;
            if is_last {
                self.waiting.remove(&caller);
            } else {
                self.turns.push_back(caller);
            }
            return item;
        }
        None
    }

    /// Returns the number of waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Returns `true` if none waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn callers_take_turns() {
        let mut queue = FairQueue::default();
        for item in 0..3 {
            queue.push("hog", item);
        }
        queue.push("ann", 10);
        let order: Vec<i32> = std::iter::from_fn(|| queue.take_first(|_| true)).collect();
        assert_eq!(order, [0, 10, 1, 2]);
        assert!(queue.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Take,
        TakeEven,
        Remove(usize),
    }

    proptest! {
        /// Nothing is lost or doubled; each caller's requests keep their order; and between two turns of one caller every other
        /// that waits has had one.
        #[test]
        fn turns_are_fair(steps in prop::collection::vec(prop_oneof![
            4 => (0u8..5).prop_map(Step::Push),
            3 => Just(Step::Take),
            1 => Just(Step::TakeEven),
            1 => any::<usize>().prop_map(Step::Remove),
        ], 0..120)) {
            let mut queue = FairQueue::default();
            let mut waiting: Vec<(u8, u64)> = Vec::new();
            let mut passed: HashMap<u8, usize> = HashMap::new();
            for step in steps {
                match step {
                    Step::Push(caller) => {
                        let item = (caller, queue.next_id);
                        queue.push(&caller.to_string(), item);
                        if !waiting.iter().any(|(known, _)| *known == caller) {
                            passed.insert(caller, 0);
                        }
                        waiting.push(item);
                    }
                    Step::Take => {
                        let taken = queue.take_first(|_| true);
                        prop_assert_eq!(taken.is_some(), !waiting.is_empty());
                        let Some(taken) = taken else { continue };
                        let first = waiting.iter().find(|(caller, _)| *caller == taken.0);
                        prop_assert_eq!(first, Some(&taken), "in order of arrival");
                        waiting.retain(|item| *item != taken);
                        for (caller, turns) in &mut passed {
                            *turns = if *caller == taken.0 { 0 } else { *turns + 1 };
                        }
                        for (caller, _) in &waiting {
                            prop_assert!(passed[caller] < 5, "{caller} was passed over by all others and more");
                        }
                    }
                    Step::TakeEven => {
                        let fits = |item: &(u8, u64)| item.1.is_multiple_of(2);
                        let taken = queue.take_first(fits);
                        prop_assert_eq!(taken.is_some(), waiting.iter().any(fits));
                        waiting.retain(|item| Some(*item) != taken);
                        // A choice of its own: turns are counted anew.
                        passed.values_mut().for_each(|turns| *turns = 0);
                    }
                    Step::Remove(at) if !waiting.is_empty() => {
                        let (caller, id) = waiting.remove(at % waiting.len());
                        prop_assert_eq!(queue.remove(&caller.to_string(), id), Some((caller, id)));
                        prop_assert_eq!(queue.remove(&caller.to_string(), id), None);
                    }
                    Step::Remove(_) => {}
                }
                prop_assert_eq!(queue.len(), waiting.len());
                prop_assert_eq!(queue.is_empty(), waiting.is_empty());
            }
        }
    }
}
