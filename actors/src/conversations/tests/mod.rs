mod concurrent;
mod model;
mod state_machine;

use std::path::Path;
use std::sync::{Arc, mpsc};

use tempfile::TempDir;

use super::commands::{self, Decision};
use super::error::ConversationError;
use super::ids::ConversationId;
use super::leases::LocalLeases;
use super::prepared::PreparedItem;
use super::rules::Rules;
use super::types::*;
use super::{item, queries};
use crate::config::ConversationsConfig;
use crate::identity::{UserId, UserKind, UserRecord};
use crate::limits::LimitOverrides;
use crate::store::{
    AccountChange, Changes, ConversationsStore, Store, Stores, block_on, commit_once, folder_factory,
};

/// A store on a real disk with some users.
struct Disk {
    folder: TempDir,
    store: Store,
    users: Vec<UserId>,
}

fn open(folder: &Path) -> Store {
    Store::open(folder_factory(folder), |_| async { Ok(()) }).unwrap()
}

impl Disk {
    fn new(users: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records: Vec<UserRecord> = (0..users).map(|_| user()).collect();
        let disk = Self {
            store: open(folder.path()),
            folder,
            users: records.iter().map(|record| record.id).collect(),
        };
        let changes: Vec<_> = records.into_iter().map(AccountChange::PutUser).collect();
        disk.write(async move |stores| Ok(commit_once(&*stores, &Changes::accounts(changes)).await?))
            .unwrap();
        disk
    }

    /// Makes a change and waits until it is durable.
    fn write<T: Send + 'static, F: Future<Output = Result<T, ConversationError>>>(
        &self,
        change: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Result<T, ConversationError> {
        let (sender, receiver) = mpsc::channel();
        self.store.write(change, move |outcome| sender.send(outcome).unwrap());
        receiver.recv().unwrap()
    }

    /// Executes a decision and waits until it is durable.
    fn decide<T: Send + 'static, F: Future<Output = Decision<T>>>(
        &self,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Result<T, ConversationError> {
        self.write(move |stores| async move {
            let (answer, changes) = decide(Arc::clone(&stores)).await?;
            commit_once(&*stores, &Changes::conversations(changes)).await?;
            Ok(answer)
        })
    }

    /// Returns the trees as a reader on another thread has them.
    fn trees(&self) -> Arc<dyn ConversationsStore> {
        let (sender, receiver) = mpsc::channel();
        self.store.read(move |stores| {
            sender.send(stores.map(|stores| Arc::clone(stores.conversations()))).unwrap();
        });
        receiver.recv().unwrap().unwrap()
    }

    /// Returns the state that a server killed now leaves behind.
    fn killed(self) -> Self {
        let after = tempfile::tempdir().unwrap();
        copy(self.folder.path(), after.path());
        Self { store: open(after.path()), folder: after, users: self.users.clone() }
    }

    fn restarted(self) -> Self {
        self.store.close();
        Self { store: open(self.folder.path()), ..self }
    }
}

fn user() -> UserRecord {
    UserRecord {
        id: UserId::new(),
        kind: UserKind::Member,
        email: None,
        name: "Somebody".to_owned(),
        picture: None,
        created_at: 0,
        disabled: false,
        limits: LimitOverrides::default(),
        guest_net: None,
        external: None,
        shares_ended_at: None,
    }
}

fn rules(now_us: u64) -> Rules {
    Rules { limits: ConversationsConfig::default(), now_us }
}

fn prepared(role: &str, text: &str) -> PreparedItem {
    PreparedItem::inline(says(role, text), &ConversationsConfig::default())
}

fn says(role: &str, text: &str) -> NewItem {
    item::check(serde_json::json!({"role": role, "content": text}), "", 1 << 20).unwrap()
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
