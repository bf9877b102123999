//! One step of an engine: planned by the scheduler, computed in parts, sampled, and settled with the scheduler.

use std::time::{Duration, Instant};

use jan_protocol::report::{SequenceEvent, StepReport};

use super::Engine;
use crate::decode::constraint::GuideError;
use crate::decode::drafting::{self, Check, DraftCounts, Rows};
use crate::decode::lanes::Lanes;
use crate::decode::parts::divide;
use crate::decode::phases::Flow;
use crate::decode::running_sequence::Running;
use crate::decode::thread_tuner::StepSample;
use crate::llama::{BatchEntry, Context, LlamaError};
use crate::scheduler::{BatchToken, KvOp, Outcome, Seat, SequenceId, Step};

/// Shortest and longest time that a step waits for its constrained answers; those that need longer sit out. In between it is a
/// quarter of the decoding time.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

impl Engine<'_> {
    /// Plans and computes one step, and reports what became of it.
    pub(super) fn step(&mut self, report: &mut impl FnMut(StepReport)) -> Result<(), LlamaError> {
        if self.masks.is_busy() {
            let events = self.late(Duration::ZERO, false);
            if !events.is_empty() {
                report(StepReport { events, load: self.load() });
            }
        }
        let decoding = self.scheduler.decoding();
        // What is unread is read first while nobody has had more than a first token.
        let holds = self.gathering.holds(decoding, self.have_just_begun(), self.scheduler.unread());
        let drafting = if holds { Duration::ZERO } else { self.propose_drafts() };
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
        self.budget.observe(decode_tokens.min(decoding), prefill_tokens, wall + drafting);
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

    /// Proposes drafts for the next step. Returns the time that a draft model took.
    fn propose_drafts(&mut self) -> Duration {
        // While prompts wait, a step's time is theirs: a draft costs as much as one of their tokens.
        if !self.speculates || self.scheduler.reads() {
            return Duration::ZERO;
        }
        let begin = Instant::now();
        let has_model = self.draft_model.is_some();
        let threads = self.threads.next();
        let made =
            drafting::propose(&mut self.scheduler, &mut self.running, self.draft_model.as_mut(), threads);
        if let Err(error) = made {
            tracing::error!(%error, "the draft model failed; the model goes on without it");
            self.draft_model = None;
        }
        if has_model { begin.elapsed() } else { Duration::ZERO }
    }

    /// Returns `true` if no sequence has had more than its first token.
    fn have_just_begun(&self) -> bool {
        !self.masks.is_busy() && self.running.values().all(|running| running.generated <= 1)
    }

    /// Does what the scheduler wants of the contexts.
    pub(super) fn execute(&mut self, op: KvOp) -> Result<(), LlamaError> {
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
