//! Users, API keys and sessions.

use super::{NewSubject, commit, key, no_quotas, put_users, session, user};
use crate::identity::{ApiKeyRecord, KeyId, SessionId, UserId, UserRecord};
use crate::store::{AccountChange, Changes, KeyHash, SessionChange, StoredSession};

pub fn users_are_found_by_id_address_and_external_identity(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let (a, b) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&a, &b]);
    let renamed = UserRecord { email: Some("c@x.example".to_owned()), external: None, ..a.clone() };
    put_users(&*stores, &[&renamed]);
    let accounts = stores.accounts();
    assert_eq!(accounts.user(a.id).unwrap(), Some(renamed.clone()));
    assert_eq!(accounts.user_by_email("c@x.example").unwrap(), Some(renamed));
    assert_eq!(accounts.user_by_email("a@x.example").unwrap(), None, "the address is free again");
    assert_eq!(accounts.user_by_external(&a.external.unwrap()).unwrap(), None);
    assert_eq!(accounts.user_by_external(b.external.as_ref().unwrap()).unwrap(), Some(b.clone()));
    assert_eq!(accounts.user(UserId::new()).unwrap(), None);
    let next = user("a@x.example");
    put_users(&*stores, &[&next]);
    assert_eq!(accounts.user_by_email("a@x.example").unwrap(), Some(next));
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(b.id)]));
    assert_eq!(accounts.user(b.id).unwrap(), None);
    assert_eq!(accounts.user_by_email("b@x.example").unwrap(), None);
    assert_eq!(accounts.user_by_external(&b.external.unwrap()).unwrap(), None);
}

pub fn users_are_listed_in_pages(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let users: Vec<_> = (0..5).map(|number| user(&format!("{number}@x.example"))).collect();
    put_users(&*stores, &users.iter().rev().collect::<Vec<_>>());
    let accounts = stores.accounts();
    assert_eq!(accounts.users(None, 10).unwrap(), users, "ids are made in order: oldest first");
    assert_eq!(accounts.users(None, 2).unwrap(), users[..2]);
    assert_eq!(accounts.users(Some(users[1].id), 2).unwrap(), users[2..4]);
    assert_eq!(accounts.users(Some(users[4].id), 2).unwrap(), []);
    assert_eq!(accounts.users(None, 0).unwrap(), []);
}

fn put(hash: u8, record: &ApiKeyRecord) -> AccountChange {
    AccountChange::PutKey([hash; 32], record.clone())
}

pub fn keys_belong_to_users(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let accounts = stores.accounts();
    let (a, b) = (UserId::new(), UserId::new());
    let (first, second, third) = (key(a), key(a), key(b));
    // Against the order of their hashes.
    commit(&*stores, &Changes::accounts(vec![put(3, &first), put(2, &second), put(1, &third)]));
    assert_eq!(accounts.keys(a).unwrap(), [([3; 32], first.clone()), ([2; 32], second)]);
    assert_eq!(accounts.key(a, first.id).unwrap(), Some(([3; 32], first.clone())));
    assert_eq!(accounts.key(a, third.id).unwrap(), None, "another user's");
    assert_eq!(accounts.key(a, KeyId::new()).unwrap(), None);
    assert_eq!(accounts.key_by_hash(&[1; 32]).unwrap(), Some(third.clone()));
    assert_eq!(accounts.key_by_hash(&[9; 32]).unwrap(), None);
    let counts = [10, 2, 1, 0].map(|at_most| accounts.key_count(a, at_most).unwrap());
    assert_eq!(counts, [2, 2, 1, 0]);
    let revoked = ApiKeyRecord { revoked_at: Some(5), ..first.clone() };
    commit(&*stores, &Changes::accounts(vec![put(3, &revoked)]));
    assert_eq!(accounts.key_by_hash(&[3; 32]).unwrap(), Some(revoked.clone()));
    let mut all: Vec<(KeyHash, ApiKeyRecord)> = Vec::new();
    accounts.each_key(&mut |hash, record| all.push((hash, record))).unwrap();
    all.sort_by_key(|(hash, _)| *hash);
    assert_eq!((all.len(), all[0].1.clone(), all[2].1.clone()), (3, third, revoked));
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteKey([3; 32], first.clone())]));
    assert_eq!((accounts.key(a, first.id).unwrap(), accounts.key_count(a, 9).unwrap()), (None, 1));
}

pub fn keys_move_between_users(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let accounts = stores.accounts();
    let (a, b) = (UserId::new(), UserId::new());
    let first = key(a);
    commit(&*stores, &Changes::accounts(vec![put(1, &first)]));
    let moved = ApiKeyRecord { user: b, ..first };
    commit(&*stores, &Changes::accounts(vec![put(1, &moved)]));
    assert_eq!(accounts.keys(a).unwrap(), []);
    assert_eq!(accounts.key(b, moved.id).unwrap(), Some(([1; 32], moved)));
}

pub fn sessions_belong_to_users(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let sessions = stores.sessions();
    let (a, b) = (UserId::new(), UserId::new());
    let (first, second, third) = (session(a), session(a), session(b));
    let all = [&second, &first, &third].map(|session| SessionChange::Put(session.clone()));
    commit(&*stores, &Changes::sessions(all.into()));
    assert_eq!(sessions.sessions(a).unwrap(), [first.clone(), second.clone()]);
    assert_eq!(sessions.session(third.id).unwrap(), Some(third));
    assert_eq!(sessions.session(SessionId::new()).unwrap(), None);
    let changed = StoredSession { created_at: 9, ..second };
    commit(
        &*stores,
        &Changes::sessions(vec![SessionChange::End(a, first.id), SessionChange::Put(changed.clone())]),
    );
    assert_eq!(sessions.session(first.id).unwrap(), None);
    assert_eq!(sessions.sessions(a).unwrap(), [changed]);
    let mut count = 0;
    sessions.each_session(&mut |_| count += 1).unwrap();
    assert_eq!(count, 2);
}
