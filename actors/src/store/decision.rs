//! Decisions: a caller's changes depend on the stored state, and are committed in one transaction.

use std::sync::Arc;

use super::{Changes, Commit, Store, StoreError, Stores};

/// Maximum number of times that a decision is made, where other transactions conflict with it.
const MAX_DECISIONS: usize = 16;

impl Store {
    /// Makes a decision, commits its changes, makes them durable, and then runs `done` with them; as
    /// [`write`](Self::write) otherwise. After a [conflict](Commit::Conflict) the decision is made again, a bounded number
    /// of times.
    pub fn decide<T, E, F>(
        &self,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
        done: impl FnOnce(Result<(T, Changes), E>) + Send + 'static,
    ) where
        F: Future<Output = Result<(T, Changes), E>>,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write(move |stores| decide_and_commit(stores, decide), done);
    }

    /// [`decide`](Self::decide) for a thread that may block.
    ///
    /// # Errors
    /// There is no database, it failed, or `decide` returns it.
    pub fn decide_blocking<T, E, F>(
        &self,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<(T, Changes), E>>,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_blocking(move |stores| decide_and_commit(stores, decide)).map(|(value, _)| value)
    }
}

/// Decides and commits until there is no conflict.
async fn decide_and_commit<T, E, F>(
    stores: Arc<dyn Stores>,
    decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone,
) -> Result<(T, Changes), E>
where
    F: Future<Output = Result<(T, Changes), E>>,
    E: From<StoreError>,
{
    if !stores.can_conflict() {
        let (value, changes) = decide(Arc::clone(&stores)).await?;
        commit_once(&*stores, &changes).await?;
        return Ok((value, changes));
    }
    for attempt in 0..MAX_DECISIONS {
        let view = Arc::clone(&stores).decision(attempt).await?;
        match decide.clone()(Arc::clone(&view)).await {
            Ok((value, changes)) => {
                if view.commit(&changes).await? == Commit::Done {
                    return Ok((value, changes));
                }
            }
            Err(error) if !view.has_conflicted() => return Err(error),
            Err(_) => {}
        }
    }
    Err(StoreError::Conflict.into())
}

/// Commits changes that are not decided again.
///
/// # Errors
/// The database failed, or [`StoreError::Conflict`].
pub async fn commit_once(stores: &dyn Stores, changes: &Changes) -> Result<(), StoreError> {
    match stores.commit(changes).await? {
        Commit::Done => Ok(()),
        Commit::Conflict => Err(StoreError::Conflict),
    }
}
