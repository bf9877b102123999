//! The requests that a worker was sent and has not prepared yet.
//!
//! Preparing (templates, tokens, constraints) is done by one thread, so a caller with many costly requests would hold up all
//! others. Callers take turns here, in order of arrival within one, and a request that is cancelled before its turn is never
//! prepared at all.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use jan_protocol::worker_protocol::{Embed, Inspect};

use crate::prompt::prepare::Draft;

/// The work that a worker is asked to do.
#[derive(Debug)]
pub enum Work {
    /// An answer.
    Submit(Box<Draft>),
    /// Embeddings.
    Embed(Embed),
    /// A question about prompts.
    Inspect(Inspect),
    /// The end of the request with this id.
    Cancel(u64),
    /// Prefixes to be written to disk until then.
    Keep(Instant),
}

/// Requests in order of arrival, and the turn in which each caller was last served.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: VecDeque<Work>,
    served: HashMap<String, u64>,
    turn: u64,
}

impl Backlog {
    /// Returns `true` if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes work in. A cancellation takes a request away that still waits, or goes before everything else: the request was
    /// handed on already.
    pub fn push(&mut self, work: Work) {
        if let Work::Cancel(id) = work {
            match self.waiting.iter().position(|waiting| request_id(waiting) == Some(id)) {
                Some(index) => drop(self.waiting.remove(index)),
                None => self.waiting.push_front(work),
            }
        } else {
            self.waiting.push_back(work);
        }
    }

    /// Returns the next work: a cancellation, or the oldest one of the caller who was served the longest ago.
    pub fn pop(&mut self) -> Option<Work> {
        let turn = |work: &Work| match work {
            Work::Cancel(_) => None,
            other => Some(self.served.get(caller(other)).copied().unwrap_or(0)),
        };
        // The first of the least.
        let index = (0..self.waiting.len()).min_by_key(|&index| turn(&self.waiting[index]))?;
        let work = self.waiting.remove(index)?;
        if self.waiting.is_empty() {
            self.served.clear();
        } else if !matches!(work, Work::Cancel(_)) {
            self.turn += 1;
            self.served.insert(caller(&work).to_owned(), self.turn);
        }
        Some(work)
    }
}

/// The id by which a request is cancelled.
fn request_id(work: &Work) -> Option<u64> {
    match work {
        Work::Submit(draft) => Some(draft.id),
        Work::Embed(embed) => Some(embed.id),
        Work::Cancel(_) | Work::Inspect(_) | Work::Keep(_) => None,
    }
}

/// The caller of a request; questions about prompts come from the server and share one turn.
fn caller(work: &Work) -> &str {
    match work {
        Work::Submit(draft) => &draft.request.user,
        Work::Embed(embed) => &embed.user,
        Work::Cancel(_) | Work::Inspect(_) | Work::Keep(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn submit(id: u64, user: &str) -> Work {
        Work::Embed(Embed { id, user: user.to_owned(), ..Embed::default() })
    }

    fn ids(backlog: &mut Backlog) -> Vec<u64> {
        std::iter::from_fn(|| backlog.pop()).filter_map(|work| request_id(&work)).collect()
    }

    #[test]
    fn callers_take_turns() {
        let mut backlog = Backlog::default();
        (0..6).for_each(|id| backlog.push(submit(id, if id < 4 { "a" } else { "b" })));
        backlog.push(submit(6, "c"));
        assert_eq!(ids(&mut backlog), [0, 4, 6, 1, 5, 2, 3]);
    }

    #[test]
    fn cancelled_requests_are_not_prepared() {
        let mut backlog = Backlog::default();
        (0..1000).for_each(|id| backlog.push(submit(id, "a")));
        (1..999).for_each(|id| backlog.push(Work::Cancel(id)));
        assert_eq!(ids(&mut backlog), [0, 999]);
        // A request that was handed on before is cancelled there, before anything else is prepared.
        backlog.push(submit(1000, "a"));
        backlog.push(Work::Cancel(0));
        assert!(matches!(backlog.pop(), Some(Work::Cancel(0))));
    }

    proptest! {
        /// Nothing is lost, done twice, or done after its cancellation; no caller waits for more than one turn of each.
        #[test]
        fn everything_has_its_turn(users in prop::collection::vec(0u8..4, 1..60), cancelled in prop::collection::vec(0u64..60, 0..20)) {
            let mut backlog = Backlog::default();
            for (id, user) in (0..).zip(&users) {
                backlog.push(submit(id, &user.to_string()));
            }
            cancelled.iter().filter(|&&id| id < users.len() as u64).for_each(|&id| backlog.push(Work::Cancel(id)));
            let done = ids(&mut backlog);
            let mut sorted = done.clone();
            sorted.sort_unstable();
            let wanted: Vec<u64> = (0..users.len() as u64).filter(|id| !cancelled.contains(id)).collect();
            prop_assert_eq!(sorted, wanted);
            for (place, id) in done.iter().enumerate() {
                let user = users[*id as usize];
                let earlier = done[..place].iter().filter(|&&other| users[other as usize] == user).count();
                for other in 0..4 {
                    let others = done[..place].iter().filter(|&&id| users[id as usize] == other).count();
                    prop_assert!(other == user || others <= earlier + 1);
                }
            }
        }
    }
}
