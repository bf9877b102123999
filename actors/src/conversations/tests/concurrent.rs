//! Lists that are read while conversations are created, deleted and changed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::state_machine::list_all;
use super::*;

fn create(disk: &Disk, user: UserId, now: u64) -> ConversationId {
    disk.decide(async move |stores| {
        commands::create(&*stores, user, NewConversation::default(), Vec::new(), &rules(now)).await
    })
    .unwrap()
    .id
}

/// Conversations that exist all the time are seen once, in order; those created or deleted meanwhile at most once.
#[test]
fn cursors_neither_skip_nor_repeat() {
    let disk = Disk::new(1);
    let user = disk.users[0];
    let ids: Vec<_> = (0..300).map(|now| create(&disk, user, 1000 + now)).collect();
    let (staying, going): (Vec<_>, Vec<_>) =
        ids.iter().copied().partition(|id: &ConversationId| id.to_bytes()[15].is_multiple_of(2));
    let trees = disk.trees();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = [true, false]
            .into_iter()
            .map(|newest_first| {
                let (trees, done, staying) = (&*trees, &done, &staying);
                scope.spawn(move || {
                    let mut wanted = staying.clone();
                    if newest_first {
                        wanted.reverse();
                    }
                    let mut rounds = 0;
                    while rounds == 0 || !done.load(Ordering::Relaxed) {
                        let listed: Vec<_> =
                            list_all(trees, user, newest_first, 7).iter().map(|record| record.id).collect();
                        let once: HashSet<_> = listed.iter().collect();
                        assert_eq!(once.len(), listed.len(), "one was seen twice");
                        let seen: Vec<_> = listed.iter().copied().filter(|id| wanted.contains(id)).collect();
                        assert_eq!(seen, wanted);
                        rounds += 1;
                    }
                })
            })
            .collect();
        for (number, id) in going.iter().copied().enumerate() {
            disk.decide(async move |stores| commands::delete(&*stores, user, id).await).unwrap();
            create(&disk, user, 10_000 + number as u64);
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// A conversation that changes while a list is read may be missed, and is never seen twice.
#[test]
fn changed_conversations_are_not_repeated() {
    let disk = Disk::new(1);
    let user = disk.users[0];
    let ids: Vec<_> = (0..60).map(|now| create(&disk, user, 1000 + now)).collect();
    let trees = disk.trees();
    let query = |after| ConversationQuery {
        limit: 20,
        after,
        before: None,
        newest_first: true,
        model: None,
        text: None,
        shared: false,
    };
    let first = block_on(queries::list(&*trees, user, &query(None))).unwrap();
    // One that was seen and one that was not are changed: both come first now.
    for id in [ids[50], ids[10]] {
        let append = vec![prepared("user", "news")];
        disk.decide(async move |stores| {
            commands::append(&*stores, user, id, append, &Anchor::Head, &rules(5000)).await
        })
        .unwrap();
    }
    let second = block_on(queries::list(&*trees, user, &query(first.next))).unwrap();
    let seen: HashSet<_> = first.data.iter().map(|record| record.id).collect();
    assert!(second.data.iter().all(|record| !seen.contains(&record.id)));
    assert!(second.data.iter().all(|record| record.id != ids[10]));
}

/// A read does not wait for the disk: it is answered while the store's thread is blocked.
#[test]
fn reads_bypass_the_writer() {
    let disk = Disk::new(1);
    let user = disk.users[0];
    let id = create(&disk, user, 1);
    let trees = disk.trees();
    let (go, wait) = mpsc::channel::<()>();
    disk.store.read(move |_| {
        let _ = wait.recv();
    });
    assert_eq!(list_all(&*trees, user, true, 10).len(), 1);
    assert!(block_on(queries::get(&*trees, &LocalLeases::default(), user, id)).is_ok());
    go.send(()).unwrap();
}
