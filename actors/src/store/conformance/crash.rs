//! Crashes, of stores that claim to be durable: a copy of the files at a moment is the state that a killed process leaves.

use super::{
    NewSubject, clean_up, commit, conversation, item, no_quotas, put_response, put_users, response, session,
    user,
};
use crate::store::{
    AccountChange, Changes, ConversationChange, ResponseChange, SessionChange, StoreError, Used,
};

pub async fn synced_changes_survive(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    for round in 0..10 {
        let somebody = user(&format!("{round}@x.example"));
        let (talk, answer) = (conversation(somebody.id), response(somebody.id, &"x".repeat(100_000)));
        let staged = stores.responses().stage(&answer).await.unwrap();
        let changes = Changes {
            accounts: vec![AccountChange::PutUser(somebody.clone())],
            sessions: vec![SessionChange::Put(session(somebody.id))],
            conversations: vec![
                ConversationChange::Put(talk.clone()),
                ConversationChange::PutItem(talk.id, item(0, &"y".repeat(100_000))),
            ],
            responses: vec![ResponseChange::PutStaged(staged)],
            ..Changes::default()
        };
        commit(&*stores, &changes).await;
        stores.sync().await.unwrap();
        let Some(crashed) = subject.crashed() else { return };
        let again = crashed.open().await;
        assert_eq!(again.accounts().users(None, 100).await.unwrap().len(), round + 1);
        assert_eq!(again.accounts().user(somebody.id).await.unwrap().as_ref(), Some(&somebody));
        assert_eq!(again.sessions().sessions(somebody.id).await.unwrap().len(), 1);
        let stored = again.conversations().item(talk.id, 0).await.unwrap();
        assert_eq!(stored, Some(item(0, &"y".repeat(100_000))));
        assert_eq!(again.responses().response(answer.id).await.unwrap(), Some(answer));
        assert_eq!(again.used(somebody.id).await.unwrap(), stores.used(somebody.id).await.unwrap());
    }
}

pub async fn deletions_are_completed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (gone, stays) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&gone, &stays]).await;
    let talks = [conversation(gone.id), conversation(stays.id)];
    let put = talks.iter().flat_map(|talk| {
        [
            ConversationChange::Put(talk.clone()),
            ConversationChange::PutItem(talk.id, item(0, &"x".repeat(300_000))),
        ]
    });
    commit(&*stores, &Changes::conversations(put.collect())).await;
    for somebody in [&gone, &stays] {
        put_response(&*stores, &response(somebody.id, "a")).await;
    }
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(gone.id)])).await;
    stores.sync().await.unwrap();
    for steps in 0..8 {
        let Some(crashed) = subject.crashed() else { return };
        let again = crashed.open().await;
        clean_up(&*again).await;
        assert_eq!(again.deleting_users().await.unwrap(), [], "after {steps} steps");
        assert_eq!(again.conversations().nodes(talks[0].id).await.unwrap(), []);
        assert_eq!(again.responses().owners().await.unwrap(), [stays.id]);
        assert_eq!(again.conversations().nodes(talks[1].id).await.unwrap().len(), 1);
        assert_eq!(again.used(gone.id).await.unwrap(), Used::default());
        assert_eq!(again.used(stays.id).await.unwrap(), stores.used(stays.id).await.unwrap());
        let _ = stores.cleanup(std::time::Instant::now()).await.unwrap();
        stores.sync().await.unwrap();
    }
}

pub async fn staged_responses_are_removed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (one, other) = (response(user("a@x.example").id, "a"), response(user("b@x.example").id, "b"));
    put_response(&*stores, &one).await;
    let _ = stores.responses().stage(&other).await.unwrap();
    stores.sync().await.unwrap();
    let Some(crashed) = subject.crashed() else { return };
    let again = crashed.open().await;
    clean_up(&*again).await;
    assert_eq!(again.responses().response(other.id).await.unwrap(), None);
    assert_eq!(again.responses().response(one.id).await.unwrap(), Some(one));
    assert_eq!(again.used(other.user).await.unwrap(), Used::default());
}

pub async fn staged_items_survive_or_are_removed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let talk = conversation(user("a@x.example").id);
    let large = item(0, &"x".repeat(300_000));
    let stage = async || stores.conversations().stage(&large.body).await.unwrap();
    let put = ConversationChange::PutStaged(talk.id, large.node.clone(), stage().await);
    let lost = ConversationChange::PutStaged(talk.id, large.node.clone(), stage().await);
    commit(&*stores, &Changes::conversations(vec![put, ConversationChange::Put(talk.clone())])).await;
    stores.sync().await.unwrap();
    let Some(crashed) = subject.crashed() else { return };
    let again = crashed.open().await;
    clean_up(&*again).await;
    assert_eq!(again.conversations().item(talk.id, 0).await.unwrap(), Some(large));
    assert_eq!(again.commit(&Changes::conversations(vec![lost])).await, Err(StoreError::Reopening));
}

/// Also the part that needs no durability: closing and opening again in one process changes nothing that was synced.
pub async fn store_is_the_same_after_reopening(new: NewSubject) {
    let subject = new(no_quotas());
    let somebody = user("a@x.example");
    let stores = subject.open().await;
    let id = stores.records().store_id().await.unwrap();
    put_users(&*stores, &[&somebody]).await;
    stores.sync().await.unwrap();
    drop(stores);
    let again = subject.open().await;
    assert_eq!(again.records().store_id().await.unwrap(), id);
    assert_eq!(again.accounts().users(None, 9).await.unwrap(), [somebody]);
}
