//! The parts that several requests have in common, and those of them that the present worker has.
//!
//! The up to 1,024 answers to one request have the same prompt, stop texts, biases, constraint and tools. They share them here,
//! each is sent to the worker once, and there they share them again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{Constraint, GenerationRequest, Prompt, Token, ToolPlan};

/// Something that requests share.
#[derive(Clone, Debug)]
pub enum Part {
    /// A prompt that was not accepted before.
    Prompt(Arc<Prompt>),
    /// The tokens of one that was.
    Tokens(Arc<[Token]>),
    /// Texts that end an answer.
    Stop(Arc<[String]>),
    /// Tokens and the values added to their logits.
    LogitBias(Arc<[(Token, f32)]>),
    /// The constraint of an answer.
    Constraint(Arc<Constraint>),
    /// The tools that it may call.
    Tools(Arc<ToolPlan>),
}

impl Part {
    /// Returns its address: it identifies the part for as long as the part is held.
    fn address(&self) -> usize {
        match self {
            Self::Prompt(part) => Arc::as_ptr(part) as usize,
            Self::Tokens(part) => Arc::as_ptr(part).cast::<()>() as usize,
            Self::Stop(part) => Arc::as_ptr(part).cast::<()>() as usize,
            Self::LogitBias(part) => Arc::as_ptr(part).cast::<()>() as usize,
            Self::Constraint(part) => Arc::as_ptr(part) as usize,
            Self::Tools(part) => Arc::as_ptr(part) as usize,
        }
    }
}

/// The ids of a request's parts; 0 for parts that it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartIds {
    /// Its prompt.
    pub prompt: u64,
    /// Its stop texts.
    pub stop: u64,
    /// Its biases.
    pub logit_bias: u64,
    /// Its constraint.
    pub constraint: u64,
    /// Its tools.
    pub tools: u64,
}

impl PartIds {
    fn all(self) -> impl Iterator<Item = u64> {
        let ids = [self.prompt, self.stop, self.logit_bias, self.constraint, self.tools];
        ids.into_iter().filter(|&id| id != 0)
    }
}

/// A prompt as the worker read it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Its tokens.
    pub tokens: Arc<[Token]>,
    /// Its text, where that was asked for.
    pub text: Option<Arc<str>>,
}

#[derive(Debug)]
struct Told {
    part: Part,
    /// The number of requests that hold it.
    users: usize,
    accepted: Option<Accepted>,
}

/// The parts that were sent to the present worker and that it has to keep.
#[derive(Debug, Default)]
pub struct Parts {
    told: HashMap<u64, Told>,
    by_address: HashMap<usize, u64>,
    last: u64,
}

impl Parts {
    /// Takes hold of a request's parts. `accepted`: its prompt's tokens, if they are known. `tell` gets each part that the worker
    /// does not have yet.
    pub fn hold(
        &mut self,
        request: &GenerationRequest,
        accepted: Option<&Arc<[Token]>>,
        mut tell: impl FnMut(u64, &Part),
    ) -> PartIds {
        let mut one = |part: Part| self.hold_one(part, &mut tell);
        PartIds {
            prompt: one(match accepted {
                Some(tokens) => Part::Tokens(Arc::clone(tokens)),
                None => Part::Prompt(Arc::clone(&request.prompt)),
            }),
            stop: match request.stop.is_empty() {
                true => 0,
                false => one(Part::Stop(Arc::clone(&request.stop))),
            },
            logit_bias: match request.sampling.logit_bias.is_empty() {
                true => 0,
                false => one(Part::LogitBias(Arc::clone(&request.sampling.logit_bias))),
            },
            constraint: request.constraint.as_ref().map_or(0, |part| one(Part::Constraint(Arc::clone(part)))),
            tools: request.tools.as_ref().map_or(0, |part| one(Part::Tools(Arc::clone(part)))),
        }
    }

    fn hold_one(&mut self, part: Part, tell: &mut impl FnMut(u64, &Part)) -> u64 {
        let address = part.address();
        if let Some(&id) = self.by_address.get(&address)
            && let Some(told) = self.told.get_mut(&id)
        {
            told.users += 1;
            return id;
        }
        self.last += 1;
        tell(self.last, &part);
        self.by_address.insert(address, self.last);
        self.told.insert(self.last, Told { part, users: 1, accepted: None });
        self.last
    }

    /// A request needs its parts no longer; `forget` gets each that no request needs.
    pub fn release(&mut self, ids: PartIds, mut forget: impl FnMut(u64)) {
        for id in ids.all() {
            let Some(told) = self.told.get_mut(&id) else { continue };
            told.users -= 1;
            if told.users == 0 {
                self.by_address.remove(&told.part.address());
                self.told.remove(&id);
                forget(id);
            }
        }
    }

    /// Forgets the parts of a worker that has gone, with all that was sent to it.
    pub fn clear(&mut self) {
        self.told.clear();
        self.by_address.clear();
    }

    /// Stores how the worker read a prompt. The worker reports it once, with the first request that has it.
    pub fn accept(&mut self, id: u64, tokens: Vec<Token>, text: Option<String>) {
        if let Some(told) = self.told.get_mut(&id)
            && !tokens.is_empty()
        {
            told.accepted = Some(Accepted { tokens: tokens.into(), text: text.map(Into::into) });
        }
    }

    /// Returns how the worker read a prompt.
    pub fn accepted(&self, id: u64) -> Option<&Accepted> {
        self.told.get(&id)?.accepted.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::SamplingParams;

    fn request(kind: u8) -> GenerationRequest {
        let has = |bit: u8| kind & bit != 0;
        GenerationRequest {
            request_id: String::new(),
            model: String::new(),
            user: String::new(),
            tenant: String::new(),
            cache_key: None,
            prompt: Arc::new(Prompt::Text(kind.to_string())),
            sampling: SamplingParams {
                logit_bias: if has(1) { [(1, 1.0)].into() } else { Arc::default() },
                ..SamplingParams::default()
            },
            stop: if has(2) { ["s".to_owned()].into() } else { Arc::default() },
            max_tokens: None,
            want_prompt_text: false,
            logprobs: None,
            score_prompt: false,
            constraint: has(4).then(|| Arc::new(Constraint::Regex("a".to_owned()))),
            tools: None,
            thinking_budget: None,
        }
    }

    proptest! {
        /// The worker has at each time exactly the parts of the requests in flight, and was sent each once.
        #[test]
        fn the_worker_keeps_what_is_needed(kinds in prop::collection::vec((0u8..8, 1usize..5), 1..6), order in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
            let mut parts = Parts::default();
            let mut worker = BTreeSet::new();
            let mut held = Vec::new();
            for (kind, answers) in kinds {
                let request = request(kind);
                for answer in 0..answers {
                    let before = worker.len();
                    held.push(parts.hold(&request.clone(), None, |id, _| assert!(worker.insert(id))));
                    let told = if answer == 0 { 1 + kind.count_ones() as usize } else { 0 };
                    prop_assert_eq!(worker.len() - before, told);
                }
            }
            for index in order {
                if held.is_empty() { break }
                let gone = held.swap_remove(index.index(held.len()));
                parts.release(gone, |id| assert!(worker.remove(&id)));
                let needed: BTreeSet<u64> = held.iter().flat_map(|ids| ids.all()).collect();
                prop_assert_eq!(&worker, &needed);
            }
            held.into_iter().for_each(|ids| parts.release(ids, |id| assert!(worker.remove(&id))));
            prop_assert!(worker.is_empty() && parts.by_address.is_empty());
        }
    }

    #[test]
    fn a_prompt_is_accepted_for_all_that_have_it() {
        let mut parts = Parts::default();
        let request = request(0);
        let (first, second) = (parts.hold(&request, None, |_, _| ()), parts.hold(&request, None, |_, _| ()));
        parts.accept(first.prompt, vec![1, 2], Some("ab".to_owned()));
        // The second one's answer has nothing of it.
        parts.accept(second.prompt, Vec::new(), None);
        parts.release(first, |_| ());
        let accepted = parts.accepted(second.prompt).unwrap();
        assert_eq!((&*accepted.tokens, accepted.text.as_deref()), (&[1, 2][..], Some("ab")));
        parts.release(second, |_| ());
        assert!(parts.accepted(second.prompt).is_none());
    }
}
