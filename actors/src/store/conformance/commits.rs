//! Commits: one transaction for all changes of a decision.

use std::sync::mpsc;
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
fn everything(somebody: &UserRecord, stores: &dyn Stores) -> (Changes, ConversationRecord, ResponseRecord) {
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
        responses: vec![ResponseChange::PutStaged(stores.responses().stage(&answer).unwrap())],
    };
    (changes, talk, answer)
}

fn assert_empty(stores: &dyn Stores, of: UserId) {
    assert_eq!(stores.accounts().user(of).unwrap(), None);
    assert_eq!(stores.accounts().keys(of).unwrap(), []);
    assert_eq!(stores.sessions().sessions(of).unwrap(), []);
    assert_eq!(talks(stores, of), 0);
    assert_eq!(stores.responses().of_user(of, None, 9).unwrap(), []);
    assert_eq!(stores.used(of).unwrap(), Used::default());
}

fn talks(stores: &dyn Stores, of: UserId) -> usize {
    let mut count = 0;
    let mut visit = |_| {
        count += 1;
        Ok(true)
    };
    stores.conversations().positions(of, None, None, true, &mut visit).unwrap();
    count
}

pub fn changes_of_all_concerns_are_one_commit(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let somebody = user("a@x.example");
    let (changes, talk, answer) = everything(&somebody, &*stores);
    commit(&*stores, &changes);
    commit(&*stores, &Changes::default());
    assert_eq!(stores.accounts().user(somebody.id).unwrap(), Some(somebody.clone()));
    assert_eq!(stores.accounts().key_count(somebody.id, 9).unwrap(), 1);
    assert_eq!(stores.sessions().sessions(somebody.id).unwrap().len(), 1);
    assert_eq!(stores.conversations().conversation(talk.id).unwrap(), Some(talk.clone()));
    assert_eq!(stores.conversations().item(talk.id, 0).unwrap(), Some(item(0, "a")));
    assert_eq!(stores.responses().response(answer.id).unwrap(), Some(answer));
    let used = stores.used(somebody.id).unwrap();
    assert_eq!((used.conversations, used.responses), (1, 1));
}

/// The last change of a commit is refused: none of the others is made.
pub fn all_changes_or_none(new: NewSubject) {
    let (subject, other) = (new(no_quotas()), new(no_quotas()));
    let (stores, other) = (subject.open(), other.open());
    let (somebody, gone) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&gone]);
    put_response(&*stores, &response(gone.id, "b"));
    let (mut changes, ..) = everything(&somebody, &*stores);
    changes.accounts.push(AccountChange::DeleteUser(gone.id));
    changes.moves.push((gone.id, somebody.id));
    let stale = other.responses().stage(&response(somebody.id, "c")).unwrap();
    changes.responses.push(ResponseChange::PutStaged(stale));
    assert_eq!(stores.commit(&changes), Err(StoreError::Reopening));
    assert_empty(&*stores, somebody.id);
    assert_eq!(stores.accounts().user(gone.id).unwrap(), Some(gone.clone()));
    assert_eq!(stores.responses().of_user(gone.id, None, 9).unwrap().len(), 1);
    assert_eq!(stores.deleting_users().unwrap(), []);
}

/// As when a guest signs in: the guest is deleted, and its data is the user's.
pub fn moved_data_is_whole(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let (guest, somebody) = (user("a@x.example"), user("b@x.example"));
    put_users(&*stores, &[&guest, &somebody]);
    // More than one step moves.
    let all: Vec<_> = (0..40).map(|_| conversation(guest.id)).collect();
    commit(&*stores, &Changes::conversations(all.into_iter().map(ConversationChange::Put).collect()));
    let answers: Vec<_> = (0..20).map(|_| response(guest.id, "a")).collect();
    answers.iter().for_each(|answer| put_response(&*stores, answer));
    let row = |user| UsageKey { user: UsageOwner::User(user), day: Day::FIRST, key: None, model: "m".into() };
    let batch = BatchId { buffer: uuid::Uuid::new_v4(), number: 1 };
    let counts = UsageCounts { requests: 3, ..UsageCounts::default() };
    stores.usage().add(batch, &[(row(guest.id), counts), (row(somebody.id), counts)]).unwrap();
    let before = stores.used(guest.id).unwrap();
    let steps = std::iter::repeat_with(|| stores.move_some(guest.id, somebody.id).unwrap());
    let _ = steps.take(2).last();
    commit(
        &*stores,
        &Changes {
            moves: vec![(guest.id, somebody.id)],
            accounts: vec![AccountChange::DeleteUser(guest.id)],
            ..Changes::default()
        },
    );
    assert_eq!((talks(&*stores, guest.id), talks(&*stores, somebody.id)), (0, 40));
    assert_eq!(stores.responses().of_user(somebody.id, None, 99).unwrap().len(), 20);
    let moved = stores.responses().response(answers[0].id).unwrap().unwrap();
    assert_eq!(moved, ResponseRecord { user: somebody.id, ..answers[0].clone() });
    assert_eq!(
        (stores.used(guest.id).unwrap(), stores.used(somebody.id).unwrap()),
        (Used::default(), before)
    );
    let filter = UsageFilter { user: None, start: Day::FIRST, end: Day::last() };
    let mut rows = Vec::new();
    stores.usage().rows(&filter, &mut |key, counts| rows.push((key.clone(), counts.requests))).unwrap();
    assert_eq!(rows, [(row(somebody.id), 6)]);
    assert_eq!(stores.deleting_users().unwrap(), [guest.id]);
}

pub fn deleted_users_are_removed_in_steps(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let (gone, stays) = (user("a@x.example"), user("b@x.example"));
    let (changes, talk, answer) = everything(&gone, &*stores);
    commit(&*stores, &changes);
    let more: Vec<_> = (0..40).map(|_| ConversationChange::Put(conversation(gone.id))).collect();
    commit(&*stores, &Changes::conversations(more));
    let (mut changes, ..) = everything(&stays, &*stores);
    changes.accounts[1] = AccountChange::PutKey([8; 32], key(stays.id));
    commit(&*stores, &changes);
    clean_up(&*stores);
    commit(&*stores, &Changes::accounts(vec![AccountChange::DeleteUser(gone.id)]));
    assert_eq!(stores.accounts().user(gone.id).unwrap(), None, "the account is gone at once");
    assert_eq!(stores.deleting_users().unwrap(), [gone.id]);
    let mut steps = 0;
    // No time at all: each step does a part.
    while stores.cleanup(Instant::now()).unwrap() == CleanupProgress::More {
        assert_eq!(stores.deleting_users().unwrap(), [gone.id]);
        steps += 1;
    }
    assert!(steps > 2, "{steps} steps");
    stores.sync().unwrap();
    stores.finish_cleanup().unwrap();
    clean_up(&*stores);
    assert_eq!(stores.deleting_users().unwrap(), []);
    assert_empty(&*stores, gone.id);
    assert_eq!(stores.accounts().key_by_hash(&[7; 32]).unwrap(), None);
    assert_eq!(stores.conversations().nodes(talk.id).unwrap(), []);
    assert_eq!(stores.responses().response(answer.id).unwrap(), None);
    assert_eq!(stores.cleanup(Instant::now()).unwrap(), CleanupProgress::Nothing);
    assert_eq!((talks(&*stores, stays.id), stores.accounts().key_count(stays.id, 9).unwrap()), (1, 1));
}

pub fn storage_totals_follow_changes(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let (ann, bob) = (UserId::new(), UserId::new());
    let all = [ann, ann, bob].map(conversation);
    for _ in 0..2 {
        // Twice, which is once.
        let put = all.iter().cloned().map(ConversationChange::Put).collect();
        commit(&*stores, &Changes::conversations(put));
    }
    let size = |record| Used::of_conversation(record);
    assert_eq!(stores.used(ann).unwrap(), size(&all[0]).and(size(&all[1])));
    let larger =
        ConversationRecord { bytes: 5000, next: 9, title: Some("title".to_owned()), ..all[0].clone() };
    commit(&*stores, &Changes::conversations(vec![ConversationChange::Put(larger.clone())]));
    assert_eq!(stores.used(ann).unwrap(), size(&larger).and(size(&all[1])));
    let moved = ConversationRecord { user: bob, ..larger.clone() };
    let delete = ConversationChange::Delete(all[2].id);
    commit(&*stores, &Changes::conversations(vec![ConversationChange::Put(moved.clone()), delete]));
    assert_eq!((stores.used(ann).unwrap(), stores.used(bob).unwrap()), (size(&all[1]), size(&moved)));
    let small = response(ann, "a");
    put_response(&*stores, &small);
    let with_small = stores.used(ann).unwrap();
    assert_eq!((with_small.conversations, with_small.responses), (1, 1));
    put_response(&*stores, &ResponseRecord { input: vec!["b".repeat(9000).into()], ..small.clone() });
    let with_large = stores.used(ann).unwrap();
    assert!(with_large.bytes > with_small.bytes + 8000 && with_large.responses == 1);
    commit(&*stores, &Changes::responses(vec![ResponseChange::Delete(small.id)]));
    clean_up(&*stores);
    assert_eq!(stores.used(ann).unwrap(), size(&all[1]));
}

pub fn quotas_are_checked(new: NewSubject) {
    let quotas = StorageConfig { max_user_conversations: 2, max_guest_conversations: 1, ..no_quotas() };
    let subject = new(quotas);
    let stores = subject.open();
    let (member, guest) = (user("a@x.example"), UserRecord { kind: UserKind::Guest, ..user("b@x.example") });
    put_users(&*stores, &[&member, &guest]);
    let one = Used::of_conversation(&conversation(member.id));
    for somebody in [&member, &guest] {
        stores.check_quota(somebody.id, one).unwrap();
        let put = ConversationChange::Put(conversation(somebody.id));
        commit(&*stores, &Changes::conversations(vec![put]));
    }
    stores.check_quota(member.id, one).unwrap();
    let refused = stores.check_quota(guest.id, one).unwrap_err();
    let StoreError::Quota { quota, limit, .. } = refused else { panic!("{refused}") };
    assert_eq!((quota.as_str(), limit), ("storage.max_guest_conversations", 1));
    stores.check_quota(guest.id, one.less()).unwrap();
    stores.check_quota(UserId::new(), one).unwrap();
}

pub fn draft_takes_the_place_of_a_store(new: NewSubject) {
    let subject = new(no_quotas());
    let (before, after) = (user("a@x.example"), user("b@x.example"));
    let (draft, id) = {
        let stores = subject.open();
        assert!(subject.factory.exists());
        put_users(&*stores, &[&before]);
        stores.sync().unwrap();
        let draft = subject.factory.draft().unwrap();
        assert!(draft.stores().records().is_empty().unwrap());
        put_users(draft.stores(), &[&after]);
        draft.stores().sync().unwrap();
        assert_eq!(stores.accounts().users(None, 9).unwrap(), [before], "it is a store of its own");
        let id = draft.stores().records().store_id().unwrap();
        (draft, id)
    };
    draft.promote().unwrap();
    let stores = subject.open();
    assert_eq!(stores.accounts().users(None, 9).unwrap(), [after]);
    assert_eq!(stores.records().store_id().unwrap(), id);
}

pub fn dropped_draft_leaves_the_store(new: NewSubject) {
    let subject = new(no_quotas());
    let somebody = user("a@x.example");
    put_users(&*subject.open(), &[&somebody]);
    let draft = subject.factory.draft().unwrap();
    put_users(draft.stores(), &[&user("b@x.example")]);
    drop(draft);
    assert_eq!(subject.open().accounts().users(None, 9).unwrap(), [somebody]);
    let again = subject.factory.draft().unwrap();
    assert!(again.stores().records().is_empty().unwrap(), "nothing of the first draft is left");
}

pub fn refused_space_is_reported(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    stores.check_space().unwrap();
    stores.probe().unwrap();
    stores.sync().unwrap();
    let error = StoreError::Database("it said so".to_owned());
    let error = subject.factory.load_error(error).to_string();
    assert!(error.contains("it said so"), "{error}");
}

/// The commit thread makes a decision again after a conflict, on the state stored by then, and gives up some time.
pub fn decisions_are_repeated_after_conflicts(new: NewSubject) {
    let factory = MemoryFactory::new(Quotas::default());
    for (subject, conflicts, expected) in [
        (new(no_quotas()), 0, Ok(1)),
        (Subject { factory: Box::new(factory.clone()), folder: None }, 3, Ok(4)),
        (Subject { factory: Box::new(factory.clone()), folder: None }, 1000, Err(StoreError::Conflict)),
    ] {
        let store = Store::open(subject.factory, |_| Ok(())).unwrap();
        factory.conflict(conflicts);
        let (sender, receiver) = mpsc::channel();
        let tries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let decide = move |_: &dyn Stores| {
            let tried = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let put = AccountChange::PutUser(user(&format!("{tried}@x.example")));
            Ok::<_, StoreError>((tried, Changes::accounts(vec![put])))
        };
        store.decide(decide, move |outcome| sender.send(outcome.map(|(tried, _)| tried)).unwrap());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), expected);
        factory.conflict(0);
        let last = expected.map_or(0, |tried| tried);
        let email = format!("{last}@x.example");
        let found = store.look_blocking(move |stores| stores.accounts().user_by_email(&email)).unwrap();
        assert_eq!(found.is_some(), last > 0, "what was decided last is stored");
    }
}
