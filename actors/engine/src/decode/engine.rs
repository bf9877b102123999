//! The loop of decode steps. Owns the llama.cpp context; everything that decides is asked of pure parts.

mod disk;
mod memory;
mod step;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use jan_protocol::report::{EngineLoad, SequenceEvent, StepReport};
use jan_protocol::types::FinishReason;

use super::draft_model::DraftModel;
use super::drafting::{DraftCounts, Drafter};
use super::lanes::Lanes;
use super::logprobs::PromptScorer;
use super::masks::{LOOK, Masks};
use super::parts::Attention;
use super::phases::Flow;
use super::running_sequence::{Buffers, Running, having_thought, stopped_by_text, text_end};
use super::sampler::TokenCounts;
use super::shelves::Shelves;
use super::text_assembler::TextAssembler;
use super::thread_tuner::ThreadTuner;
use crate::disk::{Disk, Found};
use crate::embedding::{Embedder, EmbeddingJob};
use crate::llama::{BatchEntry, Context, ContextSizes, LlamaError, Memory, Model, SavedState};
use crate::scheduler::gathering::Gathering;
use crate::scheduler::step_budget::StepBudget;
use crate::scheduler::{Arrival, PrefixReuse, Scheduler, SchedulerConfig, SequenceId, Slot};
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
    /// The model that proposes drafts beside what is looked up, if there is one.
    draft_model: Option<DraftModel<'model>>,
    drafts: DraftCounts,
    memory: Memory,
    /// The prefix cache on disk.
    disk: Disk,
    upkeep: Upkeep,
    limits: memory::Limits,
}

impl<'model> Engine<'model> {
    /// Returns `None` for a model that cannot generate text; an [`Embedder`] can use it. `draft` is a smaller model that proposes
    /// drafts.
    ///
    /// # Errors
    /// llama.cpp cannot make the context, or the other model cannot draft for this one.
    pub fn new(
        model: &'model Arc<Model>,
        draft: Option<&'model Model>,
        settings: &EngineSettings,
    ) -> Result<Option<Self>, LlamaError> {
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
        let draft_model = match draft {
            Some(draft) if speculates => Some(DraftModel::new(draft, model, settings)?),
            Some(_) => {
                tracing::warn!("the draft model is not used: no drafts are made for this model");
                None
            }
            None => None,
        };
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
            always_lanes: settings.always_lanes,
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
            draft_model,
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
