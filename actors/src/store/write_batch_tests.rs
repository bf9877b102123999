use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::folder_factory;
use super::*;
use crate::conversations::Share;

/// The changes of one decision. There are few conversations and items, so that decisions overlap.
#[derive(Clone, Debug)]
enum Op {
    Put {
        conversation: u8,
        title: u8,
        updated_us: u64,
        shared: bool,
    },
    PutItem {
        conversation: u8,
        number: u32,
        version: u8,
        large: bool,
    },
    Delete {
        conversation: u8,
    },
    /// The end of a round.
    Flush,
    /// A read that needs a flush.
    List,
}

fn op() -> impl Strategy<Value = Op> {
    let conversation = 0u8..3;
    prop_oneof![
        4 => (conversation.clone(), any::<u8>(), 1u64..50, any::<bool>())
            .prop_map(|(conversation, title, updated_us, shared)| Op::Put { conversation, title, updated_us, shared }),
        6 => (conversation.clone(), 0u32..4, any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(conversation, number, version, large)| Op::PutItem { conversation, number, version, large }),
        1 => conversation.prop_map(|conversation| Op::Delete { conversation }),
        1 => Just(Op::Flush),
        1 => Just(Op::List),
    ]
}

fn user() -> UserId {
    UserId::from_bytes([7; 16])
}

fn id(conversation: u8) -> ConversationId {
    ConversationId::from_bytes([conversation + 1; 16])
}

fn record(conversation: u8, title: u8, updated_us: u64, shared: bool) -> ConversationRecord {
    let token = format!("share_{conversation}");
    ConversationRecord {
        id: id(conversation),
        user: user(),
        title: Some(format!("title {title}")),
        model: None,
        metadata: BTreeMap::new(),
        created_at: 1,
        updated_us,
        items: 4,
        bytes: 2,
        next: 4,
        head: Some(0),
        share: shared.then_some(Share { token, head: Some(0), created_at: 1, expires_at: None }),
    }
}

fn said(number: u32, version: u8, large: bool) -> StoredItem {
    // A large one lies in several chunks; a smaller one in its place leaves none of them behind.
    let text = format!("{version}").repeat(if large { 100_000 } else { 10 });
    let body = serde_json::json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]});
    let id = format!("msg_{number}");
    let node = Node { number, parent: None, id, created_at: 1, deleted: version < 20, pending: false };
    StoredItem { node, body: body.as_object().unwrap().clone() }
}

fn positions(store: &dyn ConversationsStore) -> Vec<Position> {
    let mut found = Vec::new();
    store
        .positions(user(), None, None, true, &mut |position| {
            found.push(position);
            Ok(true)
        })
        .unwrap();
    found
}

/// All reads that need no flush.
fn assert_same(a: &dyn ConversationsStore, b: &dyn ConversationsStore) -> Result<(), TestCaseError> {
    for conversation in 0..3 {
        let id = id(conversation);
        prop_assert_eq!(a.conversation(id).unwrap(), b.conversation(id).unwrap());
        for number in 0..4 {
            prop_assert_eq!(a.node(id, number).unwrap(), b.node(id, number).unwrap());
            prop_assert_eq!(a.item(id, number).unwrap(), b.item(id, number).unwrap());
            let item = format!("msg_{number}");
            prop_assert_eq!(a.item_number(id, &item).unwrap(), b.item_number(id, &item).unwrap());
        }
    }
    Ok(())
}

fn assert_same_lists(a: &dyn ConversationsStore, b: &dyn ConversationsStore) -> Result<(), TestCaseError> {
    prop_assert_eq!(positions(a), positions(b));
    for conversation in 0..3 {
        prop_assert_eq!(a.nodes(id(conversation)).unwrap(), b.nodes(id(conversation)).unwrap());
        let token = format!("share_{conversation}");
        prop_assert_eq!(a.shared(&token).unwrap(), b.shared(&token).unwrap());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However decisions are spread over rounds, each sees the same as if each change were committed at once.
    #[test]
    fn batched_changes_equal_single_changes(ops in prop::collection::vec(op(), 1..40)) {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let stores = folders.each_ref().map(|folder| folder_factory(folder.path()).open().unwrap());
        let [one_by_one, together]: [Arc<dyn Stores>; 2] = stores.map(Into::into);
        let mut batch = WriteBatch::new(Arc::clone(&together));
        for op in ops {
            let changes = match op {
                Op::Put { conversation, title, updated_us, shared } => {
                    vec![ConversationChange::Put(record(conversation, title, updated_us, shared))]
                }
                Op::PutItem { conversation, number, version, large } => vec![
                    ConversationChange::PutItem(id(conversation), said(number, version, large)),
                    ConversationChange::Put(record(conversation, version, 60 + u64::from(version), false)),
                ],
                Op::Delete { conversation } => vec![ConversationChange::Delete(id(conversation))],
                Op::Flush => {
                    batch.flush().unwrap();
                    batch = WriteBatch::new(Arc::clone(&together));
                    Vec::new()
                }
                Op::List => {
                    assert_same_lists(&**one_by_one.conversations(), &batch)?;
                    Vec::new()
                }
            };
            let changes = Changes::conversations(changes);
            commit_once(&*one_by_one, &changes).unwrap();
            assert_eq!(batch.commit(&changes).unwrap(), Commit::Done);
            assert_same(&**one_by_one.conversations(), &batch)?;
        }
        batch.flush().unwrap();
        let (a, b) = (&**one_by_one.conversations(), &**together.conversations());
        assert_same(a, b)?;
        assert_same_lists(a, b)?;
    }
}
