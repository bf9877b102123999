//! Reads of several records that see one state, while others commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{NewSubject, conversation, item, no_quotas};
use crate::conversations::{ConversationId, ConversationRecord};
use crate::identity::UserId;
use crate::store::{
    Changes, ConversationChange, Scope, Store, StoreError, StoreFactory, Stores, commit_once,
};

fn open(factory: Box<dyn StoreFactory>) -> Arc<Store> {
    Arc::new(Store::open(factory, |_| async { Ok(()) }).unwrap())
}

/// Commits a conversation and its item, both with one number.
async fn put(store: &Store, talk: &ConversationRecord, number: u64) {
    let record = ConversationRecord { title: Some(number.to_string()), updated_us: number, ..talk.clone() };
    let item = item(0, &number.to_string());
    let changes = vec![ConversationChange::PutItem(talk.id, item), ConversationChange::Put(record)];
    let (reply, answer) = tokio::sync::oneshot::channel();
    let change = |stores: Arc<dyn Stores>| async move {
        commit_once(&*stores, &Changes::conversations(changes)).await
    };
    store.write(change, move |outcome: Result<(), StoreError>| drop(reply.send(outcome)));
    answer.await.unwrap().unwrap();
}

async fn title(stores: &dyn Stores, id: ConversationId) -> Result<String, StoreError> {
    Ok(stores.conversations().conversation(id).await?.and_then(|talk| talk.title).unwrap_or_default())
}

async fn text(stores: &dyn Stores, id: ConversationId) -> Result<String, StoreError> {
    let item = stores.conversations().item(id, 0).await?;
    Ok(item.map(|item| item.body["content"].as_str().unwrap().to_owned()).unwrap_or_default())
}

/// A reader whose first attempts are each interrupted by a commit of another conversation or of the same.
async fn interrupted(
    store: &Arc<Store>,
    (scope, talk, changed): (Scope, &ConversationRecord, &ConversationRecord),
    (attempts, pause): (usize, Duration),
) -> (Result<(String, String), StoreError>, usize) {
    let made = Arc::new(AtomicUsize::new(0));
    let (writer, counter) = (Arc::clone(store), Arc::clone(&made));
    let (id, changed) = (talk.id, changed.clone());
    let look = move |stores: Arc<dyn Stores>| async move {
        let title = title(&*stores, id).await?;
        if counter.fetch_add(1, Ordering::SeqCst) < attempts {
            put(&writer, &changed, 100 + counter.load(Ordering::SeqCst) as u64).await;
            std::thread::sleep(pause);
        }
        Ok::<_, StoreError>((title, text(&*stores, id).await?))
    };
    let outcome = store.look_at(scope, look).await;
    (outcome, made.load(Ordering::SeqCst))
}

pub async fn interrupted_reads_see_one_state(new: NewSubject) {
    let subject = new(no_quotas());
    let has_snapshots = subject.has_snapshots;
    let store = open(subject.factory);
    let (talk, other) = (conversation(UserId::new()), conversation(UserId::new()));
    put(&store, &talk, 1).await;
    put(&store, &other, 1).await;
    for scope in [Scope::Conversation(talk.id), Scope::User(talk.user)] {
        let (seen, attempts) = interrupted(&store, (scope, &talk, &talk), (1, Duration::ZERO)).await;
        let (title, text) = seen.unwrap();
        assert_eq!(title, text);
        assert_eq!(attempts, if has_snapshots { 1 } else { 2 }, "{scope:?}");
    }
    let scope = Scope::Conversation(talk.id);
    let (seen, attempts) = interrupted(&store, (scope, &talk, &other), (9, Duration::ZERO)).await;
    let (title, text) = seen.unwrap();
    assert_eq!((title, attempts), (text, 1), "changes of others do not matter");
}

/// Somebody who changes it in every attempt: a short read gets its turn on the commit thread, a long one is refused.
pub async fn reads_that_always_meet_a_commit_end(new: NewSubject) {
    let subject = new(no_quotas());
    let has_snapshots = subject.has_snapshots;
    let store = open(subject.factory);
    let talk = conversation(UserId::new());
    put(&store, &talk, 1).await;
    let scope = Scope::Conversation(talk.id);
    let (seen, attempts) = interrupted(&store, (scope, &talk, &talk), (4, Duration::from_millis(20))).await;
    match has_snapshots {
        true => assert!(seen.is_ok_and(|(title, text)| title == text) && attempts == 1),
        false => assert_eq!((seen, attempts), (Err(StoreError::Conflict), 4)),
    }
    let seen = store.look_alone(move |stores| async move {
        Ok::<_, StoreError>((title(&*stores, talk.id).await?, text(&*stores, talk.id).await?))
    });
    let (title, text) = seen.await.unwrap();
    assert_eq!(title, text);
}

/// Without interruptions that are made on purpose.
pub async fn concurrent_reads_see_one_state(new: NewSubject) {
    let store = open(new(no_quotas()).factory);
    let talk = conversation(UserId::new());
    put(&store, &talk, 1).await;
    let (writer, changed) = (Arc::clone(&store), talk.clone());
    let writes = async move {
        for number in 2..300 {
            put(&writer, &changed, number).await;
        }
    };
    let reads = async {
        for _ in 0..300 {
            let look = move |stores: Arc<dyn Stores>| async move {
                Ok::<_, StoreError>((title(&*stores, talk.id).await?, text(&*stores, talk.id).await?))
            };
            let (title, text) = store.look_at(Scope::Conversation(talk.id), look).await.unwrap();
            assert_eq!(title, text);
        }
    };
    futures_util::future::join(writes, reads).await;
}
