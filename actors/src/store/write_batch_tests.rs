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

async fn positions(store: &dyn ConversationsStore) -> Vec<Position> {
    let part = store.list(user(), None, None, true, 100).await.unwrap();
    part.listed.into_iter().map(|(position, _)| position).collect()
}

/// All reads that need no flush.
async fn assert_same(a: &dyn ConversationsStore, b: &dyn ConversationsStore) -> Result<(), TestCaseError> {
    for conversation in 0..3 {
        let id = id(conversation);
        prop_assert_eq!(a.conversation(id).await.unwrap(), b.conversation(id).await.unwrap());
        for number in 0..4 {
            prop_assert_eq!(a.node(id, number).await.unwrap(), b.node(id, number).await.unwrap());
            prop_assert_eq!(a.item(id, number).await.unwrap(), b.item(id, number).await.unwrap());
            let item = format!("msg_{number}");
            prop_assert_eq!(a.item_number(id, &item).await.unwrap(), b.item_number(id, &item).await.unwrap());
        }
    }
    Ok(())
}

async fn assert_same_lists(
    a: &dyn ConversationsStore,
    b: &dyn ConversationsStore,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(positions(a).await, positions(b).await);
    for conversation in 0..3 {
        prop_assert_eq!(a.nodes(id(conversation)).await.unwrap(), b.nodes(id(conversation)).await.unwrap());
        let token = format!("share_{conversation}");
        prop_assert_eq!(a.shared(&token).await.unwrap(), b.shared(&token).await.unwrap());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However decisions are spread over rounds, each sees the same as if each change were committed at once.
    #[test]
    fn batched_changes_equal_single_changes(ops in prop::collection::vec(op(), 1..40)) {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let stores = folders.each_ref().map(|folder| block_on(folder_factory(folder.path()).open()).unwrap());
        let [one_by_one, together]: [Arc<dyn Stores>; 2] = stores.map(Into::into);
block_on(async {
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
                    batch.flush().await.unwrap();
                    batch = WriteBatch::new(Arc::clone(&together));
                    Vec::new()
                }
                Op::List => {
                    assert_same_lists(&**one_by_one.conversations(), &batch).await?;
                    Vec::new()
                }
            };
            let changes = Changes::conversations(changes);
            commit_once(&*one_by_one, &changes).await.unwrap();
            assert_eq!(batch.commit(&changes).await.unwrap(), Commit::Done);
            assert_same(&**one_by_one.conversations(), &batch).await?;
        }
        batch.flush().await.unwrap();
        let (a, b) = (&**one_by_one.conversations(), &**together.conversations());
        assert_same(a, b).await?;
        assert_same_lists(a, b).await?;
        Ok::<(), TestCaseError>(())
        })?;
    }
}
