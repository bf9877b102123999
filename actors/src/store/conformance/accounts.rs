//! Users, API keys and sessions.

use super::{NewSubject, commit, key, no_quotas, put_users, session, user};
use crate::identity::{ApiKeyRecord, KeyId, SessionId, UserId, UserRecord};
use crate::store::{AccountChange, Changes, KeyHash, SessionChange, StoredSession};

pub async fn users_are_found_by_id_address_and_external_identity(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (a, b) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&a, &b]).await;
    let renamed = UserRecord { email: Some("c@x.example".to_owned()), external: None, ..a.clone() };
    put_users(&*stores, &[&renamed]).await;
    let accounts = stores.accounts();
    assert_eq!(accounts.user(a.id).await.unwrap(), Some(renamed.clone()));
    assert_eq!(accounts.user_by_email("c@x.example").await.unwrap(), Some(renamed));
    assert_eq!(accounts.user_by_email("a@x.example").await.unwrap(), None, "the address is free again");
    assert_eq!(accounts.user_by_external(&a.external.unwrap()).await.unwrap(), None);
    assert_eq!(accounts.user_by_external(b.external.as_ref().unwrap()).await.unwrap(), Some(b.clone()));
    assert_eq!(accounts.user(UserId::new()).await.unwrap(), None);
    let next = user("a@x.example");
    put_users(&*stores, &[&next]).await;
    assert_eq!(accounts.user_by_email("a@x.example").await.unwrap(), Some(next));
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(b.id)])).await;
    assert_eq!(accounts.user(b.id).await.unwrap(), None);
    assert_eq!(accounts.user_by_email("b@x.example").await.unwrap(), None);
    assert_eq!(accounts.user_by_external(&b.external.unwrap()).await.unwrap(), None);
}

pub async fn users_are_listed_in_pages(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let users: Vec<_> = (0..5).map(|number| user(&format!("{number}@x.example"))).collect();
    put_users(&*stores, &users.iter().rev().collect::<Vec<_>>()).await;
    let accounts = stores.accounts();
    assert_eq!(accounts.users(None, 10).await.unwrap(), users, "ids are made in order: oldest first");
    assert_eq!(accounts.users(None, 2).await.unwrap(), users[..2]);
    assert_eq!(accounts.users(Some(users[1].id), 2).await.unwrap(), users[2..4]);
    assert_eq!(accounts.users(Some(users[4].id), 2).await.unwrap(), []);
    assert_eq!(accounts.users(None, 0).await.unwrap(), []);
}

fn put(hash: u8, record: &ApiKeyRecord) -> AccountChange {
    AccountChange::PutKey([hash; 32], record.clone())
}

pub async fn keys_belong_to_users(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let accounts = stores.accounts();
    let (a, b) = (UserId::new(), UserId::new());
    let (first, second, third) = (key(a), key(a), key(b));
    // Against the order of their hashes.
    commit(&*stores, &Changes::accounts(vec![put(3, &first), put(2, &second), put(1, &third)])).await;
    assert_eq!(accounts.keys(a).await.unwrap(), [([3; 32], first.clone()), ([2; 32], second)]);
    assert_eq!(accounts.key(a, first.id).await.unwrap(), Some(([3; 32], first.clone())));
    assert_eq!(accounts.key(a, third.id).await.unwrap(), None, "another user's");
    assert_eq!(accounts.key(a, KeyId::new()).await.unwrap(), None);
    assert_eq!(accounts.key_by_hash(&[1; 32]).await.unwrap(), Some(third.clone()));
    assert_eq!(accounts.key_by_hash(&[9; 32]).await.unwrap(), None);
    let mut counts = Vec::new();
    for at_most in [10, 2, 1, 0] {
        counts.push(accounts.key_count(a, at_most).await.unwrap());
    }
    assert_eq!(counts, [2, 2, 1, 0]);
    let revoked = ApiKeyRecord { revoked_at: Some(5), ..first.clone() };
    commit(&*stores, &Changes::accounts(vec![put(3, &revoked)])).await;
    assert_eq!(accounts.key_by_hash(&[3; 32]).await.unwrap(), Some(revoked.clone()));
    let mut all: Vec<(KeyHash, ApiKeyRecord)> = Vec::new();
    accounts.each_key(&mut |hash, record| all.push((hash, record))).await.unwrap();
    all.sort_by_key(|(hash, _)| *hash);
    assert_eq!((all.len(), all[0].1.clone(), all[2].1.clone()), (3, third, revoked));
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteKey([3; 32], first.clone())])).await;
    assert_eq!(
        (accounts.key(a, first.id).await.unwrap(), accounts.key_count(a, 9).await.unwrap()),
        (None, 1)
    );
}

pub async fn keys_move_between_users(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let accounts = stores.accounts();
    let (a, b) = (UserId::new(), UserId::new());
    let first = key(a);
    commit(&*stores, &Changes::accounts(vec![put(1, &first)])).await;
    let moved = ApiKeyRecord { user: b, ..first };
    commit(&*stores, &Changes::accounts(vec![put(1, &moved)])).await;
    assert_eq!(accounts.keys(a).await.unwrap(), []);
    assert_eq!(accounts.key(b, moved.id).await.unwrap(), Some(([1; 32], moved)));
}

pub async fn sessions_belong_to_users(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let sessions = stores.sessions();
    let (a, b) = (UserId::new(), UserId::new());
    let (first, second, third) = (session(a), session(a), session(b));
    let all = [&second, &first, &third].map(|session| SessionChange::Put(session.clone()));
    commit(&*stores, &Changes::sessions(all.into())).await;
    assert_eq!(sessions.sessions(a).await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(sessions.session(third.id).await.unwrap(), Some(third));
    assert_eq!(sessions.session(SessionId::new()).await.unwrap(), None);
    let changed = StoredSession { created_at: 9, ..second };
    commit(
        &*stores,
        &Changes::sessions(vec![SessionChange::End(a, first.id), SessionChange::Put(changed.clone())]),
    )
    .await;
    assert_eq!(sessions.session(first.id).await.unwrap(), None);
    assert_eq!(sessions.sessions(a).await.unwrap(), [changed]);
    let mut count = 0;
    sessions.each_session(&mut |_| count += 1).await.unwrap();
    assert_eq!(count, 2);
}
