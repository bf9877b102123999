//! Decisions: a caller's changes depend on the stored state, and are committed in one transaction.

use super::{Changes, Commit, Store, StoreError, Stores};

/// Maximum number of times that a decision is made, where other transactions conflict with it.
const MAX_DECISIONS: usize = 16;

impl Store {
    /// Makes a decision, commits its changes, makes them durable, and then runs `done` with them; as
    /// [`write`](Self::write) otherwise. After a [conflict](Commit::Conflict) the decision is made again, a bounded number
    /// of times.
    pub fn decide<T, E>(
        &self,
        decide: impl FnOnce(&dyn Stores) -> Result<(T, Changes), E> + Clone + Send + 'static,
        done: impl FnOnce(Result<(T, Changes), E>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write(move |stores| decide_and_commit(stores, decide), done);
    }

    /// [`decide`](Self::decide) for a thread that may block.
    ///
    /// # Errors
    /// There is no database, it failed, or `decide` returns it.
    pub fn decide_blocking<T, E>(
        &self,
        decide: impl FnOnce(&dyn Stores) -> Result<(T, Changes), E> + Clone + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_blocking(move |stores| decide_and_commit(stores, decide)).map(|(value, _)| value)
    }
}

/// Decides and commits until there is no conflict.
fn decide_and_commit<T, E: From<StoreError>>(
    stores: &dyn Stores,
    decide: impl FnOnce(&dyn Stores) -> Result<(T, Changes), E> + Clone,
) -> Result<(T, Changes), E> {
    if !stores.can_conflict() {
        let (value, changes) = decide(stores)?;
        commit_once(stores, &changes)?;
        return Ok((value, changes));
    }
    for _ in 0..MAX_DECISIONS {
        let (value, changes) = decide.clone()(stores)?;
        if stores.commit(&changes)? == Commit::Done {
            return Ok((value, changes));
        }
    }
    Err(StoreError::Conflict.into())
}

/// Commits changes that are not decided again.
///
/// # Errors
/// The database failed, or [`StoreError::Conflict`].
pub fn commit_once(stores: &dyn Stores, changes: &Changes) -> Result<(), StoreError> {
    match stores.commit(changes)? {
        Commit::Done => Ok(()),
        Commit::Conflict => Err(StoreError::Conflict),
    }
}
