//! The tokens that the next step reads for embeddings.
//!
//! Requests take turns by user and then by request, one input at a time, so that one with thousands of inputs does not keep out
//! another with one. A step reads inputs in that order until its budget is used up; if long inputs may be read piece by piece,
//! the last one is read further in the steps that follow, before any other begins. So at most one input is half read.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::Input;
use crate::scheduler::SequenceId;
use crate::scheduler::fair_queue::FairQueue;

/// Part of a step: tokens of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its request.
    pub request: u64,
    /// The input.
    pub input: Input,
    /// The slot of its tokens in the context.
    pub slot: u16,
    /// The range of its tokens that are read.
    pub range: Range<usize>,
}

impl Piece {
    /// Returns `true` if this reads the input to its end.
    pub fn is_last(&self) -> bool {
        self.range.end == self.input.tokens.len()
    }
}

#[derive(Debug)]
struct Waiting {
    user: Arc<str>,
    inputs: VecDeque<Input>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Planner {
    /// Requests that have inputs of which nothing is read.
    queue: FairQueue,
    waiting: HashMap<u64, Waiting>,
    /// `true` if an input has to be read in one step.
    whole: bool,
    slots: u16,
    /// The piece of an input that the last step read in part; the next step continues from its end.
    half_read: Option<Piece>,
}

impl Planner {
    /// `whole`: inputs must be read in one step. `slots`: most inputs of one step, 1 or more.
    pub fn new(whole: bool, slots: u16) -> Self {
        Self { queue: FairQueue::new(), waiting: HashMap::new(), whole, slots: slots.max(1), half_read: None }
    }

    /// Returns `true` if anything is to be read.
    pub fn has_work(&self) -> bool {
        self.half_read.is_some() || !self.queue.is_empty()
    }

    /// Takes a request in, whose inputs have a token at least.
    pub fn submit(&mut self, request: u64, user: &str, inputs: Vec<Input>) {
        if inputs.is_empty() {
            return;
        }
        let user: Arc<str> = user.into();
        self.queue.push(&user, SequenceId(request));
        self.waiting.insert(request, Waiting { user, inputs: inputs.into() });
    }

    /// Forgets a request. The slot of its half-read input, where there is one, is to be forgotten as well.
    pub fn cancel(&mut self, request: u64) -> Option<u16> {
        if let Some(waiting) = self.waiting.remove(&request) {
            self.queue.remove(&waiting.user, SequenceId(request));
        }
        self.half_read.take_if(|piece| piece.request == request).map(|piece| piece.slot)
    }

    /// Returns the tokens that the next step reads: `budget` tokens at most, or one whole input that has more.
    pub fn plan(&mut self, budget: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut left = budget.max(1);
        let mut taken = None;
        if let Some(mut piece) = self.half_read.take() {
            taken = Some(piece.slot);
            piece.range = piece.range.end..piece.input.tokens.len().min(piece.range.end + left);
            left -= piece.range.len();
            pieces.push(piece);
        }
        let mut slots = (0..self.slots).filter(|slot| Some(*slot) != taken);
        while left > 0
            && pieces.last().is_none_or(Piece::is_last)
            && let Some(next) = self.next_length()
            && (!self.whole || next <= left || pieces.is_empty())
            && let Some(slot) = slots.next()
            && let Some((request, input)) = self.take()
        {
            let end = if self.whole { next } else { next.min(left) };
            left = left.saturating_sub(end);
            pieces.push(Piece { request, input, slot, range: 0..end });
        }
        self.half_read = pieces.last().filter(|piece| !piece.is_last()).cloned();
        pieces
    }

    fn next_length(&self) -> Option<usize> {
        let waiting = self.waiting.get(&self.queue.front(all_alike)?.0)?;
        waiting.inputs.front().map(|input| input.tokens.len())
    }

    fn take(&mut self) -> Option<(u64, Input)> {
        let id = self.queue.pop_front(all_alike)?;
        let waiting = self.waiting.get_mut(&id.0)?;
        let input = waiting.inputs.pop_front()?;
        if waiting.inputs.is_empty() {
            self.waiting.remove(&id.0);
        } else {
            let user = Arc::clone(&waiting.user);
            self.queue.push(&user, id);
        }
        Some((id.0, input))
    }
}

/// An input is read in a few steps, so that turns alone are fair.
fn all_alike(_: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(index: u32, tokens: usize) -> Input {
        Input { index, tokens: (0..tokens).map(|t| i32::try_from(t).unwrap()).collect() }
    }

    #[test]
    fn a_request_with_one_input_does_not_wait_for_all_of_another() {
        let mut planner = Planner::new(false, 8);
        planner.submit(1, "a", (0..100).map(|i| input(i, 4)).collect());
        planner.submit(2, "a", vec![input(0, 4)]);
        planner.submit(3, "b", vec![input(0, 4)]);
        let requests: Vec<u64> = planner.plan(16).iter().map(|piece| piece.request).collect();
        assert_eq!(requests, [1, 3, 2, 1]);
        planner.cancel(1);
        assert!(!planner.has_work());
    }

    #[test]
    fn a_whole_input_may_have_more_than_the_budget_and_is_alone_then() {
        let mut planner = Planner::new(true, 8);
        planner.submit(1, "a", vec![input(0, 4), input(1, 100), input(2, 4)]);
        let lengths = |pieces: &[Piece]| pieces.iter().map(|piece| piece.range.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&planner.plan(10)), [4]);
        assert_eq!(lengths(&planner.plan(10)), [100]);
        assert_eq!(lengths(&planner.plan(10)), [4]);
    }

    #[test]
    fn what_is_half_read_when_it_is_cancelled_gives_its_slot_back() {
        let mut planner = Planner::new(false, 4);
        planner.submit(1, "a", vec![input(0, 10)]);
        let slot = planner.plan(4)[0].slot;
        assert_eq!(planner.cancel(1), Some(slot));
        assert!(!planner.has_work() && planner.plan(4).is_empty());
    }

    proptest! {
        /// Every input of every request that is not cancelled is read once, in order, without a gap, in one slot.
        #[test]
        fn everything_is_read_once(
            requests in prop::collection::vec((0u8..3, prop::collection::vec(1usize..40, 1..12)), 1..12),
            budgets in prop::collection::vec(1usize..50, 1..20),
            whole in any::<bool>(),
            slots in 1u16..6,
            cancelled in prop::collection::vec((0usize..40, 0u64..12), 0..4),
        ) {
            let mut planner = Planner::new(whole, slots);
            for (id, (user, lengths)) in (0u64..).zip(&requests) {
                let inputs = (0u32..).zip(lengths).map(|(i, length)| input(i, *length)).collect();
                planner.submit(id, &user.to_string(), inputs);
            }
            let mut read: HashMap<(u64, u32), (usize, u16)> = HashMap::new();
            let mut gone = Vec::new();
            for step in 0.. {
                prop_assert!(step < 10_000, "it does not end");
                for (_, id) in cancelled.iter().filter(|(at, _)| *at == step) {
                    planner.cancel(*id);
                    gone.push(*id);
                }
                if !planner.has_work() {
                    break;
                }
                let budget = budgets[step % budgets.len()];
                let pieces = planner.plan(budget);
                let total: usize = pieces.iter().map(|piece| piece.range.len()).sum();
                prop_assert!(total > 0 && (total <= budget || (whole && pieces.len() == 1)));
                let mut used: Vec<u16> = pieces.iter().map(|piece| piece.slot).collect();
                used.sort_unstable();
                used.dedup();
                prop_assert!(used.len() == pieces.len() && used.iter().all(|slot| *slot < slots));
                prop_assert!(pieces.iter().rev().skip(1).all(Piece::is_last));
                for piece in pieces {
                    prop_assert!(!gone.contains(&piece.request));
                    let before = read.entry((piece.request, piece.input.index)).or_insert((0, piece.slot));
                    prop_assert_eq!(*before, (piece.range.start, piece.slot));
                    before.0 = piece.range.end;
                    prop_assert!(!whole || piece.is_last());
                }
            }
            for (id, (_, lengths)) in (0u64..).zip(&requests) {
                for (index, length) in (0u32..).zip(lengths) {
                    let done = read.get(&(id, index)).map_or(0, |(end, _)| *end);
                    prop_assert!(done == *length || gone.contains(&id));
                }
            }
        }
    }
}
