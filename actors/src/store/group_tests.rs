use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::conversations::SledConversations;
use super::*;
use crate::conversations::Share;

/// What one decision changes. Conversations and items are few, so that decisions meet.
#[derive(Clone, Debug)]
enum Op {
    Put {
        conversation: u8,
        title: u8,
        updated_us: u64,
        shared: bool,
    },
    Say {
        conversation: u8,
        number: u32,
        version: u8,
        large: bool,
    },
    Delete {
        conversation: u8,
    },
    /// A round ends.
    Flush,
    /// A look that needs everything to be there.
    List,
}

fn op() -> impl Strategy<Value = Op> {
    let conversation = 0u8..3;
    prop_oneof![
        4 => (conversation.clone(), any::<u8>(), 1u64..50, any::<bool>())
            .prop_map(|(conversation, title, updated_us, shared)| Op::Put { conversation, title, updated_us, shared }),
        6 => (conversation.clone(), 0u32..4, any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(conversation, number, version, large)| Op::Say { conversation, number, version, large }),
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

fn open() -> Arc<dyn ConversationsStore> {
    let db = sled::Config::new().temporary(true).open().unwrap();
    Arc::new(SledConversations::open(&db).unwrap())
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

/// Everything that can be asked, but for what needs everything to be there.
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

    /// Whatever is decided in whatever rounds: who decides sees what making each change at once would have made.
    #[test]
    fn changes_made_together_are_changes_made_one_by_one(ops in prop::collection::vec(op(), 1..40)) {
        let (one_by_one, together) = (open(), open());
        let mut group = Group::new(Arc::clone(&together));
        for op in ops {
            let changes = match op {
                Op::Put { conversation, title, updated_us, shared } => {
                    vec![ConversationChange::Put(record(conversation, title, updated_us, shared))]
                }
                Op::Say { conversation, number, version, large } => vec![
                    ConversationChange::PutItem(id(conversation), said(number, version, large)),
                    ConversationChange::Put(record(conversation, version, 60 + u64::from(version), false)),
                ],
                Op::Delete { conversation } => vec![ConversationChange::Delete(id(conversation))],
                Op::Flush => {
                    group.flush().unwrap();
                    group = Group::new(Arc::clone(&together));
                    Vec::new()
                }
                Op::List => {
                    assert_same_lists(&*one_by_one, &group)?;
                    Vec::new()
                }
            };
            one_by_one.commit(&changes).unwrap();
            group.commit(&changes).unwrap();
            assert_same(&*one_by_one, &group)?;
        }
        group.flush().unwrap();
        assert_same(&*one_by_one, &*together)?;
        assert_same_lists(&*one_by_one, &*together)?;
    }
}
