//! The actors that maintain the buckets.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::handle::Clock;
use super::table::{SHARDS, Table};

/// Number of actors that share the shards.
pub const LIMITERS: usize = 4;

/// Interval at which each actor maintains one of its shards.
const TICK: Duration = Duration::from_secs(4);

/// Messages of a rate limiter.
#[derive(Debug)]
pub enum RateLimiterMessage {
    /// Periodic maintenance.
    Tick,
}

/// Removes idle principals from its share of the [`Table`], one shard per tick, so that no shard is locked for long.
///
/// The buckets are not part of the actor: a restart at any time changes no count.
#[derive(Debug)]
pub struct RateLimiter;

/// The arguments of a rate limiter.
#[derive(Clone, Debug)]
pub struct RateLimiterArguments {
    /// The buckets.
    pub table: Arc<Table>,
    /// The clock, in milliseconds.
    pub clock: Clock,
    /// The number of this actor among the [`LIMITERS`].
    pub number: usize,
}

/// The state of a rate limiter.
#[derive(Debug)]
pub struct RateLimiterState {
    arguments: RateLimiterArguments,
    shards: Range<usize>,
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
        let share = SHARDS / LIMITERS;
        let first = arguments.number * share;
        myself.send_interval(TICK, || RateLimiterMessage::Tick);
        Ok(RateLimiterState { arguments, shards: first..first + share, next: first })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        RateLimiterMessage::Tick: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let RateLimiterArguments { table, clock, .. } = &state.arguments;
        let forgotten = table.forget_idle(state.next, clock.now_ms());
        if forgotten > 0 {
            tracing::debug!(shard = state.next, forgotten, "idle principals forgotten");
        }
        state.next = if state.next + 1 < state.shards.end { state.next + 1 } else { state.shards.start };
        Ok(())
    }
}
