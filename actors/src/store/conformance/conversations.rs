//! Conversations and their items.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{NewSubject, commit, conversation, item, no_quotas};
use crate::conversations::types::{Position, StoredItem};
use crate::conversations::{ConversationId, ConversationRecord, Node, Share};
use crate::identity::UserId;
use crate::store::{Changes, ConversationChange, ConversationsStore, ListPart, StoreError, Stores, block_on};

async fn change(stores: &dyn Stores, changes: Vec<ConversationChange>) {
    commit(stores, &Changes::conversations(changes)).await;
}

async fn positions(store: &dyn ConversationsStore, user: UserId, newest_first: bool) -> Vec<Position> {
    found(store.list(user, None, None, newest_first, 100).await)
}

fn found(part: Result<ListPart, StoreError>) -> Vec<Position> {
    part.unwrap().listed.into_iter().map(|(position, _)| position).collect()
}

pub async fn items_are_read_as_written(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (talk, other) = (conversation(UserId::new()), conversation(UserId::new()));
    // Of several chunks, of one, and empty.
    let items = [item(0, &"ä".repeat(150_000)), item(1, "b"), item(2, "")];
    let mut changes: Vec<_> =
        items.iter().map(|item| ConversationChange::PutItem(talk.id, item.clone())).collect();
    changes.push(ConversationChange::Put(talk.clone()));
    changes.push(ConversationChange::PutItem(other.id, item(0, "other")));
    changes.push(ConversationChange::Put(other.clone()));
    change(&*stores, changes).await;
    let store = stores.conversations();
    assert_eq!(store.conversation(talk.id).await.unwrap(), Some(talk.clone()));
    assert_eq!(store.conversation(ConversationId::new()).await.unwrap(), None);
    let nodes: Vec<Node> = items.iter().map(|item| item.node.clone()).collect();
    assert_eq!(store.nodes(talk.id).await.unwrap(), nodes);
    for written in &items {
        let Node { number, ref id, .. } = written.node;
        assert_eq!(store.item(talk.id, number).await.unwrap().as_ref(), Some(written));
        assert_eq!(store.node(talk.id, number).await.unwrap().as_ref(), Some(&written.node));
        assert_eq!(store.item_number(talk.id, id).await.unwrap(), Some(number));
    }
    assert_eq!(store.item(talk.id, 3).await.unwrap(), None);
    assert_eq!(store.node(talk.id, 3).await.unwrap(), None);
    assert_eq!(store.item_number(talk.id, "msg_3").await.unwrap(), None);
    assert_eq!(store.item(other.id, 0).await.unwrap(), Some(item(0, "other")));
}

pub async fn items_are_replaced(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let talk = conversation(UserId::new());
    let put = |item: &StoredItem| ConversationChange::PutItem(talk.id, item.clone());
    change(&*stores, vec![ConversationChange::Put(talk.clone()), put(&item(0, &"x".repeat(200_000)))]).await;
    let mut deleted = item(0, "short");
    deleted.node.deleted = true;
    change(&*stores, vec![put(&deleted)]).await;
    let store = stores.conversations();
    assert_eq!(store.item(talk.id, 0).await.unwrap(), Some(deleted.clone()));
    assert_eq!(store.nodes(talk.id).await.unwrap(), [deleted.node], "no chunk of the longer one is left");
    let longer = item(0, &"y".repeat(300_000));
    change(&*stores, vec![put(&longer)]).await;
    assert_eq!(store.item(talk.id, 0).await.unwrap(), Some(longer));
}

/// A change that puts an item whose body is staged.
async fn staged(stores: &dyn Stores, id: ConversationId, item: &StoredItem) -> ConversationChange {
    let body = stores.conversations().stage(&item.body).await.unwrap();
    ConversationChange::PutStaged(id, item.node.clone(), body)
}

pub async fn staged_items_equal_others(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let talk = ConversationRecord { next: 3, ..conversation(UserId::new()) };
    let items = [item(0, "small"), item(1, &"x".repeat(500_000)), item(2, "")];
    let mut changes = Vec::new();
    for item in &items {
        changes.push(staged(&*stores, talk.id, item).await);
    }
    let store = stores.conversations();
    assert_eq!(store.item(talk.id, 1).await.unwrap(), None, "nobody sees it before it is put");
    changes.push(ConversationChange::Put(talk.clone()));
    change(&*stores, changes).await;
    for item in &items {
        let number = item.node.number;
        let size = serde_json::to_vec(&item.body).unwrap().len() as u64;
        assert_eq!(store.item(talk.id, number).await.unwrap().as_ref(), Some(item));
        assert_eq!(store.node(talk.id, number).await.unwrap().as_ref(), Some(&item.node));
        assert_eq!(store.node_and_size(talk.id, number).await.unwrap(), Some((item.node.clone(), size)));
        assert_eq!(store.item_number(talk.id, &item.node.id).await.unwrap(), Some(number));
    }
    assert_eq!(store.node_and_size(talk.id, 3).await.unwrap(), None);
    // Replaced by another staged one, by one in place, and in the same commit.
    let again = item(0, &"y".repeat(100_000));
    let (inline, last) = (item(1, "z"), item(2, &"w".repeat(100_000)));
    let twice = staged(&*stores, talk.id, &item(2, &"v".repeat(100_000))).await;
    let puts = vec![
        staged(&*stores, talk.id, &again).await,
        ConversationChange::PutItem(talk.id, inline.clone()),
        twice,
    ];
    change(&*stores, puts).await;
    change(&*stores, vec![staged(&*stores, talk.id, &last).await]).await;
    super::clean_up(&*stores).await;
    for item in [again, inline, last] {
        assert_eq!(store.item(talk.id, item.node.number).await.unwrap(), Some(item));
    }
    change(&*stores, vec![ConversationChange::Delete(talk.id)]).await;
    super::clean_up(&*stores).await;
    assert_eq!(store.item(talk.id, 0).await.unwrap(), None);
}

pub async fn discarded_bodies_cannot_be_put(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let stays = stores.conversations().stage(&item(0, "stays").body).await.unwrap();
    let body = stores.conversations().stage(&item(0, &"x".repeat(100_000)).body).await.unwrap();
    stores.conversations().discard(&body).unwrap();
    super::clean_up(&*stores).await;
    let talk = conversation(UserId::new());
    let put = ConversationChange::PutStaged(talk.id, item(0, "stays").node, stays.clone());
    change(&*stores, vec![ConversationChange::Put(talk.clone()), put]).await;
    assert_eq!(stores.conversations().item(talk.id, 0).await.unwrap(), Some(item(0, "stays")));
    // One that another opening staged may not be there.
    drop(stores);
    let again = subject.open().await;
    let put = ConversationChange::PutStaged(talk.id, item(0, "stays").node, stays);
    let put = Changes::conversations(vec![put]);
    assert_eq!(again.commit(&put).await, Err(StoreError::Reopening));
}

pub async fn positions_are_ordered_and_bounded(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (user, other) = (UserId::new(), UserId::new());
    // Two of one moment.
    let talks: Vec<_> = [5, 9, 9, 2, 7]
        .into_iter()
        .map(|updated_us| ConversationRecord { updated_us, ..conversation(user) })
        .collect();
    change(&*stores, talks.iter().cloned().map(ConversationChange::Put).collect()).await;
    change(&*stores, vec![ConversationChange::Put(conversation(other))]).await;
    let store = &**stores.conversations();
    let newest_first: Vec<_> = [1, 2, 4, 0, 3].iter().map(|&at: &usize| talks[at].position()).collect();
    assert_eq!(positions(store, user, true).await, newest_first);
    let oldest_first: Vec<_> = newest_first.iter().rev().copied().collect();
    assert_eq!(positions(store, user, false).await, oldest_first);
    for newer in 0..5 {
        for older in 0..5 {
            // Newer than one, older than another, both excluded.
            let bounds = (Some(newest_first[newer]), Some(newest_first[older]));
            let found = found(store.list(user, bounds.0, bounds.1, true, 9).await);
            let expected = newest_first.get(older + 1..newer).unwrap_or_default();
            assert_eq!(found, expected, "between {newer} and {older}");
        }
    }
    let first_two = store.list(user, None, None, true, 2).await.unwrap();
    let record = |at: usize| Some(talks[at].clone());
    assert_eq!(first_two.listed, [(newest_first[0], record(1)), (newest_first[1], record(2))]);
    for (limit, older_than, has_more) in
        [(2, None, true), (5, None, false), (6, None, false), (3, Some(1), false), (2, Some(1), true)]
    {
        let older_than = older_than.map(|at: usize| newest_first[at]);
        let part = store.list(user, None, older_than, true, limit).await.unwrap();
        assert_eq!(part.has_more, has_more, "{limit} behind {older_than:?}");
    }
    let changed = ConversationRecord { updated_us: 20, ..talks[3].clone() };
    change(&*stores, vec![ConversationChange::Put(changed.clone())]).await;
    let found = positions(store, user, true).await;
    assert_eq!((found.len(), found[0]), (5, changed.position()), "it has left its former place");
}

pub async fn share_tokens_lead_to_conversations(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.conversations();
    let share =
        |token: &str| Some(Share { token: token.to_owned(), head: Some(0), created_at: 1, expires_at: None });
    let talk = ConversationRecord { share: share("one"), ..conversation(UserId::new()) };
    change(&*stores, vec![ConversationChange::Put(talk.clone())]).await;
    assert_eq!(store.shared("one").await.unwrap(), Some(talk.id));
    let again = ConversationRecord { share: share("two"), ..talk.clone() };
    change(&*stores, vec![ConversationChange::Put(again)]).await;
    assert_eq!(
        (store.shared("one").await.unwrap(), store.shared("two").await.unwrap()),
        (None, Some(talk.id))
    );
    change(&*stores, vec![ConversationChange::Put(ConversationRecord { share: None, ..talk })]).await;
    assert_eq!(store.shared("two").await.unwrap(), None);
}

pub async fn deleted_conversations_are_gone(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.conversations();
    let user = UserId::new();
    let share = Share { token: "t".to_owned(), head: Some(0), created_at: 1, expires_at: None };
    let (talk, stays) = (ConversationRecord { share: Some(share), ..conversation(user) }, conversation(user));
    let put = |talk: &ConversationRecord| {
        [ConversationChange::Put(talk.clone()), ConversationChange::PutItem(talk.id, item(0, "a"))]
    };
    change(&*stores, [put(&talk), put(&stays)].concat()).await;
    change(&*stores, vec![ConversationChange::Delete(talk.id), ConversationChange::Delete(talk.id)]).await;
    assert_eq!(store.conversation(talk.id).await.unwrap(), None);
    assert_eq!(store.shared("t").await.unwrap(), None);
    assert_eq!(positions(&**store, user, true).await, [stays.position()]);
    super::clean_up(&*stores).await;
    assert_eq!(store.nodes(talk.id).await.unwrap(), []);
    assert_eq!(store.item(talk.id, 0).await.unwrap(), None);
    assert_eq!(store.item_number(talk.id, "msg_0").await.unwrap(), None);
    assert_eq!(store.item(stays.id, 0).await.unwrap(), Some(item(0, "a")));
}

/// One change of few conversations and items, so that changes meet.
#[derive(Clone, Debug)]
enum Op {
    Put { conversation: usize, updated_us: u64, shared: bool },
    PutItem { conversation: usize, number: u32, text: usize, staged: bool },
    Delete { conversation: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let conversation = 0usize..3;
    let text = prop_oneof![4 => 0usize..20, 1 => Just(70_000usize)];
    prop_oneof![
        4 => (conversation.clone(), 1u64..50, any::<bool>())
            .prop_map(|(conversation, updated_us, shared)| Op::Put { conversation, updated_us, shared }),
        6 => (conversation.clone(), 0u32..4, text, any::<bool>()).prop_map(
            |(conversation, number, text, staged)| Op::PutItem { conversation, number, text, staged }
        ),
        1 => conversation.prop_map(|conversation| Op::Delete { conversation }),
    ]
}

/// A store reads as a map does after all changes in all commits.
pub async fn changes_equal_the_model(new: NewSubject) {
    let commits = prop::collection::vec(prop::collection::vec(op(), 1..4), 1..12);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(16));
    let run = runner.run(&commits, |commits| {
        block_on(async {
            let subject = new(no_quotas());
            let stores = subject.open().await;
            let store = &**stores.conversations();
            let user = UserId::new();
            // A deleted id is not used again.
            let mut talks: Vec<_> = (0..3).map(|_| conversation(user)).collect();
            let mut there: BTreeMap<ConversationId, (ConversationRecord, BTreeMap<u32, StoredItem>)> =
                BTreeMap::new();
            for ops in commits {
                let mut changes = Vec::new();
                for op in ops {
                    match op {
                        Op::Put { conversation, updated_us, shared } => {
                            let talk = &mut talks[conversation];
                            let token = talk.id.to_string();
                            let share = Share { token, head: None, created_at: 1, expires_at: None };
                            *talk = ConversationRecord {
                                updated_us,
                                share: shared.then_some(share),
                                ..talk.clone()
                            };
                            there.entry(talk.id).or_insert_with(|| (talk.clone(), BTreeMap::new())).0 =
                                talk.clone();
                            changes.push(ConversationChange::Put(talk.clone()));
                        }
                        Op::PutItem { conversation, number, text, staged: is_staged } => {
                            let talk = &talks[conversation];
                            let item = item(number, &"z".repeat(text));
                            let entry =
                                there.entry(talk.id).or_insert_with(|| (talk.clone(), BTreeMap::new()));
                            entry.1.insert(number, item.clone());
                            changes.push(ConversationChange::Put(entry.0.clone()));
                            changes.push(match is_staged {
                                true => staged(&*stores, talk.id, &item).await,
                                false => ConversationChange::PutItem(talk.id, item),
                            });
                        }
                        Op::Delete { conversation: at } => {
                            there.remove(&talks[at].id);
                            changes.push(ConversationChange::Delete(talks[at].id));
                            talks[at] = conversation(user);
                        }
                    }
                }
                change(&*stores, changes).await;
            }
            let mut expected: Vec<_> = there.values().map(|(talk, _)| talk.position()).collect();
            expected.sort_by_key(|position| (std::cmp::Reverse(position.updated_us), position.id));
            prop_assert_eq!(positions(store, user, true).await, expected);
            for (id, (talk, items)) in &there {
                prop_assert_eq!(store.conversation(*id).await.unwrap(), Some(talk.clone()));
                let shared = store.shared(&id.to_string()).await.unwrap();
                prop_assert_eq!(shared, talk.share.as_ref().map(|_| *id));
                let nodes: Vec<_> = items.values().map(|item| item.node.clone()).collect();
                prop_assert_eq!(store.nodes(*id).await.unwrap(), nodes);
                for (number, item) in items {
                    prop_assert_eq!(store.item(*id, *number).await.unwrap(), Some(item.clone()));
                }
            }
            Ok(())
        })
    });
    run.unwrap();
}
