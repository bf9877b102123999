//! The supervisor: starts its children and restarts those that end, within a [`RestartPolicy`].
//!
//! One for one, as in Erlang/OTP's supervisor: a child's end does not affect its siblings. A child that keeps failing is started
//! again after the policy's cooldown instead of terminating the supervisor: a server with one broken component continues to serve
//! the others.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use crate::supervision::{RestartPolicy, RestartTracker};

type Spawning = Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>;

/// The specification of one child, which can be started repeatedly.
#[derive(Clone)]
pub struct ChildSpec {
    name: String,
    spawn: Arc<dyn Fn(ActorCell) -> Spawning + Send + Sync>,
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ChildSpec {
    /// Returns a child whose actor `actor` creates, with the same arguments at each start. `name` is for logs.
    pub fn new<A>(name: impl Into<String>, actor: fn() -> A, arguments: A::Arguments) -> Self
    where
        A: Actor,
        A::Arguments: Clone + Send + Sync + 'static,
    {
        let spawn = move |supervisor: ActorCell| -> Spawning {
            let arguments = arguments.clone();
            Box::pin(async move {
                let (child, _) = Actor::spawn_linked(None, actor(), arguments, supervisor).await?;
                Ok(child.get_cell())
            })
        };
        Self { name: name.into(), spawn: Arc::new(spawn) }
    }
}

/// A supervisor over a fixed list of children.
#[derive(Debug, Default)]
pub struct Supervisor;

/// The arguments of a supervisor.
#[derive(Clone, Debug)]
pub struct SupervisorArguments {
    /// The children, started in this order.
    pub children: Vec<ChildSpec>,
    /// The restart policy of each child.
    pub policy: RestartPolicy,
}

/// Messages of a supervisor.
#[derive(Debug)]
pub enum SupervisorMessage {
    /// Starts the child of this number.
    Start(usize),
}

/// The state of a supervisor.
#[derive(Debug)]
pub struct SupervisorState {
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    spec: ChildSpec,
    tracker: RestartTracker,
    id: Option<ActorId>,
}

impl Supervisor {
    /// Starts the child; a failed start is retried like a child's end.
    async fn start(myself: &ActorRef<SupervisorMessage>, state: &mut SupervisorState, number: usize) {
        let Some(child) = state.children.get_mut(number) else { return };
        match (child.spec.spawn)(myself.get_cell()).await {
            Ok(cell) => child.id = Some(cell.get_id()),
            Err(error) => {
                tracing::error!(child = child.spec.name, %error, "actor did not start");
                Self::restart(myself, child, number);
            }
        }
    }

    fn restart(myself: &ActorRef<SupervisorMessage>, child: &mut Child, number: usize) {
        child.id = None;
        let wait = child.tracker.on_failure(Instant::now()).delay();
        tracing::warn!(child = child.spec.name, ?wait, "actor is restarted");
        myself.send_after(wait, move || SupervisorMessage::Start(number));
    }
}

#[ractor::async_trait]
impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let policy = arguments.policy;
        let children = arguments.children.into_iter();
        let children = children.map(|spec| Child { spec, tracker: RestartTracker::new(policy), id: None });
        let state = SupervisorState { children: children.collect() };
        for number in 0..state.children.len() {
            myself.cast(SupervisorMessage::Start(number))?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMessage::Start(number) = message;
        Self::start(&myself, state, number).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (ended, reason) = match event {
            SupervisionEvent::ActorFailed(ended, error) => (ended, error.to_string()),
            SupervisionEvent::ActorTerminated(ended, _, reason) => (ended, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        let id = Some(ended.get_id());
        if let Some(number) = state.children.iter().position(|child| child.id == id) {
            let child = &mut state.children[number];
            tracing::error!(child = child.spec.name, %reason, "actor ended");
            Self::restart(&myself, child, number);
        }
        Ok(())
    }
}
