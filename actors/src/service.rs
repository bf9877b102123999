//! A generic actor for services that only forward their messages: to decisions on the store's commit thread, and to tasks.
//!
//! Such a service has no state that a restart would lose. The actor adds supervision, an address that outlives restarts
//! ([`ActorAddress`]), and a bound on concurrent calls ([`Request`]).

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, Message, RpcReplyPort};
use tokio::sync::OwnedSemaphorePermit;

use crate::supervisor::ChildSpec;

/// A call with its place in the bound on concurrent calls, held until it is answered: a mailbox has no bound of its own.
pub struct Request<T, E> {
    reply: RpcReplyPort<Result<T, E>>,
    _place: OwnedSemaphorePermit,
}

impl<T, E> Debug for Request<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl<T: Send + 'static, E: Send + 'static> Request<T, E> {
    /// Returns a call with its place.
    pub const fn new(reply: RpcReplyPort<Result<T, E>>, place: OwnedSemaphorePermit) -> Self {
        Self { reply, _place: place }
    }

    /// Returns `true` once its caller has gone away.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers the call. The caller may have gone away meanwhile.
    pub fn answer(self, answer: Result<T, E>) {
        let _ = self.reply.send(answer);
    }
}

/// The address of an actor, across restarts.
#[derive(Debug)]
pub struct ActorAddress<M>(Mutex<Option<ActorRef<M>>>);

impl<M: Message> Default for ActorAddress<M> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<M: Message> ActorAddress<M> {
    fn set(&self, actor: Option<ActorRef<M>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    /// Returns the actor and removes its address.
    #[cfg(test)]
    pub fn take(&self) -> Option<ActorRef<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the running actor; waits for one that is being started, up to a limit.
    pub async fn running(&self, limit: Duration) -> Option<ActorRef<M>> {
        let deadline = Instant::now() + limit;
        loop {
            let actor = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let running = actor.filter(|actor| actor.get_status() == ActorStatus::Running);
            if running.is_some() || Instant::now() >= deadline {
                return running;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// An interval, and the message of each tick.
pub type Tick<M> = (Duration, fn() -> M);

/// A service behind a [`ServiceActor`]. It is cloned for each start of its actor.
pub trait Service: Clone + Send + Sync + 'static {
    /// The type of its messages.
    type Message: Message;

    /// A message that it receives at intervals, if any.
    const TICK: Option<Tick<Self::Message>> = None;

    /// Work to be done before it has an address.
    fn start(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Forwards a message. Must not block.
    fn handle(&mut self, message: Self::Message);

    /// Work to be done when its actor stops.
    fn stop(&mut self) {}
}

/// Returns a child that runs a service, whose address is in `address` while it runs. `name` is for logs.
pub fn child<S: Service>(
    name: impl Into<String>,
    service: S,
    address: Arc<ActorAddress<S::Message>>,
) -> ChildSpec {
    ChildSpec::new(name, || ServiceActor::<S>(PhantomData), Running { service, address })
}

/// The actor of a service.
struct ServiceActor<S>(PhantomData<fn() -> S>);

/// The arguments and the state of the actor.
struct Running<S: Service> {
    service: S,
    address: Arc<ActorAddress<S::Message>>,
}

// Derived, it would require messages that can be cloned.
impl<S: Service> Clone for Running<S> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), address: Arc::clone(&self.address) }
    }
}

#[ractor::async_trait]
impl<S: Service> Actor for ServiceActor<S> {
    type Msg = S::Message;
    type State = Running<S>;
    type Arguments = Running<S>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        mut running: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        running.service.start().await;
        running.address.set(Some(myself.clone()));
        if let Some((interval, message)) = S::TICK {
            myself.send_interval(interval, message);
        }
        Ok(running)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        running: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        running.service.handle(message);
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        running: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        running.address.set(None);
        running.service.stop();
        Ok(())
    }
}
