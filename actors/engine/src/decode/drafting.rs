//! Drafts of running sequences: what is proposed for the next step, and what becomes of it.

use std::collections::{HashMap, VecDeque};

use jan_protocol::types::Token;

use super::constraint::GuideError;
use super::draft_model::{DraftModel, Proposal, SEATS, Wanted};
use super::draft_model_policy::{self, ModelRecord};
use super::draft_policy::{self, Record};
use super::lookup::Lookup;
use super::phases::Flow;
use super::running_sequence::{Buffers, Running};
use crate::llama::{LlamaError, Model};
use crate::scheduler::{BatchToken, Outcome, Scheduler, SequenceId};

/// Drafts of one sequence in one step.
const LONGEST_DRAFT: usize = 31;

/// Tokens in a step beside prompts: llama.cpp's attention computes batches of 64 tokens in another way.
const MOST_DECODED: usize = 63;

/// No draft with a lower chance is worth its time.
const LEAST_CHANCE: f64 = 0.1;

/// The sources of one sequence's drafts, and their records.
#[derive(Clone, Debug)]
pub struct Drafter {
    lookup: Lookup,
    record: Record,
    of_model: ModelRecord,
    /// The tokens that the draft model expects next, each with the probability that it gave it.
    expected: VecDeque<(Token, f32)>,
    counts: DraftCounts,
}

impl Drafter {
    /// Begins with a prompt, and the tokens that were generated before a crash.
    #[must_use]
    pub fn new(prompt: &[Token], generated: &[Token], max_tokens: u32) -> Self {
        let lookup = Lookup::new(prompt, max_tokens as usize);
        let mut drafter = Self {
            lookup,
            record: Record::default(),
            of_model: ModelRecord::default(),
            expected: VecDeque::new(),
            counts: DraftCounts::default(),
        };
        generated.iter().for_each(|&token| drafter.push(token, true));
        drafter
    }

    /// Appends a token of the answer; `was_chosen`: by the model.
    fn push(&mut self, token: Token, was_chosen: bool) {
        if let (Some(occurrence), Some(expected), true) =
            (self.lookup.found(), self.lookup.expected(), was_chosen)
        {
            self.record.note(occurrence, expected == token);
        }
        self.lookup.push(token);
        self.of_model.token();
        if let Some((expected, confidence)) = self.expected.pop_front() {
            if was_chosen {
                self.of_model.note(confidence, expected == token);
            }
            if expected != token {
                self.expected.clear();
            }
        }
    }

    /// The drafts so far.
    #[must_use]
    pub const fn counts(&self) -> DraftCounts {
        self.counts
    }

    fn chances(&self, most: usize) -> Vec<f64> {
        let Some(found) = self.lookup.found() else { return Vec::new() };
        self.record.chances(found).take(most).take_while(|chance| *chance > LEAST_CHANCE).collect()
    }

    /// Returns whether the draft model is likelier to be right than what was looked up.
    fn prefers_model(&self, chances: &[f64]) -> bool {
        chances.first().is_none_or(|chance| *chance < self.of_model.share())
    }
}

/// Counts of drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Drafts that were computed.
    pub drafted: u64,
    /// Drafts of these that the model chose.
    pub accepted: u64,
}

impl DraftCounts {
    /// Adds others.
    pub const fn add(&mut self, other: Self) {
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }
}

/// Proposes the drafts of the next step that are worth their time: those that were looked up, and those of a draft model.
///
/// # Errors
/// The draft model failed; it is not to be asked any more.
pub fn propose(
    scheduler: &mut Scheduler,
    running: &mut HashMap<SequenceId, Running>,
    draft_model: Option<&mut DraftModel<'_>>,
    threads: usize,
) -> Result<(), LlamaError> {
    let decoding: Vec<SequenceId> = scheduler.decoding_sequences().collect();
    let most = scheduler.max_drafts().min(MOST_DECODED.saturating_sub(decoding.len()));
    // The last token of an answer is sampled only.
    let left = |running: &Running| running.sequence.max_tokens.saturating_sub(running.generated + 1);
    let chances = |id: &SequenceId| {
        let Some(running) = running.get(id) else { return Vec::new() };
        let most = (left(running) as usize).min(LONGEST_DRAFT).min(most);
        running.drafter.as_ref().map_or_else(Vec::new, |drafter| drafter.chances(most))
    };
    let mut chances: Vec<Vec<f64>> = decoding.iter().map(chances).collect();
    let mut proposals: HashMap<SequenceId, Proposal> = HashMap::new();
    if let Some(draft_model) = draft_model.filter(|_| decoding.len() <= SEATS.into()) {
        let mut wanted = Vec::new();
        for (id, running) in running.iter_mut() {
            let Some(index) = decoding.iter().position(|decoding| decoding == id) else { continue };
            let left = left(running);
            let Some(drafter) = running.drafter.as_deref_mut().filter(|_| scheduler.takes_drafts(*id)) else {
                continue;
            };
            if drafter.prefers_model(&chances[index]) {
                let most = (left as usize).min(draft_model_policy::LONGEST).min(most);
                let (tokens, record) = (drafter.lookup.tokens(), &mut drafter.of_model);
                wanted.push(Wanted { id: *id, tokens, record, most, left });
            }
        }
        // In an order that does not depend on chance.
        wanted.sort_by_key(|one| one.id);
        let ids: Vec<SequenceId> = wanted.iter().map(|one| one.id).collect();
        let made = draft_model.propose(&mut wanted, decoding.len(), threads)?;
        for (id, proposal) in ids.into_iter().zip(made).filter(|(_, proposal)| !proposal.tokens.is_empty()) {
            if let Some(drafter) = running.get_mut(&id).and_then(|running| running.drafter.as_mut()) {
                drafter.expected =
                    proposal.tokens.iter().copied().zip(proposal.confidences.iter().copied()).collect();
            }
            if let Some(index) = decoding.iter().position(|decoding| *decoding == id) {
                chances[index].clone_from(&proposal.chances);
            }
            proposals.insert(id, proposal);
        }
    }
    if chances.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let counts = draft_policy::allot(&chances, most);
    for (id, count) in decoding.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
        if let Some(mut proposal) = proposals.remove(&id) {
            proposal.tokens.truncate(count);
            scheduler.propose(id, proposal.tokens);
        } else if let Some(drafter) = running.get(&id).and_then(|running| running.drafter.as_ref()) {
            scheduler.propose(id, drafter.lookup.draft(count));
        }
    }
    Ok(())
}

/// The logits of one sequence in a step: behind its last token, and behind each of its drafts.
pub trait Rows {
    /// The logits behind the `index`-th draft, counted from 1; 0: behind its last token. `None` if the step was given up.
    fn row(&mut self, index: usize) -> Option<&mut [f32]>;
}

/// The drafts of a sequence that were computed, and the tokens chosen so far.
#[derive(Clone, Debug, Default)]
pub struct Check {
    drafts: Vec<Token>,
    tokens: Vec<Token>,
}

impl Check {
    /// The drafts behind the entry `index` of a batch.
    #[must_use]
    pub fn of(batch: &[BatchToken], index: usize) -> Self {
        let id = batch[index].sample_for;
        let behind = batch[index + 1..].iter().take_while(|entry| entry.sample_for == id);
        Self { drafts: behind.map(|entry| entry.token).collect(), tokens: Vec::new() }
    }

    /// The rows of logits that belong to it.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.drafts.len() + 1
    }

    /// The number of drafts that were chosen.
    fn right(&self) -> usize {
        self.drafts.iter().zip(&self.tokens).take_while(|(draft, token)| draft == token).count()
    }

    /// The counts when all is done.
    #[must_use]
    pub fn counts(&self) -> DraftCounts {
        DraftCounts { drafted: self.drafts.len() as u64, accepted: self.right() as u64 }
    }

    /// Chooses the sequence's next tokens, as long as the logits are those of its own tokens. Returns `None` where the next one may
    /// have to be looked up in a constraint, if `free_only` asks for that.
    pub fn advance(
        &mut self,
        running: &mut Running,
        rows: &mut impl Rows,
        free_only: bool,
        model: &Model,
        buffers: &mut Buffers,
        events: &mut Vec<(u64, jan_protocol::report::SequenceEvent)>,
    ) -> Option<Result<Outcome, GuideError>> {
        loop {
            if free_only && running.sequence.flow.as_ref().is_some_and(Flow::is_kept) {
                return None;
            }
            let Some(logits) = rows.row(self.tokens.len()) else {
                return Some(Err(GuideError::new("it was given up".to_owned())));
            };
            let outcome = match running.next(model, logits, buffers, events) {
                Ok(outcome) => outcome,
                Err(error) => return Some(Err(error)),
            };
            if let Some(drafter) = &mut running.drafter {
                let was_chosen = matches!(outcome, Outcome::Continue(_));
                outcome.tokens().iter().for_each(|&token| drafter.push(token, was_chosen));
            }
            self.tokens.extend_from_slice(outcome.tokens());
            let is_over = outcome == Outcome::Finished;
            if (is_over || self.right() < self.tokens.len())
                && let Some(drafter) = &mut running.drafter
            {
                drafter.counts.add(self.counts());
            }
            if is_over {
                return Some(Ok(outcome));
            }
            if self.right() < self.tokens.len() {
                return Some(Ok(match self.tokens[..] {
                    [token] => Outcome::Continue(token),
                    _ => Outcome::Several(self.tokens.clone()),
                }));
            }
        }
    }
}
