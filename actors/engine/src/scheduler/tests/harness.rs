//! The runner's loop over the simulated backend, with every step checked.

use std::collections::{BTreeMap, BTreeSet};

use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use super::backend::{Backend, next_token, reference};
use crate::scheduler::*;

#[derive(Clone, Debug)]
struct Live {
    tokens: Vec<Token>,
    generated: u32,
    max_tokens: u32,
    expected: Vec<Token>,
    /// Prompt tokens whose logits were given in order, where they are wanted.
    scored: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Harness {
    pub scheduler: Scheduler,
    config: SchedulerConfig,
    backend: Backend,
    live: BTreeMap<SequenceId, Live>,
    started: BTreeSet<SequenceId>,
    /// The sequence that has been the only one since the cells held nothing but cached tokens.
    alone: Option<SequenceId>,
    /// `true` if some tokens come without being sampled, as under a grammar.
    pub forces: bool,
    /// `true` if decoding is held in some steps.
    pub holds: bool,
    /// Maximum number of drafts of each sequence: some right, some wrong.
    pub drafts: usize,
    /// Drafts computed, and of these the ones that the model chose.
    pub drafted: usize,
    pub accepted: usize,
    /// `true` if the logits of some sequences' prompts are wanted.
    pub scores: bool,
    /// `true` if users share nothing with each other.
    pub tenants: bool,
    /// Steps done, and prompt tokens read in them.
    pub steps: usize,
    pub prefilled: usize,
}

impl Harness {
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()).unwrap(),
            backend: Backend::new(&config),
            config,
            live: BTreeMap::new(),
            started: BTreeSet::new(),
            alone: None,
            forces: false,
            holds: false,
            drafts: 0,
            drafted: 0,
            accepted: 0,
            scores: false,
            tenants: false,
            steps: 0,
            prefilled: 0,
        }
    }

    /// The same with lanes.
    pub fn with_lanes(config: SchedulerConfig, count: u16, cells: u32) -> Self {
        let mut harness = Self::new(config);
        harness.scheduler.open_lanes(count, cells);
        harness.backend.open_lanes(count, cells);
        harness
    }

    /// Lets sequences leave the lanes, or, if none is in one, replaces these by others.
    pub fn change_lanes(&mut self, cells: u32) {
        if self.scheduler.close_lanes() {
            let count = self.config.max_running;
            self.scheduler.open_lanes(count, cells);
            self.backend.open_lanes(count, cells);
        } else {
            self.scheduler.empty_lanes();
        }
    }

    /// `max_tokens` counts all generated tokens, also those of before a crash.
    pub fn submit(&mut self, id: u64, user: &str, tokens: &[Token], generated: u32, max_tokens: u32) {
        let (id, user, tokens) = (SequenceId(id), user.to_owned(), tokens.to_vec());
        let expected = reference(&tokens, generated, max_tokens, self.config.context);
        let tenant = self.tenant(&user);
        let score = self.scores && id.0.is_multiple_of(3);
        let scored = (score && generated == 0).then_some(0);
        self.live.insert(id, Live { tokens: tokens.clone(), generated, max_tokens, expected, scored });
        self.scheduler.submit(Arrival { id, user, tenant, common: 0, tokens, generated, score }).unwrap();
    }

    pub fn cancel(&mut self, id: u64) -> bool {
        let known = self.scheduler.cancel(SequenceId(id));
        assert_eq!(known, self.live.remove(&SequenceId(id)).is_some());
        known
    }

    pub fn live(&self) -> Vec<u64> {
        self.live.keys().map(|id| id.0).collect()
    }

    /// One step; `cancel` goes between the plan and the commit.
    pub fn step(&mut self, budget: usize, cancel: &[u64]) -> Result<Step, TestCaseError> {
        let had_work = self.scheduler.has_work();
        let oldest = self.oldest();
        let preemptions = self.scheduler.stats().preemptions;
        let holds = self.holds && self.steps.is_multiple_of(3);
        self.scheduler.hold_decoding(holds);
        self.propose();
        let step = self.scheduler.plan(budget);
        if self.scheduler.stats().preemptions == preemptions {
            self.check_turns(oldest)?;
        }
        if let Some(oldest) = oldest {
            // An older one may have come back, but the sequence that was the oldest continues.
            prop_assert!(
                self.scheduler.admitted.values().any(|&id| id == oldest),
                "the oldest was preempted"
            );
        }
        if !holds || step.prefill_tokens == 0 {
            self.check_progress(&step, budget)?;
        }
        self.steps += 1;
        self.prefilled += step.prefill_tokens;
        prop_assert_eq!(step.batch.len(), step.prefill_tokens + step.decode_tokens + step.draft_tokens);
        prop_assert!(step.draft_tokens < self.config.score_chunk as usize);
        self.drafted += step.draft_tokens;
        prop_assert_eq!(!step.batch.is_empty(), had_work, "each step makes progress while there is work");
        prop_assert!(step.decode_tokens <= usize::from(self.config.max_running));
        let allowed = if step.decode_tokens == 0 { budget.max(1) } else { budget };
        prop_assert!(step.prefill_tokens <= allowed, "over the budget");
        for &(id, cached) in &step.started {
            prop_assert!(self.started.insert(id), "started twice");
            let live = &self.live[&id];
            prop_assert!(cached as usize <= live.tokens.len() - live.generated as usize);
            prop_assert!((cached as usize) < live.tokens.len());
        }
        self.execute(&step.ops)?;
        let sampled = self.backend.decode(&step.batch)?;
        self.check_step(&step)?;
        self.check_place(&step, oldest)?;
        self.score(&step)?;
        for &id in cancel {
            self.cancel(id);
        }
        let outcomes = self.sample(sampled)?;
        let at_end: Vec<_> =
            outcomes.iter().filter(|(id, outcome)| self.is_full(*id, outcome)).cloned().collect();
        let full = self.scheduler.commit(outcomes);
        prop_assert_eq!(&full, &at_end.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        for id in full {
            self.finish(id)?;
        }
        Ok(step)
    }

    fn execute(&mut self, ops: &[KvOp]) -> Result<(), TestCaseError> {
        for (index, &op) in ops.iter().enumerate() {
            if let KvOp::Spill { shelf } = op {
                // What is written elsewhere is what the copy holds.
                let (_, tokens) = self.scheduler.next_spilled().unwrap_or_default();
                prop_assert_eq!(&tokens, &self.backend.shelf(shelf));
                prop_assert_eq!(ops.get(index + 1), Some(&KvOp::Discard { shelf }));
            }
            self.backend.execute(op)?;
        }
        prop_assert_eq!(self.scheduler.next_spilled(), None);
        Ok(())
    }

    /// Puts a copy of a user's computed tokens into host memory, as from a file. Returns `true` if there was a place for it.
    pub fn adopt(&mut self, user: &str, tokens: &[Token]) -> Result<bool, TestCaseError> {
        let tenant = self.tenant(user);
        let (shelf, ops) = self.scheduler.adopt(tenant, 0, tokens.iter().copied());
        self.execute(&ops)?;
        if let Some(shelf) = shelf {
            self.backend.adopt(shelf, tokens)?;
            let computed = self.scheduler.computed(tenant, 0, tokens.iter().copied());
            prop_assert_eq!(computed as usize, tokens.len());
        }
        Ok(shelf.is_some())
    }

    fn tenant(&self, user: &str) -> u64 {
        if self.tenants { user.bytes().map(u64::from).sum() } else { 0 }
    }

    /// What is said to be worth a copy is there, and nothing twice.
    fn check_contents(&self) -> Result<(), TestCaseError> {
        let contents = self.scheduler.contents();
        for (index, (place, tenant, tokens)) in contents.iter().enumerate() {
            let held = match place {
                Place::Slot(slot) => self.backend.content(*slot)?,
                Place::Shelf(shelf) => self.backend.shelf(*shelf),
                Place::Lane(lane) => self.backend.seat(Seat::Lane(*lane))?,
            };
            prop_assert_eq!(&held, tokens);
            prop_assert!(tokens.len() >= self.config.share_min as usize && !tokens.is_empty());
            let is_part = |(other, (_, owner, longer)): (usize, &(Place, u64, Vec<Token>))| {
                other != index && owner == tenant && longer.starts_with(tokens)
            };
            prop_assert!(!contents.iter().enumerate().any(is_part), "another one begins with it");
        }
        Ok(())
    }

    /// While a user without an admitted sequence waits, no other user has a sequence that could have been put back for it. `kept`
    /// was the oldest before.
    fn check_turns(&self, kept: Option<SequenceId>) -> Result<(), TestCaseError> {
        let Scheduler { sequences, admitted, .. } = &self.scheduler;
        let count = |user: &str| admitted.values().filter(|id| &*sequences[*id].user == user).count();
        let waits = |sequence: &Sequence| sequence.phase == Phase::Waiting && count(&sequence.user) == 0;
        if !sequences.values().any(waits) {
            return Ok(());
        }
        let leader = |id: SequenceId| match sequences[&id].phase {
            Phase::Following { leader, .. } => leader,
            _ => id,
        };
        let stay: Vec<SequenceId> =
            kept.into_iter().chain(self.oldest()).flat_map(|id| [id, leader(id)]).collect();
        let spare = admitted.values().find(|id| !stay.contains(id) && count(&sequences[*id].user) > 1);
        prop_assert_eq!(spare, None, "it could have gone");
        Ok(())
    }

    fn oldest(&self) -> Option<SequenceId> {
        self.scheduler.admitted.values().next().copied()
    }

    /// The sequence admitted first, or the one it follows, computes in every step.
    fn check_progress(&self, step: &Step, budget: usize) -> Result<(), TestCaseError> {
        let Some(oldest) = self.oldest() else { return Ok(()) };
        let phase = |id: SequenceId| self.scheduler.sequences[&id].phase;
        let mover = match phase(oldest) {
            Phase::Following { leader, .. } => phase(leader),
            phase => phase,
        };
        let (Phase::Reading(seat) | Phase::Sampling(seat)) = mover else {
            return Err(TestCaseError::fail(format!("{oldest:?} is {mover:?} after a plan")));
        };
        prop_assert!(budget == 0 || step.batch.iter().any(|token| token.seat == seat), "the oldest stands");
        Ok(())
    }

    fn is_full(&self, id: SequenceId, outcome: &Outcome) -> bool {
        let over = self.live.get(&id).is_some_and(|live| live.tokens.len() > self.config.context as usize);
        over && *outcome != Outcome::Finished
    }

    /// The cells are counted right, and every batch continued with a live sequence's own tokens.
    fn check_step(&self, step: &Step) -> Result<(), TestCaseError> {
        let stats = self.scheduler.stats();
        prop_assert_eq!((stats.used_cells + stats.cached_cells) as usize, self.backend.used());
        prop_assert_eq!(stats.spent_cells as usize, self.backend.spent());
        let cells = stats.used_cells + stats.cached_cells + stats.free_cells + stats.spent_cells;
        prop_assert_eq!(cells, self.config.cells);
        prop_assert_eq!(stats.archived_tokens as usize, self.backend.archived());
        self.check_contents()?;
        prop_assert_eq!(stats.lane_tokens as usize, self.backend.in_lanes());
        let seats: BTreeSet<Seat> = step.batch.iter().map(|entry| entry.seat).collect();
        for seat in seats {
            let content = self.backend.seat(seat)?;
            let drafts =
                step.batch.iter().filter(|entry| entry.seat == seat && entry.sample_for.is_some()).skip(1);
            let own = &content[..content.len() - drafts.count()];
            prop_assert!(self.live.values().any(|live| live.tokens.starts_with(own)));
        }
        let mut sampled: BTreeMap<SequenceId, u32> = BTreeMap::new();
        for (id, position) in step.batch.iter().filter_map(|entry| Some((entry.sample_for?, entry.position)))
        {
            let last = sampled.insert(id, position);
            prop_assert!(last.is_none_or(|last| last + 1 == position), "sampled twice");
        }
        let drafts = step.batch.iter().filter(|entry| entry.sample_for.is_some()).count() - sampled.len();
        prop_assert_eq!(drafts, step.draft_tokens);
        Ok(())
    }

    /// A sequence that runs alone has the same cells and the same batches each time: its tokens lie in the cells of their positions,
    /// and the last token of a prompt is computed alone.
    fn check_place(&mut self, step: &Step, before: Option<SequenceId>) -> Result<(), TestCaseError> {
        let SchedulerConfig { reuse, in_order, archive_tokens, cells, .. } = self.config;
        if reuse != PrefixReuse::Partial || in_order || archive_tokens < cells {
            return Ok(());
        }
        let only = self.oldest().filter(|_| self.scheduler.admitted.len() == 1);
        self.alone = only.filter(|_| before.is_none() || before == self.alone && only == before);
        let (Some(id), Some(first)) = (self.alone, step.batch.first()) else { return Ok(()) };
        let in_place = first.seat.slot().is_some_and(|slot| self.backend.is_in_place(slot));
        prop_assert!(in_place, "{:?} runs alone, and out of place", id);
        let is_prompt = self.live.get(&id).is_some_and(|live| live.generated == 0);
        let samples = step.batch.iter().any(|entry| entry.sample_for.is_some());
        prop_assert!(!(is_prompt && samples) || step.batch.len() == 1, "{:?}: the last is not alone", id);
        Ok(())
    }

    /// Takes note of the prompt tokens that were scored, as the runner does; they are within the bound.
    fn score(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let scores = step.batch.iter().filter_map(|entry| Some((entry.score_for?, entry.position)));
        let (mut sampled, mut count) = (step.batch.iter().filter_map(|entry| entry.sample_for), 0);
        for (id, position) in scores {
            count += 1;
            let Some(live) = self.live.get_mut(&id) else { continue };
            let scored = live.scored.as_mut().ok_or_else(|| TestCaseError::fail("nobody asked for it"))?;
            // Tokens read before a preemption are read once more.
            prop_assert!(position <= *scored, "{:?}: {} was left out", id, scored);
            *scored = (*scored).max(position + 1);
        }
        prop_assert!(count + step.draft_tokens as u32 <= self.config.score_chunk, "{} logits at once", count);
        let whole = |live: &Live| {
            live.scored.is_none_or(|n| n as usize + 1 >= live.tokens.len() - live.generated as usize)
        };
        prop_assert!(sampled.all(|id| self.live.get(&id).is_none_or(whole)), "sampled, but not scored");
        Ok(())
    }

    /// Proposes drafts: the tokens that will follow, and from some place on others.
    fn propose(&mut self) {
        let decoding: Vec<SequenceId> = self.scheduler.decoding_sequences().collect();
        for id in decoding {
            let live = &self.live[&id];
            let seed = live.tokens.len() * 7 + id.0 as usize * 3;
            let wrong = seed % 5;
            let (mut tokens, mut drafts) = (live.tokens.clone(), Vec::new());
            for n in 0..seed % (self.drafts + 1) {
                let token = next_token(&tokens).unwrap_or(0) ^ Token::from(n == wrong);
                tokens.push(token);
                drafts.push(token);
            }
            self.scheduler.propose(id, drafts);
        }
    }

    fn sample(
        &mut self,
        sampled: Vec<(SequenceId, Vec<Token>)>,
    ) -> Result<Vec<(SequenceId, Outcome)>, TestCaseError> {
        let mut outcomes = Vec::new();
        for logits in sampled.chunk_by(|a, b| a.0 == b.0) {
            let (id, ref content) = logits[0];
            if !self.live.contains_key(&id) {
                // Cancelled after the plan: the runner may still report something for it.
                outcomes.push((id, Outcome::Continue(0)));
                continue;
            }
            let drafts = logits[logits.len() - 1].1[content.len()..].to_vec();
            let mut taken = Vec::new();
            let outcome = loop {
                let is_over = self.sample_one(id, &logits[taken.len()].1, &mut taken)?;
                let right = drafts.iter().zip(&taken).take_while(|(draft, token)| draft == token).count();
                // The logits behind a draft are those of the next token as long as the drafts are the model's choice.
                if is_over || right < taken.len() {
                    self.accepted += right;
                    break match taken[..] {
                        _ if is_over => Outcome::Finished,
                        [token] => Outcome::Continue(token),
                        _ => Outcome::Several(taken),
                    };
                }
            };
            outcomes.push((id, outcome));
        }
        Ok(outcomes)
    }

    /// Takes the next tokens of a live sequence, whose logits depend on `content`. Returns `true` if it has ended.
    fn sample_one(
        &mut self,
        id: SequenceId,
        content: &[Token],
        taken: &mut Vec<Token>,
    ) -> Result<bool, TestCaseError> {
        let live = self.live.get_mut(&id).unwrap();
        prop_assert_eq!(content, &live.tokens, "the logits of {:?} depend on other tokens", id);
        let next = next_token(content).filter(|_| live.generated < live.max_tokens);
        if let Some(token) = next {
            live.tokens.push(token);
            live.generated += 1;
            taken.push(token);
        }
        // Some tokens need no sampling: the following ones are those that the reference would have sampled.
        let forced = if self.forces { (content.len() + id.0 as usize) % 4 } else { 0 };
        for _ in 0..forced {
            if next.is_some()
                && live.generated < live.max_tokens
                && live.tokens.len() < self.config.context as usize
                && let Some(token) = next_token(&live.tokens)
            {
                live.tokens.push(token);
                live.generated += 1;
                taken.push(token);
            }
        }
        let is_over = next.is_none() || live.generated >= live.max_tokens;
        if is_over {
            self.finish(id)?;
        }
        Ok(is_over)
    }

    fn finish(&mut self, id: SequenceId) -> Result<(), TestCaseError> {
        let live = self.live.remove(&id).unwrap();
        prop_assert_eq!(live.tokens, live.expected, "{:?} differs from the reference", id);
        prop_assert!(self.started.remove(&id), "finished without a start");
        Ok(())
    }

    /// Runs until `done`, which has to come to pass while there is work.
    pub fn run_until(&mut self, budget: usize, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert!(self.scheduler.has_work(), "it never came to pass");
            self.step(budget, &[]).unwrap();
        }
    }

    /// Runs until everything has ended. All of it has to end: the oldest sequence moves in each step, so each of them is done
    /// within as many steps as it has tokens once it is the oldest.
    pub fn run_to_end(&mut self, budget: usize) -> Result<(), TestCaseError> {
        let bound = self.live.len() * (3 * self.config.context as usize + 4);
        for _ in 0..bound {
            if !self.scheduler.has_work() {
                break;
            }
            self.step(budget, &[])?;
        }
        prop_assert!(self.live.is_empty() && !self.scheduler.has_work(), "starved: {:?}", self.live);
        Ok(())
    }

    /// With nothing live and the cache dropped, nothing is left in the cells.
    pub fn check_nothing_leaks(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.scheduler.stats().used_cells, 0);
        self.scheduler.drop_cached();
        self.step(0, &[])?;
        prop_assert_eq!(self.backend.used() + self.backend.spent(), 0, "leaked cells");
        prop_assert_eq!(self.backend.archived(), 0, "leaked copies");
        prop_assert_eq!(self.backend.in_lanes(), 0, "leaked lanes");
        prop_assert!(self.scheduler.close_lanes(), "a lane is still busy");
        let stats = self.scheduler.stats();
        prop_assert_eq!(stats.free_cells, self.config.cells);
        prop_assert_eq!((stats.waiting, stats.running, stats.cached_slots), (0, 0, 0));
        Ok(())
    }
}
