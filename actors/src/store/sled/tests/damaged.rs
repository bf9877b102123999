//! One damaged record takes no other with it.

use super::*;
use crate::identity::Index;
use crate::identity::credentials::CredentialIndex;

/// Opens a store as the server does, with the check of credentials.
fn serve(folder: &Path) -> (Store, Arc<Index>) {
    let index = Arc::new(Index::default());
    let mirror = Arc::clone(&index);
    (
        Store::open(folder_factory(folder), move |stores| {
            let mirror = Arc::clone(&mirror);
            async move { mirror.load(&*stores).await }
        })
        .unwrap(),
        index,
    )
}

#[test]
fn a_store_with_damaged_records_opens_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (good, bad) = (user("a@x.example"), user("b@x.example"));
    let (good_id, bad_id) = (good.id, bad.id);
    let (own, theirs) = (key(good_id), key(bad_id));
    let signed_in = session(good_id);
    let talks = [conversation(good_id), conversation(good_id)];
    let answers = [0; 2].map(|_| ResponseRecord::new(good_id, 7, serde_json::json!({})));
    let (talk_ids, answer_ids) = (talks.clone().map(|talk| talk.id), answers.clone().map(|answer| answer.id));
    let expired = Some(u64::MAX);
    let (own, theirs) =
        (ApiKeyRecord { expires_at: expired, ..own }, ApiKeyRecord { expires_at: expired, ..theirs });
    write(&store, async move |stores| {
        commit_once(
            &*stores,
            &Changes {
                accounts: vec![
                    AccountChange::PutUser(good),
                    AccountChange::PutUser(bad),
                    AccountChange::PutKey([1; 32], own),
                    AccountChange::PutKey([2; 32], theirs),
                ],
                sessions: vec![SessionChange::Put(signed_in)],
                ..Changes::default()
            },
        )
        .await?;
        for answer in answers {
            let staged = stores.responses().stage(&answer).await?;
            commit_once(&*stores, &Changes::responses(vec![ResponseChange::PutStaged(staged)])).await?;
        }
        commit_once(&*stores, &Changes::conversations(talks.map(ConversationChange::Put).into())).await
    })
    .unwrap();
    store.close();
    drop(store);
    let db = database(folder.path());
    let put = |tree: &str, key: &[u8], value: &[u8]| {
        db.open_tree(tree).unwrap().insert(key, value).unwrap();
    };
    put("user", &bad_id.to_bytes(), b"{");
    // As an import of a version before this one could put in.
    put("user", b"u", br#"{"id":"user_00000000000000000000000000000000"}"#);
    put("key", &[7], b"{}");
    put("key", &[2; 32], b"null");
    put("session", b"s", b"[]");
    put("usage", b"x", b"\xff");
    put("conv", &talk_ids[1].to_bytes(), b"\0");
    put("conv_by_user", &[good_id.to_bytes().as_slice(), b"short"].concat(), b"");
    put("response", &answer_ids[1].to_bytes(), b"?");
    put("response_running", b"r", b"");
    db.flush().unwrap();
    drop(db);
    let (store, index) = serve(folder.path());
    assert!(index.key(&[1; 32], None, 5).is_ok(), "the others are as they were");
    assert!(index.key(&[2; 32], None, 5).is_err());
    read(&store, async move |stores| {
        let users = stores.accounts().users(None, 10).await.unwrap();
        assert_eq!(users.iter().map(|user| user.id).collect::<Vec<_>>(), [good_id]);
        assert_eq!(stores.accounts().keys(good_id).await.unwrap().len(), 1);
        assert_eq!(stores.sessions().sessions(good_id).await.unwrap().len(), 1);
        let mut sessions = 0;
        stores.sessions().each_session(&mut |_| sessions += 1).await.unwrap();
        assert_eq!(sessions, 1);
        let all = crate::usage::UsageFilter {
            user: None,
            start: crate::usage::Day::FIRST,
            end: crate::usage::Day::last(),
        };
        stores.usage().rows(&all, &mut |_, _| panic!("there is none that can be read")).await.unwrap();
        assert!(stores.responses().response(answer_ids[0]).await.unwrap().is_some());
        assert!(stores.responses().response(answer_ids[1]).await.is_err());
        // An export has all intact records, and an import can bring the rest back.
        let mut whole = Vec::new();
        for kind in 0..KINDS.len() {
            whole.extend(stores.records().page(kind, None, 100, usize::MAX).await.unwrap());
        }
        whole.retain(|record| record.check().is_ok());
        let count = |name| whole.iter().filter(|record| record_kind(name) == Some(record.kind)).count();
        let counts = ["user", "key", "session", "usage", "conversation", "response"].map(count);
        assert_eq!(counts, [1, 1, 1, 0, 1, 1]);
    });
    // Its user can go.
    let changes = Changes { accounts: vec![AccountChange::DeleteUser(good_id)], ..Changes::default() };
    write(&store, async move |stores| commit_once(&*stores, &changes).await).unwrap();
    for _ in 0..1000 {
        if read(&store, async |stores| stores.deleting_users().await.unwrap().is_empty()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    read(&store, async move |stores| {
        assert_eq!(stores.deleting_users().await.unwrap(), []);
        assert_eq!(stores.conversations().conversation(talk_ids[0]).await.unwrap(), None);
        assert_eq!(stores.responses().of_user(good_id, None, 9).await.unwrap(), []);
    });
}

#[test]
fn the_sums_are_what_a_count_gives() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (ann, bob) = (UserId::new(), UserId::new());
    let talks: Vec<_> = [ann, ann, bob].into_iter().map(conversation).collect();
    let answers: Vec<_> = [ann, bob, bob]
        .map(|user| ResponseRecord::new(user, 7, serde_json::json!({"m": "x".repeat(99)})))
        .into();
    let (talk_ids, answer_ids): (Vec<_>, Vec<_>) =
        (talks.iter().map(|talk| talk.id).collect(), answers.iter().map(|answer| answer.id).collect());
    write(&store, async move |stores| {
        for answer in &answers {
            // Twice, which is once.
            for _ in 0..2 {
                let staged = stores.responses().stage(answer).await?;
                commit_once(&*stores, &Changes::responses(vec![ResponseChange::PutStaged(staged)])).await?;
            }
        }
        let all: Vec<_> = talks.iter().chain(&talks).cloned().map(ConversationChange::Put).collect();
        commit_once(&*stores, &Changes::conversations(all)).await
    })
    .unwrap();
    read(&store, async move |stores| {
        let used = async |user| stores.used(user).await.unwrap();
        assert_eq!((used(ann).await.conversations, used(ann).await.responses), (2, 1));
        assert_eq!((used(bob).await.conversations, used(bob).await.responses), (1, 2));
        let staged = stores.responses().stage_end(vec![], crate::responses::End::lost(1)).await.unwrap();
        let before = used(ann).await;
        let end = ResponseChange::End(answer_ids[0], staged);
        commit_once(&*stores, &Changes::responses(vec![end])).await.unwrap();
        assert!(used(ann).await.bytes > before.bytes && used(ann).await.responses == 1);
        let delete = ConversationChange::Delete(talk_ids[0]);
        commit_once(&*stores, &Changes::conversations(vec![delete])).await.unwrap();
        let both = used(ann).await.and(used(bob).await);
        while !stores.move_some(ann, bob).await.unwrap() {}
        assert_eq!((used(ann).await, used(bob).await), (Used::default(), both));
    });
    store.close();
    drop(store);
    // Counted anew by the step from schema 2, which is the same.
    let db = database(folder.path());
    let before: Vec<_> = db.open_tree("quota").unwrap().iter().map(Result::unwrap).collect();
    db.open_tree("quota").unwrap().insert(b"left over from elsewhere", b"{}").unwrap();
    super::super::migrations::steps_from(2).for_each(|(_, step)| step(&db).unwrap());
    assert_eq!(db.open_tree("quota").unwrap().iter().map(Result::unwrap).collect::<Vec<_>>(), before);
}
