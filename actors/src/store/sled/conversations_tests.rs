//! The trees of conversations: properties beyond the contract of a store.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::super::tombstones::Tombstones;
use super::*;
use crate::store::{CleanupProgress, block_on};

fn store() -> SledConversations {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let bodies = Bodies::open(&db, Tombstones::open(&db).unwrap()).unwrap();
    SledConversations::open(&db, bodies, Watchers::default()).unwrap()
}

fn clean_up(store: &SledConversations) {
    let tombstones = &store.bodies.tombstones;
    loop {
        // Each step has no time at all and removes one key.
        let progress = tombstones.cleanup(Instant::now(), |tombstone, until| match tombstone {
            Tombstone::Body(id) => store.bodies.remove(id, until),
            Tombstone::Conversation(id) => store.remove_items(ConversationId::from_bytes(id), until),
        });
        match progress.unwrap() {
            CleanupProgress::More => {}
            CleanupProgress::Finish => tombstones.finish().unwrap(),
            CleanupProgress::Nothing => return,
        }
    }
}

fn record(id: ConversationId, user: UserId, next: u32) -> ConversationRecord {
    ConversationRecord {
        id,
        user,
        title: None,
        model: None,
        metadata: BTreeMap::new(),
        created_at: 1,
        updated_us: 1,
        items: next,
        bytes: 0,
        next,
        head: None,
        share: None,
    }
}

fn item(number: u32, length: usize) -> StoredItem {
    let node = Node {
        number,
        parent: None,
        id: format!("msg_{number}"),
        created_at: 1,
        deleted: false,
        pending: false,
    };
    StoredItem { node, body: json!({"text": "x".repeat(length)}).as_object().unwrap().clone() }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u32, usize),
    Stage(u32, usize),
    ImportStaged(u32, usize),
    ImportRecord(u32),
    Discard(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![0usize..50, Just(70_000)];
    prop_oneof![
        (0u32..4, length.clone()).prop_map(|(number, length)| Op::Put(number, length)),
        (0u32..4, length.clone()).prop_map(|(number, length)| Op::Stage(number, length)),
        (0u32..4, length.clone()).prop_map(|(number, length)| Op::ImportStaged(number, length)),
        (0u32..4).prop_map(Op::ImportRecord),
        length.prop_map(Op::Discard),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However an item was stored and replaced, its conversation leaves nothing behind.
    #[test]
    fn deleted_conversations_leave_no_body(ops in proptest::collection::vec(op(), 1..12)) {
        let store = store();
        let (id, user) = (ConversationId::new(), UserId::new());
        let put = ConversationChange::Put(record(id, user, 4));
        store.apply(&[store.prepare(&put).unwrap()], Vec::new()).unwrap();
        for op in ops {
            let staged = |number, length| {
                let item = item(number, length);
                ConversationChange::PutStaged(id, item.node, store.stage(&item.body).unwrap())
            };
            match op {
                Op::Put(number, length) => {
                    let put = ConversationChange::PutItem(id, item(number, length));
                    store.apply(&[store.prepare(&put).unwrap()], Vec::new()).unwrap();
                    prop_assert_eq!(store.item(id, number).unwrap(), Some(item(number, length)));
                }
                Op::Stage(number, length) => {
                    let put = staged(number, length);
                    store.apply(&[store.prepare(&put).unwrap()], Vec::new()).unwrap();
                    prop_assert_eq!(store.item(id, number).unwrap(), Some(item(number, length)));
                }
                Op::ImportStaged(number, length) => {
                    store.put_imported_item(id, number, &staged(number, length)).unwrap();
                    prop_assert_eq!(store.item(id, number).unwrap(), Some(item(number, length)));
                }
                Op::ImportRecord(next) => {
                    store.put_imported(&record(id, user, next)).unwrap();
                    prop_assert!(block_on(store.nodes(id)).unwrap().iter().all(|node| node.number < next));
                }
                Op::Discard(length) => {
                    store.discard(&store.stage(&item(0, length).body).unwrap()).unwrap();
                }
            }
            let live = block_on(store.nodes(id)).unwrap().len();
            clean_up(&store);
            for node in block_on(store.nodes(id)).unwrap() {
                prop_assert!(store.item(id, node.number).unwrap().is_some());
            }
            prop_assert_eq!(block_on(store.nodes(id)).unwrap().len(), live);
        }
        store.apply(&[Prepared::Delete(id)], Vec::new()).unwrap();
        clean_up(&store);
        for tree in [&store.item, &store.item_id, &store.bodies.part, store.bodies.tombstones.tree()] {
            prop_assert!(tree.is_empty(), "{:?}", tree.name());
        }
    }
}

#[test]
fn missing_part_is_an_error() {
    let store = store();
    let (id, large) = (ConversationId::new(), item(0, 200_000));
    let body = store.stage(&large.body).unwrap();
    let put = ConversationChange::PutStaged(id, large.node, body);
    store.apply(&[store.prepare(&put).unwrap()], Vec::new()).unwrap();
    let last = store.bodies.part.last().unwrap().unwrap().0;
    store.bodies.part.remove(last).unwrap();
    assert!(matches!(store.item(id, 0), Err(StoreError::Value { .. })));
    assert!(store.node(id, 0).unwrap().is_some());
    store.put_imported(&record(id, UserId::new(), 0)).unwrap();
    clean_up(&store);
    assert!(store.bodies.part.is_empty());
}
