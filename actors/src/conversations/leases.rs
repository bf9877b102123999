//! Leases: a conversation is answered by one turn at a time, in the order of their requests.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::ids::ConversationId;

/// The leases of all conversations, shared by all servers that answer in them.
#[ractor::async_trait]
pub trait Leases: Debug + Send + Sync {
    /// Waits for a conversation's lease, after the earlier requests. Dropping the future only gives up the place in the queue.
    async fn acquire(&self, id: ConversationId) -> Lease;

    /// Returns the number from which on the pending items of a conversation are being answered. `None`: none of them is, and
    /// pending items were left behind by a crash.
    fn answering_from(&self, id: ConversationId) -> Option<u32>;
}

/// A held lease: the right to answer in a conversation until it is dropped. It must not outlive its server.
pub trait HeldLease: Debug + Send + Sync {
    /// Returns the conversation.
    fn conversation(&self) -> ConversationId;

    /// Records that the items pending from this number on are answered by this turn.
    fn answers_from(&self, number: u32);
}

/// The right to answer in a conversation until it is dropped.
#[derive(Debug)]
pub struct Lease(Box<dyn HeldLease>);

impl Lease {
    /// Returns the conversation.
    pub fn conversation(&self) -> ConversationId {
        self.0.conversation()
    }

    /// Records that the items pending from this number on are answered by this turn.
    pub fn answers_from(&self, number: u32) {
        self.0.answers_from(number);
    }
}

type Turns = HashMap<ConversationId, Arc<tokio::sync::Mutex<()>>>;

/// Leases in this process's memory, for one server.
#[derive(Clone, Debug, Default)]
pub struct LocalLeases {
    turns: Arc<Mutex<Turns>>,
    answers: Arc<Mutex<HashMap<ConversationId, u32>>>,
}

#[derive(Debug)]
struct LocalLease {
    leases: LocalLeases,
    id: ConversationId,
    guard: Option<OwnedMutexGuard<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[ractor::async_trait]
impl Leases for LocalLeases {
    async fn acquire(&self, id: ConversationId) -> Lease {
        let turn = Arc::clone(lock(&self.turns).entry(id).or_default());
        // Before the wait, so that giving up cleans up as well.
        let mut lease = LocalLease { leases: self.clone(), id, guard: None };
        lease.guard = Some(turn.lock_owned().await);
        Lease(Box::new(lease))
    }

    fn answering_from(&self, id: ConversationId) -> Option<u32> {
        lock(&self.answers).get(&id).copied()
    }
}

#[cfg(test)]
impl LocalLeases {
    fn conversations(&self) -> usize {
        lock(&self.turns).len()
    }
}

impl HeldLease for LocalLease {
    fn conversation(&self) -> ConversationId {
        self.id
    }

    fn answers_from(&self, number: u32) {
        lock(&self.leases.answers).insert(self.id, number);
    }
}

impl Drop for LocalLease {
    fn drop(&mut self) {
        if self.guard.is_some() {
            lock(&self.leases.answers).remove(&self.id);
        }
        let mut turns = lock(&self.leases.turns);
        // Under the lock, so that no other turn begins to wait for an entry that is about to be removed.
        self.guard = None;
        if turns.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn leases_are_granted_one_at_a_time_in_order() {
        let running = LocalLeases::default();
        let id = ConversationId::new();
        let first = running.acquire(id).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (running, order) = (running.clone(), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _lease = running.acquire(id).await;
                lock(&order).push(number);
            }));
            tokio::task::yield_now().await;
        }
        // The lease of another conversation is free.
        drop(running.acquire(ConversationId::new()).await);
        assert!(lock(&order).is_empty());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*lock(&order), [0, 1, 2]);
        assert_eq!(running.conversations(), 0, "what is over is forgotten");
    }

    #[tokio::test]
    async fn abandoned_wait_blocks_no_other() {
        let running = LocalLeases::default();
        let id = ConversationId::new();
        let first = running.acquire(id).await;
        first.answers_from(7);
        assert!(tokio::time::timeout(Duration::from_millis(1), running.acquire(id)).await.is_err());
        assert_eq!(running.answering_from(id), Some(7), "who gives up ends nobody else's turn");
        drop(first);
        assert_eq!(running.answering_from(id), None);
        assert_eq!(running.conversations(), 0);
        drop(running.acquire(id).await);
    }
}
