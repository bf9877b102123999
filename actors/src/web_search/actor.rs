//! The actor that maintains the cache of search results.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::handle::Shared;

/// Interval between maintenance passes.
const TICK: Duration = Duration::from_secs(60);

/// Messages of the actor.
#[derive(Debug)]
pub enum WebSearchMessage {
    /// Periodic maintenance.
    Tick,
}

/// Removes expired results. The results are not part of the actor: a restart at any time changes neither a count nor a running
/// search.
#[derive(Debug)]
pub struct WebSearchActor;

/// The arguments of the actor.
#[derive(Clone, Debug)]
pub struct WebSearchArguments {
    /// The shared state with the cache.
    pub(super) shared: Arc<Shared>,
}

#[ractor::async_trait]
impl Actor for WebSearchActor {
    type Msg = WebSearchMessage;
    type State = WebSearchArguments;
    type Arguments = WebSearchArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(TICK, || WebSearchMessage::Tick);
        Ok(arguments)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        WebSearchMessage::Tick: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let forgotten = state.shared.forget_old();
        if forgotten > 0 {
            tracing::debug!(forgotten, "results of web searches forgotten");
        }
        Ok(())
    }
}
