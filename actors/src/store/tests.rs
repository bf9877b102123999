use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::sled::conversations::SledConversations;
use super::sled::tombstones::Tombstones;
use super::*;
use crate::conversations::types::StoredItem;
use crate::conversations::{ConversationId, ConversationRecord, Node, Share};
use crate::identity::family::Family;
use crate::identity::{
    ApiKeyRecord, ExternalId, KeyId, Permissions, Restrictions, SessionId, UserId, UserKind, UserRecord,
};
use crate::limits::LimitOverrides;
use crate::responses::ResponseRecord;

fn user(email: &str) -> UserRecord {
    UserRecord {
        id: UserId::new(),
        kind: UserKind::Member,
        email: Some(email.to_owned()),
        name: "Somebody".to_owned(),
        picture: None,
        created_at: 1,
        disabled: false,
        limits: LimitOverrides::default(),
        guest_net: None,
        external: Some(ExternalId { issuer: "https://id.example".to_owned(), subject: email.to_owned() }),
        shares_ended_at: None,
    }
}

fn key(user: UserId) -> ApiKeyRecord {
    ApiKeyRecord {
        id: KeyId::new(),
        user,
        name: "a key".to_owned(),
        hint: "sk-jan-…abcd".to_owned(),
        permissions: Permissions::READ_WRITE,
        created_at: 1,
        last_used_at: None,
        expires_at: Some(9),
        revoked_at: None,
        limits: LimitOverrides { requests_per_hour: Some(5), ..LimitOverrides::default() },
        only: Restrictions::default(),
        parent: None,
        made_by: Vec::new(),
    }
}

fn session(user: UserId) -> StoredSession {
    StoredSession { id: SessionId::new(), user, created_at: 1, family: Family::new(1), made_by: Vec::new() }
}

fn conversation(user: UserId) -> ConversationRecord {
    ConversationRecord {
        id: ConversationId::new(),
        user,
        title: None,
        model: None,
        metadata: BTreeMap::new(),
        created_at: 1,
        updated_us: 1_000_000,
        items: 1,
        bytes: 2,
        next: 1,
        head: Some(0),
        share: None,
    }
}

/// The first item of a conversation.
fn said() -> StoredItem {
    let body = serde_json::json!({"id": "msg_1", "type": "message", "role": "user", "content": []});
    let node =
        Node { number: 0, parent: None, id: "msg_1".into(), created_at: 1, deleted: false, pending: false };
    StoredItem { node, body: body.as_object().unwrap().clone() }
}

fn open(folder: &Path) -> Store {
    Store::open(folder, |_| Ok(())).unwrap()
}

/// Runs a change and waits for the word that it is durable.
fn write<T: Send + 'static>(
    store: &Store,
    change: impl FnOnce(&dyn Stores) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = mpsc::channel();
    store.write(change, move |outcome| sender.send(outcome).unwrap());
    receiver.recv().unwrap()
}

fn read<T: Send + 'static>(store: &Store, look: impl FnOnce(&dyn Stores) -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    store.read(move |stores| sender.send(look(stores.unwrap())).unwrap());
    receiver.recv().unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn users_are_found_by_id_address_and_external_identity() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (a, b) = (user("a@x.example"), user("b@x.example"));
    let changes = vec![AccountChange::PutUser(a.clone()), AccountChange::PutUser(b.clone())];
    write(&store, move |stores| stores.accounts().commit(&changes)).unwrap();
    let renamed = UserRecord { email: Some("c@x.example".to_owned()), external: None, ..a.clone() };
    let put = AccountChange::PutUser(renamed.clone());
    write(&store, move |stores| stores.accounts().commit(&[put])).unwrap();
    read(&store, move |stores| {
        let accounts = stores.accounts();
        assert_eq!(accounts.user(a.id).unwrap(), Some(renamed.clone()));
        assert_eq!(accounts.user_by_email("c@x.example").unwrap(), Some(renamed.clone()));
        assert_eq!(accounts.user_by_email("a@x.example").unwrap(), None, "the address is free again");
        assert_eq!(accounts.user_by_external(&a.external.unwrap()).unwrap(), None);
        assert_eq!(accounts.user_by_external(b.external.as_ref().unwrap()).unwrap(), Some(b.clone()));
        assert_eq!(accounts.users(None, 10).unwrap(), [renamed.clone(), b.clone()]);
        assert_eq!(accounts.users(Some(a.id), 10).unwrap(), std::slice::from_ref(&b));
        assert_eq!(accounts.users(None, 1).unwrap(), [renamed]);
        accounts.commit(&[AccountChange::DeleteUser(b.id)]).unwrap();
        assert_eq!(accounts.user(b.id).unwrap(), None);
        assert_eq!(accounts.user_by_email("b@x.example").unwrap(), None);
    });
}

#[test]
fn keys_belong_to_users() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (a, b) = (UserId::new(), UserId::new());
    let (first, second, third) = (key(a), key(a), key(b));
    read(&store, move |stores| {
        let accounts = stores.accounts();
        let put = |hash: u8, record: &ApiKeyRecord| AccountChange::PutKey([hash; 32], record.clone());
        accounts.commit(&[put(1, &first), put(2, &second), put(3, &third)]).unwrap();
        assert_eq!(accounts.keys(a).unwrap(), [([1; 32], first.clone()), ([2; 32], second.clone())]);
        assert_eq!(accounts.key(a, third.id).unwrap(), None, "somebody else's");
        assert_eq!((accounts.key_count(a, 10).unwrap(), accounts.key_count(a, 1).unwrap()), (2, 1));
        let moved = ApiKeyRecord { user: b, ..second.clone() };
        accounts.commit(&[put(2, &moved), AccountChange::DeleteKey([1; 32], first)]).unwrap();
        assert_eq!(accounts.keys(a).unwrap(), []);
        assert_eq!(accounts.key(b, moved.id).unwrap(), Some(([2; 32], moved)));
        let mut count = 0;
        accounts.each_key(&mut |_, _| count += 1).unwrap();
        assert_eq!(count, 2);
    });
}

#[test]
fn sessions_belong_to_users() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (a, b) = (UserId::new(), UserId::new());
    let (first, second, third) = (session(a), session(a), session(b));
    read(&store, move |stores| {
        let sessions = stores.sessions();
        let all = [&first, &second, &third].map(|session| SessionChange::Put(session.clone()));
        sessions.commit(&all).unwrap();
        assert_eq!(sessions.sessions(a).unwrap(), [first.clone(), second.clone()]);
        sessions.commit(&[SessionChange::End(a, first.id)]).unwrap();
        assert_eq!(sessions.session(first.id).unwrap(), None);
        assert_eq!(sessions.sessions(a).unwrap(), [second]);
    });
}

/// What was acknowledged is in the files at that moment: a copy of them, taken while the store goes on, is what a
/// killed server would leave behind.
#[test]
fn what_was_acknowledged_survives_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for round in 0..20 {
        let somebody = user(&format!("{round}@x.example"));
        let put = AccountChange::PutUser(somebody.clone());
        write(&store, move |stores| stores.accounts().commit(&[put])).unwrap();
        let crashed = tempfile::tempdir().unwrap();
        copy(folder.path(), crashed.path());
        let again = open(crashed.path());
        assert_eq!(read(&again, move |stores| stores.accounts().user(somebody.id).unwrap()), Some(somebody));
        assert_eq!(read(&again, |stores| stores.accounts().users(None, 100).unwrap().len()), round + 1);
    }
}

#[test]
fn it_is_there_after_closing_and_opening() {
    let folder = tempfile::tempdir().unwrap();
    let id = std::fs::read_to_string(folder.path().join("store.id"));
    assert!(id.is_err());
    let somebody = user("a@x.example");
    let put = AccountChange::PutUser(somebody.clone());
    let store = open(folder.path());
    store.write(move |stores| stores.accounts().commit(&[put]), |_: Result<(), StoreError>| {});
    store.close();
    let id = std::fs::read_to_string(folder.path().join("store.id")).unwrap();
    let store = open(folder.path());
    assert_eq!(read(&store, |stores| stores.accounts().users(None, 9).unwrap()), [somebody]);
    assert_eq!(std::fs::read_to_string(folder.path().join("store.id")).unwrap(), id);
}

#[test]
fn a_lock_that_is_about_to_be_released_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        store.close();
    });
    open(folder.path()).close();
    release.join().unwrap();
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path());
    let error = Store::open(folder.path(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[test]
fn a_database_that_lost_its_contents_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let file = folder.path().join("db/db");
    std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    for entry in std::fs::read_dir(folder.path().join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("snap") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let error = Store::open(folder.path(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::WrongStore { .. }), "{error}");
    assert!(error.to_string().contains("Restore"), "{error}");

    std::fs::remove_dir_all(folder.path().join("db")).unwrap();
    let error = Store::open(folder.path(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::WrongStore { .. }), "{error}");
    assert!(!folder.path().join("db").exists(), "nothing is made in its place");
}

#[test]
fn another_database_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(ours.path()).close();
    open(theirs.path()).close();
    std::fs::remove_dir_all(ours.path().join("db")).unwrap();
    copy(&theirs.path().join("db"), &ours.path().join("db"));
    let error = Store::open(ours.path(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::WrongStore { .. }), "{error}");
}

#[test]
fn a_crash_before_the_id_was_written_outside_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let id_file = folder.path().join("store.id");
    let id = std::fs::read_to_string(&id_file).unwrap();
    std::fs::remove_file(&id_file).unwrap();
    open(folder.path()).close();
    assert_eq!(std::fs::read_to_string(&id_file).unwrap(), id);
}

#[test]
fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let db = ::sled::open(folder.path().join("db")).unwrap();
    db.open_tree("meta").unwrap().insert("schema", &99u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    drop(db);
    let error = Store::open(folder.path(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, known: SCHEMA, .. }), "{error}");
}

/// Trees that count and fail as told.
#[derive(Debug)]
struct Fake {
    syncs: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    /// Changes are refused, as after a write of the database's own that failed.
    stuck: Arc<AtomicBool>,
    /// Nothing is in them.
    conversations: Arc<dyn ConversationsStore>,
}

impl Stores for Fake {
    fn accounts(&self) -> &dyn AccountsStore {
        panic!("only syncs are asked for")
    }

    fn sessions(&self) -> &dyn SessionsStore {
        panic!("only syncs are asked for")
    }

    fn usage(&self) -> &dyn UsageStore {
        panic!("only syncs are asked for")
    }

    fn records(&self) -> &dyn RecordsStore {
        panic!("only syncs are asked for")
    }

    fn audit(&self) -> &dyn AuditStore {
        panic!("only syncs are asked for")
    }

    fn note_forgotten(&self, _: UserId, _: bool) -> Result<(), StoreError> {
        panic!("only syncs are asked for")
    }

    fn responses(&self) -> &dyn ResponsesStore {
        panic!("only syncs are asked for")
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        // As slow as a disk, so that others come to wait.
        std::thread::sleep(Duration::from_millis(5));
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Database("the disk is full".to_owned()));
        }
        Ok(())
    }

    fn probe(&self) -> Result<(), StoreError> {
        match self.stuck.load(Ordering::SeqCst) {
            true => Err(StoreError::Full("an earlier write".to_owned())),
            false => Ok(()),
        }
    }
}

struct Faked {
    store: Store,
    syncs: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
    opens: Arc<AtomicUsize>,
}

fn fake() -> Faked {
    let (syncs, fails, opens) = (Arc::default(), Arc::default(), Arc::new(AtomicUsize::new(0)));
    let stuck: Arc<AtomicBool> = Arc::default();
    let (a, b, c, d) = (Arc::clone(&syncs), Arc::clone(&fails), Arc::clone(&opens), Arc::clone(&stuck));
    let store = Store::start(Box::new(move || {
        c.fetch_add(1, Ordering::SeqCst);
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        let conversations = Arc::new(SledConversations::open(&db, Tombstones::open(&db).unwrap()).unwrap());
        Ok(Box::new(Fake {
            syncs: Arc::clone(&a),
            fails: Arc::clone(&b),
            stuck: Arc::clone(&d),
            conversations,
        }))
    }));
    Faked { store: store.unwrap(), syncs, fails, stuck, opens }
}

#[test]
fn writers_that_wait_share_a_sync_and_are_told_in_order() {
    let faked = fake();
    let (sender, receiver) = mpsc::channel();
    for number in 0..500 {
        let sender = sender.clone();
        faked.store.write(
            move |_| Ok(number),
            move |outcome: Result<i32, StoreError>| sender.send(outcome.unwrap()).unwrap(),
        );
    }
    drop(sender);
    assert!(receiver.iter().eq(0..500));
    let syncs = faked.syncs.load(Ordering::SeqCst);
    assert!(syncs < 20, "{syncs} syncs for 500 writes");
}

#[test]
fn nobody_is_told_before_the_sync_and_refusals_need_none() {
    let faked = fake();
    let syncs = Arc::clone(&faked.syncs);
    let (sender, receiver) = mpsc::channel();
    faked.store.write(
        |_| Ok(()),
        move |_: Result<(), StoreError>| sender.send(syncs.load(Ordering::SeqCst)).unwrap(),
    );
    assert_eq!(receiver.recv(), Ok(1));
    let refusal = StoreError::Database("no".to_owned());
    assert_eq!(write(&faked.store, |_| Err::<(), _>(StoreError::Database("no".to_owned()))), Err(refusal));
    read(&faked.store, |_| ());
    assert_eq!(faked.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_job_that_panics_ends_alone() {
    let faked = fake();
    let (sender, receiver) = mpsc::channel::<()>();
    faked.store.write(|_| -> Result<(), StoreError> { panic!("on purpose") }, move |_| drop(sender));
    assert!(receiver.recv().is_err(), "who waits is told by the reply being dropped");
    assert_eq!(write(&faked.store, |_| Ok(7)), Ok(7));
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_it_is_open_again() {
    let faked = fake();
    faked.fails.store(true, Ordering::SeqCst);
    let full = StoreError::Database("the disk is full".to_owned());
    assert_eq!(write(&faked.store, |_| Ok(1)), Err(full));
    assert!(!faked.store.is_healthy());
    assert_eq!(write(&faked.store, |_| Ok(2)), Err(StoreError::Reopening));
    faked.fails.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(write(&faked.store, |_| Ok(3)), Ok(3));
    assert!(faked.store.is_healthy());
    assert_eq!(faked.opens.load(Ordering::SeqCst), 2);
}

#[test]
fn a_database_that_takes_no_changes_is_opened_again_though_nothing_was_to_sync() {
    let faked = fake();
    let refused = || Err::<(), _>(StoreError::Full("an earlier write".to_owned()));
    assert!(write(&faked.store, move |_| refused()).is_err());
    assert!(faked.store.is_healthy(), "what is refused for a reason of its own is no failure");
    faked.stuck.store(true, Ordering::SeqCst);
    assert!(write(&faked.store, move |_| refused()).is_err());
    let waits = write(&faked.store, |_| Ok(2));
    assert!(matches!(waits, Err(StoreError::Full(_))), "a full disk stays the reason: {waits:?}");
    assert!(!faked.store.is_healthy());
    faked.stuck.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(write(&faked.store, |_| Ok(3)), Ok(3));
    assert_eq!(faked.opens.load(Ordering::SeqCst), 2);
}

/// Makes `fixtures/stores/newer`: `cargo test -p jan-actors --lib make_the_newer_store -- --ignored`.
#[test]
#[ignore = "makes a fixture"]
fn make_the_newer_store() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/stores/newer");
    let _ = std::fs::remove_dir_all(&folder);
    open(&folder).close();
    let db = ::sled::open(folder.join("db")).unwrap();
    db.open_tree("meta").unwrap().insert("schema", &99u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    drop(db);
    let _ = std::fs::remove_dir(folder.join("db/blobs"));
    std::fs::remove_file(folder.join("store.commit")).unwrap();
}

/// A store whose database is as it was, while the mark outside says that it was further.
#[test]
fn a_database_that_is_behind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let older = tempfile::tempdir().unwrap();
    copy(folder.path(), older.path());
    let store = open(folder.path());
    let put = AccountChange::PutUser(user("a@x.example"));
    write(&store, move |stores| stores.accounts().commit(&[put])).unwrap();
    store.close();
    std::fs::remove_dir_all(folder.path().join("db")).unwrap();
    copy(&older.path().join("db"), &folder.path().join("db"));
    let error = Store::open(folder.path(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::Behind { .. }), "{error}");
    std::fs::remove_file(folder.path().join("store.commit")).unwrap();
    open(folder.path()).close();
}

/// What a crash leaves between a user's end and that of the rest is done at the next start.
mod forgetting;

/// One damaged record, and what users have.
mod damaged;
