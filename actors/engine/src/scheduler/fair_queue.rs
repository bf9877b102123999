//! The order in which waiting sequences are admitted: fair between users, first come first served within one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::SequenceId;

/// Waiting sequences.
///
/// A user without a running sequence comes before every user with one: one user's sequences, however many, do not keep others
/// from having one. Among the former, and among the latter, sequences that have already been running come first, the
/// longest-serving of them at the head. The rest are taken round-robin over their users; a user without a waiting sequence has no
/// place in the round, and joins it at the tail.
#[derive(Clone, Debug, Default)]
pub struct FairQueue {
    /// Resumed sequences by age: the number of the first admission, smaller is older.
    resumed: BTreeMap<u64, (Arc<str>, SequenceId)>,
    /// The users of `waiting`, the next one to be served first.
    round: VecDeque<Arc<str>>,
    /// Never an empty list.
    waiting: HashMap<Arc<str>, VecDeque<SequenceId>>,
    len: usize,
}

/// The place where the next sequence waits.
enum Next {
    Resumed(u64),
    /// The place of the round.
    New(usize),
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

    /// Returns `true` if nothing waits.
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

    /// Puts a sequence that has been running before, first admitted as number `age`, before new ones. Ages are unique.
    pub fn push_resumed(&mut self, user: &Arc<str>, age: u64, id: SequenceId) {
        self.resumed.insert(age, (Arc::clone(user), id));
        self.len += 1;
    }

    fn next(&self, runs: impl Fn(&str) -> bool) -> Option<Next> {
        let resumed =
            self.resumed.iter().find(|(_, (user, _))| !runs(user)).map(|(&age, _)| Next::Resumed(age));
        let new = || self.round.iter().position(|user| !runs(user)).map(Next::New);
        let first = || self.resumed.keys().next().map(|&age| Next::Resumed(age));
        let any = || (!self.round.is_empty()).then_some(Next::New(0));
        resumed.or_else(new).or_else(first).or_else(any)
    }

    /// The next to be admitted. `runs` returns `true` if a user has a running sequence.
    pub fn front(&self, runs: impl Fn(&str) -> bool) -> Option<SequenceId> {
        match self.next(runs)? {
            Next::Resumed(age) => self.resumed.get(&age).map(|(_, id)| *id),
            Next::New(place) => self.waiting.get(self.round.get(place)?)?.front().copied(),
        }
    }

    /// Takes the next to be admitted; its user moves to the tail of the round.
    pub fn pop_front(&mut self, runs: impl Fn(&str) -> bool) -> Option<SequenceId> {
        let id = match self.next(runs)? {
            Next::Resumed(age) => self.resumed.remove(&age).map(|(_, id)| id),
            Next::New(place) => {
                let user = self.round.remove(place)?;
                let waiting = self.waiting.get_mut(&user)?;
                let id = waiting.pop_front();
                if waiting.is_empty() {
                    self.waiting.remove(&user);
                } else {
                    self.round.push_back(user);
                }
                id
            }
        };
        self.len -= usize::from(id.is_some());
        id
    }

    /// Takes out a sequence of `user`, wherever it waits. False where it does not.
    pub fn remove(&mut self, user: &Arc<str>, id: SequenceId) -> bool {
        let before = self.len;
        if let Some(age) = self.resumed.iter().find(|(_, (_, waiting))| *waiting == id).map(|(&age, _)| age) {
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
