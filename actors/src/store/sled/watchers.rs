//! Readers that have to see one state, and the commits that come between their reads.
//!
//! sled has no snapshots. So a reader registers its scope before it reads, every commit marks the readers of what it is about
//! to change, and a marked reader reads again. Scopes are compared as they are, not by a hash, so that a user who writes all
//! the time disturbs no reader of anything else.
//!
//! One operation on sled's trees sees either nothing or all of a transaction. A reader that sees anything of a commit is
//! marked before that, since the mark precedes the transaction; one that registers while the commit is under way is marked
//! from the beginning.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::snapshot::{Scope, Watch};

/// The readers of a database.
#[derive(Clone, Debug, Default)]
pub struct Watchers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The scopes of the commit under way. There is at most one: the commit thread alone commits.
    committing: Vec<Scope>,
    readers: HashMap<Scope, Vec<Arc<AtomicBool>>>,
}

impl Watchers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a reader until the watch is dropped.
    pub fn watch(&self, scope: Scope) -> ScopeWatch {
        let mut state = self.state();
        let changed = Arc::new(AtomicBool::new(state.committing.contains(&scope)));
        state.readers.entry(scope).or_default().push(Arc::clone(&changed));
        drop(state);
        ScopeWatch { watchers: self.clone(), scope, changed }
    }

    /// Runs a transaction that changes those scopes.
    pub fn changing<T>(&self, scopes: Vec<Scope>, change: impl FnOnce() -> T) -> T {
        let before = {
            let mut state = self.state();
            for scope in &scopes {
                for changed in state.readers.get(scope).into_iter().flatten() {
                    changed.store(true, Ordering::Release);
                }
            }
            std::mem::replace(&mut state.committing, scopes)
        };
        // Also after a panic, which ends a job of the commit thread alone.
        let _ended = Ended { watchers: self, before };
        change()
    }
}

/// Ends the change of some scopes.
struct Ended<'a> {
    watchers: &'a Watchers,
    before: Vec<Scope>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.watchers.state().committing = std::mem::take(&mut self.before);
    }
}

/// The registration of a reader.
#[derive(Debug)]
pub struct ScopeWatch {
    watchers: Watchers,
    scope: Scope,
    changed: Arc<AtomicBool>,
}

impl Watch for ScopeWatch {
    fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }
}

impl Drop for ScopeWatch {
    fn drop(&mut self) {
        let mut state = self.watchers.state();
        if let Some(readers) = state.readers.get_mut(&self.scope) {
            readers.retain(|reader| !Arc::ptr_eq(reader, &self.changed));
            if readers.is_empty() {
                state.readers.remove(&self.scope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::UserId;

    #[test]
    fn readers_before_and_during_a_change_of_their_scope_are_told() {
        let watchers = Watchers::default();
        let (ann, bob) = (Scope::User(UserId::new()), Scope::User(UserId::new()));
        let (before, other) = (watchers.watch(ann), watchers.watch(bob));
        let during = watchers.changing(vec![ann], || watchers.watch(ann));
        let after = watchers.watch(ann);
        assert_eq!([&before, &other, &during, &after].map(Watch::has_changed), [true, false, true, false]);
        drop([before, other, during, after]);
        assert!(watchers.state().readers.is_empty(), "nothing is left of readers");
    }

    #[test]
    fn panic_ends_the_change() {
        let watchers = Watchers::default();
        let panics = || watchers.changing(vec![Scope::Users], || panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(!watchers.watch(Scope::Users).has_changed());
    }
}
