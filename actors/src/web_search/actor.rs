//! The actor that looks after what is remembered of searches.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::handle::Shared;

/// How often it looks.
const TICK: Duration = Duration::from_secs(60);

/// What the keeper is told.
#[derive(Debug)]
pub enum SearchKeeperMessage {
    /// Time passed.
    Tick,
}

/// Forgets results that are too old. What it looks after is not part of it: it can be restarted at any time, and neither
/// a count nor a search that is under way changes.
#[derive(Debug)]
pub struct SearchKeeper;

/// What the keeper needs.
#[derive(Clone, Debug)]
pub struct SearchKeeperArguments {
    /// What is remembered.
    pub(super) shared: Arc<Shared>,
}

#[ractor::async_trait]
impl Actor for SearchKeeper {
    type Msg = SearchKeeperMessage;
    type State = SearchKeeperArguments;
    type Arguments = SearchKeeperArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(TICK, || SearchKeeperMessage::Tick);
        Ok(arguments)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        SearchKeeperMessage::Tick: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let forgotten = state.shared.forget_old();
        if forgotten > 0 {
            tracing::debug!(forgotten, "results of web searches forgotten");
        }
        Ok(())
    }
}
