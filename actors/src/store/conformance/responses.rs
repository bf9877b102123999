//! Stored responses and the references between them.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::{NewSubject, clean_up, commit, no_quotas, put_response, response};
use crate::identity::{UserId, now_s};
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use crate::store::{Changes, ResponseChange, StoreError, Stores, Used, block_on};

async fn change(stores: &dyn Stores, change: ResponseChange) {
    commit(stores, &Changes::responses(vec![change])).await;
}

async fn delete(stores: &dyn Stores, id: ResponseId) {
    change(stores, ResponseChange::Delete(id)).await;
}

fn deltas(length: usize) -> Vec<Delta> {
    vec![Delta { text: "d".repeat(length), ..Delta::default() }]
}

/// A response that continues another one, as the edge makes it.
fn following(parent: &ResponseRecord, text: &str) -> ResponseRecord {
    let shown = json!({"model": "m", "previous_response_id": parent.id.to_string()});
    let mut record = ResponseRecord::new(parent.user, 7, shown);
    record.history.clone_from(&parent.history);
    record.history.extend(parent.input.iter().cloned());
    record.history.push(json!({"said": format!("by {}", parent.id)}));
    record.input = vec![json!({"text": text})];
    record
}

pub async fn responses_are_read_as_written(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.responses();
    let user = UserId::new();
    let mut one = response(user, &"x".repeat(400_000));
    put_response(&*stores, &one).await;
    assert_eq!(store.response(one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(store.owner(one.id).await.unwrap(), Some(user));
    one.input.clear();
    (one.deltas, one.end) = (deltas(100_000), Some(End::lost(9)));
    put_response(&*stores, &one).await;
    clean_up(&*stores).await;
    assert_eq!(store.response(one.id).await.unwrap(), Some(one.clone()), "in place of the former one");
    delete(&*stores, one.id).await;
    delete(&*stores, one.id).await;
    assert_eq!((store.response(one.id).await.unwrap(), store.owner(one.id).await.unwrap()), (None, None));
    clean_up(&*stores).await;
    assert_eq!(stores.used(user).await.unwrap(), Used::default());
}

pub async fn ends_are_stored_without_reading(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.responses();
    let user = UserId::new();
    let (one, gone) = (response(user, "a"), response(user, "b"));
    put_response(&*stores, &one).await;
    put_response(&*stores, &gone).await;
    assert_eq!(store.running().await.unwrap(), [one.id, gone.id]);
    delete(&*stores, gone.id).await;
    for id in [one.id, gone.id] {
        let staged = store.stage_end(deltas(70_000), End::lost(9)).await.unwrap();
        change(&*stores, ResponseChange::End(id, staged)).await;
    }
    clean_up(&*stores).await;
    let ended = ResponseRecord { deltas: deltas(70_000), end: Some(End::lost(9)), ..one.clone() };
    assert_eq!(
        (store.response(one.id).await.unwrap(), store.response(gone.id).await.unwrap()),
        (Some(ended), None)
    );
    assert_eq!(store.running().await.unwrap(), []);
    let staged = store.stage_end(deltas(3), End::lost(10)).await.unwrap();
    change(&*stores, ResponseChange::End(one.id, staged)).await;
    let again = ResponseRecord { deltas: deltas(3), end: Some(End::lost(10)), ..one };
    assert_eq!(store.response(again.id).await.unwrap(), Some(again), "in place of the former end");
}

pub async fn stale_stages_are_refused(new: NewSubject) {
    let (before, after) = (new(no_quotas()), new(no_quotas()));
    let (before, after) = (before.open().await, after.open().await);
    let record = response(UserId::new(), "a");
    let staged = before.responses().stage(&record).await.unwrap();
    let end = before.responses().stage_end(deltas(1), End::lost(9)).await.unwrap();
    assert_eq!((staged.id(), staged.user()), (record.id, record.user));
    let put = Changes::responses(vec![ResponseChange::PutStaged(staged)]);
    assert_eq!(after.commit(&put).await, Err(StoreError::Reopening));
    let end = Changes::responses(vec![ResponseChange::End(record.id, end)]);
    assert_eq!(after.commit(&end).await, Err(StoreError::Reopening));
}

pub async fn discarded_stages_are_gone(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let record = response(UserId::new(), "a");
    let staged = stores.responses().stage(&record).await.unwrap();
    assert_eq!(stores.responses().response(record.id).await.unwrap(), None, "it is not visible yet");
    assert_eq!(stores.used(record.user).await.unwrap(), Used::default());
    assert!(staged.used().bytes > 0 && staged.used().responses == 1);
    stores.responses().discard(&staged).unwrap();
    clean_up(&*stores).await;
    assert_eq!(stores.responses().response(record.id).await.unwrap(), None);
}

pub async fn responses_are_listed(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.responses();
    let (ann, bob) = (UserId::new(), UserId::new());
    let records: Vec<_> = [ann, ann, bob, ann].map(|user| response(user, "a")).into();
    for record in &records {
        put_response(&*stores, record).await;
    }
    let ids: Vec<_> = records.iter().map(|record| record.id).collect();
    assert_eq!(store.of_user(ann, None, 10).await.unwrap(), [ids[0], ids[1], ids[3]]);
    assert_eq!(store.of_user(ann, Some(ids[0]), 1).await.unwrap(), [ids[1]]);
    assert_eq!(store.of_user(ann, Some(ids[3]), 1).await.unwrap(), []);
    assert_eq!(store.owners().await.unwrap(), [ann, bob]);
    let now = now_s();
    assert_eq!(store.made_before(now - 100, 10).await.unwrap(), []);
    assert_eq!(store.made_before(now + 100, 3).await.unwrap(), ids[..3]);
    assert_eq!(store.made_before(u64::MAX, 10).await.unwrap(), ids);
    while !store.delete_some(ann).await.unwrap() {}
    assert_eq!(
        (store.owners().await.unwrap(), store.made_before(u64::MAX, 10).await.unwrap()),
        (vec![bob], vec![ids[2]])
    );
}

pub async fn deletion_keeps_later_responses(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.responses();
    let first = response(UserId::new(), &"a".repeat(5000));
    let second = following(&first, "b");
    let third = following(&second, "c");
    for record in [&first, &second, &third] {
        put_response(&*stores, record).await;
    }
    delete(&*stores, first.id).await;
    delete(&*stores, second.id).await;
    clean_up(&*stores).await;
    assert_eq!(
        (store.response(first.id).await.unwrap(), store.response(second.id).await.unwrap()),
        (None, None)
    );
    assert_eq!(store.response(third.id).await.unwrap(), Some(third.clone()));
    let left = stores.used(first.user).await.unwrap();
    assert!(left.responses == 1 && left.bytes > 5000, "it needs the first one's text: {left:?}");
    delete(&*stores, third.id).await;
    clean_up(&*stores).await;
    assert_eq!(stores.used(first.user).await.unwrap(), Used::default());
}

#[derive(Clone, Debug)]
enum Step {
    New(usize, usize),
    Follow(prop::sample::Index, usize),
    Delete(prop::sample::Index),
    End(prop::sample::Index, usize),
    PutAgain(prop::sample::Index),
    Move(usize, usize),
    CleanUp,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        1 => (0..2_usize, 0..200_usize).prop_map(|(user, length)| Step::New(user, length)),
        4 => (index(), 0..200_usize).prop_map(|(parent, length)| Step::Follow(parent, length)),
        3 => index().prop_map(Step::Delete),
        1 => (index(), 0..200_usize).prop_map(|(one, length)| Step::End(one, length)),
        1 => index().prop_map(Step::PutAgain),
        1 => (0..2_usize, 0..2_usize).prop_map(|(from, to)| Step::Move(from, to)),
        1 => Just(Step::CleanUp),
    ]
}

/// Responses that are stored, continued, moved and deleted in any order: each existing one is whole, and in the end nothing
/// counts.
pub async fn references_lose_nothing_and_leave_nothing(new: NewSubject) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(16));
    let run = runner.run(&prop::collection::vec(step(), 1..40), |steps| {
        block_on(async {
            let subject = new(no_quotas());
            let stores = subject.open().await;
            let store = stores.responses();
            let users = [UserId::new(), UserId::new()];
            let mut there: Vec<ResponseRecord> = Vec::new();
            for step in steps {
                match step {
                    Step::New(user, length) => {
                        there.push(response(users[user], &"x".repeat(length)));
                        put_response(&*stores, there.last().unwrap()).await;
                    }
                    Step::Follow(parent, length) if !there.is_empty() => {
                        let record = following(parent.get(&there), &"z".repeat(length));
                        put_response(&*stores, &record).await;
                        there.push(record);
                    }
                    Step::Delete(one) if !there.is_empty() => {
                        let record = there.remove(one.index(there.len()));
                        delete(&*stores, record.id).await;
                    }
                    Step::End(one, length) if !there.is_empty() => {
                        let index = one.index(there.len());
                        let staged = store.stage_end(deltas(length), End::lost(9)).await.unwrap();
                        change(&*stores, ResponseChange::End(there[index].id, staged)).await;
                        there[index] = ResponseRecord {
                            deltas: deltas(length),
                            end: Some(End::lost(9)),
                            ..there[index].clone()
                        };
                    }
                    Step::PutAgain(one) if !there.is_empty() => put_response(&*stores, one.get(&there)).await,
                    Step::Move(from, to) if from != to => {
                        while !stores.move_some(users[from], users[to]).await.unwrap() {}
                        for record in there.iter_mut().filter(|record| record.user == users[from]) {
                            record.user = users[to];
                        }
                    }
                    Step::CleanUp => clean_up(&*stores).await,
                    _ => {}
                }
            }
            clean_up(&*stores).await;
            for record in &there {
                prop_assert_eq!(store.response(record.id).await.unwrap(), Some(record.clone()));
            }
            for user in users {
                let count = there.iter().filter(|record| record.user == user).count() as i64;
                prop_assert_eq!(stores.used(user).await.unwrap().responses, count);
            }
            for record in &there {
                delete(&*stores, record.id).await;
            }
            clean_up(&*stores).await;
            for user in users {
                prop_assert_eq!(stores.used(user).await.unwrap(), Used::default());
            }
            Ok(())
        })
    });
    run.unwrap();
}
