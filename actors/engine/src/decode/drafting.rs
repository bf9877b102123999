//! Drafts of running sequences: what is proposed for the next step, and what becomes of it.

use jan_protocol::types::Token;

use super::constraint::GuideError;
use super::draft_policy::{self, Record};
use super::lookup::Lookup;
use super::phases::Flow;
use super::running_sequence::{Buffers, Running};
use crate::llama::Model;
use crate::scheduler::{BatchToken, Outcome, Scheduler, SequenceId};

/// Drafts of one sequence in one step.
const LONGEST_DRAFT: usize = 31;

/// Tokens in a step beside prompts: llama.cpp's attention computes batches of 64 tokens in another way.
const MOST_DECODED: usize = 63;

/// No draft with a lower chance is worth its time.
const LEAST_CHANCE: f64 = 0.1;

/// The source and the record of one sequence's drafts.
#[derive(Clone, Debug)]
pub struct Drafter {
    lookup: Lookup,
    record: Record,
    counts: DraftCounts,
}

impl Drafter {
    /// Begins with a prompt, and the tokens that were generated before a crash.
    #[must_use]
    pub fn new(prompt: &[Token], generated: &[Token], max_tokens: u32) -> Self {
        let lookup = Lookup::new(prompt, max_tokens as usize);
        let mut drafter = Self { lookup, record: Record::default(), counts: DraftCounts::default() };
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

/// Proposes the drafts of the next step that are worth their time. `running` gives a sequence's state.
pub fn propose<'a>(scheduler: &mut Scheduler, running: impl Fn(SequenceId) -> Option<&'a Running>) {
    let decoding: Vec<SequenceId> = scheduler.decoding_sequences().collect();
    let most = scheduler.max_drafts().min(MOST_DECODED.saturating_sub(decoding.len()));
    let chances = |id: &SequenceId| {
        let Some(running) = running(*id) else { return Vec::new() };
        // The last token of an answer is sampled only.
        let left = running.sequence.max_tokens.saturating_sub(running.generated + 1) as usize;
        let drafter = running.drafter.as_ref();
        drafter.map_or_else(Vec::new, |drafter| drafter.chances(left.min(LONGEST_DRAFT).min(most)))
    };
    let chances: Vec<Vec<f64>> = decoding.iter().map(chances).collect();
    if chances.iter().all(Vec::is_empty) {
        return;
    }
    let counts = draft_policy::allot(&chances, most);
    for (id, count) in decoding.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
        if let Some(drafter) = running(id).and_then(|running| running.drafter.as_ref()) {
            scheduler.propose(id, drafter.lookup.draft(count));
        }
    }
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
