//! The loop of decode steps. Owns the llama.cpp context; everything that decides is asked of pure parts.

mod disk;
mod memory;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use jan_protocol::report::{EngineLoad, SequenceEvent, StepReport};
use jan_protocol::types::FinishReason;

use super::constraint::GuideError;
use super::drafting::{self, Check, DraftCounts, Drafter, Rows};
use super::lanes::Lanes;
use super::logprobs::PromptScorer;
use super::masks::{LOOK, Masks};
use super::parts::{Attention, divide};
use super::phases::Flow;
use super::running_sequence::{Buffers, Running, having_thought, stopped_by_text, text_end};
use super::sampler::TokenCounts;
use super::shelves::Shelves;
use super::text_assembler::TextAssembler;
use super::thread_tuner::{StepSample, ThreadTuner};
use crate::disk::{Disk, Found};
use crate::embedding::{Embedder, EmbeddingJob};
use crate::llama::{BatchEntry, Context, ContextSizes, LlamaError, Memory, Model, SavedState};
use crate::scheduler::gathering::Gathering;
use crate::scheduler::step_budget::StepBudget;
use crate::scheduler::{
    Arrival, BatchToken, KvOp, Outcome, PrefixReuse, Scheduler, SchedulerConfig, Seat, SequenceId, Slot, Step,
};
use crate::types::{EngineSettings, Sequence};
use crate::upkeep::{Caretaker, Upkeep};

/// The engine's input between steps.
#[derive(Debug)]
pub enum Command {
    /// Generate this.
    Submit(Box<Sequence>),
    /// Make these embeddings.
    Embed(Box<EmbeddingJob>),
    /// Stop generating that; its cells become prefix cache within one step.
    Cancel(u64),
    /// A file was looked for that a sequence begins with.
    Found(Box<Found>),
    /// Write prefixes to disk until then, and report their number.
    Keep(Instant, Sender<u32>),
}

/// A step may take this long while no sequence waits for a token: it bounds how late a cancel or arrival is seen.
const IDLE_STEP: Duration = Duration::from_millis(400);

/// The longest time for which sequences that have had their first token wait for the second because prompts that arrived at about
/// the same time are read first.
const MAX_HOLD: Duration = Duration::from_secs(5);

/// Lower bound of the maximum number of prompt tokens of a step whose logits are wanted; a row of logits takes 4 bytes a
/// vocabulary entry.
const SCORE_CHUNK: u32 = 32;

/// Shortest and longest time that a step waits for its constrained answers; those that need longer sit out. In between it is a
/// quarter of the decoding time.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Cells kept free for each running sequence when another one is admitted.
const HEADROOM: u32 = 32;

/// Returns the ways in which requests may use others' computations.
const fn reuse(memory: Memory) -> PrefixReuse {
    match memory {
        Memory::Full | Memory::Windowed { .. } => PrefixReuse::Partial,
        Memory::Fixed => PrefixReuse::WholeSequence,
        Memory::Opaque => PrefixReuse::None,
    }
}

/// The engine of one worker.
#[derive(Debug)]
pub struct Engine<'model> {
    model: &'model Model,
    context: Context<'model>,
    lanes: Lanes<'model>,
    attention: Attention,
    scheduler: Scheduler,
    budget: StepBudget,
    gathering: Gathering,
    threads: ThreadTuner,
    running: HashMap<SequenceId, Running>,
    /// Copies of finished sequences' states, in host memory.
    shelves: Shelves,
    /// States of running sequences, while their cells are moved.
    lifted: HashMap<Slot, SavedState>,
    buffers: Buffers,
    batch: Vec<BatchEntry>,
    embedder: Embedder<'model>,
    masks: Masks,
    /// `true` if drafts are made.
    speculates: bool,
    drafts: DraftCounts,
    memory: Memory,
    /// The prefix cache on disk.
    disk: Disk,
    upkeep: Upkeep,
    limits: memory::Limits,
}

impl<'model> Engine<'model> {
    /// Returns `None` for a model that cannot generate text; an [`Embedder`] can use it.
    ///
    /// # Errors
    /// Fails if llama.cpp cannot make the context.
    pub fn new(model: &'model Arc<Model>, settings: &EngineSettings) -> Result<Option<Self>, LlamaError> {
        let memory = model.find_memory()?;
        let reuse = reuse(memory);
        tracing::debug!(?memory, ?reuse, "the model's memory");
        let in_order = settings.reproducible && reuse == PrefixReuse::Partial;
        let slots = settings.max_sequences.saturating_add(settings.cached_sequences);
        let slots = slots.min(memory.max_slots(in_order));
        let outputs = u32::from(slots).max(u32::from(settings.max_sequences) + SCORE_CHUNK);
        let context = Context::new(
            model,
            memory,
            ContextSizes {
                cells: settings.kv_cells,
                slots,
                batch: settings.prefill_chunk + u32::from(settings.max_sequences) + SCORE_CHUNK,
                outputs,
                threads: settings.threads,
                embeddings: false,
                reproducible: in_order,
                streams: false,
            },
        )?;
        if !context.can_generate() {
            return Ok(None);
        }
        let weights = u32::try_from(model.size() / model.kv_bytes_per_cell().max(1)).unwrap_or(u32::MAX);
        let mut speculates = settings.speculation && reuse == PrefixReuse::Partial;
        if speculates && in_order && !model.computes_alike()? {
            tracing::info!("no drafts: this model's logits depend on the number of tokens in a step");
            speculates = false;
        }
        let scheduler = Scheduler::new(SchedulerConfig {
            slots,
            max_running: settings.max_sequences.min(slots),
            cells: settings.kv_cells,
            cache_cells: settings.cache_cells.min(settings.kv_cells),
            archive_tokens: memory::tokens_within(settings.archive_bytes, context.bytes_per_cell()),
            spill: true,
            headroom: HEADROOM,
            context: settings.context_length,
            reuse,
            share_min: settings.share_min_tokens,
            score_chunk: outputs - u32::from(settings.max_sequences),
            in_order,
            weights,
        })
        .map_err(|error| LlamaError::Load(error.to_string()))?;
        Ok(Some(Self {
            model,
            context,
            lanes: Lanes::new(model, memory, settings),
            // Neither on a GPU nor where values are of another type than keys.
            attention: Attention {
                weights,
                is_tiled: reuse == PrefixReuse::Partial && !in_order && !settings.on_gpu,
            },
            scheduler,
            budget: StepBudget::new(settings.inter_token_target, IDLE_STEP, settings.prefill_chunk as usize),
            gathering: Gathering::new(MAX_HOLD),
            threads: ThreadTuner::new(settings.threads),
            running: HashMap::new(),
            shelves: Shelves::default(),
            lifted: HashMap::new(),
            buffers: Buffers::default(),
            batch: Vec::new(),
            embedder: Embedder::new(model, settings, true),
            masks: Masks::new(Arc::clone(model), settings.mask_budget),
            speculates,
            drafts: DraftCounts::default(),
            memory,
            disk: Disk::default(),
            upkeep: Upkeep::new(Instant::now()),
            limits: memory::Limits::of(settings),
        }))
    }

    /// Runs until the command channel closes. Every step is reported; the report of the sequences that left
    /// the queue goes out before their first decode, so that a crash can be blamed on those it ran. `caretaker` is told of the
    /// memory now and then.
    ///
    /// # Errors
    /// A failed decode: the caller must end the process, since the context is not to be trusted any more.
    pub fn run(
        mut self,
        commands: &Receiver<Command>,
        mut report: impl FnMut(StepReport),
        caretaker: &mut impl Caretaker,
    ) -> Result<(), LlamaError> {
        loop {
            self.report_memory(caretaker);
            if !self.scheduler.has_work() && !self.embedder.has_work() {
                // Threads that were left behind are looked after meanwhile.
                let wait = if self.masks.has_left_behind() { LOOK } else { self.rests_for() };
                match commands.recv_timeout(self.disk.patience().map_or(wait, |held| held.min(wait))) {
                    Ok(command) => self.take(command, &mut report)?,
                    Err(RecvTimeoutError::Timeout) => self.give_back(caretaker),
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
            loop {
                match commands.try_recv() {
                    Ok(command) => self.take(command, &mut report)?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.submit_overdue(&mut report);
            if self.masks.is_overrun() {
                return Err(LlamaError::Overrun);
            }
            if self.scheduler.has_work() || self.embedder.has_work() {
                self.upkeep.worked(Instant::now());
            }
            if self.scheduler.has_work() {
                self.step(&mut report)?;
            }
            if self.embedder.has_work() {
                let (decoding, load) = (self.scheduler.decoding(), self.load());
                self.embedder.step(decoding, self.threads.next(), load, &mut report)?;
            }
        }
    }

    fn take(&mut self, command: Command, report: &mut impl FnMut(StepReport)) -> Result<(), LlamaError> {
        match command {
            Command::Submit(sequence) => self.submit_or_hold(*sequence, report),
            Command::Found(found) => self.take_found(*found, report)?,
            Command::Keep(until, done) => {
                let _ = done.send(self.keep_on_disk(until)?);
            }
            Command::Embed(job) => self.embedder.submit(*job),
            Command::Cancel(id) => {
                if self.disk.release(id).is_some() {
                    tracing::debug!(sequence = id, "sequence cancelled before it began");
                } else if self.embedder.cancel(id) {
                    tracing::debug!(request = id, "embeddings cancelled");
                } else if self.running.remove(&SequenceId(id)).is_some() || self.masks.cancel(SequenceId(id))
                {
                    self.scheduler.cancel(SequenceId(id));
                    tracing::debug!(sequence = id, "sequence cancelled");
                }
            }
        }
        Ok(())
    }

    /// Takes a sequence in, or returns its immediate end.
    fn submit(&mut self, sequence: Sequence) -> Option<SequenceEvent> {
        let id = SequenceId(sequence.id);
        let thought = sequence.flow.as_ref().map_or(0, Flow::reasoning_tokens);
        let mut text = TextAssembler::new(&sequence.stop);
        let mut counts = TokenCounts::default();
        if sequence.sampling.repeat_penalty != 1.0 {
            sequence.prompt.iter().for_each(|&token| counts.record_prompt(token));
        }
        // A resumed sequence's text was delivered before the crash: replaying it restores the held text.
        let mut stopped = false;
        for (index, &token) in sequence.generated.iter().enumerate() {
            counts.record(token);
            let counted = sequence.stops_count.get(index).copied().unwrap_or(true);
            text.watch(counted && index >= sequence.sampling.min_tokens as usize);
            stopped = stopped || text.push(&sequence.piece(self.model, token)).stopped;
        }
        let generated = u32::try_from(sequence.generated.len()).unwrap_or(u32::MAX);
        if stopped {
            return Some(having_thought(stopped_by_text(), thought));
        }
        let score = sequence.score_prompt && generated == 0;
        if generated >= sequence.max_tokens && !score {
            return Some(having_thought(text_end(&mut text, FinishReason::Length), thought));
        }
        let mut tokens = sequence.prompt.to_vec();
        tokens.extend_from_slice(&sequence.generated);
        let arrival = Arrival {
            id,
            user: sequence.user.clone(),
            tenant: sequence.tenant,
            common: sequence.common,
            tokens,
            generated,
            score,
        };
        if let Err(error) = self.scheduler.submit(arrival) {
            // Preparing checked the length, and ids come from one counter: this would be our defect, and
            // ending the sequence keeps it from hanging.
            tracing::error!(sequence = id.0, %error, "the scheduler refused a prepared sequence");
            return Some(text_end(&mut text, FinishReason::Length));
        }
        let scorer = score.then(|| PromptScorer::new(self.model.piece(sequence.prompt[0])));
        let drafter = self
            .speculates
            .then(|| Drafter::new(&sequence.prompt, &sequence.generated, sequence.max_tokens))
            .map(Box::new);
        let running = Running { sequence, counts, text, generated, started: false, scorer, drafter };
        self.running.insert(id, running);
        None
    }

    fn step(&mut self, report: &mut impl FnMut(StepReport)) -> Result<(), LlamaError> {
        if self.masks.is_busy() {
            let events = self.late(Duration::ZERO, false);
            if !events.is_empty() {
                report(StepReport { events, load: self.load() });
            }
        }
        if self.speculates {
            drafting::propose(&mut self.scheduler, |id| self.running.get(&id));
        }
        let decoding = self.scheduler.decoding();
        // What is unread is read first while nobody has had more than a first token.
        let holds = self.gathering.holds(decoding, self.have_just_begun(), self.scheduler.unread());
        let decoding = if holds { 0 } else { decoding };
        self.scheduler.hold_decoding(holds);
        let budget = self.budget.next(decoding);
        self.lanes.prepare(&mut self.scheduler, self.threads.next());
        let mut step = self.scheduler.plan(budget);
        self.report_started(&step, report);
        for &op in &step.ops {
            self.execute(op)?;
        }
        if step.batch.is_empty() && self.masks.is_busy() {
            // No other sequence has anything to do.
            let events = self.late(PATIENCE.1, true);
            if !events.is_empty() {
                report(StepReport { events, load: self.load() });
            }
            return Ok(());
        }
        if step.batch.is_empty() {
            // The scheduler promises progress in every step; a pause keeps a defect from burning a core.
            tracing::error!("the scheduler planned an empty step");
            std::thread::sleep(Duration::from_millis(10));
            return Ok(());
        }
        let threads = self.threads.next();
        let (mut wall, mut cpu) = (Duration::ZERO, Duration::ZERO);
        let mut events = Vec::new();
        for part in divide(&mut step.batch, self.attention) {
            let (begin, cpu_begin) = (Instant::now(), cpu_time());
            self.decode(part, threads)?;
            wall += begin.elapsed();
            cpu += cpu_time().saturating_sub(cpu_begin);
            // The logits are there until the next batch of the same context.
            events.extend(self.sample(part));
        }
        self.disk.proven();
        let (decode_tokens, prefill_tokens) = (step.decode_tokens + step.draft_tokens, step.prefill_tokens);
        self.budget.observe(decode_tokens.min(decoding), prefill_tokens, wall);
        self.gathering.observe(decode_tokens, prefill_tokens, wall);
        self.threads.observe(StepSample { decode_tokens, prefill_tokens, wall, cpu });
        if self.masks.is_busy() {
            events.extend(self.late((wall / 4).clamp(PATIENCE.0, PATIENCE.1), false));
        }
        let mut load = self.load();
        load.threads = u32::try_from(threads).unwrap_or(u32::MAX);
        report(StepReport { events, load });
        Ok(())
    }

    /// Returns `true` if no sequence has had more than its first token.
    fn have_just_begun(&self) -> bool {
        !self.masks.is_busy() && self.running.values().all(|running| running.generated <= 1)
    }

    fn execute(&mut self, op: KvOp) -> Result<(), LlamaError> {
        match op {
            KvOp::Copy { from, to, len } => self.context.copy(from.0, to.0, len),
            KvOp::Truncate { slot, len } => self.context.truncate(slot.0, len),
            KvOp::Lift { slot } => {
                let state = self.context.save(slot.0)?;
                self.lifted.insert(slot, state);
            }
            KvOp::Clear => self.context.clear(),
            KvOp::Lay { slot } => {
                let state = self.lifted.remove(&slot).expect("the scheduler lays only what it had lifted");
                self.context.restore(slot.0, &state, u32::MAX)?;
            }
            KvOp::Save { slot, shelf } => {
                let state = self.context.save(slot.0)?;
                self.shelves.insert(shelf, state);
            }
            KvOp::Restore { shelf, to, len, held: _ } => {
                let state = self.shelves.get(&shelf).expect("the scheduler restores only what it had saved");
                self.context.restore(to.0, state, len)?;
                self.disk.restored(shelf);
            }
            KvOp::Spill { shelf } => self.spill(shelf),
            KvOp::Discard { shelf } => {
                self.shelves.remove(&shelf);
                self.disk.gone(shelf);
            }
            KvOp::Enter { slot, lane } => {
                self.context.copy_to_stream(slot.0, self.lanes.context(), lane.0)?
            }
            KvOp::Fetch { lane, to, len, held: _ } => {
                let state = self.lanes.context().save_stream(lane.0)?;
                self.context.restore(to.0, &state, len)?;
            }
            KvOp::Stow { lane, shelf } => {
                let state = self.lanes.context().save_stream(lane.0)?;
                self.shelves.insert(shelf, state);
            }
            KvOp::Vacate { lane } => self.lanes.context().truncate(lane.0, 0),
            KvOp::Shift { from, to } => self.lanes.context().shift_stream(from.0, to.0)?,
        }
        Ok(())
    }

    fn report_started(&mut self, step: &Step, report: &mut impl FnMut(StepReport)) {
        let mut events = Vec::new();
        for &(id, cached_tokens) in &step.started {
            let Some(running) = self.running.get_mut(&id) else { continue };
            if !running.started {
                running.started = true;
                events.push((id.0, SequenceEvent::Started { cached_tokens }));
            }
        }
        if !events.is_empty() {
            report(StepReport { events, load: self.load() });
        }
    }

    /// Computes one part of a step.
    fn decode(&mut self, part: &[BatchToken], threads: usize) -> Result<(), LlamaError> {
        self.batch.clear();
        self.batch.extend(part.iter().map(|entry| BatchEntry {
            token: entry.token,
            position: entry.position,
            slot: match entry.seat {
                Seat::Slot(slot) => slot.0,
                Seat::Lane(lane) => lane.0,
            },
            logits: entry.sample_for.is_some() || entry.score_for.is_some(),
        }));
        pick(is_in_lanes(part), &mut self.context, &mut self.lanes).decode(&self.batch, threads)
    }

    /// Chooses the next tokens of a part that was computed. Constrained sequences are worked on meanwhile, and come later.
    fn sample(&mut self, part: &[BatchToken]) -> Vec<(u64, SequenceEvent)> {
        let in_lanes = is_in_lanes(part);
        let mut events = Vec::new();
        let mut outcomes = Vec::new();
        let mut free = Vec::new();
        for (index, entry) in part.iter().enumerate() {
            if let Some(running) = entry.score_for.and_then(|id| self.running.get_mut(&id)) {
                running.score(
                    self.model,
                    entry.position as usize,
                    pick(in_lanes, &mut self.context, &mut self.lanes).logits(index),
                );
            }
            let Some(id) = entry.sample_for else { continue };
            if index > 0 && part[index - 1].sample_for == Some(id) {
                // A draft, which is looked at with the token before it.
                continue;
            }
            let Some(running) = self.running.get_mut(&id) else { continue };
            if let Some(scorer) = running.scorer.take() {
                events.push((id.0, SequenceEvent::PromptScored(scorer.finish())));
            }
            let is_kept = running.sequence.flow.as_ref().is_some_and(Flow::is_kept);
            if !is_kept {
                free.push((index, id));
            } else if let Some(running) = self.running.remove(&id) {
                let context = pick(in_lanes, &mut self.context, &mut self.lanes);
                let mut rows = StepRows { context, first: index };
                self.masks.begin(id, running, Check::of(part, index), &mut rows);
            }
        }
        for (index, id) in free {
            let Some(mut running) = self.running.remove(&id) else { continue };
            let mut check = Check::of(part, index);
            let context = pick(in_lanes, &mut self.context, &mut self.lanes);
            let mut rows = StepRows { context, first: index };
            let (model, buffers) = (self.model, &mut self.buffers);
            let outcome = check.advance(&mut running, &mut rows, true, model, buffers, &mut events);
            let Some(outcome) = outcome else {
                // A constraint has begun behind one of the drafts.
                self.masks.begin(id, running, check, &mut rows);
                continue;
            };
            self.drafts.add(check.counts());
            outcomes.push((id, self.settle(id, running, outcome, &mut events)));
        }
        // No sequence is longer than the context (`max_tokens` is cut to it), so none ends in `commit`.
        let _ = self.scheduler.commit(outcomes);
        events
    }

    /// Takes the constrained answers whose steps are done, and ends those whose steps take too long.
    fn late(&mut self, patience: Duration, for_all: bool) -> Vec<(u64, SequenceEvent)> {
        let mut events = Vec::new();
        let mut outcomes = Vec::new();
        for mut done in self.masks.collect(patience, for_all) {
            events.append(&mut done.events);
            self.drafts.add(done.drafts);
            outcomes.push((done.id, self.settle(done.id, *done.running, done.outcome, &mut events)));
        }
        for (id, error) in self.masks.give_up() {
            events.push(failed(id, &error));
            outcomes.push((id, Outcome::Finished));
        }
        let _ = self.scheduler.commit(outcomes);
        events
    }

    /// Settles the outcome of a sequence after its step.
    fn settle(
        &mut self,
        id: SequenceId,
        running: Running,
        outcome: Result<Outcome, GuideError>,
        events: &mut Vec<(u64, SequenceEvent)>,
    ) -> Outcome {
        let outcome = outcome.unwrap_or_else(|error| {
            events.push(failed(id, &error));
            Outcome::Finished
        });
        if outcome == Outcome::Finished {
            let thought = running.sequence.flow.as_ref().map_or(0, Flow::reasoning_tokens);
            if let Some(DraftCounts { drafted, accepted }) =
                running.drafter.as_ref().map(|drafter| drafter.counts())
                && drafted > 0
            {
                tracing::debug!(sequence = id.0, drafted, accepted, "drafts of the sequence");
            }
            if let Some((_, SequenceEvent::Finished { reasoning_tokens, .. })) = events.last_mut() {
                *reasoning_tokens = thought;
            }
        } else {
            self.running.insert(id, running);
        }
        outcome
    }

    fn load(&self) -> EngineLoad {
        let stats = self.scheduler.stats();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        EngineLoad {
            running: count(stats.running),
            waiting: count(stats.waiting),
            used_cells: stats.used_cells,
            cached_cells: stats.cached_cells,
            preemptions: stats.preemptions,
            threads: 0,
            drafted: self.drafts.drafted,
            accepted: self.drafts.accepted,
        }
    }
}

/// The context of a part.
fn pick<'a, 'model>(
    in_lanes: bool,
    unified: &'a mut Context<'model>,
    lanes: &'a mut Lanes<'model>,
) -> &'a mut Context<'model> {
    if in_lanes { lanes.context() } else { unified }
}

fn is_in_lanes(part: &[BatchToken]) -> bool {
    part.first().is_some_and(|entry| matches!(entry.seat, Seat::Lane(_)))
}

/// The logits of a batch entry and of the drafts behind it.
struct StepRows<'a, 'model> {
    context: &'a mut Context<'model>,
    first: usize,
}

impl Rows for StepRows<'_, '_> {
    fn row(&mut self, index: usize) -> Option<&mut [f32]> {
        Some(self.context.logits(self.first + index))
    }
}

/// The end of a sequence that cannot be kept in its constraint.
fn failed(id: SequenceId, error: &GuideError) -> (u64, SequenceEvent) {
    tracing::warn!(sequence = id.0, "constrained generation failed");
    // It may quote the schema.
    tracing::debug!(sequence = id.0, %error, "why constrained generation failed");
    (id.0, SequenceEvent::Failed { message: error.to_string() })
}

/// Processor time that this process has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
