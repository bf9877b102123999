//! Responses over a real database.

use proptest::prelude::*;
use serde_json::json;

use std::time::Duration;

use super::super::response_header::{MAX_PART_BYTES, part_key};
use super::*;
use crate::store::{CleanupProgress, Used};

fn store() -> SledResponses {
    let db = sled::Config::new().temporary(true).open().unwrap();
    SledResponses::open(&db, Tombstones::open(&db).unwrap()).unwrap()
}

/// Removes what is left of what is gone.
fn sweep(store: &SledResponses) {
    let remove = |tombstone, until| match tombstone {
        Tombstone::Body(id) => store.remove_body(id, until),
        Tombstone::Conversation(_) => panic!("there is none"),
    };
    while store.tombstones.cleanup(Instant::now() + Duration::from_secs(9), remove).unwrap()
        != CleanupProgress::Nothing
    {
        store.tombstones.finish().unwrap();
    }
}

fn record(user: UserId, length: usize) -> ResponseRecord {
    let mut record = ResponseRecord::new(user, 7, json!({"model": "m"}));
    record.input = vec![json!({"text": "x".repeat(length)})];
    record
}

fn put(store: &SledResponses, record: &ResponseRecord) {
    store.commit(&[ResponseChange::Put(Box::new(record.clone()))]).unwrap();
}

#[test]
fn large_records_are_cut_and_put_together_again_and_leave_nothing() {
    let store = store();
    let user = UserId::new();
    let mut one = record(user, 5 * MAX_PART_BYTES + 3);
    put(&store, &one);
    assert!(store.part.iter().values().all(|part| part.unwrap().len() <= MAX_PART_BYTES));
    assert_eq!(store.part.len(), 6);
    assert_eq!(store.response(one.id).unwrap(), Some(one.clone()));
    one.input.clear();
    put(&store, &one);
    sweep(&store);
    assert_eq!((store.part.len(), store.response(one.id).unwrap()), (1, Some(one.clone())));
    store.commit(&[ResponseChange::Delete(one.id), ResponseChange::Delete(one.id)]).unwrap();
    assert_eq!(store.response(one.id).unwrap(), None);
    sweep(&store);
    for tree in [&store.response, &store.part, &store.by_user, &store.running] {
        assert!(tree.is_empty());
    }
}

#[test]
fn users_go_and_merge_with_their_responses() {
    let store = store();
    let (guest, ann, bob) = (UserId::new(), UserId::new(), UserId::new());
    let records: Vec<_> = [guest, guest, ann, bob].iter().map(|user| record(*user, 10)).collect();
    records.iter().for_each(|record| put(&store, record));
    assert!(store.move_some(guest, ann).unwrap());
    assert_eq!(store.owner(records[0].id).unwrap(), Some(ann));
    assert_eq!(store.response(records[1].id).unwrap().unwrap().user, ann);
    assert_eq!(store.owners().unwrap(), [ann, bob]);
    let anns = store.of_user(ann, None, 10).unwrap();
    assert_eq!(anns, [records[0].id, records[1].id, records[2].id]);
    assert_eq!(store.of_user(ann, Some(anns[0]), 1).unwrap(), [anns[1]]);
    assert!(store.delete_some(ann).unwrap());
    assert_eq!((store.owners().unwrap(), store.response.len()), (vec![bob], 1));
}

#[test]
fn an_end_needs_no_reading_and_comes_too_late_for_what_is_gone() {
    let store = store();
    let user = UserId::new();
    let (one, gone) = (record(user, 3), record(user, 3));
    put(&store, &one);
    put(&store, &gone);
    store.commit(&[ResponseChange::Delete(gone.id)]).unwrap();
    let deltas = vec![Delta { text: "x".repeat(MAX_PART_BYTES), ..Delta::default() }];
    for id in [one.id, gone.id] {
        let staged = store.stage_end(deltas.clone(), End::lost(9)).unwrap();
        store.commit(&[ResponseChange::End(id, staged)]).unwrap();
    }
    sweep(&store);
    let ended = ResponseRecord { deltas, end: Some(End::lost(9)), ..one.clone() };
    assert_eq!((store.response(one.id).unwrap(), store.response(gone.id).unwrap()), (Some(ended), None));
    assert_eq!((store.part.len(), store.running.len(), store.tombstones.tree().len()), (3, 0, 0));
}

#[test]
fn what_was_staged_in_another_database_is_not_put() {
    let (before, after) = (store(), store());
    let staged = before.stage(&record(UserId::new(), 3)).unwrap();
    assert_eq!(after.commit(&[ResponseChange::PutStaged(staged)]), Err(StoreError::Reopening));
}

/// As schema 2 wrote them.
#[test]
fn whole_records_are_read_moved_ended_and_deleted() {
    let store = store();
    let (user, other) = (UserId::new(), UserId::new());
    let old = record(user, MAX_PART_BYTES);
    let body = encode(&old);
    for (number, piece) in (0..).zip(body.chunks(MAX_PART_BYTES)) {
        store.part.insert(part_key(&old.id.to_bytes(), number), piece).unwrap();
    }
    store.response.insert(old.id.to_bytes(), Header::Whole { user, parts: 2 }.encode()).unwrap();
    store.by_user.insert(by_user_key(user, old.id), &[]).unwrap();
    store.running.insert(old.id.to_bytes(), &[]).unwrap();
    assert_eq!(store.response(old.id).unwrap(), Some(old.clone()));
    assert!(store.move_some(user, other).unwrap());
    let moved = ResponseRecord { user: other, ..old.clone() };
    assert_eq!(store.response(old.id).unwrap(), Some(moved.clone()));
    assert_eq!((store.of_user(user, None, 9).unwrap(), store.running().unwrap()), (vec![], vec![old.id]));
    let ended = ResponseRecord { end: Some(End::lost(9)), ..moved };
    put(&store, &ended);
    sweep(&store);
    assert_eq!(store.response(old.id).unwrap(), Some(ended));
    assert!(store.running().unwrap().is_empty());
    store.commit(&[ResponseChange::Delete(old.id)]).unwrap();
    sweep(&store);
    assert!(store.part.is_empty() && store.response.is_empty() && store.by_user.is_empty());
}

#[test]
fn running_and_old_ones_are_found() {
    let store = store();
    let mut one = record(UserId::new(), 1);
    put(&store, &one);
    assert_eq!(store.running().unwrap(), [one.id]);
    one.end = Some(End::lost(9));
    put(&store, &one);
    assert!(store.running().unwrap().is_empty());
    let now = crate::identity::now_s();
    assert!(store.made_before(now - 100, 10).unwrap().is_empty());
    assert_eq!(store.made_before(now + 100, 10).unwrap(), [one.id]);
    assert_eq!(store.made_before(u64::MAX, 10).unwrap(), [one.id]);
}

/// A response that goes on from another, as the edge makes it.
fn following(parent: &ResponseRecord, text: &str) -> ResponseRecord {
    let mut record = ResponseRecord::new(
        parent.user,
        7,
        json!({"model": "m", "previous_response_id": parent.id.to_string()}),
    );
    record.history.clone_from(&parent.history);
    record.history.extend(parent.input.iter().cloned());
    record.history.push(json!({"said": format!("by {}", parent.id)}));
    record.input = vec![json!({"text": text})];
    record
}

fn totals(db: &Db) -> std::collections::BTreeMap<UserId, Used> {
    let mut totals = std::collections::BTreeMap::new();
    super::super::response_header::count(db, &mut |user, used| {
        let sum: &mut Used = totals.entry(user).or_default();
        *sum = sum.and(used);
    })
    .unwrap();
    totals
}

#[test]
fn a_long_conversation_takes_what_its_turns_take() {
    let store = store();
    let mut last = record(UserId::new(), 1000);
    put(&store, &last);
    for _ in 0..400 {
        last = following(&last, &"y".repeat(1000));
        put(&store, &last);
    }
    assert_eq!(store.response(last.id).unwrap(), Some(last.clone()));
    let bytes: usize = store.part.iter().values().map(|part| part.unwrap().len()).sum();
    // Written out, it would be 40 MB; one of them is, behind 256 others.
    assert!(bytes < 900_000, "{bytes} bytes for 401 turns of 1 kB");
}

#[test]
fn what_later_ones_need_stays_and_is_paid_for() {
    let store = store();
    let (ann, bob) = (UserId::new(), UserId::new());
    let first = record(ann, 5000);
    let second = following(&first, "b");
    let third = following(&second, "c");
    [&first, &second, &third].into_iter().for_each(|record| put(&store, record));
    let all = store.totals.of(ann).unwrap();
    store.commit(&[ResponseChange::Delete(first.id), ResponseChange::Delete(second.id)]).unwrap();
    sweep(&store);
    assert_eq!((store.response(first.id).unwrap(), store.response(second.id).unwrap()), (None, None));
    assert_eq!(store.response(third.id).unwrap(), Some(third.clone()));
    let left = store.totals.of(ann).unwrap();
    assert_eq!(left.responses, 1);
    assert!(left.bytes > 5000 && left.bytes < all.bytes, "{left:?} of {all:?}");
    assert!(store.move_some(ann, bob).unwrap());
    assert_eq!((store.totals.of(ann).unwrap(), store.totals.of(bob).unwrap()), (Used::default(), left));
    store.commit(&[ResponseChange::Delete(third.id)]).unwrap();
    sweep(&store);
    assert_eq!(store.totals.of(bob).unwrap(), Used::default());
    assert!(store.part.is_empty() && store.bodies.is_empty() && store.tombstones.tree().is_empty());
}

#[test]
fn what_was_staged_and_never_put_lets_go_at_the_next_start() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let first = record(UserId::new(), 10);
    let store = SledResponses::open(&db, Tombstones::open(&db).unwrap()).unwrap();
    put(&store, &first);
    store.stage(&following(&first, "b")).unwrap();
    drop(store);
    let store = SledResponses::open(&db, Tombstones::open(&db).unwrap()).unwrap();
    sweep(&store);
    assert_eq!((store.part.len(), store.response(first.id).unwrap()), (1, Some(first.clone())));
    store.commit(&[ResponseChange::Delete(first.id)]).unwrap();
    sweep(&store);
    assert!(store.part.is_empty() && store.bodies.is_empty());
}

#[test]
fn what_schema_4_wrote_is_referred_to() {
    let store = store();
    let first = record(UserId::new(), 10);
    put(&store, &first);
    store.bodies.clear().unwrap();
    let second = following(&first, "b");
    put(&store, &second);
    store.commit(&[ResponseChange::Delete(first.id)]).unwrap();
    sweep(&store);
    assert_eq!(store.response(second.id).unwrap(), Some(second.clone()));
    store.commit(&[ResponseChange::Delete(second.id)]).unwrap();
    sweep(&store);
    assert!(store.part.is_empty() && store.bodies.is_empty());
}

#[test]
fn a_history_that_is_another_one_is_written_out() {
    let store = store();
    let first = record(UserId::new(), 10);
    put(&store, &first);
    let mut second = following(&first, "b");
    second.history[0] = json!({"text": "something else"});
    put(&store, &second);
    store.commit(&[ResponseChange::Delete(first.id)]).unwrap();
    sweep(&store);
    assert_eq!((store.response(second.id).unwrap(), store.bodies.len()), (Some(second), 1));
}

#[derive(Clone, Debug)]
enum Step {
    New(usize, usize),
    Follow(prop::sample::Index, usize),
    Delete(prop::sample::Index),
    End(prop::sample::Index, usize),
    PutAgain(prop::sample::Index),
    Move(usize, usize),
    Sweep,
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
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is made, continued, moved and deleted: each that is there is whole, totals are exact, and in the end
    /// nothing is left.
    #[test]
    fn references_lose_nothing_and_leave_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let store = SledResponses::open(&db, Tombstones::open(&db).unwrap()).unwrap();
        let users = [UserId::new(), UserId::new()];
        let mut there: Vec<ResponseRecord> = Vec::new();
        for step in steps {
            match step {
                Step::New(user, length) => {
                    there.push(record(users[user], length));
                    put(&store, there.last().unwrap());
                }
                Step::Follow(parent, length) if !there.is_empty() => {
                    let record = following(parent.get(&there), &"z".repeat(length));
                    put(&store, &record);
                    there.push(record);
                }
                Step::Delete(one) if !there.is_empty() => {
                    let record = there.remove(one.index(there.len()));
                    store.commit(&[ResponseChange::Delete(record.id)]).unwrap();
                }
                Step::End(one, length) if !there.is_empty() => {
                    let index = one.index(there.len());
                    let deltas = vec![Delta { text: "d".repeat(length), ..Delta::default() }];
                    let staged = store.stage_end(deltas.clone(), End::lost(9)).unwrap();
                    store.commit(&[ResponseChange::End(there[index].id, staged)]).unwrap();
                    there[index] = ResponseRecord { deltas, end: Some(End::lost(9)), ..there[index].clone() };
                }
                Step::PutAgain(one) if !there.is_empty() => put(&store, one.get(&there)),
                Step::Move(from, to) => {
                    while !store.move_some(users[from], users[to]).unwrap() && from != to {}
                    for record in there.iter_mut().filter(|record| record.user == users[from]) {
                        record.user = users[to];
                    }
                }
                Step::Sweep => sweep(&store),
                _ => {}
            }
        }
        sweep(&store);
        for record in &there {
            prop_assert_eq!(store.response(record.id).unwrap(), Some(record.clone()));
        }
        let counted = totals(&db);
        for user in users {
            prop_assert_eq!(store.totals.of(user).unwrap(), counted.get(&user).copied().unwrap_or_default());
        }
        for record in there {
            store.commit(&[ResponseChange::Delete(record.id)]).unwrap();
        }
        sweep(&store);
        for tree in [&store.response, &store.part, &store.by_user, &store.running, &store.bodies, store.tombstones.tree(), store.totals.tree()] {
            prop_assert!(tree.is_empty(), "{:?}", tree.iter().collect::<Vec<_>>());
        }
    }
}
