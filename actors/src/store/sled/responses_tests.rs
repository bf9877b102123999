//! The trees of responses: properties beyond the contract of a store.

use proptest::prelude::*;
use serde_json::json;

use std::time::Duration;

use super::super::bodies::{MAX_PART_BYTES, part_key};
use super::super::codec::encode;
use super::super::tombstones::Tombstones;
use super::*;
use crate::store::{CleanupProgress, Used, block_on};

fn bodies(db: &Db) -> Bodies {
    Bodies::open(db, Tombstones::open(db).unwrap()).unwrap()
}

fn store() -> SledResponses {
    let db = sled::Config::new().temporary(true).open().unwrap();
    SledResponses::open(&db, bodies(&db)).unwrap()
}

/// Removes the contents of deleted bodies.
fn clean_up(store: &SledResponses) {
    let remove = |tombstone, until| match tombstone {
        Tombstone::Body(id) => store.remove_body(id, until),
        Tombstone::Conversation(_) => panic!("there is none"),
    };
    while store.bodies.tombstones.cleanup(Instant::now() + Duration::from_secs(9), remove).unwrap()
        != CleanupProgress::Nothing
    {
        store.bodies.tombstones.finish().unwrap();
    }
}

fn record(user: UserId, length: usize) -> ResponseRecord {
    let mut record = ResponseRecord::new(user, 7, json!({"model": "m"}));
    record.input = vec![json!({"text": "x".repeat(length)})];
    record
}

fn change(store: &SledResponses, change: &ResponseChange) {
    store.apply(&store.prepare(change).unwrap()).unwrap();
}

fn put(store: &SledResponses, record: &ResponseRecord) {
    change(store, &ResponseChange::PutStaged(store.stage(record).unwrap()));
}

#[test]
fn large_records_are_cut_and_put_together_again_and_leave_nothing() {
    let store = store();
    let user = UserId::new();
    let mut one = record(user, 5 * MAX_PART_BYTES + 3);
    put(&store, &one);
    assert!(store.bodies.part.iter().values().all(|part| part.unwrap().len() <= MAX_PART_BYTES));
    assert_eq!(store.bodies.part.len(), 6);
    assert_eq!(store.response(one.id).unwrap(), Some(one.clone()));
    one.input.clear();
    put(&store, &one);
    clean_up(&store);
    assert_eq!((store.bodies.part.len(), store.response(one.id).unwrap()), (1, Some(one.clone())));
    change(&store, &ResponseChange::Delete(one.id));
    change(&store, &ResponseChange::Delete(one.id));
    assert_eq!(store.response(one.id).unwrap(), None);
    clean_up(&store);
    for tree in [&store.response, &store.bodies.part, &store.by_user, &store.running] {
        assert!(tree.is_empty());
    }
}

/// As schema 2 wrote them.
#[test]
fn whole_records_are_read_moved_ended_and_deleted() {
    let store = store();
    let (user, other) = (UserId::new(), UserId::new());
    let old = record(user, MAX_PART_BYTES);
    let body = encode(&old);
    for (number, piece) in (0..).zip(body.chunks(MAX_PART_BYTES)) {
        store.bodies.part.insert(part_key(&old.id.to_bytes(), number), piece).unwrap();
    }
    store.response.insert(old.id.to_bytes(), Header::Whole { user, parts: 2 }.encode()).unwrap();
    store.by_user.insert(by_user_key(user, old.id), &[]).unwrap();
    store.running.insert(old.id.to_bytes(), &[]).unwrap();
    assert_eq!(store.response(old.id).unwrap(), Some(old.clone()));
    assert!(store.move_some(user, other).unwrap());
    let moved = ResponseRecord { user: other, ..old.clone() };
    assert_eq!(store.response(old.id).unwrap(), Some(moved.clone()));
    assert_eq!(
        (store.of_user(user, None, 9).unwrap(), block_on(store.running()).unwrap()),
        (vec![], vec![old.id])
    );
    let ended = ResponseRecord { end: Some(End::lost(9)), ..moved };
    put(&store, &ended);
    clean_up(&store);
    assert_eq!(store.response(old.id).unwrap(), Some(ended));
    assert!(block_on(store.running()).unwrap().is_empty());
    change(&store, &ResponseChange::Delete(old.id));
    clean_up(&store);
    assert!(store.bodies.part.is_empty() && store.response.is_empty() && store.by_user.is_empty());
}

/// A response that continues another, as the edge makes it.
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
    let bytes: usize = store.bodies.part.iter().values().map(|part| part.unwrap().len()).sum();
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
    change(&store, &ResponseChange::Delete(first.id));
    change(&store, &ResponseChange::Delete(second.id));
    clean_up(&store);
    assert_eq!((store.response(first.id).unwrap(), store.response(second.id).unwrap()), (None, None));
    assert_eq!(store.response(third.id).unwrap(), Some(third.clone()));
    let left = store.totals.of(ann).unwrap();
    assert_eq!(left.responses, 1);
    assert!(left.bytes > 5000 && left.bytes < all.bytes, "{left:?} of {all:?}");
    assert!(store.move_some(ann, bob).unwrap());
    assert_eq!((store.totals.of(ann).unwrap(), store.totals.of(bob).unwrap()), (Used::default(), left));
    change(&store, &ResponseChange::Delete(third.id));
    clean_up(&store);
    assert_eq!(store.totals.of(bob).unwrap(), Used::default());
    assert!(
        store.bodies.part.is_empty() && store.links.is_empty() && store.bodies.tombstones.tree().is_empty()
    );
}

#[test]
fn what_was_staged_and_never_put_lets_go_at_the_next_start() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let first = record(UserId::new(), 10);
    let store = SledResponses::open(&db, bodies(&db)).unwrap();
    put(&store, &first);
    store.stage(&following(&first, "b")).unwrap();
    drop(store);
    let store = SledResponses::open(&db, bodies(&db)).unwrap();
    clean_up(&store);
    assert_eq!((store.bodies.part.len(), store.response(first.id).unwrap()), (1, Some(first.clone())));
    change(&store, &ResponseChange::Delete(first.id));
    clean_up(&store);
    assert!(store.bodies.part.is_empty() && store.links.is_empty());
}

#[test]
fn what_schema_4_wrote_is_referred_to() {
    let store = store();
    let first = record(UserId::new(), 10);
    put(&store, &first);
    store.links.clear().unwrap();
    let second = following(&first, "b");
    put(&store, &second);
    change(&store, &ResponseChange::Delete(first.id));
    clean_up(&store);
    assert_eq!(store.response(second.id).unwrap(), Some(second.clone()));
    change(&store, &ResponseChange::Delete(second.id));
    clean_up(&store);
    assert!(store.bodies.part.is_empty() && store.links.is_empty());
}

#[test]
fn a_history_that_is_another_one_is_written_out() {
    let store = store();
    let first = record(UserId::new(), 10);
    put(&store, &first);
    let mut second = following(&first, "b");
    second.history[0] = json!({"text": "something else"});
    put(&store, &second);
    change(&store, &ResponseChange::Delete(first.id));
    clean_up(&store);
    assert_eq!((store.response(second.id).unwrap(), store.links.len()), (Some(second), 1));
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Responses that are made, continued, moved and deleted in any order: each existing one is whole, totals are exact, and in
    /// the end nothing is left.
    #[test]
    fn references_lose_nothing_and_leave_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let store = SledResponses::open(&db, bodies(&db)).unwrap();
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
                    change(&store, &ResponseChange::Delete(record.id));
                }
                Step::End(one, length) if !there.is_empty() => {
                    let index = one.index(there.len());
                    let deltas = vec![Delta { text: "d".repeat(length), ..Delta::default() }];
                    let staged = block_on(store.stage_end(deltas.clone(), End::lost(9))).unwrap();
                    change(&store, &ResponseChange::End(there[index].id, staged));
                    there[index] = ResponseRecord { deltas, end: Some(End::lost(9)), ..there[index].clone() };
                }
                Step::PutAgain(one) if !there.is_empty() => put(&store, one.get(&there)),
                Step::Move(from, to) => {
                    while !store.move_some(users[from], users[to]).unwrap() && from != to {}
                    for record in there.iter_mut().filter(|record| record.user == users[from]) {
                        record.user = users[to];
                    }
                }
                Step::CleanUp => clean_up(&store),
                _ => {}
            }
        }
        clean_up(&store);
        for record in &there {
            prop_assert_eq!(store.response(record.id).unwrap(), Some(record.clone()));
        }
        let counted = totals(&db);
        for user in users {
            prop_assert_eq!(store.totals.of(user).unwrap(), counted.get(&user).copied().unwrap_or_default());
        }
        for record in there {
            change(&store, &ResponseChange::Delete(record.id));
        }
        clean_up(&store);
        for tree in [&store.response, &store.bodies.part, &store.by_user, &store.running, &store.links, store.bodies.tombstones.tree(), store.totals.tree()] {
            prop_assert!(tree.is_empty(), "{:?}", tree.iter().collect::<Vec<_>>());
        }
    }
}
