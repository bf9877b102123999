//! Token usage.

use uuid::Uuid;

use super::{NewSubject, clean_up, commit, no_quotas, put_users, user};
use crate::identity::KeyId;
use crate::store::{AccountChange, Changes, UsageStore};
use crate::usage::{BatchId, Day, UsageCounts, UsageFilter, UsageKey, UsageOwner};

fn key(user: UsageOwner, day: u32, model: &str) -> UsageKey {
    UsageKey { user, day: Day::from_number(day), key: None, model: model.into() }
}

fn counts(completion_tokens: u64) -> UsageCounts {
    UsageCounts { requests: 1, completion_tokens, ..UsageCounts::default() }
}

async fn all(store: &dyn UsageStore, user: Option<UsageOwner>) -> Vec<(UsageKey, u64)> {
    let filter = UsageFilter { user, start: Day::FIRST, end: Day::last() };
    let mut rows = Vec::new();
    store.rows(&filter, &mut |key, counts| rows.push((key.clone(), counts.completion_tokens))).await.unwrap();
    rows.sort();
    rows
}

pub async fn batches_are_added_once(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.usage();
    let (ann, bob) = (user("ann@x.example").id, user("bob@x.example").id);
    let buffer = Uuid::new_v4();
    let first = [
        (key(UsageOwner::User(ann), 5, "m"), counts(1)),
        (key(UsageOwner::User(ann), 5, "m"), counts(2)),
        (key(UsageOwner::User(bob), 5, "m"), counts(4)),
        (key(UsageOwner::Anonymous, 5, "m"), counts(8)),
    ];
    for _ in 0..2 {
        store.add(BatchId { buffer, number: 1 }, &first).await.unwrap();
    }
    store.add(BatchId { buffer, number: 2 }, &first[..1]).await.unwrap();
    assert_eq!(all(store, Some(UsageOwner::User(ann))).await, [(key(UsageOwner::User(ann), 5, "m"), 4)]);
    assert_eq!(all(store, Some(UsageOwner::User(bob))).await, [(key(UsageOwner::User(bob), 5, "m"), 4)]);
    assert_eq!(all(store, None).await.iter().map(|(_, tokens)| tokens).sum::<u64>(), 16);
}

pub async fn days_are_bounded(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let rows: Vec<_> = (0..10).map(|day| (key(UsageOwner::Anonymous, day, "ÿ"), counts(1))).collect();
    stores.usage().add(BatchId { buffer: Uuid::new_v4(), number: 1 }, &rows).await.unwrap();
    for user in [None, Some(UsageOwner::Anonymous)] {
        for (start, end, expected) in [(3, 5, vec![3, 4, 5]), (9, 20, vec![9]), (5, 3, vec![])] {
            let filter = UsageFilter { user, start: Day::from_number(start), end: Day::from_number(end) };
            let mut days = Vec::new();
            stores.usage().rows(&filter, &mut |key, _| days.push(key.day.number())).await.unwrap();
            days.sort_unstable();
            assert_eq!(days, expected, "{user:?}");
        }
    }
}

pub async fn deleted_users_are_anonymous(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (gone, stays) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&gone, &stays]).await;
    let with_key = |user| UsageKey { key: Some(KeyId::new()), ..key(UsageOwner::User(user), 5, "m") };
    let kept = with_key(stays.id);
    let mut rows = vec![(kept.clone(), counts(1))];
    // More than one step moves.
    rows.extend((0..150).map(|_| (with_key(gone.id), counts(2))));
    stores.usage().add(BatchId { buffer: Uuid::new_v4(), number: 1 }, &rows).await.unwrap();
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(gone.id)])).await;
    clean_up(&*stores).await;
    assert_eq!(all(stores.usage(), None).await, [(kept, 1), (key(UsageOwner::Deleted, 5, "m"), 300)]);
}
