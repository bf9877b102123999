//! Commits: one transaction for all changes of a decision.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::{
    NewSubject, Subject, clean_up, commit, conversation, item, key, no_quotas, put_response, put_users,
    response, session, user,
};
use crate::config::StorageConfig;
use crate::conversations::ConversationRecord;
use crate::identity::{UserId, UserKind, UserRecord};
use crate::responses::ResponseRecord;
use crate::store::memory::MemoryFactory;
use crate::store::{
    AccountChange, Changes, CleanupProgress, ConversationChange, Quotas, ResponseChange, SessionChange,
    Store, StoreError, Stores, Used,
};
use crate::usage::{BatchId, Day, UsageCounts, UsageFilter, UsageKey, UsageOwner};

/// Changes of all concerns for one user.
async fn everything(
    somebody: &UserRecord,
    stores: &dyn Stores,
) -> (Changes, ConversationRecord, ResponseRecord) {
    let (talk, answer) = (conversation(somebody.id), response(somebody.id, "a"));
    let changes = Changes {
        moves: Vec::new(),
        accounts: vec![
            AccountChange::PutUser(somebody.clone()),
            AccountChange::PutKey([7; 32], key(somebody.id)),
        ],
        sessions: vec![SessionChange::Put(session(somebody.id))],
        conversations: vec![
            ConversationChange::PutItem(talk.id, item(0, "a")),
            ConversationChange::Put(talk.clone()),
        ],
        responses: vec![ResponseChange::PutStaged(stores.responses().stage(&answer).await.unwrap())],
    };
    (changes, talk, answer)
}

async fn assert_empty(stores: &dyn Stores, of: UserId) {
    assert_eq!(stores.accounts().user(of).await.unwrap(), None);
    assert_eq!(stores.accounts().keys(of).await.unwrap(), []);
    assert_eq!(stores.sessions().sessions(of).await.unwrap(), []);
    assert_eq!(talks(stores, of).await, 0);
    assert_eq!(stores.responses().of_user(of, None, 9).await.unwrap(), []);
    assert_eq!(stores.used(of).await.unwrap(), Used::default());
}

async fn talks(stores: &dyn Stores, of: UserId) -> usize {
    stores.conversations().list(of, None, None, true, 1000).await.unwrap().listed.len()
}

pub async fn changes_of_all_concerns_are_one_commit(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let somebody = user("a@x.example");
    let (changes, talk, answer) = everything(&somebody, &*stores).await;
    commit(&*stores, &changes).await;
    commit(&*stores, &Changes::default()).await;
    assert_eq!(stores.accounts().user(somebody.id).await.unwrap(), Some(somebody.clone()));
    assert_eq!(stores.accounts().key_count(somebody.id, 9).await.unwrap(), 1);
    assert_eq!(stores.sessions().sessions(somebody.id).await.unwrap().len(), 1);
    assert_eq!(stores.conversations().conversation(talk.id).await.unwrap(), Some(talk.clone()));
    assert_eq!(stores.conversations().item(talk.id, 0).await.unwrap(), Some(item(0, "a")));
    assert_eq!(stores.responses().response(answer.id).await.unwrap(), Some(answer));
    let used = stores.used(somebody.id).await.unwrap();
    assert_eq!((used.conversations, used.responses), (1, 1));
}

/// The last change of a commit is refused: none of the others is made.
pub async fn all_changes_or_none(new: NewSubject) {
    let (subject, other) = (new(no_quotas()), new(no_quotas()));
    let (stores, other) = (subject.open().await, other.open().await);
    let (somebody, gone) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&gone]).await;
    put_response(&*stores, &response(gone.id, "b")).await;
    let (mut changes, ..) = everything(&somebody, &*stores).await;
    changes.accounts.push(AccountChange::DeleteUser(gone.id));
    changes.moves.push((gone.id, somebody.id));
    let stale = other.responses().stage(&response(somebody.id, "c")).await.unwrap();
    changes.responses.push(ResponseChange::PutStaged(stale));
    assert_eq!(stores.commit(&changes).await, Err(StoreError::Reopening));
    assert_empty(&*stores, somebody.id).await;
    assert_eq!(stores.accounts().user(gone.id).await.unwrap(), Some(gone.clone()));
    assert_eq!(stores.responses().of_user(gone.id, None, 9).await.unwrap().len(), 1);
    assert_eq!(stores.deleting_users().await.unwrap(), []);
}

/// As when a guest signs in: the guest is deleted, and its data is the user's.
pub async fn moved_data_is_whole(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (guest, somebody) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&guest, &somebody]).await;
    // More than one step moves.
    let all: Vec<_> = (0..40).map(|_| conversation(guest.id)).collect();
    commit(&*stores, &Changes::conversations(all.into_iter().map(ConversationChange::Put).collect())).await;
    let answers: Vec<_> = (0..20).map(|_| response(guest.id, "a")).collect();
    for answer in &answers {
        put_response(&*stores, answer).await;
    }
    let row = |user| UsageKey { user: UsageOwner::User(user), day: Day::FIRST, key: None, model: "m".into() };
    let batch = BatchId { buffer: uuid::Uuid::new_v4(), number: 1 };
    let counts = UsageCounts { requests: 3, ..UsageCounts::default() };
    stores.usage().add(batch, &[(row(guest.id), counts), (row(somebody.id), counts)]).await.unwrap();
    let before = stores.used(guest.id).await.unwrap();
    for _ in 0..2 {
        stores.move_some(guest.id, somebody.id).await.unwrap();
    }
    commit(
        &*stores,
        &Changes {
            moves: vec![(guest.id, somebody.id)],
            accounts: vec![AccountChange::DeleteUser(guest.id)],
            ..Changes::default()
        },
    )
    .await;
    assert_eq!((talks(&*stores, guest.id).await, talks(&*stores, somebody.id).await), (0, 40));
    assert_eq!(stores.responses().of_user(somebody.id, None, 99).await.unwrap().len(), 20);
    let moved = stores.responses().response(answers[0].id).await.unwrap().unwrap();
    assert_eq!(moved, ResponseRecord { user: somebody.id, ..answers[0].clone() });
    assert_eq!(
        (stores.used(guest.id).await.unwrap(), stores.used(somebody.id).await.unwrap()),
        (Used::default(), before)
    );
    let filter = UsageFilter { user: None, start: Day::FIRST, end: Day::last() };
    let mut rows = Vec::new();
    stores.usage().rows(&filter, &mut |key, counts| rows.push((key.clone(), counts.requests))).await.unwrap();
    assert_eq!(rows, [(row(somebody.id), 6)]);
    assert_eq!(stores.deleting_users().await.unwrap(), [guest.id]);
}

pub async fn deleted_users_are_removed_in_steps(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (gone, stays) = (user("a@x.example"), user("b@x.example"));
    let (changes, talk, answer) = everything(&gone, &*stores).await;
    commit(&*stores, &changes).await;
    let more: Vec<_> = (0..40).map(|_| ConversationChange::Put(conversation(gone.id))).collect();
    commit(&*stores, &Changes::conversations(more)).await;
    let (mut changes, ..) = everything(&stays, &*stores).await;
    changes.accounts[1] = AccountChange::PutKey([8; 32], key(stays.id));
    commit(&*stores, &changes).await;
    clean_up(&*stores).await;
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(gone.id)])).await;
    assert_eq!(stores.accounts().user(gone.id).await.unwrap(), None, "the account is gone at once");
    assert_eq!(stores.deleting_users().await.unwrap(), [gone.id]);
    let mut steps = 0;
    // No time at all: each step does a part.
    while stores.cleanup(Instant::now()).await.unwrap() == CleanupProgress::More {
        assert_eq!(stores.deleting_users().await.unwrap(), [gone.id]);
        steps += 1;
    }
    assert!(steps > 2, "{steps} steps");
    stores.sync().await.unwrap();
    stores.finish_cleanup().await.unwrap();
    clean_up(&*stores).await;
    assert_eq!(stores.deleting_users().await.unwrap(), []);
    assert_empty(&*stores, gone.id).await;
    assert_eq!(stores.accounts().key_by_hash(&[7; 32]).await.unwrap(), None);
    assert_eq!(stores.conversations().nodes(talk.id).await.unwrap(), []);
    assert_eq!(stores.responses().response(answer.id).await.unwrap(), None);
    assert_eq!(stores.cleanup(Instant::now()).await.unwrap(), CleanupProgress::Nothing);
    assert_eq!(
        (talks(&*stores, stays.id).await, stores.accounts().key_count(stays.id, 9).await.unwrap()),
        (1, 1)
    );
}

pub async fn storage_totals_follow_changes(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let (ann, bob) = (UserId::new(), UserId::new());
    let all = [ann, ann, bob].map(conversation);
    for _ in 0..2 {
        // Twice, which is once.
        let put = all.iter().cloned().map(ConversationChange::Put).collect();
        commit(&*stores, &Changes::conversations(put)).await;
    }
    let size = |record| Used::of_conversation(record);
    assert_eq!(stores.used(ann).await.unwrap(), size(&all[0]).and(size(&all[1])));
    let larger =
        ConversationRecord { bytes: 5000, next: 9, title: Some("title".to_owned()), ..all[0].clone() };
    commit(&*stores, &Changes::conversations(vec![ConversationChange::Put(larger.clone())])).await;
    assert_eq!(stores.used(ann).await.unwrap(), size(&larger).and(size(&all[1])));
    let moved = ConversationRecord { user: bob, ..larger.clone() };
    let delete = ConversationChange::Delete(all[2].id);
    commit(&*stores, &Changes::conversations(vec![ConversationChange::Put(moved.clone()), delete])).await;
    assert_eq!(
        (stores.used(ann).await.unwrap(), stores.used(bob).await.unwrap()),
        (size(&all[1]), size(&moved))
    );
    let small = response(ann, "a");
    put_response(&*stores, &small).await;
    let with_small = stores.used(ann).await.unwrap();
    assert_eq!((with_small.conversations, with_small.responses), (1, 1));
    put_response(&*stores, &ResponseRecord { input: vec!["b".repeat(9000).into()], ..small.clone() }).await;
    let with_large = stores.used(ann).await.unwrap();
    assert!(with_large.bytes > with_small.bytes + 8000 && with_large.responses == 1);
    commit(&*stores, &Changes::responses(vec![ResponseChange::Delete(small.id)])).await;
    clean_up(&*stores).await;
    assert_eq!(stores.used(ann).await.unwrap(), size(&all[1]));
}

pub async fn quotas_are_checked(new: NewSubject) {
    let quotas = StorageConfig { max_user_conversations: 2, max_guest_conversations: 1, ..no_quotas() };
    let subject = new(quotas);
    let stores = subject.open().await;
    let (member, guest) = (user("a@x.example"), UserRecord { kind: UserKind::Guest, ..user("b@x.example") });
    put_users(&*stores, &[&member, &guest]).await;
    let one = Used::of_conversation(&conversation(member.id));
    for somebody in [&member, &guest] {
        stores.check_quota(somebody.id, one).await.unwrap();
        let put = ConversationChange::Put(conversation(somebody.id));
        commit(&*stores, &Changes::conversations(vec![put])).await;
    }
    stores.check_quota(member.id, one).await.unwrap();
    let refused = stores.check_quota(guest.id, one).await.unwrap_err();
    let StoreError::Quota { quota, limit, .. } = refused else { panic!("{refused}") };
    assert_eq!((quota.as_str(), limit), ("storage.max_guest_conversations", 1));
    stores.check_quota(guest.id, one.less()).await.unwrap();
    stores.check_quota(UserId::new(), one).await.unwrap();
}

pub async fn draft_takes_the_place_of_a_store(new: NewSubject) {
    let subject = new(no_quotas());
    let (before, after) = (user("a@x.example"), user("b@x.example"));
    let (draft, id) = {
        let stores = subject.open().await;
        assert!(subject.factory.exists().await);
        put_users(&*stores, &[&before]).await;
        stores.sync().await.unwrap();
        let draft = subject.factory.draft().await.unwrap();
        assert!(draft.stores().records().is_empty().await.unwrap());
        put_users(draft.stores(), &[&after]).await;
        draft.stores().sync().await.unwrap();
        assert_eq!(stores.accounts().users(None, 9).await.unwrap(), [before], "it is a store of its own");
        let id = draft.stores().records().store_id().await.unwrap();
        (draft, id)
    };
    draft.promote().await.unwrap();
    let stores = subject.open().await;
    assert_eq!(stores.accounts().users(None, 9).await.unwrap(), [after]);
    assert_eq!(stores.records().store_id().await.unwrap(), id);
}

pub async fn dropped_draft_leaves_the_store(new: NewSubject) {
    let subject = new(no_quotas());
    let somebody = user("a@x.example");
    put_users(&*subject.open().await, &[&somebody]).await;
    let draft = subject.factory.draft().await.unwrap();
    put_users(draft.stores(), &[&user("b@x.example")]).await;
    drop(draft);
    assert_eq!(subject.open().await.accounts().users(None, 9).await.unwrap(), [somebody]);
    let again = subject.factory.draft().await.unwrap();
    assert!(again.stores().records().is_empty().await.unwrap(), "nothing of the first draft is left");
}

pub async fn refused_space_is_reported(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    stores.check_space().await.unwrap();
    stores.probe().await.unwrap();
    stores.sync().await.unwrap();
    let error = StoreError::Database("it said so".to_owned());
    let error = subject.factory.load_error(error).to_string();
    assert!(error.contains("it said so"), "{error}");
}

/// The commit thread makes a decision again after a conflict, on the state stored by then, and gives up some time.
pub async fn decisions_are_repeated_after_conflicts(new: NewSubject) {
    let factory = MemoryFactory::new(Quotas::default());
    for (subject, conflicts, expected) in [
        (new(no_quotas()), 0, Ok(0)),
        (Subject::in_memory(factory.clone()), 3, Ok(3)),
        (Subject::in_memory(factory.clone()), 1000, Err(StoreError::Conflict)),
    ] {
        let store = Store::open(subject.factory, |_| async { Ok(()) }).unwrap();
        factory.conflict(conflicts);
        let (sender, receiver) = mpsc::channel();
        // Each conflict comes from a commit that adds a user.
        let decide = move |stores: Arc<dyn Stores>| async move {
            let seen = stores.accounts().users(None, 99).await?.len();
            let put = AccountChange::PutUser(user(&format!("{seen}@x.example")));
            Ok::<_, StoreError>((seen, Changes::accounts(vec![put])))
        };
        store.decide(decide, move |outcome| sender.send(outcome.map(|(seen, _)| seen)).unwrap());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), expected);
        factory.conflict(0);
        let email = format!("{}@x.example", expected.clone().unwrap_or(99));
        let found = store
            .look_blocking(|stores| async move { stores.accounts().user_by_email(&email).await })
            .unwrap();
        assert_eq!(found.is_some(), expected.is_ok(), "what was decided last is stored");
    }
}
