//! Reads of several records that have to see one state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Scope, Store, StoreError, Stores, block_on};

/// Maximum number of times that a read is made beside the commit thread.
const MAX_LOOKS: usize = 4;

/// A read that took at most this may run on the commit thread: no longer than a job that writes.
const MAX_ON_COMMIT_THREAD: Duration = Duration::from_millis(5);

impl Store {
    /// [`look`](Self::look) for reads that have to see one state of a scope, through its [snapshot](Stores::snapshot).
    ///
    /// Where a commit changed the scope meanwhile, it is read again, a few times. After that a short read runs on the
    /// commit thread, where no commit comes in between. A long one is refused, since it would delay all writers: that
    /// takes somebody who changes the same scope without a pause, and it is those changes that the refusal is due to.
    ///
    /// # Errors
    /// There is no database, `look` returns it, or [`StoreError::Conflict`].
    pub async fn look_at<T, E, F>(
        &self,
        scope: Scope,
        look: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut took = Duration::ZERO;
        for _ in 0..MAX_LOOKS {
            let look = look.clone();
            let began = Instant::now();
            let attempt = self.look(move |stores| async move {
                let snapshot = stores.snapshot(scope).await?;
                // An error may be due to a change as well.
                let outcome = look(Arc::clone(&snapshot.stores)).await;
                Ok::<_, E>((outcome, snapshot.is_consistent()))
            });
            let (outcome, is_consistent) = attempt.await?;
            if is_consistent {
                return outcome;
            }
            took = began.elapsed();
        }
        if took > MAX_ON_COMMIT_THREAD {
            tracing::debug!(?scope, ?took, "a read met a change of what it reads in every attempt");
            return Err(StoreError::Conflict.into());
        }
        self.look_alone(look).await
    }

    /// Reads on the commit thread.
    pub(super) async fn look_alone<T, E, F>(
        &self,
        look: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.read(move |stores| {
            if !reply.is_closed() {
                let _ = reply.send(stores.map_err(E::from).and_then(|stores| block_on(look(stores))));
            }
        });
        answer.await.unwrap_or_else(|_| Err(StoreError::Reopening.into()))
    }
}
