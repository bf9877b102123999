//! Drafts: tokens that may follow the last one of a decoding sequence. They are computed with it in one step, so that the logits
//! behind each of them are there if the model chooses it.
//!
//! A draft lies in the sequence's slot like any other computed token, but is none of its tokens. The outcome of the step says which
//! tokens the sequence has; drafts beyond those are cut off. Nothing else depends on drafts: a step has room for them or leaves
//! them out.

use jan_protocol::types::Token;

use super::lanes::Seat;
use super::prefix_tree::key;
use super::{BatchToken, Phase, PrefixReuse, Scheduler, SequenceId, Step};

/// Cells that drafts leave to others: one for a prompt that has to move on.
const LEFT: u32 = 1;

/// Where cells stay in order, those of refused drafts are lost until all are moved. So many of all cells are not for drafts.
const LEFT_IN_ORDER: u32 = 8;

impl Scheduler {
    /// The sequences that get their next token in the next step, if none of them is preempted; the oldest first.
    pub fn decoding_sequences(&self) -> impl Iterator<Item = SequenceId> {
        let decoding = |id: &SequenceId| matches!(self.sequences[id].phase, Phase::Decoding(_));
        self.admitted.values().copied().filter(decoding)
    }

    /// Returns whether drafts of a sequence are computed: not if it cannot be cut, and not in a lane, since llama.cpp computes
    /// several tokens of one stream apart from those of others.
    #[must_use]
    pub fn takes_drafts(&self, id: SequenceId) -> bool {
        let sequence = self.sequences.get(&id);
        self.config.reuse == PrefixReuse::Partial
            && sequence.is_some_and(|sequence| matches!(sequence.phase, Phase::Decoding(Seat::Slot(_))))
    }

    /// Proposes the tokens that may follow a decoding sequence's last one. The next step computes as many of them as it has room
    /// for.
    pub fn propose(&mut self, id: SequenceId, drafts: Vec<Token>) {
        if self.takes_drafts(id)
            && let Some(sequence) = self.sequences.get_mut(&id)
        {
            sequence.drafts = drafts;
        }
    }

    /// Returns the maximum number of drafts in one step: each takes a row of logits that a prompt's score could take.
    #[must_use]
    pub fn max_drafts(&self) -> usize {
        self.config.score_chunk.max(1) as usize - 1
    }

    /// Adds a sequence's drafts to the batch, behind its token. `decodes` others still need a cell.
    pub(super) fn batch_drafts(&mut self, step: &mut Step, id: SequenceId, seat: Seat, decodes: u32) {
        let left = self.max_drafts().saturating_sub(step.draft_tokens);
        let reserved = if self.kv.is_in_order() { self.config.cells / LEFT_IN_ORDER } else { LEFT };
        // Cached prefixes are worth more than drafts.
        let free = self.kv.cells().free().saturating_sub(decodes + reserved.max(LEFT)) as usize;
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        // It may have been moved to a lane since.
        let Seat::Slot(slot) = seat else { return sequence.drafts.clear() };
        let room = (self.config.context as usize).saturating_sub(sequence.tokens.len());
        sequence.drafts.truncate(left.min(free).min(room));
        let tenant = sequence.tenant;
        let keys: Vec<_> = sequence.drafts.iter().map(|&token| key(tenant, token)).collect();
        let start = self.kv.cells().len(slot);
        if keys.is_empty() || !self.kv.append(slot, &keys) {
            sequence.drafts.clear();
            return;
        }
        let (sample_for, score_for) = (Some(id), None);
        step.batch.extend(sequence.drafts.iter().zip(start..).map(|(&token, position)| BatchToken {
            token,
            position,
            seat,
            sample_for,
            score_for,
        }));
        step.draft_tokens += keys.len();
    }

    /// Cuts off the drafts of a sequence that are not among its next tokens. The last of those is not taken for computed: its
    /// logits were not looked at.
    pub(super) fn cut_drafts(&mut self, id: SequenceId, next: &[Token]) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let drafts = std::mem::take(&mut sequence.drafts);
        let Phase::Sampling(Seat::Slot(slot)) = sequence.phase else { return };
        if !drafts.is_empty() {
            let before = &next[..next.len().saturating_sub(1)];
            let kept = drafts.iter().zip(before).take_while(|(draft, token)| draft == token).count();
            self.kv.truncate(slot, (sequence.tokens.len() + kept) as u32);
        }
    }
}
