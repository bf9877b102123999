//! Files of a sled store: properties beyond the contract of a store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::super::*;
use crate::conversations::{ConversationId, ConversationRecord};
use crate::identity::family::Family;
use crate::identity::{
    ApiKeyRecord, KeyId, Permissions, Restrictions, SessionId, UserId, UserKind, UserRecord,
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
        external: None,
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

fn open(folder: &Path) -> Store {
    Store::open(folder_factory(folder), |_| async { Ok(()) }).unwrap()
}

/// Runs a change and waits for the word that it is durable.
fn write<T: Send + 'static, F: Future<Output = Result<T, StoreError>>>(
    store: &Store,
    change: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = mpsc::channel();
    store.write(change, move |outcome| sender.send(outcome).unwrap());
    receiver.recv().unwrap()
}

fn read<F: Future>(store: &Store, look: impl FnOnce(Arc<dyn Stores>) -> F) -> F::Output {
    store.look_blocking(|stores| async move { Ok::<_, StoreError>(look(stores).await) }).unwrap()
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
fn contents_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let id = std::fs::read_to_string(folder.path().join("store.id"));
    assert!(id.is_err());
    let somebody = user("a@x.example");
    let put = AccountChange::PutUser(somebody.clone());
    let store = open(folder.path());
    store.write(
        async move |stores: Arc<dyn Stores>| commit_once(&*stores, &Changes::accounts(vec![put])).await,
        |_: Result<(), StoreError>| {},
    );
    store.close();
    let id = std::fs::read_to_string(folder.path().join("store.id")).unwrap();
    let store = open(folder.path());
    assert_eq!(read(&store, async |stores| stores.accounts().users(None, 9).await.unwrap()), [somebody]);
    assert_eq!(std::fs::read_to_string(folder.path().join("store.id")).unwrap(), id);
}

#[test]
fn lock_that_is_being_released_is_waited_for() {
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
fn database_is_open_in_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path());
    let error = Store::open(folder_factory(folder.path()), |_| async { Ok(()) }).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[test]
fn lost_contents_are_refused() {
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
    let error = Store::open(folder_factory(folder.path()), |_| async { Ok(()) }).unwrap_err();
    assert!(matches!(error, OpenError::WrongStore(_)), "{error}");
    assert!(error.to_string().contains("Restore"), "{error}");

    std::fs::remove_dir_all(folder.path().join("db")).unwrap();
    let error = Store::open(folder_factory(folder.path()), |_| async { Ok(()) }).unwrap_err();
    assert!(matches!(error, OpenError::WrongStore(_)), "{error}");
    assert!(!folder.path().join("db").exists(), "nothing is made in its place");
}

#[test]
fn other_database_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(ours.path()).close();
    open(theirs.path()).close();
    std::fs::remove_dir_all(ours.path().join("db")).unwrap();
    copy(&theirs.path().join("db"), &ours.path().join("db"));
    let error = Store::open(folder_factory(ours.path()), |_| async { Ok(()) }).unwrap_err();
    assert!(matches!(error, OpenError::WrongStore(_)), "{error}");
}

#[test]
fn crash_before_the_id_was_written_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let id_file = folder.path().join("store.id");
    let id = std::fs::read_to_string(&id_file).unwrap();
    std::fs::remove_file(&id_file).unwrap();
    open(folder.path()).close();
    assert_eq!(std::fs::read_to_string(&id_file).unwrap(), id);
}

/// The database of a closed store.
fn database(folder: &Path) -> ::sled::Db {
    super::open::open_sled(&folder.join("db"), 1 << 20).unwrap()
}

#[test]
fn newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let db = database(folder.path());
    db.open_tree("meta").unwrap().insert("schema", &99u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    drop(db);
    let error = Store::open(folder_factory(folder.path()), |_| async { Ok(()) }).unwrap_err();
    assert!(matches!(error, OpenError::Newer(_)) && error.to_string().contains("schema 99"), "{error}");
}

/// Makes `fixtures/stores/newer`: `cargo test -p jan-actors --lib make_the_newer_store -- --ignored`.
#[test]
#[ignore = "makes a fixture"]
fn make_the_newer_store() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/stores/newer");
    let _ = std::fs::remove_dir_all(&folder);
    open(&folder).close();
    let db = database(&folder);
    db.open_tree("meta").unwrap().insert("schema", &99u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    drop(db);
    let _ = std::fs::remove_dir(folder.join("db/blobs"));
    std::fs::remove_file(folder.join("store.commit")).unwrap();
}

/// A store whose database is unchanged, while the mark outside is further.
#[test]
fn lost_changes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close();
    let older = tempfile::tempdir().unwrap();
    copy(folder.path(), older.path());
    let store = open(folder.path());
    let put = AccountChange::PutUser(user("a@x.example"));
    write(&store, async move |stores| commit_once(&*stores, &Changes::accounts(vec![put])).await).unwrap();
    store.close();
    std::fs::remove_dir_all(folder.path().join("db")).unwrap();
    copy(&older.path().join("db"), &folder.path().join("db"));
    let error = Store::open(folder_factory(folder.path()), |_| async { Ok(()) }).unwrap_err();
    assert!(matches!(error, OpenError::Behind(_)), "{error}");
    std::fs::remove_file(folder.path().join("store.commit")).unwrap();
    open(folder.path()).close();
}

/// One damaged record, and totals of users' storage.
mod damaged;
