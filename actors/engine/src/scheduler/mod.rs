//! The scheduler: which sequences run, what each decode step computes, and what stays in the KV cache.
//!
//! It is pure: no clock, no I/O, no llama.cpp. The runner asks for a [`Step`], executes its operations, decodes its batch,
//! samples where logits were asked for, and reports the results:
//!
//! ```text
//! loop {
//!     submit / cancel …
//!     propose drafts …
//!     let step = scheduler.plan(prefill_budget);
//!     for op in step.ops { seq_cp or seq_rm }
//!     decode(step.batch)
//!     scheduler.commit(sample every BatchToken with sample_for)
//! }
//! ```
//!
//! The life of a sequence: it *waits* in the queue; it is *admitted*, and then either *follows* another sequence that is about to
//! compute the same beginning, or *reads* its tokens in chunks (prefill); when all are read it *decodes* one token a step, or more where [`drafts`] are right. When
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

pub use self::batch_plan::LANE_CHUNK;
pub use self::cell_map::Slot;
use self::fair_queue::FairQueue;
pub use self::host_cache::Shelf;
pub use self::interface::{
    Arrival, BatchToken, ConfigError, KvOp, Outcome, PrefixReuse, SchedulerConfig, SchedulerStats,
    SequenceId, Step, SubmitError,
};
use self::kv_cache::KvCache;
pub use self::kv_cache::Place;
pub use self::lanes::{Lane, Seat};
use self::prefix_tree::{Key, key, tenant, token};

mod batch_plan;
pub mod cell_map;
mod drafts;
pub mod fair_queue;
pub mod gathering;
pub mod host_cache;
mod interface;
mod kv_cache;
mod kv_lanes;
pub mod lanes;
pub mod layout;
pub mod prefix_tree;
mod seats;
pub mod step_budget;

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
    Reading(Seat),
    /// All tokens but the last, which was sampled, are computed.
    Decoding(Seat),
    /// The last token is in a batch whose outcome has not been reported, and its drafts behind it.
    Sampling(Seat),
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
    /// Proposed tokens behind the last one; while that is sampled, those that its slot holds behind it.
    drafts: Vec<Token>,
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
    /// Steps until it is looked again whether lanes pay.
    layout_due: u32,
    /// Sequences that decoded in slots in the last step.
    decoded_in_slots: usize,
    /// `true` if sequences that decode wait in the next step, if anything can be read in it.
    holds_decoding: bool,
    /// `true` while sequences are to leave their lanes.
    empties_lanes: bool,
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
            layout_due: 0,
            decoded_in_slots: 0,
            holds_decoding: false,
            empties_lanes: false,
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
        let tokens = keys(tenant, common, tokens);
        let (started, phase, drafts) = (false, Phase::Waiting, Vec::new());
        let sequence = Sequence { user, tenant, tokens, prompt_len, age, started, score, phase, drafts };
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
            self.cut_drafts(id, outcome.tokens());
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Phase::Sampling(seat) = sequence.phase else { continue };
            let room = (self.config.context as usize).saturating_sub(sequence.tokens.len());
            match outcome {
                Outcome::Continue(token) if room > 0 => {
                    sequence.tokens.push(key(sequence.tenant, token));
                    sequence.phase = Phase::Decoding(seat);
                }
                Outcome::Several(tokens) if !tokens.is_empty() && tokens.len() <= room => {
                    let tenant = sequence.tenant;
                    sequence.tokens.extend(tokens.into_iter().map(|token| key(tenant, token)));
                    let computed = self.kv.len(seat) as usize;
                    // More than one token to compute is a chunk, as of a prompt.
                    let one = computed + 1 == sequence.tokens.len();
                    sequence.phase = if one { Phase::Decoding(seat) } else { Phase::Reading(seat) };
                }
                Outcome::Continue(_) | Outcome::Several(_) => {
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

    /// Lets sequences that decode wait in the next step, if anything can be read in it.
    pub fn hold_decoding(&mut self, holds: bool) {
        self.holds_decoding = holds;
    }

    /// Returns the number of prompt and forced tokens that have not been computed, of waiting sequences, too, whose beginning may be
    /// cached.
    pub fn unread(&self) -> usize {
        let unread = self.sequences.values().map(|sequence| match sequence.phase {
            Phase::Waiting | Phase::Following { .. } => sequence.tokens.len(),
            Phase::Reading(seat) => sequence.tokens.len() - self.kv.len(seat) as usize,
            Phase::Decoding(_) | Phase::Sampling(_) => 0,
        });
        unread.sum()
    }

    /// Returns all tokens of a live sequence: the prompt and those generated so far.
    pub fn tokens(&self, id: SequenceId) -> Option<Vec<Token>> {
        self.sequences.get(&id).map(|sequence| sequence.tokens.iter().copied().map(token).collect())
    }

    /// The number of a sequence's tokens, at its beginning, that are computed, of its own or of others.
    pub fn computed(&self, tenant: u64, common: u32, tokens: impl IntoIterator<Item = Token>) -> u32 {
        self.kv.computed(&keys(tenant, common, tokens))
    }

    /// Makes a place in host memory for a copy of `tokens` that comes from elsewhere, of which the first `common` may be shared by
    /// all tenants. The returned operations have to be executed before the copy is put there.
    pub fn adopt(
        &mut self,
        tenant: u64,
        common: u32,
        tokens: impl IntoIterator<Item = Token>,
    ) -> (Option<Shelf>, Vec<KvOp>) {
        self.kv.adopt(&keys(tenant, common, tokens))
    }

    /// The tenant and the tokens of the copy that the next [`KvOp::Spill`] is about.
    pub fn next_spilled(&mut self) -> Option<(u64, Vec<Token>)> {
        self.kv.next_spilled().map(|keys| of_tenant(&keys))
    }

    /// The operations since the last plan, to be executed now rather than with the next one. What the scheduler says of its contents
    /// is true once they are.
    pub fn take_ops(&mut self) -> Vec<KvOp> {
        self.kv.take_ops()
    }

    /// Everything computed that is worth a copy, with its tenant and tokens, the most recently used first.
    pub fn contents(&self) -> Vec<(Place, u64, Vec<Token>)> {
        let contents = self.kv.contents().into_iter();
        contents
            .map(|(place, keys)| (place, of_tenant(&keys)))
            .map(|(place, (tenant, tokens))| (place, tenant, tokens))
            .collect()
    }

    /// Drops all cached prefixes. The operations that do so are in the next step.
    pub fn drop_cached(&mut self) {
        self.kv.drop_cached();
    }

    /// The counters.
    pub fn stats(&self) -> SchedulerStats {
        let lanes = self.kv.lanes();
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
            lane_tokens: lanes.map_or(0, lanes::Lanes::used),
            preemptions: self.preemptions,
        }
    }

    /// Forgets a sequence and releases its slot.
    fn end(&mut self, id: SequenceId) {
        self.cut_drafts(id, &[]);
        let Some(sequence) = self.sequences.remove(&id) else { return };
        match sequence.phase {
            Phase::Waiting => {
                self.queue.remove(&sequence.user, id);
            }
            Phase::Following { .. } => {}
            Phase::Reading(seat) | Phase::Decoding(seat) | Phase::Sampling(seat) => self.kv.leave(seat),
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

/// The keys of a sequence's tokens, of which the first `common` belong to all tenants.
fn keys(tenant: u64, common: u32, tokens: impl IntoIterator<Item = Token>) -> Vec<Key> {
    let owner = |index: usize| if index < common as usize { 0 } else { tenant };
    tokens.into_iter().enumerate().map(|(index, token)| key(owner(index), token)).collect()
}

/// The tenant and the tokens of a sequence's keys. The tenant is the last one's: 0 where all tokens belong to all.
fn of_tenant(keys: &[Key]) -> (u64, Vec<Token>) {
    (keys.last().map_or(0, |&last| tenant(last)), keys.iter().copied().map(token).collect())
}

#[cfg(test)]
mod tests;
