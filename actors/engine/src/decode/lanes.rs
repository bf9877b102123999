//! The second context, with a stream of cells for each sequence: made when it pays, and given back when it has long been idle.

use std::time::{Duration, Instant};

use jan_protocol::memory;

use crate::llama::{Buffers, Context, Memory, Model};
use crate::scheduler::{LANE_CHUNK, Scheduler};
use crate::types::EngineSettings;

/// Time without a sequence in a lane after which its memory is given back.
const IDLE: Duration = Duration::from_secs(60);

/// Steps between two looks at whether lanes would pay.
const LOOK: u32 = 8;

/// Fewest lanes that are opened.
const LEAST_LANES: usize = 4;

/// Fewest cells of a lane that are worth it.
const LEAST_CELLS: u32 = 256;

/// The lanes of an engine.
#[derive(Debug)]
pub struct Lanes<'model> {
    model: &'model Model,
    /// Maximum number of lanes.
    most: u16,
    /// Cells of all lanes together; 0: there are none, ever.
    cells: u32,
    context: Option<Context<'model>>,
    /// The number of lanes in it.
    count: u16,
    steps: u32,
    last_used: Instant,
}

impl<'model> Lanes<'model> {
    /// No lanes yet.
    pub fn new(model: &'model Model, memory: Memory, settings: &EngineSettings) -> Self {
        let may_open = memory == Memory::Full && !settings.reproducible;
        let cells = if may_open { settings.lane_cells } else { 0 };
        let (most, last_used) = (settings.max_sequences, Instant::now());
        Self { model, most, cells, context: None, count: 0, steps: 0, last_used }
    }

    /// Their context, of which there is one while the scheduler has lanes.
    pub fn context(&mut self) -> &mut Context<'model> {
        self.context.as_mut().expect("the scheduler uses lanes only once they are open")
    }

    /// Opens lanes if they would be used now, more of them if there are too few, and closes them after a long time without use.
    pub fn prepare(&mut self, scheduler: &mut Scheduler, threads: usize) {
        if self.cells == 0 {
            return;
        }
        self.steps = self.steps.wrapping_add(1);
        let looks = self.steps.is_multiple_of(LOOK);
        if self.context.is_none() {
            if looks && scheduler.would_use_lanes() {
                self.open(scheduler, threads);
            }
        } else if scheduler.uses_lanes() {
            self.last_used = Instant::now();
            if looks && self.count < self.most && scheduler.lanes_wanted() > usize::from(self.count) {
                scheduler.empty_lanes();
            }
        } else if scheduler.lanes_wanted() > usize::from(self.count) && scheduler.close_lanes() {
            self.context = None;
            self.open(scheduler, threads);
        } else {
            self.close_if_idle(scheduler);
        }
    }

    fn open(&mut self, scheduler: &mut Scheduler, threads: usize) {
        // A power of two: with more sequences, all move once more.
        let wanted = scheduler.lanes_wanted().next_power_of_two().max(LEAST_LANES);
        let count = u16::try_from(wanted).unwrap_or(u16::MAX).min(self.most);
        let cells = self.affordable_cells() / u32::from(count) / LEAST_CELLS * LEAST_CELLS;
        if cells < LEAST_CELLS {
            tracing::warn!(
                lanes = count,
                "too little memory for cells of sequences' own; all decode in the unified KV cache"
            );
            self.cells = 0;
            return;
        }
        let batch = u32::from(count) * (1 + LANE_CHUNK);
        match Context::with_streams(self.model, count, cells, batch, threads) {
            Ok(context) => {
                tracing::debug!(lanes = count, cells, "lanes opened");
                self.context = Some(context);
                self.count = count;
                self.last_used = Instant::now();
                scheduler.open_lanes(count, cells);
            }
            Err(error) => {
                tracing::warn!(%error, "sequences do not get cells of their own; all decode in the unified KV cache");
                self.cells = 0;
            }
        }
    }

    /// The cells that half of the free memory has room for.
    fn affordable_cells(&self) -> u32 {
        let Some(available) = memory::available() else { return self.cells };
        let fitting = available / 2 / self.model.kv_bytes_per_cell().max(1);
        self.cells.min(u32::try_from(fitting).unwrap_or(u32::MAX))
    }

    /// Closes the lanes if none has been used for long.
    pub fn close_if_idle(&mut self, scheduler: &mut Scheduler) {
        if self.context.is_some() && self.last_used.elapsed() >= IDLE && scheduler.close_lanes() {
            tracing::debug!("lanes closed");
            self.context = None;
        }
    }

    /// Their memory, and the maximum number of their cells.
    pub fn memory(&self) -> (Buffers, u32) {
        (self.context.as_ref().map(Context::buffers).unwrap_or_default(), self.cells)
    }

    /// The time after which they may be closed, if they are open.
    pub fn closes_in(&self) -> Option<Duration> {
        self.context.as_ref().map(|_| IDLE.saturating_sub(self.last_used.elapsed()))
    }
}
