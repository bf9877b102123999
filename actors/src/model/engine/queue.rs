//! The order in which waiting sequences are admitted: fair between users, first come first served within one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::scheduler::SequenceId;

/// Waiting sequences.
///
/// Sequences that have already been running come first, the longest-serving of them at the head. The others
/// are taken round-robin over their users; a user without a waiting sequence has no place in the round, and
/// joins it at the tail.
#[derive(Clone, Debug, Default)]
pub struct FairQueue {
    /// By age: the number of the first admission, smaller is older.
    resumed: BTreeMap<u64, SequenceId>,
    /// The users of `waiting`, the next one to be served first.
    round: VecDeque<Arc<str>>,
    /// Never an empty list.
    waiting: HashMap<Arc<str>, VecDeque<SequenceId>>,
    len: usize,
}

impl FairQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waiting sequences.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a new sequence behind its user's others.
    pub fn push(&mut self, user: &Arc<str>, id: SequenceId) {
        let waiting = self.waiting.entry(Arc::clone(user)).or_default();
        if waiting.is_empty() {
            self.round.push_back(Arc::clone(user));
        }
        waiting.push_back(id);
        self.len += 1;
    }

    /// Puts a sequence that has been running before, first admitted as number `age`, before all new ones.
    /// Ages are unique.
    pub fn push_resumed(&mut self, age: u64, id: SequenceId) {
        self.resumed.insert(age, id);
        self.len += 1;
    }

    /// The next to be admitted.
    pub fn front(&self) -> Option<SequenceId> {
        if let Some((_, &id)) = self.resumed.first_key_value() {
            return Some(id);
        }
        self.waiting.get(self.round.front()?)?.front().copied()
    }

    /// Takes the next to be admitted; its user goes to the tail of the round.
    pub fn pop_front(&mut self) -> Option<SequenceId> {
        if let Some((_, id)) = self.resumed.pop_first() {
            self.len -= 1;
            return Some(id);
        }
        let user = self.round.pop_front()?;
        let waiting = self.waiting.get_mut(&user)?;
        let id = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.round.push_back(user);
        }
        self.len -= usize::from(id.is_some());
        id
    }

    /// Takes out a sequence of `user`, wherever it waits. False where it does not.
    pub fn remove(&mut self, user: &Arc<str>, id: SequenceId) -> bool {
        let before = self.len;
        if let Some(age) = self.resumed.iter().find(|(_, waiting)| **waiting == id).map(|(&age, _)| age) {
            self.resumed.remove(&age);
            self.len -= 1;
        } else if let Some(waiting) = self.waiting.get_mut(user)
            && let Some(place) = waiting.iter().position(|&waiting| waiting == id)
        {
            waiting.remove(place);
            self.len -= 1;
            if waiting.is_empty() {
                self.waiting.remove(user);
                self.round.retain(|other| other != user);
            }
        }
        self.len < before
    }
}

#[cfg(test)]
mod tests;
