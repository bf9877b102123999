//! What a PostgreSQL store does beyond the contract of all stores: several servers at once, and a database that fails.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio_postgres::NoTls;

use super::PgFactory;
use super::factory::Access;
use super::testing::{Cluster, new_schema, shared};
use crate::config::{DatabaseUrl, StorageConfig};
use crate::identity::{UserKind, UserRecord};
use crate::store::conformance::user;
use crate::store::{
    AccountChange, Changes, OpenError, Store, StoreError, StoreFactory, Stores, block_on, factory,
};

/// The commit thread of a server over that store.
fn server(storage: &StorageConfig) -> Store {
    Store::open(factory(storage), |_| async { Ok(()) }).unwrap()
}

/// Makes a decision and waits for it.
fn decide<T, F>(
    store: &Store,
    decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<(T, Changes), StoreError>>,
    T: Send + 'static,
{
    let (sender, receiver) = mpsc::channel();
    store.decide(decide, move |outcome: Result<_, StoreError>| {
        sender.send(outcome.map(|(value, _)| value)).unwrap()
    });
    receiver.recv_timeout(Duration::from_secs(120)).unwrap()
}

/// Runs statements on a database past the store.
async fn sql(url: &str, statements: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

fn open(storage: &StorageConfig) -> Result<Box<dyn Stores>, OpenError> {
    block_on(factory(storage).open())
}

fn folders<const N: usize>() -> [tempfile::TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

/// Every server adds to the same record, and no addition is lost.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_decisions_of_servers_are_one_after_the_other() {
    let (schema, folders) = (new_schema(), folders::<3>());
    let counter = UserRecord { name: "0".to_owned(), ..user("a@x.example") };
    let stores = folders.each_ref().map(|folder| server(&shared().storage(&schema, folder.path())));
    let put = AccountChange::PutUser(counter.clone());
    decide(&stores[0], move |_| async move { Ok(((), Changes::accounts(vec![put]))) }).unwrap();
    let id = counter.id;
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(move || {
                for _ in 0..40 {
                    decide(store, move |stores| async move {
                        let mut record = stores.accounts().user(id).await?.unwrap();
                        record.name = (record.name.parse::<u32>().unwrap() + 1).to_string();
                        Ok(((), Changes::accounts(vec![AccountChange::PutUser(record)])))
                    })
                    .unwrap();
                }
            });
        }
    });
    let found = stores[0].look(move |stores| async move { stores.accounts().user(id).await }).await;
    assert_eq!(
        found.map(|user: Option<UserRecord>| user.unwrap().name),
        Ok::<_, StoreError>("120".to_owned())
    );
}

/// A limit over records that are not there yet: no two servers pass it together.
#[tokio::test(flavor = "multi_thread")]
async fn decisions_see_what_others_are_about_to_add() {
    let (schema, folders, made) = (new_schema(), folders::<3>(), AtomicUsize::new(0));
    let stores = folders.each_ref().map(|folder| server(&shared().storage(&schema, folder.path())));
    std::thread::scope(|scope| {
        for (server, store) in stores.iter().enumerate() {
            let made = &made;
            scope.spawn(move || {
                for number in 0..10 {
                    let fits = decide(store, move |stores| async move {
                        if stores.accounts().users(None, 9).await?.len() >= 7 {
                            return Ok((false, Changes::default()));
                        }
                        let more = UserRecord {
                            kind: UserKind::Guest,
                            ..user(&format!("{server}.{number}@x.example"))
                        };
                        Ok((true, Changes::accounts(vec![AccountChange::PutUser(more)])))
                    });
                    made.fetch_add(usize::from(fits.unwrap()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(made.into_inner(), 7);
    let users = stores[1].look(|stores| async move { stores.accounts().users(None, 99).await }).await;
    assert_eq!(users.map(|users: Vec<UserRecord>| users.len()), Ok::<_, StoreError>(7));
}

/// All of them make the tables, and all of them have the same.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_together_make_one_store() {
    let (schema, folders) = (new_schema(), folders::<4>());
    let ids: Vec<_> = std::thread::scope(|scope| {
        let open = |folder: &Path| {
            let storage = shared().storage(&schema, folder);
            scope.spawn(move || {
                let stores = open(&storage).unwrap();
                block_on(stores.records().store_id()).unwrap()
            })
        };
        let threads: Vec<_> = folders.iter().map(|folder| open(folder.path())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn unsafe_durability_is_refused_unless_told() {
    let folder = tempfile::tempdir().unwrap();
    let storage = shared().storage(&new_schema(), folder.path());
    let refused =
        open(&StorageConfig { allow_unsafe_durability: false, ..storage.clone() }).unwrap_err().to_string();
    assert!(
        refused.contains("fsync is off") && refused.contains("storage.allow_unsafe_durability"),
        "{refused}"
    );
    open(&storage).unwrap();
}

#[tokio::test]
async fn newer_schemas_are_refused_where_they_break_something() {
    let folder = tempfile::tempdir().unwrap();
    let storage = shared().storage(&new_schema(), folder.path());
    drop(open(&storage).unwrap());
    let (schema, url) = (&storage.schema, shared().url());
    let add = |number: u32, breaking: bool| {
        format!(
            "INSERT INTO {schema}.migration (number, name, breaking) VALUES ({number}, 'later', {breaking})"
        )
    };
    sql(&url, &add(1000, false)).await;
    open(&storage).expect("a newer version that this one can run beside");
    sql(&url, &add(1001, true)).await;
    let refused = open(&storage).unwrap_err();
    assert!(matches!(refused, OpenError::Newer(_)) && refused.to_string().contains("1001"), "{refused}");
    sql(&url, &format!("DELETE FROM {schema}.migration WHERE number >= 1000; UPDATE {schema}.meta SET value = '99' WHERE key = 'record_schema'")).await;
    assert!(matches!(open(&storage).unwrap_err(), OpenError::Newer(_)));
}

#[tokio::test]
async fn plan_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let storage = shared().storage(&new_schema(), folder.path());
    let factory = PgFactory::new(&storage, Access::Beside);
    for _ in 0..2 {
        let plan = factory.plan().await.unwrap();
        assert_eq!((plan.applied, plan.missing.first().map(|(number, _)| *number)), (0, Some(1)));
        assert!(!factory.exists().await);
    }
    drop(open(&storage).unwrap());
    assert!(factory.plan().await.unwrap().missing.is_empty() && factory.exists().await);
}

/// An older copy of the database, or a standby that was behind, is noticed at the next opening and at the next sync.
#[tokio::test]
async fn database_that_went_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let storage = shared().storage(&new_schema(), folder.path());
    let stores = open(&storage).unwrap();
    for _ in 0..3 {
        stores.sync().await.unwrap();
    }
    sql(&shared().url(), &format!("UPDATE {}.server SET commits = 1", storage.schema)).await;
    assert!(matches!(stores.sync().await, Err(StoreError::Database(_))));
    drop(stores);
    let refused = open(&storage).unwrap_err();
    assert!(
        matches!(refused, OpenError::Behind(_)) && refused.to_string().contains("postgres.commit"),
        "{refused}"
    );
    // Another database altogether.
    let other = open(&StorageConfig { schema: new_schema(), ..storage }).unwrap_err();
    assert!(matches!(other, OpenError::WrongStore(_)), "{other}");
}

/// A database that crashed between a commit and its sync, and was back at once: what is gone is not acknowledged.
#[tokio::test]
async fn commits_lost_before_their_sync_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let storage = shared().storage(&new_schema(), folder.path());
    let stores = open(&storage).unwrap();
    let put = |email: &str| Changes::accounts(vec![AccountChange::PutUser(user(email))]);
    assert_eq!(stores.commit(&put("a@x.example")).await, Ok(crate::store::Commit::Done));
    stores.sync().await.unwrap();
    assert_eq!(stores.commit(&put("b@x.example")).await, Ok(crate::store::Commit::Done));
    // As the row was before the second commit.
    sql(&shared().url(), &format!("UPDATE {}.server SET written = written - 1", storage.schema)).await;
    assert_eq!(stores.sync().await, Err(StoreError::Reopening));
}

/// The same where another commit came between: it does not hide that the one before it is gone.
#[tokio::test]
async fn commits_lost_before_another_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let storage = shared().storage(&new_schema(), folder.path());
    let stores = open(&storage).unwrap();
    let put = |email: &str| Changes::accounts(vec![AccountChange::PutUser(user(email))]);
    assert_eq!(stores.commit(&put("a@x.example")).await, Ok(crate::store::Commit::Done));
    assert_eq!(stores.commit(&put("b@x.example")).await, Ok(crate::store::Commit::Done));
    sql(&shared().url(), &format!("UPDATE {}.server SET written = written - 1", storage.schema)).await;
    assert_eq!(stores.commit(&put("c@x.example")).await, Err(StoreError::Reopening));
    assert_eq!(stores.sync().await, Err(StoreError::Reopening));
}

/// What a server acknowledges that starts during an import is not put aside with the store that was there.
#[tokio::test]
async fn import_does_not_replace_the_store_of_a_server_that_started_meanwhile() {
    let [here, elsewhere] = folders::<2>();
    let schema = new_schema();
    let importer = PgFactory::new(&shared().storage(&schema, here.path()), Access::Alone);
    let kept_open = importer.open().await.unwrap();
    let draft = importer.draft().await.unwrap();
    let started = open(&shared().storage(&schema, elsewhere.path())).unwrap();
    let put = Changes::accounts(vec![AccountChange::PutUser(user("a@x.example"))]);
    assert_eq!(started.commit(&put).await, Ok(crate::store::Commit::Done));
    let refused = draft.promote().await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    started.sync().await.unwrap();
    assert_eq!(started.accounts().users(None, 9).await.unwrap().len(), 1);
    drop(started);
    let draft = importer.draft().await.unwrap();
    draft.promote().await.unwrap();
    drop(kept_open);
}

/// Connections that are cut at any moment: what was acknowledged is there, and the store goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let schema = new_schema();
    // An application name, so that no other test's connections are cut.
    let url = format!("{}&application_name={schema}", shared().url());
    let storage =
        StorageConfig { url: Some(DatabaseUrl::new(url)), ..shared().storage(&schema, folder.path()) };
    let store = Arc::new(server(&storage));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let cut =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{schema}'");
    let cutter = tokio::spawn(async move {
        let url = shared().url();
        let mut stopped = stopped;
        while stopped.try_recv().is_err() {
            sql(&url, &cut).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    });
    let writer = Arc::clone(&store);
    let acknowledged = tokio::task::spawn_blocking(move || {
        let mut acknowledged = Vec::new();
        for number in 0..150 {
            let more = user(&format!("{number}@x.example"));
            let (id, put) = (more.id, AccountChange::PutUser(more));
            let done = decide(&writer, move |stores| async move {
                stores.accounts().user(id).await?;
                Ok(((), Changes::accounts(vec![put])))
            });
            acknowledged.extend(done.ok().map(|()| id));
        }
        acknowledged
    })
    .await
    .unwrap();
    stop.send(()).unwrap();
    cutter.await.unwrap();
    let found = loop {
        let users = store.look(|stores| async move { stores.accounts().users(None, 999).await }).await;
        match users {
            Ok::<Vec<UserRecord>, StoreError>(users) => break users,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let missing = acknowledged.iter().filter(|id| !found.iter().any(|user| user.id == **id)).count();
    assert_eq!(missing, 0, "of {} acknowledged", acknowledged.len());
    decide(&store, |_| async { Ok(((), Changes::default())) }).expect("it goes on");
}

/// The database crashes in the middle of commits: what was acknowledged survives, and the store comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn crashed_database_keeps_what_was_acknowledged() {
    // Writes of the log itself are made late, so that commits that nobody waited for are lost.
    let mut cluster = Cluster::start("fsync = on\nwal_writer_delay = 10s\nwal_writer_flush_after = 100MB");
    let folder = tempfile::tempdir().unwrap();
    let storage = StorageConfig { allow_unsafe_durability: false, ..cluster.storage("jan", folder.path()) };
    let store = Arc::new(server(&storage));
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let writer = Arc::clone(&store);
        let (sender, receiver) = mpsc::channel();
        let writing = std::thread::spawn(move || {
            for number in 0..10_000 {
                let more = user(&format!("{round}.{number}@x.example"));
                let (id, put) = (more.id, AccountChange::PutUser(more));
                match decide(&writer, move |_| async move { Ok(((), Changes::accounts(vec![put]))) }) {
                    Ok(()) => sender.send(id).unwrap(),
                    Err(_) => return,
                }
            }
        });
        acknowledged.extend((0..30).map(|_| receiver.recv_timeout(Duration::from_secs(60)).unwrap()));
        cluster.crash();
        writing.join().unwrap();
        acknowledged.extend(receiver.try_iter());
        let away = decide(&store, |_| async { Ok(((), Changes::default())) });
        assert!(away.is_err() && !store.is_healthy(), "{away:?}");
        cluster.restart();
        let begun = std::time::Instant::now();
        while decide(&store, |_| async { Ok(((), Changes::default())) }).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(store.is_healthy());
        let users = store.look(|stores| async move { stores.accounts().users(None, 99_999).await }).await;
        let users: Result<Vec<UserRecord>, StoreError> = users;
        let found: std::collections::HashSet<_> = users.unwrap().into_iter().map(|user| user.id).collect();
        assert!(acknowledged.iter().all(|id| found.contains(id)), "in round {round}");
    }
}

/// Readers that hold all other connections keep no change from being made.
#[tokio::test(flavor = "multi_thread")]
async fn crowd_of_readers_delays_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let storage = StorageConfig {
        pool_size: 4,
        connect_timeout_ms: 300,
        ..shared().storage(&new_schema(), folder.path())
    };
    let stores: Arc<dyn Stores> = open(&storage).unwrap().into();
    let mut held = Vec::new();
    while let Ok(snapshot) = Arc::clone(&stores).snapshot(crate::store::Scope::Users).await {
        held.push(snapshot);
    }
    assert_eq!(held.len(), 2);
    // Its state is that of its first read.
    assert_eq!(held[0].stores.accounts().users(None, 9).await, Ok(Vec::new()));
    let busy = stores.accounts().users(None, 1).await.unwrap_err().to_string();
    assert!(busy.contains("storage.pool_size"), "{busy}");
    let view = Arc::clone(&stores).decision(0).await.unwrap();
    let put = AccountChange::PutUser(user("a@x.example"));
    assert_eq!(view.commit(&Changes::accounts(vec![put])).await, Ok(crate::store::Commit::Done));
    stores.sync().await.unwrap();
    stores.probe().await.unwrap();
    assert_eq!(held[0].stores.accounts().users(None, 9).await, Ok(Vec::new()), "it stays as it was");
    drop(held);
    let mut left = stores.accounts().users(None, 9).await;
    for _ in 0..20 {
        if left.is_ok() {
            break;
        }
        left = stores.accounts().users(None, 9).await;
    }
    assert_eq!(left.unwrap().len(), 1);
}

/// Statements end, also on a database that stands still.
#[tokio::test(flavor = "multi_thread")]
async fn statements_end_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let schema = new_schema();
    let storage = StorageConfig { statement_timeout_ms: 300, ..shared().storage(&schema, folder.path()) };
    let stores = open(&storage).unwrap();
    let (client, connection) = tokio_postgres::connect(&shared().url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(&format!("BEGIN; LOCK TABLE {schema}.users IN ACCESS EXCLUSIVE MODE"))
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    let read = stores.accounts().users(None, 1).await;
    assert!(matches!(read, Err(StoreError::Database(_))), "{read:?}");
    let write = stores.commit(&Changes::accounts(vec![AccountChange::PutUser(user("a@x.example"))])).await;
    assert!(write.is_err() || write == Ok(crate::store::Commit::Conflict), "{write:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(stores.accounts().users(None, 1).await, Ok(Vec::new()));
}

#[tokio::test]
async fn second_server_is_refused_unless_told() {
    let (schema, folders) = (new_schema(), folders::<2>());
    let alone = |folder: &tempfile::TempDir| StorageConfig {
        shared: false,
        ..shared().storage(&schema, folder.path())
    };
    let first = open(&alone(&folders[0])).unwrap();
    let refused = open(&alone(&folders[1])).unwrap_err();
    assert!(
        matches!(refused, OpenError::InUse(_)) && refused.to_string().contains("storage.shared"),
        "{refused}"
    );
    open(&shared().storage(&schema, folders[1].path())).expect("it was told");
    drop(open(&alone(&folders[0])).expect("itself again"));
    drop(first);
    open(&alone(&folders[1])).expect("the first one has stopped");
}

/// A server learns of the changes of another one, in their order and each as it is now.
#[tokio::test]
async fn changes_of_credentials_are_listed() {
    let (schema, folders) = (new_schema(), folders::<2>());
    let [one, two] =
        folders.each_ref().map(|folder| open(&shared().storage(&schema, folder.path())).unwrap());
    let begun = two.credential_changes(None).await.unwrap().unwrap();
    let (ann, bob) = (user("a@x.example"), user("b@x.example"));
    let put = |user: &UserRecord| Changes::accounts(vec![AccountChange::PutUser(user.clone())]);
    assert_eq!(one.commit(&put(&ann)).await, Ok(crate::store::Commit::Done));
    assert_eq!(one.commit(&put(&bob)).await, Ok(crate::store::Commit::Done));
    let news = two.credential_changes(Some(begun.seen)).await.unwrap().unwrap();
    assert!(news.is_complete && !news.has_more && news.seen > begun.seen);
    assert_eq!(
        news.changes,
        Changes::accounts(vec![put(&ann).accounts[0].clone(), put(&bob).accounts[0].clone()])
    );
    let delete = Changes::accounts(vec![AccountChange::DeleteUser(ann.id)]);
    assert_eq!(one.commit(&delete).await, Ok(crate::store::Commit::Done));
    let later = two.credential_changes(Some(news.seen)).await.unwrap().unwrap();
    assert_eq!(later.changes, delete);
    let none = two.credential_changes(Some(later.seen)).await.unwrap().unwrap();
    assert_eq!((none.changes, none.seen), (Changes::default(), later.seen));
    // What is no longer listed has to be loaded.
    sql(&shared().url(), &format!("UPDATE {schema}.change SET made_at = now() - interval '2 h'")).await;
    two.heartbeat().await.unwrap();
    let back = two.credential_changes(Some(later.seen + 1)).await.unwrap().unwrap();
    assert!(!back.is_complete, "the database was restored, and counts again what it has counted before");
    let forgotten = two.credential_changes(Some(begun.seen)).await.unwrap().unwrap();
    assert!(!forgotten.is_complete);
    assert_eq!(
        two.credential_changes(Some(later.seen)).await.unwrap().map(|news| news.is_complete),
        Some(true)
    );
}

#[tokio::test]
async fn changes_are_announced() {
    let (schema, folders) = (new_schema(), folders::<2>());
    let [one, two] =
        folders.each_ref().map(|folder| open(&shared().storage(&schema, folder.path())).unwrap());
    let announced = two.announcements().unwrap();
    for number in 0..100 {
        let put = AccountChange::PutUser(user(&format!("{number}@x.example")));
        assert_eq!(one.commit(&Changes::accounts(vec![put])).await, Ok(crate::store::Commit::Done));
        // Listening begins a moment later.
        if tokio::time::timeout(Duration::from_millis(100), announced.notified()).await.is_ok() {
            return;
        }
    }
    panic!("nothing was announced");
}
