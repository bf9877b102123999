use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::super::memory::MemoryFactory;
use super::super::*;
use crate::identity::UserId;
use async_trait::async_trait;

/// Runs a change and waits until it is durable.
fn write<T: Send + 'static>(
    store: &Store,
    change: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = mpsc::channel();
    store.write(move |_| async move { change() }, move |outcome| sender.send(outcome).unwrap());
    receiver.recv().unwrap()
}

fn read<T: Send + 'static>(store: &Store, look: impl FnOnce(&dyn Stores) -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    store.read(move |stores| sender.send(look(&*stores.unwrap())).unwrap());
    receiver.recv().unwrap()
}

/// A store that counts its syncs and fails on demand.
#[derive(Debug)]
struct Fake {
    syncs: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    /// Changes are refused, as after a write of the database's own that failed.
    stuck: Arc<AtomicBool>,
    inner: Arc<dyn Stores>,
}

#[async_trait]
impl Stores for Fake {
    fn accounts(&self) -> &dyn AccountsStore {
        self.inner.accounts()
    }

    fn sessions(&self) -> &dyn SessionsStore {
        self.inner.sessions()
    }

    fn usage(&self) -> &dyn UsageStore {
        self.inner.usage()
    }

    fn records(&self) -> &dyn RecordsStore {
        self.inner.records()
    }

    fn audit(&self) -> &dyn AuditStore {
        self.inner.audit()
    }

    fn responses(&self) -> &dyn ResponsesStore {
        self.inner.responses()
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        self.inner.conversations()
    }

    async fn snapshot(self: Arc<Self>, scope: Scope) -> Result<Snapshot, StoreError> {
        Arc::clone(&self.inner).snapshot(scope).await
    }

    async fn decision(self: Arc<Self>, _attempt: usize) -> Result<Arc<dyn Stores>, StoreError> {
        Ok(self)
    }

    async fn used(&self, user: UserId) -> Result<Used, StoreError> {
        self.inner.used(user).await
    }

    fn quotas(&self) -> Quotas {
        self.inner.quotas()
    }

    async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        self.inner.commit(changes).await
    }

    async fn deleting_users(&self) -> Result<Vec<UserId>, StoreError> {
        self.inner.deleting_users().await
    }

    async fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        self.inner.cleanup(until).await
    }

    async fn finish_cleanup(&self) -> Result<(), StoreError> {
        self.inner.finish_cleanup().await
    }

    async fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        self.inner.move_some(from, to).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        // As slow as a disk, so that others come to wait.
        std::thread::sleep(Duration::from_millis(5));
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Database("the disk is full".to_owned()));
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        match self.stuck.load(Ordering::SeqCst) {
            true => Err(StoreError::OutOfSpace("an earlier write".to_owned())),
            false => Ok(()),
        }
    }
}

struct Faked {
    store: Store,
    syncs: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
    opens: Arc<AtomicUsize>,
}

fn fake() -> Faked {
    let (syncs, fails, opens) = (Arc::default(), Arc::default(), Arc::new(AtomicUsize::new(0)));
    let stuck: Arc<AtomicBool> = Arc::default();
    let (a, b, c, d) = (Arc::clone(&syncs), Arc::clone(&fails), Arc::clone(&opens), Arc::clone(&stuck));
    let store = Store::start(Box::new(move || {
        c.fetch_add(1, Ordering::SeqCst);
        let inner = block_on(MemoryFactory::default().open())?.into();
        Ok(Arc::new(Fake { syncs: Arc::clone(&a), fails: Arc::clone(&b), stuck: Arc::clone(&d), inner }))
    }));
    Faked { store: store.unwrap(), syncs, fails, stuck, opens }
}

#[test]
fn writers_that_wait_share_a_sync_and_are_told_in_order() {
    let faked = fake();
    let (sender, receiver) = mpsc::channel();
    for number in 0..500 {
        let sender = sender.clone();
        faked.store.write(
            move |_| async move { Ok(number) },
            move |outcome: Result<i32, StoreError>| sender.send(outcome.unwrap()).unwrap(),
        );
    }
    drop(sender);
    assert!(receiver.iter().eq(0..500));
    let syncs = faked.syncs.load(Ordering::SeqCst);
    assert!(syncs < 20, "{syncs} syncs for 500 writes");
}

#[test]
fn nobody_is_told_before_the_sync_and_refusals_need_none() {
    let faked = fake();
    let syncs = Arc::clone(&faked.syncs);
    let (sender, receiver) = mpsc::channel();
    faked.store.write(
        |_| async { Ok(()) },
        move |_: Result<(), StoreError>| sender.send(syncs.load(Ordering::SeqCst)).unwrap(),
    );
    assert_eq!(receiver.recv(), Ok(1));
    let refusal = StoreError::Database("no".to_owned());
    assert_eq!(write(&faked.store, || Err::<(), _>(StoreError::Database("no".to_owned()))), Err(refusal));
    read(&faked.store, |_| ());
    assert_eq!(faked.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_job_that_panics_ends_alone() {
    let faked = fake();
    let (sender, receiver) = mpsc::channel::<()>();
    let change = async |_| -> Result<(), StoreError> { panic!("on purpose") };
    faked.store.write(change, move |_| drop(sender));
    assert!(receiver.recv().is_err(), "who waits is told by the reply being dropped");
    assert_eq!(write(&faked.store, || Ok(7)), Ok(7));
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_it_is_open_again() {
    let faked = fake();
    faked.fails.store(true, Ordering::SeqCst);
    let full = StoreError::Database("the disk is full".to_owned());
    assert_eq!(write(&faked.store, || Ok(1)), Err(full));
    assert!(!faked.store.is_healthy());
    assert_eq!(write(&faked.store, || Ok(2)), Err(StoreError::Reopening));
    faked.fails.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(write(&faked.store, || Ok(3)), Ok(3));
    assert!(faked.store.is_healthy());
    assert_eq!(faked.opens.load(Ordering::SeqCst), 2);
}

#[test]
fn a_database_that_takes_no_changes_is_opened_again_though_nothing_was_to_sync() {
    let faked = fake();
    let refused = || Err::<(), _>(StoreError::OutOfSpace("an earlier write".to_owned()));
    assert!(write(&faked.store, refused).is_err());
    assert!(faked.store.is_healthy(), "what is refused for a reason of its own is no failure");
    faked.stuck.store(true, Ordering::SeqCst);
    assert!(write(&faked.store, refused).is_err());
    let waits = write(&faked.store, || Ok(2));
    assert!(matches!(waits, Err(StoreError::OutOfSpace(_))), "a full disk stays the reason: {waits:?}");
    assert!(!faked.store.is_healthy());
    faked.stuck.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(write(&faked.store, || Ok(3)), Ok(3));
    assert_eq!(faked.opens.load(Ordering::SeqCst), 2);
}

/// A read of a database that waits ends with its caller.
#[tokio::test]
async fn dropped_look_is_ended() {
    let faked = fake();
    let (reply, began) = tokio::sync::oneshot::channel();
    let (held, ended) = tokio::sync::oneshot::channel::<()>();
    let look = faked.store.look(move |_| async move {
        let _held = held;
        let _ = reply.send(());
        std::future::pending::<Result<(), StoreError>>().await
    });
    tokio::select! {
        _ = look => unreachable!("it never ends"),
        began = began => began.unwrap(),
    }
    assert!(ended.await.is_err(), "what it held is dropped");
    assert_eq!(faked.store.look(|_| async { Ok::<_, StoreError>(7) }).await, Ok(7));
}
