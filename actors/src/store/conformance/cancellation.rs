//! Futures that are dropped before their end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use super::{NewSubject, clean_up, commit, conversation, item, no_quotas, response, user};
use crate::identity::UserId;
use crate::responses::End;
use crate::store::{
    AccountChange, Changes, ConversationChange, KINDS, ResponseChange, Store, StoreError, Stores, Used,
};

/// Polls a future some times, and drops it if it has not ended by then.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        let poll = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(outcome) = poll {
            return Some(outcome);
        }
    }
    None
}

pub async fn dropped_reads_have_no_effect(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let talk = conversation(UserId::new());
    let put = [ConversationChange::Put(talk.clone()), ConversationChange::PutItem(talk.id, item(0, "a"))];
    commit(&*stores, &Changes::conversations(put.into())).await;
    let talks = stores.conversations();
    for times in 0..3 {
        drop(polled(talks.conversation(talk.id), times).await);
        drop(polled(talks.list(talk.user, None, None, true, 9), times).await);
        drop(polled(talks.items(talk.id, &[0, 0, 0]), times).await);
        drop(polled(stores.records().page(4, None, 9, 9), times).await);
        drop(polled(stores.used(talk.user), times).await);
    }
    assert_eq!(talks.conversation(talk.id).await.unwrap(), Some(talk.clone()));
    assert_eq!(talks.items(talk.id, &[0, 7]).await.unwrap(), [item(0, "a")]);
}

/// Nobody sees anything of a dropped stage, and it stands in the way of nothing.
pub async fn dropped_stages_leave_nothing(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (talk, answer) = (conversation(UserId::new()), response(UserId::new(), &"a".repeat(100_000)));
    let large = item(0, &"x".repeat(100_000));
    for times in 0..4 {
        if let Some(staged) = polled(stores.conversations().stage(&large.body), times).await {
            stores.conversations().discard(&staged.unwrap()).unwrap();
        }
        if let Some(staged) = polled(stores.responses().stage(&answer), times).await {
            stores.responses().discard(&staged.unwrap()).unwrap();
        }
        drop(polled(stores.responses().stage_end(Vec::new(), End::lost(9)), times).await);
    }
    clean_up(&*stores).await;
    for kind in 0..KINDS.len() {
        assert_eq!(stores.records().page(kind, None, 9, 9).await.unwrap(), []);
    }
    assert_eq!(stores.used(answer.user).await.unwrap(), Used::default());
    let body = stores.conversations().stage(&large.body).await.unwrap();
    let put = ConversationChange::PutStaged(talk.id, large.node.clone(), body);
    let staged = stores.responses().stage(&answer).await.unwrap();
    let changes = Changes {
        conversations: vec![put, ConversationChange::Put(talk.clone())],
        responses: vec![ResponseChange::PutStaged(staged)],
        ..Changes::default()
    };
    commit(&*stores, &changes).await;
    assert_eq!(stores.conversations().item(talk.id, 0).await.unwrap(), Some(large));
    assert_eq!(stores.responses().response(answer.id).await.unwrap(), Some(answer));
}

/// The caller of a write is gone before its job begins; the write is made all the same.
pub async fn dropped_callers_interrupt_no_write(new: NewSubject) {
    let store = Store::open(new(no_quotas()).factory, |_| async { Ok(()) }).unwrap();
    let (go, wait) = mpsc::channel::<()>();
    store.read(move |_| wait.recv().unwrap());
    let somebody = user("a@x.example");
    let put = AccountChange::PutUser(somebody.clone());
    let decide = move |stores: Arc<dyn Stores>| async move {
        assert_eq!(stores.accounts().users(None, 9).await?, []);
        Ok::<_, StoreError>(((), Changes::accounts(vec![put])))
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    store.decide(decide, move |outcome| drop(reply.send(outcome)));
    drop(answer);
    go.send(()).unwrap();
    let (reply, turn) = mpsc::channel();
    store.write(|_| async { Ok::<_, StoreError>(()) }, move |outcome| reply.send(outcome).unwrap());
    turn.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    let users = store.look_blocking(|stores| async move { stores.accounts().users(None, 9).await });
    assert_eq!(users.unwrap(), [somebody]);
}
