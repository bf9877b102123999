//! Who may answer in a conversation: one at a time, in the order they came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::ids::ConversationId;

type Turns = HashMap<ConversationId, Arc<tokio::sync::Mutex<()>>>;

/// The turns of all conversations. In memory alone: a turn does not outlive the server.
#[derive(Clone, Debug, Default)]
pub struct Running {
    turns: Arc<Mutex<Turns>>,
    answers: Arc<Mutex<HashMap<ConversationId, u32>>>,
}

/// Leave to answer in a conversation, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    running: Running,
    id: ConversationId,
    guard: Option<OwnedMutexGuard<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Waits for one's turn in a conversation, behind those who came before. Who stops waiting loses nothing but the
    /// place.
    pub async fn turn(&self, id: ConversationId) -> Lease {
        let turn = Arc::clone(lock(&self.turns).entry(id).or_default());
        // From here on so that one who gives up while waiting cleans up as well.
        let mut lease = Lease { running: self.clone(), id, guard: None };
        lease.guard = Some(turn.lock_owned().await);
        lease
    }

    /// What is pending in a conversation from this number on is being answered.
    pub fn from(&self, id: ConversationId) -> Option<u32> {
        lock(&self.answers).get(&id).copied()
    }

    #[cfg(test)]
    pub fn conversations(&self) -> usize {
        lock(&self.turns).len()
    }
}

impl Lease {
    /// Whose turn it is in.
    pub const fn conversation(&self) -> ConversationId {
        self.id
    }

    /// From this number on, what is pending is this turn's.
    pub fn answers_from(&self, number: u32) {
        lock(&self.running.answers).insert(self.id, number);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.guard.is_some() {
            lock(&self.running.answers).remove(&self.id);
        }
        let mut turns = lock(&self.running.turns);
        // Under the lock, so that nobody begins to wait for what is about to be forgotten.
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
    async fn one_at_a_time_and_in_order() {
        let running = Running::default();
        let id = ConversationId::new();
        let first = running.turn(id).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (running, order) = (running.clone(), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _lease = running.turn(id).await;
                lock(&order).push(number);
            }));
            tokio::task::yield_now().await;
        }
        // Another conversation's turn is free.
        drop(running.turn(ConversationId::new()).await);
        assert!(lock(&order).is_empty());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*lock(&order), [0, 1, 2]);
        assert_eq!(running.conversations(), 0, "what is over is forgotten");
    }

    #[tokio::test]
    async fn who_gives_up_holds_nobody_up() {
        let running = Running::default();
        let id = ConversationId::new();
        let first = running.turn(id).await;
        first.answers_from(7);
        assert!(tokio::time::timeout(Duration::from_millis(1), running.turn(id)).await.is_err());
        assert_eq!(running.from(id), Some(7), "who gives up ends nobody else's turn");
        drop(first);
        assert_eq!(running.from(id), None);
        assert_eq!(running.conversations(), 0);
        drop(running.turn(id).await);
    }
}
