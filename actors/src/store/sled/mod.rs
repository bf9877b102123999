//! The store over sled, an embedded database in one folder.
//!
//! Each concern has trees of its own; the files of this folder describe their keys and values. Ids are their 16 bytes,
//! which sort by time. sled wants values below 100 KiB, so larger ones are split over several keys.

mod accounts;
mod audit;
mod bodies;
mod codec;
mod commit;
mod conversation_keys;
mod conversations;
mod factory;
mod item_record;
mod item_value;
mod migrations;
mod open;
mod open_error;
mod quota;
mod records;
mod response_bodies;
mod response_header;
mod response_links;
mod responses;
mod sessions;
mod tombstones;
mod usage;
mod watchers;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sled::{Db, Tree};

use self::accounts::SledAccounts;
use self::audit::SledAudit;
use self::codec::id_bytes;
use self::conversations::SledConversations;
use self::quota::Totals;
use self::records::SledRecords;
use self::responses::SledResponses;
use self::sessions::SledSessions;
use self::tombstones::{Tombstone, Tombstones};
use self::usage::SledUsage;
use self::watchers::Watchers;
use super::commit_marker::{CommitMarker, CommitPosition};
use super::{
    AccountChange, AccountsStore, AuditStore, Changes, CleanupProgress, Commit, ConversationsStore, Quotas,
    RecordsStore, ResponsesStore, Scope, SessionChange, SessionsStore, Snapshot, StoreError, Stores,
    UsageStore, Used,
};
use crate::conversations::ConversationId;
use crate::identity::UserId;
use crate::usage::UsageOwner;

pub use factory::SledFactory;

/// Maximum number of a deleted user's keys and of its sessions removed at a time.
const MAX_PER_STEP: usize = 64;

/// The deadline of work that blocks no caller.
const NO_DEADLINE: Duration = Duration::from_secs(3600);

const COMMIT: &[u8] = b"commit";
const PROBE: &[u8] = b"probe";

/// All stores over one sled database.
#[derive(Debug)]
pub struct SledStores {
    db: Db,
    meta: Tree,
    /// The database's file, opened once more to sync it: sled's flush does not wait for the disk.
    file: File,
    folder: PathBuf,
    min_free_bytes: u64,
    quotas: Quotas,
    totals: Totals,
    marker: CommitMarker,
    /// The number of the last sync.
    commit: AtomicU64,
    accounts: SledAccounts,
    sessions: SledSessions,
    usage: SledUsage,
    records: SledRecords,
    audit: SledAudit,
    responses: SledResponses,
    /// The same object as `items`.
    conversations: Arc<dyn ConversationsStore>,
    items: Arc<SledConversations>,
    tombstones: Tombstones,
    watchers: Watchers,
    /// `true` if there may be users to delete.
    deletions_pending: AtomicBool,
    /// Users whose data is removed, but not yet durably.
    deleted: Mutex<Vec<UserId>>,
}

impl SledStores {
    pub fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        if self.delete_users(until)? {
            return Ok(CleanupProgress::More);
        }
        let progress = self.tombstones.cleanup(until, |tombstone, until| match tombstone {
            Tombstone::Conversation(id) => self.items.remove_items(ConversationId::from_bytes(id), until),
            Tombstone::Body(id) => self.responses.remove_body(id, until),
        })?;
        let unfinished = !self.deleted().is_empty();
        Ok(match progress {
            CleanupProgress::Nothing if unfinished => CleanupProgress::Finish,
            progress => progress,
        })
    }

    pub fn finish_cleanup(&self) -> Result<(), StoreError> {
        for user in std::mem::take(&mut *self.deleted()) {
            self.accounts.deleting().remove(user.to_bytes())?;
        }
        self.tombstones.finish()
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        let commit = self.commit.load(Ordering::Relaxed) + 1;
        self.meta.insert(COMMIT, &commit.to_be_bytes())?;
        self.db.flush()?;
        self.file.sync_all().map_err(|error| StoreError::from(&error))?;
        self.commit.store(commit, Ordering::Relaxed);
        self.marker.write(CommitPosition { commit, length: 0 }).map_err(|error| StoreError::from(&error))
    }
}

#[async_trait]
impl Stores for SledStores {
    fn accounts(&self) -> &dyn AccountsStore {
        &self.accounts
    }

    fn sessions(&self) -> &dyn SessionsStore {
        &self.sessions
    }

    fn usage(&self) -> &dyn UsageStore {
        &self.usage
    }

    fn records(&self) -> &dyn RecordsStore {
        &self.records
    }

    fn audit(&self) -> &dyn AuditStore {
        &self.audit
    }

    fn is_blocking(&self) -> bool {
        true
    }

    async fn snapshot(self: Arc<Self>, scope: Scope) -> Result<Snapshot, StoreError> {
        let watch = self.watchers.watch(scope);
        Ok(Snapshot::watched(self, Box::new(watch)))
    }

    async fn decision(self: Arc<Self>, _attempt: usize) -> Result<Arc<dyn Stores>, StoreError> {
        Ok(self)
    }

    async fn used(&self, user: UserId) -> Result<Used, StoreError> {
        self.totals.of(user)
    }

    fn quotas(&self) -> Quotas {
        self.quotas
    }

    async fn check_space(&self) -> Result<(), StoreError> {
        if self.min_free_bytes == 0 {
            return Ok(());
        }
        // Without an answer of the system, the write itself will fail.
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= self.min_free_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        Err(StoreError::OutOfSpace(format!(
            "{} MiB are free under {}, {} are to stay free (storage.min_free_mib)",
            mib(free),
            self.folder.display(),
            mib(self.min_free_bytes)
        )))
    }

    async fn deleting_users(&self) -> Result<Vec<UserId>, StoreError> {
        self.accounts.deleting().iter().keys().map(|user| deleted_user(&user?)).collect()
    }

    async fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        self.cleanup(until)
    }

    async fn finish_cleanup(&self) -> Result<(), StoreError> {
        self.finish_cleanup()
    }

    fn responses(&self) -> &dyn ResponsesStore {
        &self.responses
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        self.commit_all(changes)?;
        Ok(Commit::Done)
    }

    async fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        Ok(self.items.move_some(from, to)?
            && self.responses.move_some(from, to)?
            && self.usage.reassign_some(from, UsageOwner::User(to))?)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        // Both, since sled skips a change that has no effect.
        self.meta.insert(PROBE, &[])?;
        self.meta.remove(PROBE)?;
        Ok(())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.sync()
    }
}

impl SledStores {
    /// Refuses changes while the disk has less than that free.
    #[must_use]
    pub fn with_reserve(mut self, min_free_bytes: u64) -> Self {
        self.min_free_bytes = min_free_bytes;
        self
    }

    fn deleted(&self) -> MutexGuard<'_, Vec<UserId>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limits the storage of users.
    #[must_use]
    pub const fn with_quotas(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }

    /// Removes the data of deleted users until `until`. `true`: there is more to do.
    fn delete_users(&self, until: Instant) -> Result<bool, StoreError> {
        if !self.deletions_pending.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        for user in self.accounts.deleting().iter().keys() {
            let user = deleted_user(&user?)?;
            if self.deleted().contains(&user) {
                continue;
            }
            // A user that still has an account stays: its deletion was not committed.
            while self.accounts.user(user)?.is_none() && !self.delete_some_data(user)? {
                if Instant::now() >= until {
                    self.deletions_pending.store(true, Ordering::Release);
                    return Ok(true);
                }
            }
            self.deleted().push(user);
        }
        Ok(false)
    }

    /// Removes some of a deleted user's data. The usage stays in the totals, without its user. `false`: there may be more.
    fn delete_some_data(&self, user: UserId) -> Result<bool, StoreError> {
        let keys = self.accounts.some_keys(user, MAX_PER_STEP)?;
        let sessions = self.sessions.some_sessions(user, MAX_PER_STEP)?;
        if !keys.is_empty() || !sessions.is_empty() {
            let delete = |(hash, record)| AccountChange::DeleteKey(hash, record);
            self.commit_all(&Changes {
                accounts: keys.into_iter().map(delete).collect(),
                sessions: sessions.into_iter().map(|id| SessionChange::End(user, id)).collect(),
                ..Changes::default()
            })?;
            return Ok(false);
        }
        Ok(self.usage.reassign_some(user, UsageOwner::Deleted)?
            && self.items.delete_some(user)?
            && self.responses.delete_some(user)?)
    }

    /// Completes deletions of users that a crash interrupted.
    fn finish_deletions(&self) -> Result<(), StoreError> {
        while self.delete_users(Instant::now() + NO_DEADLINE)? {}
        for user in std::mem::take(&mut *self.deleted()) {
            self.accounts.deleting().remove(user.to_bytes())?;
        }
        Ok(())
    }

    /// Removes everything that is deleted. Blocks.
    ///
    /// # Errors
    /// The database failed.
    pub fn cleanup_all(&self) -> Result<(), StoreError> {
        loop {
            match self.cleanup(Instant::now() + NO_DEADLINE)? {
                CleanupProgress::Nothing => return Ok(()),
                CleanupProgress::More => {}
                CleanupProgress::Finish => {
                    self.sync()?;
                    self.finish_cleanup()?;
                }
            }
        }
    }

    /// Stores the file's length, which must not shrink until the next start.
    fn close(&self) {
        let commit = self.commit.load(Ordering::Relaxed);
        if commit > 0
            && self.db.flush().is_ok()
            && self.file.sync_all().is_ok()
            && let Ok(file) = self.file.metadata()
        {
            // Without it truncation may go unnoticed, which is no reason to fail.
            let _ = self.marker.write(CommitPosition { commit, length: file.len() });
        }
    }
}

impl Drop for SledStores {
    fn drop(&mut self) {
        self.close();
    }
}

fn deleted_user(key: &[u8]) -> Result<UserId, StoreError> {
    id_bytes("a user to be deleted", key).map(UserId::from_bytes)
}
