//! Crashes, of stores that claim to be durable: a copy of the files at a moment is the state that a killed process leaves.

use super::{
    NewSubject, clean_up, commit, conversation, item, no_quotas, put_response, put_users, response, session,
    user,
};
use crate::store::{
    AccountChange, Changes, ConversationChange, ResponseChange, SessionChange, StoreError, Used,
};

pub fn synced_changes_survive(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    for round in 0..10 {
        let somebody = user(&format!("{round}@x.example"));
        let (talk, answer) = (conversation(somebody.id), response(somebody.id, &"x".repeat(100_000)));
        let staged = stores.responses().stage(&answer).unwrap();
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
        commit(&*stores, &changes);
        stores.sync().unwrap();
        let Some(crashed) = subject.crashed() else { return };
        let again = crashed.open();
        assert_eq!(again.accounts().users(None, 100).unwrap().len(), round + 1);
        assert_eq!(again.accounts().user(somebody.id).unwrap().as_ref(), Some(&somebody));
        assert_eq!(again.sessions().sessions(somebody.id).unwrap().len(), 1);
        let stored = again.conversations().item(talk.id, 0).unwrap();
        assert_eq!(stored, Some(item(0, &"y".repeat(100_000))));
        assert_eq!(again.responses().response(answer.id).unwrap(), Some(answer));
        assert_eq!(again.used(somebody.id).unwrap(), stores.used(somebody.id).unwrap());
    }
}

pub fn deletions_are_completed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let (gone, stays) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&gone, &stays]);
    let talks = [conversation(gone.id), conversation(stays.id)];
    let put = talks.iter().flat_map(|talk| {
        [
            ConversationChange::Put(talk.clone()),
            ConversationChange::PutItem(talk.id, item(0, &"x".repeat(300_000))),
        ]
    });
    commit(&*stores, &Changes::conversations(put.collect()));
    for somebody in [&gone, &stays] {
        put_response(&*stores, &response(somebody.id, "a"));
    }
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(gone.id)]));
    stores.sync().unwrap();
    for steps in 0..8 {
        let Some(crashed) = subject.crashed() else { return };
        let again = crashed.open();
        clean_up(&*again);
        assert_eq!(again.deleting_users().unwrap(), [], "after {steps} steps");
        assert_eq!(again.conversations().nodes(talks[0].id).unwrap(), []);
        assert_eq!(again.responses().owners().unwrap(), [stays.id]);
        assert_eq!(again.conversations().nodes(talks[1].id).unwrap().len(), 1);
        assert_eq!(again.used(gone.id).unwrap(), Used::default());
        assert_eq!(again.used(stays.id).unwrap(), stores.used(stays.id).unwrap());
        let _ = stores.cleanup(std::time::Instant::now()).unwrap();
        stores.sync().unwrap();
    }
}

pub fn staged_responses_are_removed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let (one, other) = (response(user("a@x.example").id, "a"), response(user("b@x.example").id, "b"));
    put_response(&*stores, &one);
    let _ = stores.responses().stage(&other).unwrap();
    stores.sync().unwrap();
    let Some(crashed) = subject.crashed() else { return };
    let again = crashed.open();
    clean_up(&*again);
    assert_eq!(again.responses().response(other.id).unwrap(), None);
    assert_eq!(again.responses().response(one.id).unwrap(), Some(one));
    assert_eq!(again.used(other.user).unwrap(), Used::default());
}

pub fn staged_items_survive_or_are_removed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let talk = conversation(user("a@x.example").id);
    let large = item(0, &"x".repeat(300_000));
    let stage = || stores.conversations().stage(&large.body).unwrap();
    let put = ConversationChange::PutStaged(talk.id, large.node.clone(), stage());
    let lost = ConversationChange::PutStaged(talk.id, large.node.clone(), stage());
    commit(&*stores, &Changes::conversations(vec![put, ConversationChange::Put(talk.clone())]));
    stores.sync().unwrap();
    let Some(crashed) = subject.crashed() else { return };
    let again = crashed.open();
    clean_up(&*again);
    assert_eq!(again.conversations().item(talk.id, 0).unwrap(), Some(large));
    assert_eq!(again.commit(&Changes::conversations(vec![lost])), Err(StoreError::Reopening));
}

/// Also the part that needs no durability: closing and opening again in one process changes nothing that was synced.
pub fn store_is_the_same_after_reopening(new: NewSubject) {
    let subject = new(no_quotas());
    let somebody = user("a@x.example");
    let stores = subject.open();
    let id = stores.records().store_id().unwrap();
    put_users(&*stores, &[&somebody]);
    stores.sync().unwrap();
    drop(stores);
    let again = subject.open();
    assert_eq!(again.records().store_id().unwrap(), id);
    assert_eq!(again.accounts().users(None, 9).unwrap(), [somebody]);
}
