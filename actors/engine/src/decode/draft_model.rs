//! The draft model: a smaller model with the same vocabulary, which guesses what the model will say.
//!
//! It has a context of its own with a few seats. A sequence that it is asked for gets one, and keeps it until another one needs
//! it; what the seat lacks of the sequence is read first, some tokens a step, so that nobody waits long for a prompt. Its tokens
//! are the likeliest ones: what a sequence draws otherwise is wrong for it, whatever its temperature.

use std::collections::HashMap;

use jan_protocol::types::Token;

use super::draft_model_policy::ModelRecord;
use crate::llama::{BatchEntry, Buffers, Context, ContextSizes, LlamaError, Memory, Model};
use crate::scheduler::SequenceId;
use crate::types::EngineSettings;

/// Sequences that it drafts for in one step, and seats: with more of them drafts do not pay.
pub const SEATS: u16 = 4;

/// Tokens of sequences that are read in one step.
const CHUNK: usize = 64;

/// Entries that the vocabularies may differ by at their ends: families pad them to different sizes.
const PADDING: u32 = 128;

/// The request of one sequence.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The sequence.
    pub id: SequenceId,
    /// All its tokens so far.
    pub tokens: &'a [Token],
    /// Its record.
    pub record: &'a mut ModelRecord,
    /// Maximum number of drafts.
    pub most: usize,
    /// Tokens that are still to come, at most.
    pub left: u32,
}

/// The drafts of one sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposal {
    /// The tokens, in order.
    pub tokens: Vec<Token>,
    /// The probability that the draft model gave each.
    pub confidences: Vec<f32>,
    /// The chance of each, and all before it.
    pub chances: Vec<f64>,
}

/// A draft model with its context.
#[derive(Debug)]
pub struct DraftModel<'model> {
    model: &'model Model,
    context: Context<'model>,
    seats: HashMap<SequenceId, Seat>,
    /// The time of a step of one token, in that of the model's: as their weights.
    pass: f64,
    cells: usize,
    /// Maximum length of a sequence.
    context_length: usize,
    /// Tokens that the model knows.
    vocabulary: u32,
    /// Steps so far, for the order of use.
    steps: u64,
    batch: Vec<BatchEntry>,
}

/// The place of one sequence in the context.
#[derive(Debug)]
struct Seat {
    slot: u16,
    /// The tokens that have been read.
    tokens: Vec<Token>,
    /// The step that used it last.
    used: u64,
}

impl<'model> DraftModel<'model> {
    /// Makes the context of `draft`, which drafts for `model`.
    ///
    /// # Errors
    /// The models' vocabularies differ, the draft model generates no text or its memory cannot be cut, or llama.cpp cannot make the
    /// context.
    pub fn new(draft: &'model Model, model: &Model, settings: &EngineSettings) -> Result<Self, LlamaError> {
        check_vocabulary(draft, model)?;
        let memory = draft.find_memory()?;
        if !memory.can_be_cut() {
            let reason = "the draft model has a recurrent memory, which cannot go back behind a wrong draft; use one with attention";
            return Err(LlamaError::Load(reason.to_owned()));
        }
        let (context_length, cells) = sizes(draft, settings);
        let context = new_context(draft, memory, cells, settings.threads)?;
        if !context.can_generate() {
            return Err(LlamaError::Load("the draft model generates no text".to_owned()));
        }
        Ok(Self {
            model: draft,
            context,
            seats: HashMap::new(),
            pass: draft.size() as f64 / model.size().max(1) as f64,
            cells: cells as usize,
            context_length: context_length as usize,
            vocabulary: model.vocabulary(),
            steps: 0,
            batch: Vec::new(),
        })
    }

    /// Bytes that the KV cells of a draft model take.
    #[must_use]
    pub fn kv_bytes(draft: &Model, settings: &EngineSettings) -> u64 {
        u64::from(sizes(draft, settings).1) * draft.kv_bytes_per_cell()
    }

    /// Bytes of its weights, and of its context's buffers.
    #[must_use]
    pub fn memory(&self) -> (u64, Buffers) {
        (self.model.size(), self.context.buffers())
    }

    /// Proposes drafts for sequences that are worth asking for, `running` of them all. A sequence whose tokens are still being read
    /// gets none yet.
    ///
    /// # Errors
    /// llama.cpp failed: it is not to be asked any more.
    pub fn propose(
        &mut self,
        wanted: &mut [Wanted<'_>],
        running: usize,
        threads: usize,
    ) -> Result<Vec<Proposal>, LlamaError> {
        self.steps += 1;
        let mut proposals = vec![Proposal::default(); wanted.len()];
        let mut asked = Vec::new();
        let mut room = CHUNK;
        for (index, one) in wanted.iter_mut().enumerate().take(SEATS.into()) {
            if one.most == 0 || one.tokens.len() + one.most >= self.context_length {
                continue;
            }
            let common = self.common(one.id, one.tokens);
            let unread = one.tokens.len() - common;
            if !one.record.is_worth_asking(self.pass, running, unread, one.left) {
                continue;
            }
            let Some(slot) = self.take_seat(one.id, common, one.tokens.len() + one.most) else { continue };
            if unread > room {
                let read = &one.tokens[common..common + room];
                self.read(one.id, slot, read, threads)?;
                room = 0;
            } else {
                room -= unread;
                asked.push((index, slot));
            }
        }
        while !asked.is_empty() {
            self.batch.clear();
            for &(index, slot) in &asked {
                let one = &wanted[index];
                let Some(seat) = self.seats.get_mut(&one.id) else { continue };
                let next = match proposals[index].tokens.last() {
                    Some(last) => std::slice::from_ref(last),
                    None => one.tokens.get(seat.tokens.len()..).unwrap_or_default(),
                };
                let start = seat.tokens.len();
                let entries = (start..).zip(next).map(|(position, &token)| entry(token, position, slot));
                self.batch.extend(entries);
                seat.tokens.extend_from_slice(next);
                if let Some(last) = self.batch.last_mut() {
                    last.logits = true;
                }
            }
            self.context.decode(&self.batch, threads)?;
            let rows: Vec<usize> = (0..self.batch.len()).filter(|&row| self.batch[row].logits).collect();
            let mut goes_on = Vec::with_capacity(asked.len());
            for (&(index, slot), row) in asked.iter().zip(rows) {
                let (token, confidence) = likeliest(self.context.logits(row));
                let (one, proposal) = (&wanted[index], &mut proposals[index]);
                if token.cast_unsigned() >= self.vocabulary || self.model.is_end_of_generation(token) {
                    continue;
                }
                let before = proposal.chances.last().copied().unwrap_or(1.0);
                proposal.tokens.push(token);
                proposal.confidences.push(confidence);
                proposal.chances.push(before * one.record.chance(confidence));
                if proposal.tokens.len() < one.most
                    && one.record.goes_on(&proposal.chances, self.pass, running)
                {
                    goes_on.push((index, slot));
                }
            }
            asked = goes_on;
        }
        Ok(proposals)
    }

    /// The number of tokens that a sequence's seat has read of it; at least the last one is to be read again, for its logits.
    fn common(&self, id: SequenceId, tokens: &[Token]) -> usize {
        let Some(seat) = self.seats.get(&id) else { return 0 };
        let common = seat.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        common.min(tokens.len() - 1)
    }

    /// Gives a sequence a seat with the first `common` tokens that it has there, and room for so many in all.
    fn take_seat(&mut self, id: SequenceId, common: usize, len: usize) -> Option<u16> {
        let slot = match self.seats.get_mut(&id) {
            Some(seat) => {
                seat.tokens.truncate(common);
                self.context.truncate(seat.slot, u32::try_from(common).unwrap_or(u32::MAX));
                seat.slot
            }
            None => {
                if self.seats.len() >= SEATS.into() {
                    self.leave_oldest(id)?;
                }
                let taken = |slot: &u16| self.seats.values().any(|seat| seat.slot == *slot);
                (0..SEATS).find(|slot| !taken(slot))?
            }
        };
        while self.others(id).map(|(_, seat)| seat.tokens.len()).sum::<usize>() + len > self.cells {
            self.leave_oldest(id)?;
        }
        let seat = self.seats.entry(id).or_insert_with(|| Seat { slot, tokens: Vec::new(), used: 0 });
        seat.used = self.steps;
        Some(slot)
    }

    fn others(&self, id: SequenceId) -> impl Iterator<Item = (&SequenceId, &Seat)> {
        self.seats.iter().filter(move |(other, _)| **other != id)
    }

    /// Takes the seat of the sequence that has not been drafted for for the longest time; `None` if all others are in use.
    fn leave_oldest(&mut self, id: SequenceId) -> Option<()> {
        let free = self.others(id).filter(|(_, seat)| seat.used < self.steps);
        let (&oldest, _) = free.min_by_key(|(other, seat)| (seat.used, other.0))?;
        let seat = self.seats.remove(&oldest)?;
        self.context.truncate(seat.slot, 0);
        Some(())
    }

    /// Reads more of a sequence.
    fn read(
        &mut self,
        id: SequenceId,
        slot: u16,
        tokens: &[Token],
        threads: usize,
    ) -> Result<(), LlamaError> {
        let Some(seat) = self.seats.get_mut(&id) else { return Ok(()) };
        if tokens.is_empty() {
            return Ok(());
        }
        self.batch.clear();
        self.batch
            .extend((seat.tokens.len()..).zip(tokens).map(|(position, &token)| entry(token, position, slot)));
        seat.tokens.extend_from_slice(tokens);
        self.context.decode(&self.batch, threads)
    }
}

/// Maximum length of a sequence, and KV cells for all.
fn sizes(draft: &Model, settings: &EngineSettings) -> (u32, u32) {
    let context_length = settings.context_length.min(draft.trained_context());
    (context_length, settings.kv_cells.min(context_length.saturating_mul(SEATS.into())))
}

fn new_context(draft: &Model, memory: Memory, cells: u32, threads: usize) -> Result<Context<'_>, LlamaError> {
    let sizes = ContextSizes {
        cells,
        slots: SEATS,
        batch: CHUNK as u32 + u32::from(SEATS),
        outputs: SEATS.into(),
        threads,
        embeddings: false,
        reproducible: false,
        streams: false,
    };
    Context::new(draft, memory, sizes)
}

fn entry(token: Token, position: usize, slot: u16) -> BatchEntry {
    BatchEntry { token, position: u32::try_from(position).unwrap_or(u32::MAX), slot, logits: false }
}

/// Checks that the tokens of two models stand for the same texts.
///
/// # Errors
/// The first difference, and the remedy.
fn check_vocabulary(draft: &Model, model: &Model) -> Result<(), LlamaError> {
    let sizes = (draft.vocabulary(), model.vocabulary());
    let error = |difference: String| {
        let remedy = "a draft model needs the vocabulary of the model that it drafts for; use a smaller model of the same family";
        Err(LlamaError::Load(format!("{difference}; {remedy}")))
    };
    if sizes.0.abs_diff(sizes.1) > PADDING {
        return error(format!("the draft model has {} tokens, the model {}", sizes.0, sizes.1));
    }
    let tokens = 0..Token::try_from(sizes.0.min(sizes.1)).unwrap_or(Token::MAX);
    let differs = |token: &Token| draft.special_piece(*token) != model.special_piece(*token);
    match { tokens }.find(differs) {
        None => Ok(()),
        Some(token) => error(format!(
            "token {token} is {:?} in the draft model and {:?} in the model",
            draft.special_text(token),
            model.special_text(token)
        )),
    }
}

/// The likeliest token, and its probability.
fn likeliest(logits: &[f32]) -> (Token, f32) {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    let Some((token, &most)) = best else { return (0, 0.0) };
    let sum: f32 = logits.iter().map(|logit| (logit - most).exp()).sum();
    (Token::try_from(token).unwrap_or(Token::MAX), 1.0 / sum)
}
