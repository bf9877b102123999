//! Records of exports and imports.

use super::{
    NewSubject, clean_up, commit, conversation, item, key, no_quotas, put_response, put_users, response,
    session, user,
};
use crate::audit::{AuditOutcome, AuditRecord};
use crate::conversations::{ConversationId, ConversationRecord, Share};
use crate::identity::{UserId, UserRecord};
use crate::responses::End;
use crate::store::{
    AccountChange, Changes, ConversationChange, KINDS, Record, SessionChange, StoreError, Stores, record_kind,
};
use crate::usage::{BatchId, Day, UsageCounts, UsageKey, UsageOwner};

async fn all(stores: &dyn Stores) -> Vec<Record> {
    let mut all = Vec::new();
    for kind in 0..KINDS.len() {
        all.extend(stores.records().page(kind, None, 1000, usize::MAX).await.unwrap());
    }
    all
}

/// Records with values as JSON: the order of fields is not part of the contract.
fn parsed(records: &[Record]) -> Vec<(usize, Vec<u8>, serde_json::Value)> {
    records.iter().map(|record| (record.kind, record.key.clone(), record.json().unwrap())).collect()
}

fn record(kind: &str, key: &[u8], value: &impl serde::Serialize) -> Record {
    let kind = record_kind(kind).unwrap();
    Record { kind, key: key.to_vec(), value: serde_json::to_vec(value).unwrap() }
}

fn user_record(user: &UserRecord) -> Record {
    record("user", &user.id.to_bytes(), user)
}

/// Stores one record of each kind and returns the user.
async fn fill(stores: &dyn Stores) -> (UserRecord, ConversationRecord) {
    let somebody = user("a@x.example");
    let share = Share { token: "share_1".to_owned(), head: Some(0), created_at: 1, expires_at: None };
    let talk = ConversationRecord { share: Some(share), ..conversation(somebody.id) };
    commit(
        stores,
        &Changes {
            accounts: vec![
                AccountChange::PutUser(somebody.clone()),
                AccountChange::PutKey([7; 32], key(somebody.id)),
            ],
            sessions: vec![SessionChange::Put(session(somebody.id))],
            conversations: vec![
                ConversationChange::Put(talk.clone()),
                ConversationChange::PutItem(talk.id, item(0, &"x".repeat(100_000))),
            ],
            ..Changes::default()
        },
    )
    .await;
    put_response(
        stores,
        &crate::responses::ResponseRecord { end: Some(End::lost(9)), ..response(somebody.id, "a") },
    )
    .await;
    let usage =
        UsageKey { user: UsageOwner::User(somebody.id), day: Day::FIRST, key: None, model: "m".into() };
    let batch = BatchId { buffer: uuid::Uuid::new_v4(), number: 1 };
    stores
        .usage()
        .add(batch, &[(usage, UsageCounts { requests: 3, ..UsageCounts::default() })])
        .await
        .unwrap();
    stores.audit().add(&[AuditRecord::new("import", AuditOutcome::Ok)]).await.unwrap();
    (somebody, talk)
}

pub async fn records_bring_their_indexes(new: NewSubject) {
    let (from, to) = (new(no_quotas()), new(no_quotas()));
    let (from, to) = (from.open().await, to.open().await);
    assert_ne!(from.records().store_id().await.unwrap(), to.records().store_id().await.unwrap());
    assert!(from.records().is_empty().await.unwrap());
    let (somebody, talk) = fill(&*from).await;
    assert!(!from.records().is_empty().await.unwrap());
    let records = all(&*from).await;
    assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
    for record in &records {
        assert_eq!(record.check(), Ok(()));
        assert_eq!(to.records().conflict(record).await.unwrap(), None);
    }
    // Twice, which is once.
    for _ in 0..2 {
        to.records().put(&records).await.unwrap();
    }
    assert_eq!(parsed(&all(&*to).await), parsed(&records));
    let accounts = to.accounts();
    let found = Some(somebody.clone());
    assert_eq!(accounts.user_by_email("a@x.example").await.unwrap(), found);
    assert_eq!(accounts.user_by_external(somebody.external.as_ref().unwrap()).await.unwrap(), found);
    assert_eq!(accounts.keys(somebody.id).await.unwrap(), from.accounts().keys(somebody.id).await.unwrap());
    assert_eq!(
        to.sessions().sessions(somebody.id).await.unwrap(),
        from.sessions().sessions(somebody.id).await.unwrap()
    );
    let listed = to.responses().of_user(somebody.id, None, 9).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed, from.responses().of_user(somebody.id, None, 9).await.unwrap());
    let talks = to.conversations();
    assert_eq!(talks.conversation(talk.id).await.unwrap(), Some(talk.clone()));
    assert_eq!(talks.shared("share_1").await.unwrap(), Some(talk.id));
    assert_eq!(talks.item_number(talk.id, "msg_0").await.unwrap(), Some(0));
    assert_eq!(talks.item(talk.id, 0).await.unwrap(), Some(item(0, &"x".repeat(100_000))));
    assert_eq!((to.used(somebody.id).await.unwrap(), from.used(somebody.id).await.unwrap().responses), {
        let used = from.used(somebody.id).await.unwrap();
        (used, 1)
    });
}

pub async fn records_replace_each_other(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (somebody, talk) = fill(&*stores).await;
    let renamed = UserRecord { email: Some("b@x.example".to_owned()), external: None, ..somebody.clone() };
    let put = user_record(&renamed);
    stores.records().put(std::slice::from_ref(&put)).await.unwrap();
    assert_eq!(
        stores.accounts().user_by_email("a@x.example").await.unwrap(),
        None,
        "the former address is free"
    );
    assert_eq!(stores.accounts().user_by_email("b@x.example").await.unwrap(), Some(renamed));
    let stored = stores.records().stored(&put).await.unwrap().unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(json(&stored), json(&put.value));
    let absent = Record { key: UserId::new().to_bytes().to_vec(), ..put };
    assert_eq!(stores.records().stored(&absent).await.unwrap(), None);
    // Items beyond the last one of an imported conversation are gone.
    let empty = ConversationRecord { next: 0, head: None, share: None, ..talk.clone() };
    stores.records().put(&[record("conversation", &talk.id.to_bytes(), &empty)]).await.unwrap();
    assert_eq!(stores.conversations().item(talk.id, 0).await.unwrap(), None);
    assert_eq!(stores.conversations().item_number(talk.id, "msg_0").await.unwrap(), None);
}

pub async fn conflicts_are_found(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (somebody, _) = fill(&*stores).await;
    assert_eq!(stores.records().conflict(&user_record(&somebody)).await.unwrap(), None, "it is the same");
    let other = user("a@x.example");
    let conflict = stores.records().conflict(&user_record(&other)).await.unwrap().unwrap();
    assert_eq!((conflict.index, conflict.key.as_slice()), ("user_by_email", b"a@x.example".as_slice()));
    let other = UserRecord { email: None, ..other };
    let conflict = stores.records().conflict(&user_record(&other)).await.unwrap().unwrap();
    assert_eq!(conflict.index, "user_by_external");
    let other = UserRecord { external: None, ..other };
    assert_eq!(stores.records().conflict(&user_record(&other)).await.unwrap(), None);
    let (hash, own) = stores.accounts().keys(somebody.id).await.unwrap().remove(0);
    assert_eq!(stores.records().conflict(&record("key", &hash, &own)).await.unwrap(), None);
    let conflict = stores.records().conflict(&record("key", &[8; 32], &own)).await.unwrap().unwrap();
    assert_eq!(conflict.index, "key_by_user", "one key of two hashes");
}

pub async fn pages_are_bounded(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let users: Vec<_> = (0..7).map(|number| user(&format!("{number}@x.example"))).collect();
    put_users(&*stores, &users.iter().collect::<Vec<_>>()).await;
    let talk = ConversationRecord { next: 4, ..conversation(users[0].id) };
    let mut changes: Vec<_> = (0..4)
        .map(|number| ConversationChange::PutItem(talk.id, item(number, &"y".repeat(100_000))))
        .collect();
    changes.push(ConversationChange::Put(talk));
    commit(&*stores, &Changes::conversations(changes)).await;
    let kind = |name| record_kind(name).unwrap();
    for limit in 1..4 {
        for name in ["user", "item"] {
            let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
            loop {
                let page =
                    stores.records().page(kind(name), after.as_deref(), limit, usize::MAX).await.unwrap();
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                found.extend(page);
            }
            let whole = stores.records().page(kind(name), None, 100, usize::MAX).await.unwrap();
            assert_eq!(found.len(), if name == "user" { 7 } else { 4 });
            assert_eq!(parsed(&found), parsed(&whole));
            assert!(found.is_sorted_by_key(|record| &record.key));
        }
    }
    let page = stores.records().page(kind("item"), None, 100, 150_000).await.unwrap();
    assert_eq!(page.len(), 2, "the second one reaches the size");
}

pub async fn imported_items_need_their_conversation(new: NewSubject) {
    let (from, to) = (new(no_quotas()), new(no_quotas()));
    let (from, to) = (from.open().await, to.open().await);
    let (_, talk) = fill(&*from).await;
    let kind = record_kind("item").unwrap();
    let items: Vec<_> = all(&*from).await.into_iter().filter(|record| record.kind == kind).collect();
    to.records().put(&items).await.unwrap();
    assert_eq!(to.conversations().item(talk.id, 0).await.unwrap(), None, "of a turn after its conversation");
    to.records().put(&all(&*from).await).await.unwrap();
    assert_eq!(
        to.conversations().item(talk.id, 0).await.unwrap(),
        from.conversations().item(talk.id, 0).await.unwrap()
    );
}

pub async fn large_items_are_imported(new: NewSubject) {
    let (from, to) = (new(no_quotas()), new(no_quotas()));
    let (from, to) = (from.open().await, to.open().await);
    let (_, talk) = fill(&*from).await;
    let large = item(0, &"x".repeat(200_000));
    let put = ConversationChange::PutItem(talk.id, large.clone());
    commit(&*from, &Changes::conversations(vec![put])).await;
    let (items, others): (Vec<_>, Vec<_>) =
        all(&*from).await.into_iter().partition(|record| Some(record.kind) == record_kind("item"));
    to.records().put(&items).await.unwrap();
    clean_up(&*to).await;
    assert_eq!(to.conversations().item(talk.id, 0).await.unwrap(), None);
    to.records().put(&others).await.unwrap();
    for _ in 0..2 {
        to.records().put(&items).await.unwrap();
        clean_up(&*to).await;
        assert_eq!(to.conversations().item(talk.id, 0).await.unwrap(), Some(large.clone()));
    }
}

pub async fn deleted_users_cannot_be_imported(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (somebody, _) = fill(&*stores).await;
    let put = [user_record(&somebody)];
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(somebody.id)])).await;
    assert_eq!(stores.records().put(&put).await, Err(StoreError::Removing));
    clean_up(&*stores).await;
    stores.records().put(&put).await.unwrap();
    assert_eq!(stores.accounts().user(somebody.id).await.unwrap(), Some(somebody.clone()));
    assert_eq!(stores.accounts().keys(somebody.id).await.unwrap(), [], "nothing of the former one is left");
}

pub async fn owners_are_known(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (somebody, talk) = fill(&*stores).await;
    for record in all(&*stores).await {
        let owner = if KINDS[record.kind].name == "audit" { None } else { Some(somebody.id) };
        assert_eq!(stores.records().owner(&record).await.unwrap(), owner, "{}", record.key_text());
    }
    let items = record_kind("item").unwrap();
    let item = all(&*stores).await.into_iter().find(|record| record.kind == items).unwrap();
    commit(&*stores, &Changes::conversations(vec![ConversationChange::Delete(talk.id)])).await;
    assert_eq!(stores.records().owner(&item).await.unwrap(), None, "its conversation is gone");
    assert!(all(&*stores).await.iter().all(|record| record.kind != items), "and is in no export");
    assert_eq!(stores.conversations().conversation(ConversationId::new()).await.unwrap(), None);
}
