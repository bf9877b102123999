//! Users are forgotten whole, and what is brought along in an export leads to what it should.

use super::*;

#[test]
fn forgetting_is_finished_after_a_crash() {
    use crate::usage::{BatchId, Day, UsageCounts, UsageFilter, UsageKey};
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (gone, stays) = (user("a@x.example"), user("b@x.example"));
    let key = |user| UsageKey { user: Payer::User(user), day: Day::FIRST, key: None, model: "m".into() };
    let rows = [(key(gone.id), UsageCounts::default()), (key(stays.id), UsageCounts::default())];
    let (gone_id, stays_id) = (gone.id, stays.id);
    let (theirs, others) = (conversation(gone_id), conversation(stays_id));
    let (theirs_id, others_id) = (theirs.id, others.id);
    let response = |user| ResponseRecord::new(user, 7, serde_json::json!({}));
    write(&store, move |stores| {
        stores.conversations().commit(&[
            ConversationChange::Put(theirs),
            ConversationChange::PutItem(theirs_id, said()),
            ConversationChange::Put(others),
        ])?;
        stores.responses().commit(&[
            ResponseChange::Put(Box::new(response(gone_id))),
            ResponseChange::Put(Box::new(response(stays_id))),
        ])?;
        stores.usage().add(BatchId { book: uuid::Uuid::new_v4(), number: 1 }, &rows)?;
        stores.accounts().commit(&[AccountChange::PutUser(gone), AccountChange::PutUser(stays)])?;
        // As `commit` begins, for one whose deletion was decided and one whose was not.
        stores.note_forgotten(gone_id, true)?;
        stores.note_forgotten(stays_id, true)?;
        stores.accounts().commit(&[AccountChange::DeleteUser(gone_id)])
    })
    .unwrap();
    store.close();
    let store = open(folder.path());
    let payers = read(&store, |stores| {
        let mut payers = Vec::new();
        let all = UsageFilter { user: None, start: Day::FIRST, end: Day::last() };
        stores.usage().rows(&all, &mut |key, _| payers.push(key.user)).unwrap();
        payers
    });
    assert_eq!(payers, [Payer::User(stays_id), Payer::Deleted]);
    read(&store, move |stores| {
        let there = |id| stores.conversations().conversation(id).unwrap().is_some();
        assert_eq!((there(theirs_id), there(others_id)), (false, true));
        let responses = |user| stores.responses().of_user(user, None, 9).unwrap().len();
        assert_eq!((responses(gone_id), responses(stays_id)), (0, 1));
        // As an export sees it.
        let kept =
            (0..KINDS.len()).flat_map(|kind| stores.records().page(kind, None, 100, usize::MAX).unwrap());
        let name = gone_id.to_string();
        assert!(kept.into_iter().all(|record| !String::from_utf8_lossy(&record.value).contains(&name)));
    });
}

/// Records put in by an import are found in every way that those made here are.
#[test]
fn records_bring_what_leads_to_them() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(from.path()), open(to.path()));
    let somebody = user("a@x.example");
    let (record, session) = (key(somebody.id), session(somebody.id));
    let changes = Changes {
        accounts: vec![
            AccountChange::PutUser(somebody.clone()),
            AccountChange::PutKey([7; 32], record.clone()),
        ],
        sessions: vec![SessionChange::Put(session.clone())],
        ..Changes::default()
    };
    let (talk, response) =
        (conversation(somebody.id), ResponseRecord::new(somebody.id, 7, serde_json::json!({})));
    let shared = ConversationRecord {
        share: Some(Share { token: "share_1".to_owned(), head: Some(0), created_at: 1, expires_at: None }),
        ..talk.clone()
    };
    let (put, answer) = (shared.clone(), response.clone());
    write(&from, move |stores| {
        stores.commit(&changes)?;
        stores.responses().commit(&[ResponseChange::Put(Box::new(answer))])?;
        let item = ConversationChange::PutItem(put.id, said());
        stores.conversations().commit(&[ConversationChange::Put(put), item])
    })
    .unwrap();
    let records = read(&from, |stores| {
        let page = |kind| stores.records().page(kind, None, 100, usize::MAX).unwrap();
        (0..KINDS.len()).flat_map(page).collect::<Vec<_>>()
    });
    assert_eq!(records.len(), 6);
    let put = records.clone();
    write(&to, move |stores| stores.records().put(&put)).unwrap();
    read(&to, move |stores| {
        let found = Some(somebody.clone());
        assert_eq!(stores.accounts().user_by_email("a@x.example").unwrap(), found);
        assert_eq!(stores.accounts().user_by_external(somebody.external.as_ref().unwrap()).unwrap(), found);
        assert_eq!(stores.accounts().keys(somebody.id).unwrap(), [([7; 32], record)]);
        assert_eq!(stores.sessions().sessions(somebody.id).unwrap(), [session]);
        assert_eq!(stores.responses().of_user(somebody.id, None, 9).unwrap(), [response.id]);
        assert_eq!(stores.conversations().conversation(shared.id).unwrap().as_ref(), Some(&shared));
        assert_eq!(stores.conversations().shared("share_1").unwrap(), Some(shared.id));
        let mut listed = Vec::new();
        let mut note = |position| {
            listed.push(position);
            Ok(true)
        };
        stores.conversations().positions(somebody.id, None, None, true, &mut note).unwrap();
        assert_eq!(listed, [shared.position()]);
        assert_eq!(stores.conversations().item_number(shared.id, "msg_1").unwrap(), Some(0));
        assert_eq!(stores.conversations().item(shared.id, 0).unwrap(), Some(said()));
        assert!(records.iter().all(|record| stores.records().conflict(record).unwrap().is_none()));
        // In place of itself under another address: the old one leads nowhere.
        let renamed =
            UserRecord { email: Some("b@x.example".to_owned()), external: None, ..somebody.clone() };
        let value = serde_json::to_vec(&renamed).unwrap();
        stores.records().put(&[Record { value, ..records[0].clone() }]).unwrap();
        assert_eq!(stores.accounts().user_by_email("a@x.example").unwrap(), None);
        assert_eq!(stores.accounts().user_by_email("b@x.example").unwrap(), Some(renamed));
        let other = Record { key: UserId::new().to_bytes().to_vec(), ..records[0].clone() };
        let other = Record { value: serde_json::to_vec(&user("b@x.example")).unwrap(), ..other };
        assert_eq!(stores.records().conflict(&other).unwrap().unwrap().index, "user_by_email");
    });
}
