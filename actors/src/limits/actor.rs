//! The actors that maintain the buckets.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::rate_buckets::{PARTS, RateBuckets};

/// Number of actors that share the parts.
pub const LIMITERS: usize = 4;

/// Interval at which each actor maintains one of its parts.
const TICK: Duration = Duration::from_secs(4);

/// Milliseconds that no clock adjustment affects, for the buckets; the calendar serves the headers only.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Returns a clock that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Returns the milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Messages of a rate limiter.
#[derive(Debug)]
pub enum RateLimiterMessage {
    /// Periodic maintenance.
    Tick,
}

/// Removes idle principals from its share of the buckets, one part per tick, so that none is locked for long.
///
/// The buckets are not part of the actor: a restart at any time changes no count.
#[derive(Debug)]
pub struct RateLimiter;

/// The arguments of a rate limiter.
#[derive(Clone, Debug)]
pub struct RateLimiterArguments {
    /// The buckets.
    pub buckets: Arc<dyn RateBuckets>,
    /// The clock, in milliseconds.
    pub clock: Clock,
    /// The number of this actor among the [`LIMITERS`].
    pub number: usize,
}

/// The state of a rate limiter.
#[derive(Debug)]
pub struct RateLimiterState {
    arguments: RateLimiterArguments,
    parts: Range<usize>,
    next: usize,
}

#[ractor::async_trait]
impl Actor for RateLimiter {
    type Msg = RateLimiterMessage;
    type State = RateLimiterState;
    type Arguments = RateLimiterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let share = PARTS / LIMITERS;
        let first = arguments.number * share;
        myself.send_interval(TICK, || RateLimiterMessage::Tick);
        Ok(RateLimiterState { arguments, parts: first..first + share, next: first })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        RateLimiterMessage::Tick: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let RateLimiterArguments { buckets, clock, .. } = &state.arguments;
        let forgotten = buckets.forget_idle(state.next, clock.now_ms());
        if forgotten > 0 {
            tracing::debug!(part = state.next, forgotten, "idle principals forgotten");
        }
        state.next = if state.next + 1 < state.parts.end { state.next + 1 } else { state.parts.start };
        Ok(())
    }
}
