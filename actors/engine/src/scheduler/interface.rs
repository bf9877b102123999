//! The types of the scheduler's interface: its configuration, arrivals, steps and their outcomes.

use jan_protocol::types::Token;
use thiserror::Error;

use super::cell_map::Slot;
use super::host_cache::Shelf;
use super::lanes::{Lane, Seat};

/// Engine-wide id of one sequence (one choice of one request), given by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// The ways a new request may use the computations of other sequences. It depends on the model's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixReuse {
    /// Any prefix of any sequence: attention over a unified KV cache, which can be cut at every position.
    Partial,
    /// The whole of a slot's tokens at that moment: recurrent and hybrid memory, which can't be cut.
    WholeSequence,
    /// No reuse.
    None,
}

/// The bounds the scheduler keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// llama.cpp sequence ids (`n_seq_max`). Those beyond `max_running` only serve as cache.
    pub slots: u16,
    /// Maximum number of sequences admitted at once, and so of decode tokens in a batch.
    pub max_running: u16,
    /// KV cells of the context (`n_ctx`).
    pub cells: u32,
    /// Maximum number of tokens of one sequence.
    pub context: u32,
    /// Maximum number of cells to keep for prefixes that no live sequence uses. Under a unified KV cache every sequence
    /// attends over all cells in use, so a large cache slows decoding down.
    pub cache_cells: u32,
    /// Maximum number of tokens of prefixes that are kept in host memory when their cells are evicted; only under
    /// [`PrefixReuse::Partial`].
    pub archive_tokens: u32,
    /// Cells that have to be left for each admitted sequence when another one is admitted, so that it isn't
    /// preempted again as soon as they have generated a few tokens.
    pub headroom: u32,
    /// `true` if copies that leave host memory for lack of room are announced ([`KvOp::Spill`]).
    pub spill: bool,
    /// The computations that may be shared.
    pub reuse: PrefixReuse,
    /// The number of tokens that another sequence's prefill has to spare a new one for the new one to wait for it, and that a
    /// copy from host memory has to spare for it to be restored (or made).
    pub share_min: u32,
    /// Maximum number of prompt tokens of a step whose logits are wanted, drafts included; at least 1.
    pub score_chunk: u32,
    /// `true` if the cells of each sequence have to lie in the order of its positions. Attention sums up in the order of the
    /// cells, so that only then a sequence's logits are the same to the last bit regardless of other running sequences. llama.cpp
    /// takes the next free cell behind the last one taken, but goes back when cells before it become free; so none becomes free
    /// until all are moved out and put back ([`KvOp::Lift`]). Only under [`PrefixReuse::Partial`].
    pub in_order: bool,
    /// The number of cells of KV cache that take as much memory as the model's weights.
    pub weights: u32,
    /// Has all sequences that run beside others decode in lanes, whatever it costs.
    pub always_lanes: bool,
}

/// The reason why a configuration can't work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A limit of 0, with which nothing could ever run.
    #[error("max_running and context must be at least 1")]
    Zero,
    /// Each admitted sequence needs a slot.
    #[error("max_running ({max_running}) is more than the slots ({slots})")]
    TooFewSlots {
        /// The configured maximum of running sequences.
        max_running: u16,
        /// The configured number of slots.
        slots: u16,
    },
    /// A single sequence must always fit.
    #[error("a sequence of {context} tokens does not fit in {cells} KV cells")]
    TooFewCells {
        /// The configured context.
        context: u32,
        /// The configured number of cells.
        cells: u32,
    },
}

/// A sequence to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// An id that no live sequence uses.
    pub id: SequenceId,
    /// The user that it counts for when sequences queue up.
    pub user: String,
    /// The tenant that shares the computed tokens behind the first `common` tokens: sequences of the same number. 0: all.
    pub tenant: u64,
    /// The number of `tokens`, at their beginning, that all tenants may share.
    pub common: u32,
    /// The prompt, and behind it the tokens already generated when it is resumed after a crash.
    pub tokens: Vec<Token>,
    /// The number of `tokens`, at their end, that were generated. A resumed sequence is admitted before new ones.
    pub generated: u32,
    /// `true` if the logits of all prompt tokens are wanted. All of them are computed then, regardless of the cache.
    pub score: bool,
}

/// The reason why a sequence is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// No token to continue from.
    #[error("a sequence needs at least one token")]
    Empty,
    /// More tokens than could ever be computed.
    #[error("{len} tokens do not fit in the context of {context}")]
    TooLong {
        /// Tokens of the sequence.
        len: usize,
        /// Maximum number of tokens of one sequence.
        context: u32,
    },
    /// More generated tokens than tokens.
    #[error("{generated} of {len} tokens can't have been generated")]
    Generated {
        /// The given number.
        generated: u32,
        /// Tokens of the sequence.
        len: usize,
    },
    /// A live sequence has this id.
    #[error("sequence {0:?} is already there")]
    Duplicate(SequenceId),
}

/// A change of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// `to`, which is empty, gets the first `len` tokens of `from` (`llama_memory_seq_cp`). Under
    /// [`PrefixReuse::WholeSequence`] that is all of them.
    Copy {
        /// The slot that holds them.
        from: Slot,
        /// The slot that gets them too.
        to: Slot,
        /// Positions 0 to `len`.
        len: u32,
    },
    /// `slot` keeps its first `len` tokens (`llama_memory_seq_rm`); 0 empties it, and is the only value unless the reuse is
    /// [`PrefixReuse::Partial`]. If cells stay in order, those that no slot holds any more stay taken until [`KvOp::Clear`].
    Truncate {
        /// The slot to be cut.
        slot: Slot,
        /// Tokens to keep.
        len: u32,
    },
    /// `shelf`, which is empty, gets a copy of all tokens of `slot` (`llama_state_seq_get_data`).
    Save {
        /// The slot to copy; it stays as it is.
        slot: Slot,
        /// The place of the copy.
        shelf: Shelf,
    },
    /// `to`, which is empty, gets the first `len` of the `held` tokens on `shelf`. There are `held` free cells,
    /// since llama.cpp can only put back the whole (`llama_state_seq_set_data`), which is then cut.
    Restore {
        /// The copy; it stays.
        shelf: Shelf,
        /// The slot that gets it.
        to: Slot,
        /// Tokens to keep.
        len: u32,
        /// Tokens of the copy.
        held: u32,
    },
    /// A copy of all tokens of `slot` is taken until [`KvOp::Lay`]; this and the two below only where cells stay in order.
    Lift {
        /// The slot, not empty.
        slot: Slot,
    },
    /// All slots become empty and all cells free (`llama_memory_clear`).
    Clear,
    /// `slot` gets back the cells that were lifted from it.
    Lay {
        /// The slot, empty before.
        slot: Slot,
    },
    /// `lane`, which is empty, gets a copy of all tokens of `slot`.
    Enter {
        /// The slot to copy; it stays as it is.
        slot: Slot,
        /// The lane that gets them.
        lane: Lane,
    },
    /// `to`, which is empty, gets the first `len` of the `held` tokens of `lane`. There are `held` free cells, as with
    /// [`KvOp::Restore`].
    Fetch {
        /// The lane; it stays as it is.
        lane: Lane,
        /// The slot that gets them.
        to: Slot,
        /// Tokens to keep.
        len: u32,
        /// Tokens of the lane.
        held: u32,
    },
    /// `shelf`, which is empty, gets a copy of all tokens of `lane`.
    Stow {
        /// The lane; it stays as it is.
        lane: Lane,
        /// The place of the copy.
        shelf: Shelf,
    },
    /// `lane` becomes empty.
    Vacate {
        /// The lane, not empty before.
        lane: Lane,
    },
    /// `to`, which is empty, gets all tokens of `from`, which is empty then.
    Shift {
        /// The lane that held them.
        from: Lane,
        /// The lane that gets them.
        to: Lane,
    },
    /// The copy on `shelf`, which is discarded next for lack of room, may be kept elsewhere: its tokens are the next of
    /// [`Scheduler::next_spilled`](super::Scheduler::next_spilled).
    Spill {
        /// The shelf.
        shelf: Shelf,
    },
    /// The copy on `shelf` is no longer needed.
    Discard {
        /// The shelf, empty afterwards.
        shelf: Shelf,
    },
}

/// One token of a decode batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchToken {
    /// The token.
    pub token: Token,
    /// Its position in its sequence.
    pub position: u32,
    /// The place it is computed in, which holds all tokens before it.
    pub seat: Seat,
    /// Logits are wanted, to sample this sequence's next token.
    pub sample_for: Option<SequenceId>,
    /// The sequence whose next prompt token is scored with the wanted logits.
    pub score_for: Option<SequenceId>,
}

/// The operations and the batch of the next step. Empty if there is nothing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Operations to be executed in this order, before the batch is decoded.
    pub ops: Vec<KvOp>,
    /// Tokens to be decoded at once; at most the budget, one token for each running sequence, and drafts.
    pub batch: Vec<BatchToken>,
    /// Sequences that begin to compute for the first time, with the number of their prompt tokens taken from
    /// the cache.
    pub started: Vec<(SequenceId, u32)>,
    /// Tokens of the batch that read prompts.
    pub prefill_tokens: usize,
    /// Tokens of the batch that continue running sequences.
    pub decode_tokens: usize,
    /// Drafts in the batch, each behind the token or draft before it.
    pub draft_tokens: usize,
}

/// The outcome of a sequence whose next token was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sequence continues with this token, decoded in a later step.
    Continue(Token),
    /// The sequence continues with these tokens: drafts that were right, and behind them those that were sampled or needed no
    /// sampling. The logits behind the last one are not known.
    Several(Vec<Token>),
    /// The sequence has ended; its computed tokens stay as cache.
    Finished,
}

impl Outcome {
    /// The tokens that a sequence continues with.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        match self {
            Self::Continue(token) => std::slice::from_ref(token),
            Self::Several(tokens) => tokens,
            Self::Finished => &[],
        }
    }
}

/// A snapshot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Tokens of the copies in host memory.
    pub archived_tokens: u32,
    /// Sequences in the queue, preempted ones included.
    pub waiting: usize,
    /// Admitted sequences: following, reading and decoding.
    pub running: usize,
    /// Admitted sequences that wait for another one's prefill.
    pub following: usize,
    /// Admitted sequences whose prompt is being read.
    pub reading: usize,
    /// KV cells that live sequences hold.
    pub used_cells: u32,
    /// KV cells held only for later use.
    pub cached_cells: u32,
    /// KV cells that hold nothing.
    pub free_cells: u32,
    /// KV cells that hold nothing any more, but are free only when all are moved; where cells stay in order.
    pub spent_cells: u32,
    /// Slots held only for later use.
    pub cached_slots: usize,
    /// Tokens in lanes.
    pub lane_tokens: u32,
    /// Preemptions since the start.
    pub preemptions: u64,
}
