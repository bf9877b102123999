//! The scheduler: which sequences run, what each decode step computes, and what stays in the KV cache.
//!
//! It is pure: no clock, no I/O, no llama.cpp. The runner asks for a [`Step`], executes its operations, decodes its batch,
//! samples where logits were asked for, and reports the results:
//!
//! ```text
//! loop {
//!     submit / cancel …
//!     let step = scheduler.plan(prefill_budget);
//!     for op in step.ops { seq_cp or seq_rm }
//!     decode(step.batch)
//!     scheduler.commit(sample every BatchToken with sample_for)
//! }
//! ```
//!
//! The life of a sequence: it *waits* in the queue; it is *admitted*, and then either *follows* another sequence that is about to
//! compute the same beginning, or *reads* its tokens in chunks (prefill); when all are read it *decodes* one token a step. When
//! cells run out, an admitted sequence may be *preempted*: it waits again, before all new ones. A sequence of a user with several
//! may also be preempted when another user has none and waits. When a sequence ends, its slot stays as cache until its cells or
//! the slot are needed. Evicted tokens, of ended and of preempted sequences, are copied to host memory where there is room for
//! them ([`archive`](self::host_cache)) and restored for a sequence that begins with them; otherwise they are read again.
//!
//! No sequence waits for ever: the admitted sequence that was admitted first is never preempted and makes progress in every step,
//! so it ends after a bounded number of steps. Users who have no admitted sequence are served before those who have
//! ([`FairQueue`]), so that every user makes progress. Among a user's, preempted sequences wait in the order of their first
//! admission, new ones in the order of their arrival behind them, and neither are overtaken. A sequence only follows one that
//! reads, never one that itself follows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jan_protocol::types::Token;
use thiserror::Error;

pub use self::cell_map::Slot;
use self::fair_queue::FairQueue;
pub use self::host_cache::Shelf;
use self::kv_cache::KvCache;
use self::prefix_tree::{Key, key, token};

mod batch_plan;
pub mod cell_map;
pub mod fair_queue;
pub mod host_cache;
mod kv_cache;
pub mod prefix_tree;
pub mod step_budget;

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
    /// The computations that may be shared.
    pub reuse: PrefixReuse,
    /// The number of tokens that another sequence's prefill has to spare a new one for the new one to wait for it, and that a
    /// copy from host memory has to spare for it to be restored (or made).
    pub share_min: u32,
    /// Maximum number of prompt tokens of a step whose logits are wanted; at least 1.
    pub score_chunk: u32,
    /// `true` if the cells of each sequence have to lie in the order of its positions. Attention sums up in the order of the
    /// cells, so that only then a sequence's logits are the same to the last bit regardless of other running sequences. llama.cpp
    /// takes the next free cell behind the last one taken, but goes back when cells before it become free; so none becomes free
    /// until all are moved out and put back ([`KvOp::Lift`]). Only under [`PrefixReuse::Partial`].
    pub in_order: bool,
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
    /// The slot it is computed in, which holds all tokens before it.
    pub slot: Slot,
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
    /// Tokens to be decoded at once; at most the budget and one token for each running sequence.
    pub batch: Vec<BatchToken>,
    /// Sequences that begin to compute for the first time, with the number of their prompt tokens taken from
    /// the cache.
    pub started: Vec<(SequenceId, u32)>,
    /// Tokens of the batch that read prompts.
    pub prefill_tokens: usize,
    /// Tokens of the batch that continue running sequences.
    pub decode_tokens: usize,
}

/// The outcome of a sequence whose next token was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sequence continues with this token, decoded in a later step.
    Continue(Token),
    /// The sequence continues with the sampled token and these others behind it, which needed no sampling.
    Forced(Vec<Token>),
    /// The sequence has ended; its computed tokens stay as cache.
    Finished,
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
    /// Preemptions since the start.
    pub preemptions: u64,
}

/// The stage of a sequence's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Admitted, without a slot: the leader is reading the first `shared` tokens of this sequence too.
    Following {
        leader: SequenceId,
        shared: u32,
    },
    /// Prompt or forced tokens are being computed.
    Reading(Slot),
    /// All tokens but the last, which was sampled, are computed.
    Decoding(Slot),
    /// The last token is in a batch whose outcome has not been reported.
    Sampling(Slot),
}

#[derive(Clone, Debug)]
struct Sequence {
    user: Arc<str>,
    /// The tenant that shares its tokens.
    tenant: u64,
    /// Prompt and generated tokens. Those computed are a prefix: as many as its slot holds.
    tokens: Vec<Key>,
    prompt_len: u32,
    /// The number of its first admission; it keeps it when preempted.
    age: Option<u64>,
    started: bool,
    score: bool,
    phase: Phase,
}

impl Sequence {
    /// Returns `true` if the logits of its prompt tokens are still wanted: not once a token was generated.
    fn is_scored(&self) -> bool {
        self.score && self.tokens.len() == self.prompt_len as usize
    }
}

/// The scheduler of one llama.cpp context. See the module's description.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    kv: KvCache,
    sequences: HashMap<SequenceId, Sequence>,
    /// The admitted sequences by age.
    admitted: BTreeMap<u64, SequenceId>,
    queue: FairQueue,
    next_age: u64,
    preemptions: u64,
}

impl Scheduler {
    /// An idle scheduler over an empty context.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        let SchedulerConfig { slots, max_running, cells, context, .. } = config;
        if max_running == 0 || context == 0 {
            return Err(ConfigError::Zero);
        }
        if max_running > slots {
            return Err(ConfigError::TooFewSlots { max_running, slots });
        }
        if context > cells {
            return Err(ConfigError::TooFewCells { context, cells });
        }
        Ok(Self {
            kv: KvCache::new(&config),
            config,
            sequences: HashMap::new(),
            admitted: BTreeMap::new(),
            queue: FairQueue::new(),
            next_age: 0,
            preemptions: 0,
        })
    }

    /// Queues a sequence.
    pub fn submit(&mut self, arrival: Arrival) -> Result<(), SubmitError> {
        let Arrival { id, user, tenant, common, tokens, generated, score } = arrival;
        let len = tokens.len();
        if len == 0 {
            return Err(SubmitError::Empty);
        }
        if len > self.config.context as usize {
            return Err(SubmitError::TooLong { len, context: self.config.context });
        }
        let Some(prompt_len) = (len as u32).checked_sub(generated) else {
            return Err(SubmitError::Generated { generated, len });
        };
        if self.sequences.contains_key(&id) {
            return Err(SubmitError::Duplicate(id));
        }
        let user: Arc<str> = Arc::from(user);
        let age = (generated > 0).then(|| self.take_age());
        match age {
            Some(age) => self.queue.push_resumed(&user, age, id),
            None => self.queue.push(&user, id),
        }
        let owner = |index: usize| if index < common as usize { 0 } else { tenant };
        let tokens = tokens.into_iter().enumerate().map(|(index, token)| key(owner(index), token)).collect();
        let sequence =
            Sequence { user, tenant, tokens, prompt_len, age, started: false, score, phase: Phase::Waiting };
        self.sequences.insert(id, sequence);
        Ok(())
    }

    /// Ends a sequence wherever it is; also between a plan and its commit, whose outcome for it is then
    /// ignored. False where it is not (or no longer) known.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let known = self.sequences.contains_key(&id);
        self.end(id);
        known
    }

    /// Takes the outcomes of the last planned batch, one for each `sample_for`; those for sequences that are
    /// gone are ignored.
    ///
    /// Returns the sequences that ended because the context is full: their last token is valid, but there is
    /// no position to continue from.
    pub fn commit(&mut self, outcomes: impl IntoIterator<Item = (SequenceId, Outcome)>) -> Vec<SequenceId> {
        let mut full = Vec::new();
        for (id, outcome) in outcomes {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Phase::Sampling(slot) = sequence.phase else { continue };
            let room = (self.config.context as usize).saturating_sub(sequence.tokens.len());
            match outcome {
                Outcome::Continue(token) if room > 0 => {
                    sequence.tokens.push(key(sequence.tenant, token));
                    sequence.phase = Phase::Decoding(slot);
                }
                // More than one token to compute is a chunk, as of a prompt.
                Outcome::Forced(tokens) if !tokens.is_empty() && tokens.len() <= room => {
                    let tenant = sequence.tenant;
                    sequence.tokens.extend(tokens.into_iter().map(|token| key(tenant, token)));
                    sequence.phase = Phase::Reading(slot);
                }
                Outcome::Continue(_) | Outcome::Forced(_) => {
                    full.push(id);
                    self.end(id);
                }
                Outcome::Finished => self.end(id),
            }
        }
        full
    }

    /// Returns `true` if any sequence is waiting or admitted.
    pub fn has_work(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// Returns the number of decode tokens in the next batch, if none of their sequences is preempted.
    pub fn decoding(&self) -> usize {
        self.admitted.values().filter(|id| matches!(self.sequences[id].phase, Phase::Decoding(_))).count()
    }

    /// Returns all tokens of a live sequence: the prompt and those generated so far.
    pub fn tokens(&self, id: SequenceId) -> Option<Vec<Token>> {
        self.sequences.get(&id).map(|sequence| sequence.tokens.iter().copied().map(token).collect())
    }

    /// Drops all cached prefixes. The operations that do so are in the next step.
    pub fn drop_cached(&mut self) {
        self.kv.drop_cached();
    }

    /// The counters.
    pub fn stats(&self) -> SchedulerStats {
        let phases = || self.admitted.values().map(|id| self.sequences[id].phase);
        let cells = self.kv.cells();
        SchedulerStats {
            archived_tokens: self.kv.archived_tokens(),
            waiting: self.queue.len(),
            running: self.admitted.len(),
            following: phases().filter(|phase| matches!(phase, Phase::Following { .. })).count(),
            reading: phases().filter(|phase| matches!(phase, Phase::Reading(_))).count(),
            used_cells: cells.pinned(),
            cached_cells: cells.evictable(),
            free_cells: cells.free(),
            spent_cells: cells.spent(),
            cached_slots: self.kv.cached_slots(),
            preemptions: self.preemptions,
        }
    }

    /// Forgets a sequence and releases its slot.
    fn end(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.remove(&id) else { return };
        match sequence.phase {
            Phase::Waiting => {
                self.queue.remove(&sequence.user, id);
            }
            Phase::Following { .. } => {}
            Phase::Reading(slot) | Phase::Decoding(slot) | Phase::Sampling(slot) => self.kv.release(slot),
        }
        if let Some(age) = sequence.age {
            self.admitted.remove(&age);
        }
    }

    fn take_age(&mut self) -> u64 {
        self.next_age += 1;
        self.next_age
    }
}

#[cfg(test)]
mod tests;
