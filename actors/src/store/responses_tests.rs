//! Responses over a real database.

use serde_json::json;

use std::time::Duration;

use super::*;

fn store() -> SledResponses {
    let db = sled::Config::new().temporary(true).open().unwrap();
    SledResponses::open(&db, Notes::open(&db).unwrap()).unwrap()
}

/// Removes what is left of what is gone.
fn sweep(store: &SledResponses) {
    let remove = |doomed, until| match doomed {
        Doomed::Body(id) => store.remove_body(id, until),
        Doomed::Conversation(_) => panic!("there is none"),
    };
    while store.notes.sweep(Instant::now() + Duration::from_secs(9), remove).unwrap()
        != doomed::Swept::Nothing
    {
        store.notes.finish().unwrap();
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
    let mut one = record(user, 5 * PART + 3);
    put(&store, &one);
    assert!(store.part.iter().values().all(|part| part.unwrap().len() <= PART));
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
    let deltas = vec![Delta { text: "x".repeat(PART), ..Delta::default() }];
    for id in [one.id, gone.id] {
        let staged = store.stage_end(deltas.clone(), End::lost(9)).unwrap();
        store.commit(&[ResponseChange::End(id, staged)]).unwrap();
    }
    sweep(&store);
    let ended = ResponseRecord { deltas, end: Some(End::lost(9)), ..one.clone() };
    assert_eq!((store.response(one.id).unwrap(), store.response(gone.id).unwrap()), (Some(ended), None));
    assert_eq!((store.part.len(), store.running.len(), store.notes.tree().len()), (3, 0, 0));
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
    let old = record(user, PART);
    let body = encode(&old);
    for (number, piece) in (0..).zip(body.chunks(PART)) {
        store.part.insert(part_key(&old.id.to_bytes(), number), piece).unwrap();
    }
    store.response.insert(old.id.to_bytes(), Head::Whole { user, parts: 2 }.encode()).unwrap();
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
