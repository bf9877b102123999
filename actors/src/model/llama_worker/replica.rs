//! State of one replica, shared by its actor, its worker's connection and those who send it requests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jan_protocol::memory_use::MemoryUse;
use jan_protocol::types::{GenerationError, ModelStatus, TokenizerFacts};
use jan_protocol::worker_protocol::Ready;
use ractor::ActorRef;

use super::actor::ModelMessage;
use super::concealed::without_paths;
use super::in_flight::SharedTable;
use crate::model::backend::Condition;
use crate::model::report::{KvCells, Phase, ReplicaReport};

/// A replica that has prepared nothing for this long, while requests without a constraint wait for it, is not ready.
const MAX_UNPREPARED: Duration = Duration::from_secs(5);

/// One replica.
#[derive(Debug, Default)]
pub struct Replica {
    /// Its requests.
    pub table: SharedTable,
    state: Mutex<ReplicaState>,
}

#[derive(Debug)]
struct ReplicaState {
    status: ModelStatus,
    problem: Option<Problem>,
    ready: Option<Ready>,
    /// What the present worker reported last.
    memory: Option<MemoryUse>,
    /// Workers that were started.
    starts: u64,
    actor: Option<ActorRef<ModelMessage>>,
}

#[derive(Debug)]
struct Problem {
    text: String,
    /// The text without paths.
    public: String,
    retry_at: Instant,
}

impl Default for ReplicaState {
    fn default() -> Self {
        Self {
            status: ModelStatus::Loading,
            problem: None,
            ready: None,
            memory: None,
            starts: 0,
            actor: None,
        }
    }
}

impl Replica {
    fn state(&self) -> MutexGuard<'_, ReplicaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns its actor, while there is one.
    pub fn actor(&self) -> Option<ActorRef<ModelMessage>> {
        self.state().actor.clone()
    }

    /// Notes its actor.
    pub fn set_actor(&self, actor: Option<ActorRef<ModelMessage>>) {
        self.state().actor = actor;
    }

    fn status(&self) -> ModelStatus {
        self.state().status
    }

    /// Returns the known state of it now.
    pub fn condition(&self, now: Instant) -> Condition {
        // Before the state is locked: the holder of the table may want that.
        let status = self.status_now(now);
        let state = self.state();
        let problem = state.problem.as_ref();
        Condition {
            status,
            problem: problem.map(|problem| problem.text.clone()),
            public_problem: problem.map(|problem| problem.public.clone()),
            created: state.ready.as_ref().map(|ready| ready.created),
            context_length: state.ready.as_ref().map(|ready| ready.context_length),
        }
    }

    /// Returns the facts about the tokenizer of the loaded model.
    pub fn tokenizer(&self) -> Option<TokenizerFacts> {
        let state = self.state();
        let ready = state.ready.as_ref()?;
        Some(TokenizerFacts {
            bos: ready.bos_text.clone(),
            eos: ready.eos_text.clone(),
            chat_template: ready.chat_template.clone(),
        })
    }

    /// The status as of now: one that is behind with preparing requests cannot answer either.
    fn status_now(&self, now: Instant) -> ModelStatus {
        let behind = self.table.lock().unprepared_for(now).is_some_and(|time| time > MAX_UNPREPARED);
        match self.status() {
            ModelStatus::Ready if behind => ModelStatus::Unhealthy,
            status => status,
        }
    }

    /// Returns what administrators are told of it.
    pub fn report(&self, now: Instant) -> ReplicaReport {
        let status = self.status_now(now);
        let (running, waiting, load) = {
            let table = self.table.lock();
            let (running, waiting) = table.running_and_waiting();
            (running, waiting, table.load())
        };
        let state = self.state();
        let phase = match status {
            ModelStatus::Loading if state.starts > 1 || state.ready.is_some() => Phase::Restarting,
            ModelStatus::Loading => Phase::Loading,
            ModelStatus::Ready | ModelStatus::Degraded => Phase::Ready,
            ModelStatus::Unhealthy => Phase::Unhealthy,
        };
        let kv_cells = state.ready.as_ref().map(|ready| KvCells {
            total: ready.kv_cells,
            used: load.used_cells,
            cached: load.cached_cells,
        });
        ReplicaReport {
            phase,
            problem: state.problem.as_ref().map(|problem| problem.text.clone()),
            running,
            waiting,
            restarts: state.starts.saturating_sub(1),
            kv_cells,
            memory: state.memory,
            upstream: None,
        }
    }

    /// Notes the memory of its worker.
    pub fn set_memory(&self, memory: MemoryUse) {
        self.state().memory = Some(memory);
    }

    /// Notes that a worker is started; a problem that there was stays known until it is ready.
    pub fn begin_worker(&self) {
        let mut state = self.state();
        state.status = ModelStatus::Loading;
        state.memory = None;
        state.starts += 1;
    }

    /// Notes that there is no worker any more, and that another one will be started.
    pub fn lose_worker(&self) {
        let mut state = self.state();
        state.status = ModelStatus::Loading;
        state.memory = None;
    }

    /// Notes that the model is loaded.
    pub fn set_ready(&self, ready: Ready) {
        let mut state = self.state();
        state.status = ModelStatus::Ready;
        state.problem = None;
        state.ready = Some(ready);
    }

    /// Notes that it cannot answer, why, and when it is tried again. All callers see the problem, without `paths`.
    pub fn set_unhealthy(&self, text: String, paths: &[&str], retry_at: Instant) {
        let mut state = self.state();
        state.status = ModelStatus::Unhealthy;
        state.memory = None;
        state.problem = Some(Problem { public: without_paths(&text, paths), text, retry_at });
    }

    /// Returns the reason why it takes no requests now, if it takes none.
    pub fn unavailable(&self, model: &str, now: Instant) -> Option<GenerationError> {
        let state = self.state();
        let problem = state.problem.as_ref().filter(|_| state.status == ModelStatus::Unhealthy)?;
        Some(GenerationError::ModelUnavailable {
            model: model.to_owned(),
            reason: problem.public.clone(),
            retry_after: problem.retry_at.saturating_duration_since(now),
        })
    }
}
