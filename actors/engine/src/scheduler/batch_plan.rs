//! The plan of a step: start followers, admit, make room, fill the batch.

use std::collections::HashMap;
use std::sync::Arc;

use super::kv_cache::Source;
use super::lanes::Seat;
use super::prefix_tree::{common_prefix, token};
use super::{BatchToken, Phase, PrefixReuse, Scheduler, SequenceId, Step};

/// The way a sequence begins.
enum Beginning {
    /// Compute, from the end of the source's tokens on.
    Start(Option<Source>),
    /// Wait until the leader has computed `shared` tokens.
    Follow { leader: SequenceId, shared: u32 },
}

/// Maximum number of forced tokens that a sequence in a lane reads in a step.
pub const LANE_CHUNK: u32 = 32;

/// The tokens that a step may still read: within the budget and, those that are read in slots, within the cells.
#[derive(Clone, Copy, Debug)]
struct Left {
    budget: u32,
    cells: u32,
}

impl Left {
    fn most(self, seat: Seat) -> u32 {
        match seat {
            Seat::Slot(_) => self.budget.min(self.cells),
            Seat::Lane(_) => self.budget,
        }
    }

    fn take(&mut self, seat: Seat, count: u32) {
        self.budget -= count;
        if seat.slot().is_some() {
            self.cells -= count;
        }
    }
}

impl Scheduler {
    /// Plans the next step, with at most `prefill_budget` tokens that read prompts. A budget of 0 stands
    /// still only the reading, and only while other sequences decode.
    ///
    /// Cells are counted as if the step had been executed, so every step must be.
    pub fn plan(&mut self, prefill_budget: usize) -> Step {
        let mut step = Step::default();
        if self.is_to_be_tidied() {
            self.tidy();
        } else if self.admitted.is_empty()
            && let Some(next) = self.queue.front(|_| false)
            && let Beginning::Start(source) = self.beginning(next)
        {
            self.kv.make_place(source);
        }
        self.start_followers(&mut step);
        self.admit(&mut step);
        self.choose_seats();
        self.make_room(prefill_budget);
        if self.kv.available() == 0 && self.kv.idle() > 0 {
            // Preempted sequences have left their cells, but the cells are not available yet.
            self.tidy();
        }
        let budget = self.effective_budget(prefill_budget);
        if !std::mem::take(&mut self.holds_decoding) {
            self.batch_decodes(&mut step);
        }
        self.batch_prefills(&mut step, budget);
        if step.batch.is_empty() {
            // Decoding is held, but nothing can be read.
            self.batch_decodes(&mut step);
        }
        step.ops = self.kv.take_ops();
        step
    }

    /// Returns the budget, but something is read if otherwise nothing would be computed.
    fn effective_budget(&self, prefill_budget: usize) -> usize {
        if self.decoding() == 0 { prefill_budget.max(1) } else { prefill_budget }
    }

    /// Lets followers begin whose leader has computed the shared part, or no longer will.
    fn start_followers(&mut self, step: &mut Step) {
        let admitted: Vec<SequenceId> = self.admitted.values().copied().collect();
        for id in admitted {
            let Phase::Following { leader, shared } = self.sequences[&id].phase else { continue };
            let still_reads = self.computed_while_reading(leader).is_some_and(|computed| computed < shared);
            if !still_reads {
                let beginning = self.beginning(id);
                self.begin(id, beginning, step);
            }
        }
    }

    /// Admits the fitting sequences from the head of the queue.
    fn admit(&mut self, step: &mut Step) {
        let mut made_way = false;
        // An older one may come back in this step.
        let kept = self.movers();
        while !self.queue.is_empty() {
            let running = self.running();
            let Some(id) = self.queue.front(|user| running.contains_key(user)) else { return };
            let Some(beginning) = self.beginning_with_room(id) else {
                // One a step: with its cells there may be room for who waits, and it is known in the next.
                if std::mem::replace(&mut made_way, true) || !self.make_way(id, &running, &kept) {
                    return;
                }
                continue;
            };
            self.queue.pop_front(|user| running.contains_key(user));
            let age = self.sequences[&id].age.unwrap_or_else(|| self.take_age());
            self.admitted.insert(age, id);
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.age = Some(age);
            }
            self.begin(id, beginning, step);
        }
    }

    /// Returns the way a sequence is to begin, if there is room for it now. The number of sequences is checked first: that costs
    /// nothing.
    fn beginning_with_room(&self, id: SequenceId) -> Option<Beginning> {
        if self.admitted.len() >= usize::from(self.config.max_running) {
            return None;
        }
        let beginning = self.beginning(id);
        let fits = self.admitted.is_empty() || self.cells_to_admit(id, &beginning) <= self.kv.available();
        fits.then_some(beginning)
    }

    /// Returns the number of admitted sequences of each user.
    fn running(&self) -> HashMap<Arc<str>, usize> {
        let mut running = HashMap::new();
        for id in self.admitted.values() {
            *running.entry(Arc::clone(&self.sequences[id].user)).or_default() += 1;
        }
        running
    }

    /// Preempts one sequence of the user with the most, two at least, for `id`, whose user has none; none of `kept`.
    /// False where there is no such sequence or user.
    fn make_way(&mut self, id: SequenceId, running: &HashMap<Arc<str>, usize>, kept: &[SequenceId]) -> bool {
        if running.contains_key(&self.sequences[&id].user) {
            return false;
        }
        let oldest = self.movers();
        let candidates = self.admitted.iter().filter_map(|(&age, id)| {
            let sequence = &self.sequences[id];
            let count = running.get(&sequence.user).copied().unwrap_or_default();
            let can_go = !matches!(sequence.phase, Phase::Sampling(_) | Phase::Waiting);
            let stays = oldest.contains(id) || kept.contains(id);
            (count > 1 && can_go && !stays).then_some((count, age, *id))
        });
        let Some((.., victim)) = candidates.max() else { return false };
        self.preempt(victim);
        true
    }

    /// The oldest admitted sequence and the one it follows: they are never preempted.
    fn movers(&self) -> Vec<SequenceId> {
        let oldest = self.admitted.values().next();
        oldest.map_or_else(Vec::new, |&oldest| vec![oldest, self.leader_of(oldest)])
    }

    /// Cells that have to be available for another sequence to be admitted.
    fn cells_to_admit(&self, id: SequenceId, beginning: &Beginning) -> u32 {
        let len = self.sequences[&id].tokens.len() as u32;
        let needed = match beginning {
            Beginning::Follow { shared, .. } => len - shared,
            Beginning::Start(None) => len,
            Beginning::Start(Some(source)) => self.kv.needed(*source, len),
        };
        if self.admitted.is_empty() {
            return needed;
        }
        let headroom = self.config.headroom.saturating_mul(self.admitted.len() as u32 + 1);
        (needed + self.owed()).saturating_add(headroom)
    }

    /// Returns `true` if the cells of all sequences have to be moved to get at idle ones: because a sequence cannot continue or
    /// begin without them, or because there are too many of them.
    fn is_to_be_tidied(&self) -> bool {
        let (idle, free) = (self.kv.idle(), self.kv.available());
        if idle == 0 {
            return false;
        }
        if self.kv.is_cluttered() || (!self.admitted.is_empty() && free < self.decoding() as u32 + 1) {
            return true;
        }
        if self.admitted.len() >= usize::from(self.config.max_running) {
            return false;
        }
        let running = self.running();
        let Some(id) = self.queue.front(|user| running.contains_key(user)) else { return false };
        let needed = self.cells_to_admit(id, &self.beginning(id));
        // While others run, a few cells are not worth moving them.
        let would_help = needed <= free + idle && idle >= self.config.cells / 8;
        needed > free && (self.admitted.is_empty() || would_help)
    }

    /// Moves the cells of all sequences to the beginning, so that all others are free. Each sequence has its own copy of formerly
    /// shared cells from then on; where there is no room for that, some sequences are preempted.
    fn tidy(&mut self) {
        while let Some(&oldest) = self.admitted.values().next()
            && self.kv.live_tokens() + self.decoding() as u32 + 1 > self.config.cells
            && let Some(victim) = self.victim(oldest, self.leader_of(oldest))
        {
            self.preempt(victim);
        }
        self.kv.tidy();
    }

    /// Cells that the admitted sequences still need to have their prompts read.
    fn owed(&self) -> u32 {
        let owed = self.admitted.values().map(|id| {
            let sequence = &self.sequences[id];
            let len = sequence.tokens.len() as u32;
            match sequence.phase {
                Phase::Following { shared, .. } => len - shared,
                Phase::Reading(Seat::Slot(slot)) | Phase::Decoding(Seat::Slot(slot)) => {
                    len - self.kv.cells().len(slot)
                }
                Phase::Reading(Seat::Lane(_)) | Phase::Decoding(Seat::Lane(_)) => 0,
                Phase::Waiting | Phase::Sampling(_) => 0,
            }
        });
        owed.sum()
    }

    /// The best way for a sequence without a slot to begin.
    fn beginning(&self, id: SequenceId) -> Beginning {
        let sequence = &self.sequences[&id];
        if sequence.is_scored() {
            return Beginning::Start(None);
        }
        let tokens = &sequence.tokens;
        let source = self.kv.find(tokens);
        if self.config.reuse == PrefixReuse::None {
            return Beginning::Start(source);
        }
        let computed = source.map_or(0, |source| source.len);
        let worth_waiting = computed + self.config.share_min.max(1);
        // The last token is never shared: it is decoded for its logits.
        let shareable = &tokens[..tokens.len() - 1];
        let leaders = self.admitted.values().filter_map(|&leader| {
            let read = self.computed_while_reading(leader)?;
            let shared = common_prefix(shareable, &self.sequences[&leader].tokens) as u32;
            // A memory that can't be cut has to be stopped right at the end of the shared part.
            let in_time = self.config.reuse == PrefixReuse::Partial || read < shared;
            (in_time && shared >= worth_waiting).then_some((shared, leader))
        });
        // Of equal ones the oldest: it is read first.
        match leaders.reduce(|best, next| if next.0 > best.0 { next } else { best }) {
            Some((shared, leader)) => Beginning::Follow { leader, shared },
            None => Beginning::Start(source),
        }
    }

    /// Puts an admitted sequence on its way.
    fn begin(&mut self, id: SequenceId, beginning: Beginning, step: &mut Step) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        match beginning {
            Beginning::Follow { leader, shared } => sequence.phase = Phase::Following { leader, shared },
            Beginning::Start(source) => {
                let slot = self.kv.open(&sequence.tokens, source);
                // At most `max_running` sequences are admitted and there are no fewer slots, so one that has
                // none finds one that is empty or cached.
                let slot = slot.expect("there is a slot for every admitted sequence");
                sequence.phase = Phase::Reading(Seat::Slot(slot));
                if !std::mem::replace(&mut sequence.started, true) {
                    let cached = source.map_or(0, |source| source.len);
                    step.started.push((id, cached.min(sequence.prompt_len)));
                }
            }
        }
    }

    /// Preempts until every decoding sequence gets a cell, and the oldest sequence makes progress.
    fn make_room(&mut self, prefill_budget: usize) {
        loop {
            let Some(&oldest) = self.admitted.values().next() else { return };
            let mover = self.leader_of(oldest);
            let may_read = self.effective_budget(prefill_budget) > 0;
            let mover_reads = may_read && self.computed_while_reading(mover).is_some();
            let needed = self.decoding_in_slots() + u32::from(mover_reads);
            if self.kv.available() >= needed {
                return;
            }
            let Some(victim) = self.victim(oldest, mover) else { return };
            self.preempt(victim);
        }
    }

    /// Returns the sequence to preempt: one whose preemption helps, of the user with the most admitted sequences, and of these
    /// the one admitted last.
    pub(super) fn victim(&self, oldest: SequenceId, mover: SequenceId) -> Option<SequenceId> {
        let running = self.running();
        let candidates = self.admitted.iter().filter_map(|(&age, &id)| {
            let sequence = &self.sequences[&id];
            let frees = match sequence.phase {
                Phase::Reading(Seat::Slot(slot)) | Phase::Decoding(Seat::Slot(slot)) => {
                    self.kv.cells().only_pinned_by(slot) > 0
                }
                Phase::Following { .. } => false,
                // It holds none of the cells that are short.
                Phase::Reading(Seat::Lane(_)) | Phase::Decoding(Seat::Lane(_)) => return None,
                // It isn't this step's to take: its outcome is still owed.
                Phase::Sampling(_) | Phase::Waiting => return None,
            };
            (id != oldest && id != mover).then_some((frees, running[&*sequence.user], age, id))
        });
        candidates.max().map(|(.., id)| id)
    }

    /// Sends an admitted sequence back to the queue; its computed tokens become cache.
    pub(super) fn preempt(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if let Phase::Reading(seat) | Phase::Decoding(seat) = sequence.phase {
            self.kv.leave(seat);
        }
        sequence.phase = Phase::Waiting;
        sequence.drafts.clear();
        if let Some(age) = sequence.age {
            self.admitted.remove(&age);
            self.queue.push_resumed(&sequence.user, age, id);
        }
        self.preemptions += 1;
    }

    /// One token for every decoding sequence, and drafts behind it.
    fn batch_decodes(&mut self, step: &mut Step) {
        let decoding: Vec<SequenceId> = self.decoding_sequences().collect();
        for (index, &id) in decoding.iter().enumerate() {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Phase::Decoding(seat) = sequence.phase else { continue };
            let position = self.kv.len(seat);
            let tail = &sequence.tokens[position as usize..];
            if !self.kv.append_at(seat, tail) {
                continue;
            }
            let (sample_for, score_for) = (Some(id), None);
            step.batch.push(BatchToken { token: token(tail[0]), position, seat, sample_for, score_for });
            step.decode_tokens += 1;
            sequence.phase = Phase::Sampling(seat);
            self.batch_drafts(step, id, seat, (decoding.len() - index - 1) as u32);
        }
    }

    /// Prompt chunks: first half of the budget for the oldest sequence that has to be read, so that it isn't
    /// starved; then the shortest remaining first, so that short prompts don't wait for long ones.
    fn batch_prefills(&mut self, step: &mut Step, budget: usize) {
        let mut left = Left { budget: budget as u32, cells: self.kv.available() };
        let mut scores = self.config.score_chunk.max(1) - step.draft_tokens as u32;
        let stops = self.stops();
        let mut readers: Vec<(u32, SequenceId, Seat)> = Vec::new();
        for &id in self.admitted.values() {
            if let Phase::Reading(seat) = self.sequences[&id].phase {
                let until = stops.get(&id).copied().unwrap_or(self.sequences[&id].tokens.len() as u32);
                let remaining = until - self.kv.len(seat);
                readers.push((
                    if self.ends_alone(id, remaining) { remaining - 1 } else { remaining },
                    id,
                    seat,
                ));
            }
        }
        let unread = self
            .admitted
            .values()
            .find(|id| matches!(self.sequences[id].phase, Phase::Reading(_) | Phase::Following { .. }));
        let oldest = unread.map(|&id| self.leader_of(id));
        let mut chunks: HashMap<SequenceId, u32> = HashMap::new();
        if let Some(&(remaining, id, seat)) = readers.iter().find(|(_, id, _)| Some(*id) == oldest) {
            if step.batch.is_empty() && remaining == 1 && self.is_last_of_prompt(id, remaining) {
                // Those who came meanwhile do not delay it, and it is computed as it would be without them.
                return self.read(step, id, seat, remaining);
            }
            let mut chunk = remaining.min(left.most(seat).div_ceil(2)).min(self.lane_chunk(seat));
            if self.sequences[&id].is_scored() {
                chunk = chunk.min(scores);
                scores -= chunk;
            }
            chunks.insert(id, chunk);
            left.take(seat, chunk);
        }
        // Stable: of equal ones the older first.
        readers.sort_by_key(|(remaining, ..)| *remaining);
        for (remaining, id, seat) in readers {
            let first = chunks.get(&id).copied().unwrap_or(0);
            let mut more = remaining.min(self.lane_chunk(seat)).saturating_sub(first).min(left.most(seat));
            if self.sequences[&id].is_scored() {
                more = more.min(scores);
                scores -= more;
            }
            left.take(seat, more);
            self.read(step, id, seat, first + more);
        }
    }

    /// Maximum number of tokens that are read in a seat in one step.
    fn lane_chunk(&self, seat: Seat) -> u32 {
        match (seat, self.kv.lanes()) {
            (Seat::Lane(lane), Some(lanes)) => lanes.room(lane).min(LANE_CHUNK),
            _ => u32::MAX,
        }
    }

    /// Returns `true` if the last of the `remaining` tokens of a sequence is left to the next step. The last token of a prompt whose
    /// other tokens are cached is computed alone; so it is without a cache, while the sequence is the only one: kernels for one
    /// token and for several differ in the last bits, and the same request is to get the same answer again.
    fn ends_alone(&self, id: SequenceId, remaining: u32) -> bool {
        remaining > 1 && self.admitted.len() == 1 && self.is_last_of_prompt(id, remaining)
    }

    /// Returns `true` if the last of the `remaining` tokens is that of a prompt which may have been cached.
    fn is_last_of_prompt(&self, id: SequenceId, remaining: u32) -> bool {
        let sequence = &self.sequences[&id];
        let Phase::Reading(Seat::Slot(slot)) = sequence.phase else { return false };
        let end = self.kv.cells().len(slot) + remaining;
        let is_reused = self.config.reuse == PrefixReuse::Partial && !self.config.in_order;
        is_reused && end == sequence.prompt_len && end as usize == sequence.tokens.len()
    }

    /// Adds the next `count` tokens of a sequence to the batch.
    fn read(&mut self, step: &mut Step, id: SequenceId, seat: Seat, count: u32) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let start = self.kv.len(seat);
        let end = start + count;
        let chunk = &sequence.tokens[start as usize..end as usize];
        if count == 0 || !self.kv.append_at(seat, chunk) {
            return;
        }
        let last = sequence.tokens.len() as u32 - 1;
        let score_for = sequence.is_scored().then_some(id);
        step.batch.extend(chunk.iter().zip(start..).map(|(&key, position)| BatchToken {
            token: token(key),
            position,
            seat,
            sample_for: (position == last).then_some(id),
            score_for: score_for.filter(|_| position < last),
        }));
        step.prefill_tokens += chunk.len();
        if end > last {
            sequence.phase = Phase::Sampling(seat);
        }
    }

    /// Returns the positions at which leaders have to stop for a while, so that followers can copy all that the leaders hold.
    fn stops(&self) -> HashMap<SequenceId, u32> {
        let mut stops = HashMap::new();
        if self.config.reuse == PrefixReuse::WholeSequence {
            for id in self.admitted.values() {
                if let Phase::Following { leader, shared } = self.sequences[id].phase {
                    let stop = stops.entry(leader).or_insert(shared);
                    *stop = shared.min(*stop);
                }
            }
        }
        stops
    }

    /// The sequence this one follows, else itself.
    pub(super) fn leader_of(&self, id: SequenceId) -> SequenceId {
        match self.sequences[&id].phase {
            Phase::Following { leader, .. } => leader,
            _ => id,
        }
    }

    /// Tokens that a sequence has computed, if it is being read.
    fn computed_while_reading(&self, id: SequenceId) -> Option<u32> {
        match self.sequences.get(&id)?.phase {
            Phase::Reading(Seat::Slot(slot)) => Some(self.kv.cells().len(slot)),
            _ => None,
        }
    }
}
