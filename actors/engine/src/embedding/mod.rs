//! Embeddings: a context of their own beside the one that generates, read in between its steps.
//!
//! llama.cpp gives the tokens' embeddings and [`pooling`] makes the texts' of them, so that long inputs of models that look back
//! alone can be read piece by piece, and streams keep their pace meanwhile. Models that look at a whole text at once (BERT and
//! its kind) read each input in one step; they do not generate, so that no stream waits.

pub mod batch_plan;
pub mod pooling;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jan_protocol::memory;
use jan_protocol::memory_use::{Amount, MemoryUse};
use jan_protocol::report::{EngineLoad, SequenceEvent, StepReport};
use jan_protocol::types::Token;

use crate::decode::engine::Command;
use crate::llama::{BatchEntry, Buffers, Context, ContextSizes, LlamaError, Memory, Model};
use crate::scheduler::step_budget::StepBudget;
use crate::types::EngineSettings;
use crate::upkeep::{Caretaker, GiveBack, REST, Upkeep};
use batch_plan::{Piece, Planner};
use pooling::{Pool, Pooling};

/// The maximum number of inputs of one step. Memories that cannot be cut have a fixed size a sequence, which can be large.
const SLOTS: u16 = 32;
const SLOTS_OF_FIXED_SIZE: u16 = 4;

/// A step may take this long while no sequence waits for a token.
const IDLE_STEP: Duration = Duration::from_millis(400);

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its place in the request.
    pub index: u32,
    /// The tokens, at least one.
    pub tokens: Vec<Token>,
}

/// A request for embeddings.
#[derive(Clone, Debug)]
pub struct EmbeddingJob {
    /// Chosen by the server, unique in this worker.
    pub id: u64,
    /// The user that fairness is counted for.
    pub user: String,
    /// The inputs to be read.
    pub inputs: Vec<Input>,
    /// Numbers of each embedding; `None`: all.
    pub dimensions: Option<u32>,
}

/// The unfinished part of a request.
#[derive(Debug)]
struct Open {
    dimensions: Option<u32>,
    inputs_left: usize,
    started: bool,
    /// The pool of the input that is half read.
    pool: Option<Pool>,
}

/// Makes embeddings, one step at a time.
#[derive(Debug)]
pub struct Embedder<'model> {
    model: &'model Model,
    settings: EngineSettings,
    /// The context, made with the first request, as most servers never get one, and given back after a long time without any.
    context: Option<Context<'model>>,
    last_used: Instant,
    whole: bool,
    planner: Planner,
    open: HashMap<u64, Open>,
    budget: StepBudget,
    pooling: Pooling,
    batch: Vec<BatchEntry>,
}

impl<'model> Embedder<'model> {
    /// `generates`: whether the model looks back alone, and so can read inputs piece by piece.
    pub fn new(model: &'model Model, settings: &EngineSettings, generates: bool) -> Self {
        let architecture = model.metadata("general.architecture").unwrap_or_default();
        let pooling = model.metadata(&format!("{architecture}.pooling_type"));
        let slots = if model.has_fixed_memory() { SLOTS_OF_FIXED_SIZE } else { SLOTS };
        // Streams wait for a step of theirs and for one of these.
        let target = settings.inter_token_target / 2;
        Self {
            model,
            settings: settings.clone(),
            context: None,
            last_used: Instant::now(),
            whole: !generates,
            planner: Planner::new(!generates, slots),
            open: HashMap::new(),
            budget: StepBudget::new(target, IDLE_STEP, settings.prefill_chunk as usize),
            pooling: Pooling::choose(&settings.pooling, pooling.as_deref()),
            batch: Vec::new(),
        }
    }

    /// Returns `true` if anything is to be read.
    pub fn has_work(&self) -> bool {
        self.planner.has_work()
    }

    /// The memory of its context.
    pub fn memory(&self) -> Buffers {
        self.context.as_ref().map(Context::buffers).unwrap_or_default()
    }

    /// Gives the context back if it has not been used for long.
    pub fn close_if_idle(&mut self) {
        if self.last_used.elapsed() >= REST {
            self.close();
        }
    }

    /// Gives the context back unless it is in use.
    pub fn close(&mut self) {
        if self.context.is_some() && !self.has_work() {
            tracing::debug!("the context for embeddings is given back");
            self.context = None;
        }
    }

    /// Takes a request in.
    pub fn submit(&mut self, job: EmbeddingJob) {
        let EmbeddingJob { id, user, inputs, dimensions } = job;
        if !inputs.is_empty() {
            let open = Open { dimensions, inputs_left: inputs.len(), started: false, pool: None };
            self.open.insert(id, open);
            self.planner.submit(id, &user, inputs);
        }
    }

    /// Forgets a request. Returns `true` if there was one.
    pub fn cancel(&mut self, id: u64) -> bool {
        if let (Some(slot), Some(context)) = (self.planner.cancel(id), &mut self.context) {
            context.forget(slot);
        }
        self.open.remove(&id).is_some()
    }

    /// Reads on, while `decoding` streams wait. Requests that begin are reported before the work, so that a crash can be
    /// blamed on them.
    ///
    /// # Errors
    /// A failed decode: the caller must end the process, since the context is not to be trusted any more.
    pub fn step(
        &mut self,
        decoding: usize,
        threads: usize,
        load: EngineLoad,
        report: &mut impl FnMut(StepReport),
    ) -> Result<(), LlamaError> {
        let pieces = self.planner.plan(self.budget.next(decoding));
        let mut started = Vec::new();
        for piece in &pieces {
            if let Some(open) = self.open.get_mut(&piece.request).filter(|open| !open.started) {
                open.started = true;
                started.push((piece.request, SequenceEvent::Started { cached_tokens: 0 }));
            }
        }
        if !started.is_empty() {
            report(StepReport { events: started, load });
        }
        let mut context = match self.context.take().map_or_else(|| self.make_context(), Ok) {
            Ok(context) => context,
            Err(message) => {
                self.refuse_all(&message, load, report);
                return Ok(());
            }
        };
        self.batch.clear();
        for piece in &pieces {
            let entries = (0u32..).zip(&piece.input.tokens).skip(piece.range.start).take(piece.range.len());
            self.batch.extend(entries.map(|(position, &token)| BatchEntry {
                token,
                position,
                slot: piece.slot,
                logits: true,
            }));
        }
        let begin = Instant::now();
        context.decode(&self.batch, threads)?;
        self.budget.observe(decoding, self.batch.len(), begin.elapsed());
        let events = self.collect(&mut context, pieces);
        self.context = Some(context);
        self.last_used = Instant::now();
        report(StepReport { events, load });
        Ok(())
    }

    /// Returns the sizes that a context needs. At most one input is read in part, so there is room for it and for one step beside
    /// it.
    fn sizes(&self) -> ContextSizes {
        let chunk = self.settings.prefill_chunk;
        let longest = self.settings.context_length;
        let batch = if self.whole { longest.max(chunk) } else { chunk };
        ContextSizes {
            cells: longest.saturating_add(chunk).next_multiple_of(256),
            slots: if self.model.has_fixed_memory() { SLOTS_OF_FIXED_SIZE } else { SLOTS },
            batch,
            outputs: batch,
            threads: self.settings.threads,
            embeddings: true,
            reproducible: false,
            streams: false,
        }
    }

    /// Creates the context, unless the kernel would kill the worker, and with it the streams in it, for lack of memory.
    fn make_context(&self) -> Result<Context<'model>, String> {
        let sizes = self.sizes();
        let cells = if self.whole { 0 } else { u64::from(sizes.cells) * self.model.kv_bytes_per_cell() };
        let row = u64::from(self.model.vocabulary()) + self.model.embedding_length() as u64;
        let needed = cells + u64::from(sizes.outputs) * row * 4;
        if let Some(available) = memory::available().filter(|available| needed > *available) {
            return Err(format!(
                "embeddings take {} MiB and {} MiB of memory are available; lower models[].context_length",
                needed >> 20,
                available >> 20
            ));
        }
        Context::new(self.model, Memory::Full, sizes).map_err(|error| error.to_string())
    }

    fn refuse_all(&mut self, message: &str, load: EngineLoad, report: &mut impl FnMut(StepReport)) {
        tracing::error!(message, "no context for embeddings");
        let mut events = Vec::new();
        for id in std::mem::take(&mut self.open).into_keys() {
            self.planner.cancel(id);
            events.push((id, SequenceEvent::Unavailable { message: message.to_owned() }));
        }
        report(StepReport { events, load });
    }

    /// Takes the step's results.
    fn collect(&mut self, context: &mut Context<'_>, pieces: Vec<Piece>) -> Vec<(u64, SequenceEvent)> {
        let mut events = Vec::new();
        let mut at = 0;
        for piece in pieces {
            let rows = at..at + piece.range.len();
            at = rows.end;
            let last = piece.is_last();
            if let Some(open) = self.open.get_mut(&piece.request) {
                let mut pool = match piece.range.start {
                    0 => Pool::new(self.pooling),
                    _ => open.pool.take().unwrap_or_else(|| Pool::new(self.pooling)),
                };
                rows.for_each(|row| pool.push(context.embedding(row)));
                if last {
                    open.inputs_left -= 1;
                    let mut done = open.inputs_left == 0;
                    let Input { index, tokens } = &piece.input;
                    let tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
                    let event = match pool.finish(open.dimensions) {
                        Some(vector) => SequenceEvent::Embedding { index: *index, tokens, vector },
                        None => {
                            done = true;
                            if let Some(slot) = self.planner.cancel(piece.request) {
                                context.forget(slot);
                            }
                            let message =
                                format!("the embedding of input {index} has infinite numbers or none");
                            SequenceEvent::Unable { message }
                        }
                    };
                    events.push((piece.request, event));
                    if done {
                        self.open.remove(&piece.request);
                    }
                } else {
                    open.pool = Some(pool);
                }
            }
            if last {
                context.forget(piece.slot);
            }
        }
        events
    }

    /// The whole work of a model that generates nothing. Runs until the command channel closes.
    ///
    /// # Errors
    /// As of [`step`](Self::step).
    pub fn run(
        mut self,
        commands: &Receiver<Command>,
        mut report: impl FnMut(StepReport),
        caretaker: &mut impl Caretaker,
    ) -> Result<(), LlamaError> {
        let mut upkeep = Upkeep::new(Instant::now());
        loop {
            if upkeep.reports(Instant::now()) {
                let buffers = self.memory();
                let embeddings = Amount::of(buffers.of_context());
                caretaker.report(MemoryUse { embeddings, device: buffers.device, ..MemoryUse::default() });
            }
            if !self.has_work() {
                match commands.recv_timeout(upkeep.next(Instant::now()).unwrap_or(Duration::MAX)) {
                    Ok(command) => self.take(command),
                    Err(RecvTimeoutError::Timeout) => {
                        if let Some(what) = upkeep.gives_back(Instant::now()) {
                            if what == GiveBack::Rest {
                                self.close();
                                caretaker.rest();
                            }
                            caretaker.tidy();
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            if self.has_work() {
                upkeep.worked(Instant::now());
                self.step(0, self.settings.threads, EngineLoad::default(), &mut report)?;
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Embed(job) => self.submit(*job),
            Command::Cancel(id) => {
                self.cancel(id);
            }
            // There is nothing to be kept, and nothing to be found.
            Command::Keep(_, done) => drop(done.send(0)),
            Command::Found(_) => {}
            // Preparing refuses it.
            Command::Submit(sequence) => {
                tracing::error!(sequence = sequence.id, "a model that makes only embeddings was to generate");
            }
        }
    }
}
