//! Answering the calls of an actor on the store's thread.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use super::credentials::{CredentialIndex, CredentialNotices};
use super::error::IdentityError;
use crate::service::Request;
use crate::store::{Changes, Scope, Store, StoreError, Stores};

/// Number of users, keys or sessions maintained in one job of the store's thread.
pub const PER_JOB: usize = 64;

/// A call to one of the identity actors.
pub type Call<T> = Request<T, IdentityError>;

/// Executes decisions on the store's thread, and publishes their changes to the index once they are durable.
#[derive(Clone, Debug)]
pub struct IdentityWriter {
    /// The store.
    pub store: Arc<Store>,
    /// The index that credentials are checked against.
    pub index: Arc<dyn CredentialIndex>,
    /// The notices through which the index learns of changes.
    pub notices: Arc<dyn CredentialNotices>,
}

impl IdentityWriter {
    /// Answers a call by reading one state of a scope, without a turn on the store's thread.
    pub fn look<T: Send + 'static, F>(
        &self,
        call: Call<T>,
        scope: Scope,
        look: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = Result<T, IdentityError>> + Send + 'static,
    {
        if !call.is_abandoned() {
            let store = Arc::clone(&self.store);
            tokio::spawn(async move { call.answer(store.look_at(scope, look).await) });
        }
    }

    /// Executes a decision, and answers the call once its changes are durable and in effect.
    pub fn decide<T: Send + 'static, F>(
        &self,
        call: Call<T>,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = Result<(T, Changes), IdentityError>>,
    {
        if !call.is_abandoned() {
            self.carry_out(decide, move |answer| call.answer(answer));
        }
    }

    /// Executes a decision like [`decide`](Self::decide), and passes its answer to a callback.
    pub fn carry_out<T: Send + 'static, F>(
        &self,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
        done: impl FnOnce(Result<T, IdentityError>) + Send + 'static,
    ) where
        F: Future<Output = Result<(T, Changes), IdentityError>>,
    {
        let notices = Arc::clone(&self.notices);
        let place = notices.place();
        self.store.decide(decide, move |outcome: Result<_, IdentityError>| {
            done(outcome.map(|(answer, changes)| {
                notices.publish_after(place, &changes);
                answer
            }));
        });
    }

    /// Finds items to maintain on a thread of its own, and maintains them in short jobs, one after the other, so that other
    /// callers get their turn in between.
    pub fn maintain<I: Clone + Send + 'static, F, D>(
        &self,
        find: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
        decide: impl Fn(Arc<dyn Stores>, Vec<I>) -> D + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<Vec<I>, StoreError>> + Send + 'static,
        D: Future<Output = Result<Changes, IdentityError>> + Send + 'static,
    {
        // Boxed here, so that callers need not.
        let decide = move |stores, items| -> Decided { Box::pin(decide(stores, items)) };
        let writer = self.clone();
        tokio::spawn(async move {
            match writer.store.look(find).await {
                Ok(found) => writer.maintain_in_steps(found.into(), Arc::new(decide)),
                Err(error) => warn_of(&error.into()),
            }
        });
    }

    fn maintain_in_steps<I: Clone + Send + 'static>(&self, mut rest: VecDeque<I>, decide: Arc<Job<I>>) {
        let these: Vec<I> = rest.drain(..rest.len().min(PER_JOB)).collect();
        if these.is_empty() {
            return;
        }
        let (writer, again) = (self.clone(), Arc::clone(&decide));
        self.carry_out(
            move |stores| async move { Ok(((), decide(stores, these).await?)) },
            move |outcome| match outcome {
                Ok(()) => writer.maintain_in_steps(rest, again),
                Err(error) => warn_of(&error),
            },
        );
    }
}

/// Decides on a part of the items found.
type Job<I> = dyn Fn(Arc<dyn Stores>, Vec<I>) -> Decided + Send + Sync;

type Decided = Pin<Box<dyn Future<Output = Result<Changes, IdentityError>> + Send>>;

/// Logs that maintenance is postponed.
pub fn warn_of(error: &IdentityError) {
    tracing::warn!(%error, "maintenance of users, keys and sessions failed; it is retried later");
}
