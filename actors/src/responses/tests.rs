//! The registry over a real store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use ractor::{Actor, ActorRef};
use serde_json::json;

use super::*;
use crate::config::ResponsesConfig;
use crate::identity::{Party, UserId, UserKind, now_s};
use crate::model::{FinishReason, TokenUsage};
use crate::store::{AccountChange, Changes, ResponseChange, Store, StoreError, commit_once, folder_factory};
use crate::supervision::RestartPolicy;
use crate::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};

struct Bench {
    responses: Responses,
    store: Arc<Store>,
    root: ActorRef<SupervisorMessage>,
    user: UserId,
}

impl Bench {
    /// Opens a folder, with one user.
    async fn open(folder: &Path, user: Option<UserId>, config: ResponsesConfig) -> Self {
        let store = Arc::new(Store::open(folder_factory(folder), |_| async { Ok(()) }).unwrap());
        let user = match user {
            Some(user) => user,
            None => {
                let member = crate::identity::new_member(UserKind::Member);
                let id = member.id;
                commit(&store, Changes::accounts(vec![AccountChange::PutUser(member)])).await;
                id
            }
        };
        let responses = Responses::new(Arc::clone(&store), config);
        let arguments =
            SupervisorArguments { children: responses.children(), policy: RestartPolicy::default() };
        let (root, _) = Actor::spawn(None, Supervisor, arguments).await.unwrap();
        Self { responses, store, root, user }
    }

    fn record(&self, background: bool) -> ResponseRecord {
        ResponseRecord { background, ..ResponseRecord::new(self.user, now_s(), json!({})) }
    }

    async fn begin(&self, record: &ResponseRecord, source: Source) -> Result<Reader, ResponsesError> {
        self.responses
            .begin(NewRun {
                record: record.clone(),
                party: Party::User(record.user),
                source,
                keep: RunLifetime::Always,
            })
            .await
    }

    async fn close(self) {
        self.root.stop_and_wait(None, None).await.unwrap();
        let store = self.store;
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }
}

async fn commit(store: &Store, changes: Changes) {
    let (sender, done) = tokio::sync::oneshot::channel();
    store.write(
        move |stores| async move { commit_once(&*stores, &changes).await },
        move |outcome: Result<(), StoreError>| sender.send(outcome).unwrap(),
    );
    done.await.unwrap().unwrap();
}

fn says(text: &str) -> Source {
    let delta = Delta { text: text.to_owned(), ..Delta::default() };
    Box::pin(stream::iter([
        RunEvent::Started,
        RunEvent::Delta(delta),
        RunEvent::Finished(FinishReason::Stop, TokenUsage::default()),
    ]))
}

/// Yields one piece and never ends.
fn endless() -> Source {
    let delta = Delta { text: "a".to_owned(), ..Delta::default() };
    Box::pin(stream::iter([RunEvent::Started, RunEvent::Delta(delta)]).chain(stream::pending()))
}

#[tokio::test]
async fn responses_are_stored_and_found_by_their_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path(), None, ResponsesConfig::default()).await;
    let record = bench.record(false);
    let mut reader = bench.begin(&record, says("hi")).await.unwrap();
    let (progress, _) = reader.end().await;
    let found = bench.responses.find(bench.user, record.id).await.unwrap();
    assert!(found.reader.is_none());
    assert_eq!(found.record.progress(), progress);
    let stranger = bench.responses.find(UserId::new(), record.id).await;
    assert_eq!(stranger.err(), Some(ResponsesError::NotFound(record.id)));
    assert_eq!(
        bench.responses.delete(UserId::new(), record.id).await,
        Err(ResponsesError::NotFound(record.id))
    );
    let user = bench.user;
    bench.close().await;
    let bench = Bench::open(folder.path(), Some(user), ResponsesConfig::default()).await;
    assert_eq!(bench.responses.find(user, record.id).await.unwrap().record.progress(), progress);
    bench.responses.delete(user, record.id).await.unwrap();
    assert!(bench.responses.find(user, record.id).await.is_err());
    bench.close().await;
}

#[tokio::test]
async fn responses_running_at_a_stop_have_failed() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path(), None, ResponsesConfig::default()).await;
    let record = bench.record(true);
    let reader = bench.begin(&record, endless()).await.unwrap();
    let found = bench.responses.find(bench.user, record.id).await.unwrap();
    assert!(found.record.end.is_none() && found.reader.is_some());
    drop((reader, found));
    let user = bench.user;
    bench.close().await;
    let bench = Bench::open(folder.path(), Some(user), ResponsesConfig::default()).await;
    let found = bench.responses.find(user, record.id).await.unwrap();
    assert_eq!(found.record.end.unwrap().status, EndStatus::Failed);
    assert!(found.reader.is_none());
    bench.close().await;
}

#[tokio::test]
async fn restart_of_the_actor_ends_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path(), None, ResponsesConfig::default()).await;
    let record = bench.record(true);
    let mut reader = bench.begin(&record, endless()).await.unwrap();
    bench.responses.kill_actor();
    let found = bench.responses.find(bench.user, record.id).await.unwrap();
    assert!(found.record.end.is_none() && found.reader.is_some());
    let cancelled = bench.responses.cancel(bench.user, record.id).await.unwrap();
    assert_eq!(cancelled.record.end.as_ref().unwrap().status, EndStatus::Cancelled);
    assert_eq!(cancelled.record.deltas.len(), 1);
    assert_eq!(reader.end().await.0, cancelled.record.progress());
    bench.close().await;
}

#[tokio::test]
async fn background_places_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let config = ResponsesConfig { max_background_per_user: 2, ..ResponsesConfig::default() };
    let bench = Bench::open(folder.path(), None, config).await;
    let records: Vec<_> = (0..3).map(|_| bench.record(true)).collect();
    for record in &records[..2] {
        bench.begin(record, endless()).await.unwrap();
    }
    let refused = bench.begin(&records[2], endless()).await;
    assert!(matches!(refused, Err(ResponsesError::TooManyInBackground { running: 2, .. })));
    assert!(bench.responses.find(bench.user, records[2].id).await.is_err(), "what was refused is not stored");
    bench.responses.delete(bench.user, records[0].id).await.unwrap();
    // The place is free once the run has ended.
    for _ in 0..1000 {
        match bench.begin(&records[2], endless()).await {
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    assert!(bench.responses.find(bench.user, records[2].id).await.is_ok());
    bench.close().await;
}

#[tokio::test]
async fn old_and_orphaned_responses_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path(), None, ResponsesConfig::default()).await;
    let ended = |record: ResponseRecord| ResponseRecord { end: Some(End::cancelled(1)), ..record };
    let keep = ended(bench.record(false));
    let nobodys = ResponseRecord { user: UserId::new(), ..ended(bench.record(false)) };
    // A version 7 UUID of 1970.
    let mut bytes = keep.id.to_bytes();
    bytes[..6].copy_from_slice(&[0, 0, 0, 0, 0, 1]);
    let old = ResponseRecord { id: ResponseId::from_bytes(bytes), ..keep.clone() };
    let all = [&keep, &nobodys, &old];
    for record in all.map(Clone::clone) {
        let staged = bench
            .store
            .look(move |stores| async move { stores.responses().stage(&record).await })
            .await
            .unwrap();
        commit(&bench.store, Changes::responses(vec![ResponseChange::PutStaged(staged)])).await;
    }
    let user = bench.user;
    bench.close().await;
    let bench = Bench::open(folder.path(), Some(user), ResponsesConfig::default()).await;
    assert!(bench.responses.find(user, keep.id).await.is_ok());
    assert!(bench.responses.find(user, old.id).await.is_err());
    assert!(bench.responses.find(nobodys.user, nobodys.id).await.is_err());
    bench.close().await;
}
