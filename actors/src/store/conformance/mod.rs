//! The contract of a store as tests, run on every implementation.
//!
//! A new implementation gets a function that makes a [`Subject`] and a line in [`suite`].

mod accounts;
mod audit;
mod cancellation;
mod commits;
mod conversations;
mod crash;
mod one_state;
mod records;
mod responses;
mod usage;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::memory::MemoryFactory;
use super::postgres::testing;
use super::{
    AccountChange, Changes, CleanupProgress, Commit, Quotas, ResponseChange, StoreFactory, StoredSession,
    Stores, factory,
};
use crate::config::StorageConfig;
use crate::conversations::types::StoredItem;
use crate::conversations::{ConversationId, ConversationRecord, Node};
use crate::identity::family::Family;
use crate::identity::{
    ApiKeyRecord, ExternalId, KeyId, Permissions, Restrictions, SessionId, UserId, UserKind, UserRecord,
};
use crate::limits::LimitOverrides;
use crate::responses::ResponseRecord;

/// Makes an empty store with the quotas of a configuration.
pub type NewSubject = fn(StorageConfig) -> Subject;

/// A store under test.
#[derive(Debug)]
pub struct Subject {
    factory: Box<dyn StoreFactory>,
    /// The folder of a durable one.
    folder: Option<TempDir>,
    /// The settings of one in a database that other processes can open as well.
    shared: Option<StorageConfig>,
    /// `true` if its [snapshots](Stores::snapshot) are fixed states.
    has_snapshots: bool,
}

impl Subject {
    fn sled(storage: StorageConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = StorageConfig { path: folder.path().to_owned(), min_free_mib: 0, ..storage };
        Self { factory: factory(&storage), folder: Some(folder), shared: None, has_snapshots: false }
    }

    fn memory(storage: StorageConfig) -> Self {
        Self::in_memory(MemoryFactory::new(Quotas::new(&storage)))
    }

    fn in_memory(factory: MemoryFactory) -> Self {
        Self { factory: Box::new(factory), folder: None, shared: None, has_snapshots: true }
    }

    fn postgres(storage: StorageConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let there = testing::shared().storage(&testing::new_schema(), folder.path());
        Self::shared(there.with_quotas_of(&storage), folder)
    }

    /// PostgreSQL behind a connection pooler that changes connections between transactions.
    fn pgbouncer(storage: StorageConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let there = testing::bounced(&testing::new_schema(), folder.path());
        Self::shared(there.with_quotas_of(&storage), folder)
    }

    fn shared(storage: StorageConfig, folder: TempDir) -> Self {
        Self { factory: factory(&storage), folder: Some(folder), shared: Some(storage), has_snapshots: true }
    }

    async fn open(&self) -> Box<dyn Stores> {
        self.factory.open().await.unwrap()
    }

    /// The store as a process that is killed at this moment leaves it behind. `None`: it is not durable.
    fn crashed(&self) -> Option<Self> {
        assert_eq!(self.factory.is_durable(), self.folder.is_some());
        let from = self.folder.as_ref()?;
        let folder = tempfile::tempdir().unwrap();
        // The database does not end with a process that uses it.
        if let Some(storage) = &self.shared {
            let storage = StorageConfig { path: folder.path().to_owned(), ..storage.clone() };
            return Some(Self::shared(storage, folder));
        }
        copy(from.path(), folder.path());
        let storage = StorageConfig { path: folder.path().to_owned(), min_free_mib: 0, ..no_quotas() };
        Some(Self { factory: factory(&storage), folder: Some(folder), shared: None, has_snapshots: false })
    }
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

macro_rules! suite {
    ($($topic:ident: $($test:ident),+;)+) => {
        suite!(@on sled, $($topic: $($test),+;)+);
        suite!(@on memory, $($topic: $($test),+;)+);
        suite!(@on postgres, $($topic: $($test),+;)+);
        suite!(@on pgbouncer, $($topic: $($test),+;)+);
    };
    (@on $store:ident, $($topic:ident: $($test:ident),+;)+) => {
        mod $store {
            $(mod $topic {
                $(#[tokio::test]
                async fn $test() {
                    super::super::$topic::$test(super::super::Subject::$store).await;
                })+
            })+
        }
    };
}

suite! {
    accounts: users_are_found_by_id_address_and_external_identity, users_are_listed_in_pages,
        keys_belong_to_users, keys_move_between_users, sessions_belong_to_users;
    audit: record_is_added_once, oldest_of_a_class_are_removed_first, pages_are_the_whole;
    cancellation: dropped_reads_have_no_effect, dropped_stages_leave_nothing, dropped_callers_interrupt_no_write;
    commits: all_changes_or_none, changes_of_all_concerns_are_one_commit, moved_data_is_whole,
        deleted_users_are_removed_in_steps, storage_totals_follow_changes, quotas_are_checked,
        draft_takes_the_place_of_a_store, dropped_draft_leaves_the_store, refused_space_is_reported,
        decisions_are_repeated_after_conflicts;
    conversations: items_are_read_as_written, items_are_replaced, staged_items_equal_others,
        discarded_bodies_cannot_be_put, positions_are_ordered_and_bounded,
        share_tokens_lead_to_conversations, deleted_conversations_are_gone, changes_equal_the_model;
    crash: synced_changes_survive, deletions_are_completed, staged_responses_are_removed,
        staged_items_survive_or_are_removed,
        store_is_the_same_after_reopening;
    one_state: interrupted_reads_see_one_state, reads_that_always_meet_a_commit_end, concurrent_reads_see_one_state;
    records: records_bring_their_indexes, records_replace_each_other, conflicts_are_found,
        pages_are_bounded, imported_items_need_their_conversation, large_items_are_imported, deleted_users_cannot_be_imported,
        owners_are_known;
    responses: responses_are_read_as_written, ends_are_stored_without_reading, stale_stages_are_refused,
        discarded_stages_are_gone, responses_are_listed, deletion_keeps_later_responses,
        references_lose_nothing_and_leave_nothing;
    usage: batches_are_added_once, days_are_bounded, deleted_users_are_anonymous;
}

fn no_quotas() -> StorageConfig {
    StorageConfig {
        max_user_mib: 0,
        max_user_conversations: 0,
        max_user_responses: 0,
        max_guest_mib: 0,
        max_guest_conversations: 0,
        max_guest_responses: 0,
        ..StorageConfig::default()
    }
}

/// Commits changes that cannot conflict.
async fn commit(stores: &dyn Stores, changes: &Changes) {
    assert_eq!(stores.commit(changes).await.unwrap(), Commit::Done);
}

async fn put_users(stores: &dyn Stores, users: &[&UserRecord]) {
    let put = |user: &&UserRecord| AccountChange::PutUser((*user).clone());
    commit(stores, &Changes::accounts(users.iter().map(put).collect())).await;
}

async fn put_response(stores: &dyn Stores, record: &ResponseRecord) {
    let staged = stores.responses().stage(record).await.unwrap();
    commit(stores, &Changes::responses(vec![ResponseChange::PutStaged(staged)])).await;
}

/// Removes everything that is deleted.
async fn clean_up(stores: &dyn Stores) {
    loop {
        match stores.cleanup(Instant::now() + Duration::from_secs(60)).await.unwrap() {
            CleanupProgress::Nothing => return,
            CleanupProgress::More => {}
            CleanupProgress::Finish => {
                stores.sync().await.unwrap();
                stores.finish_cleanup().await.unwrap();
            }
        }
    }
}

pub(super) fn user(email: &str) -> UserRecord {
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

/// An item of that number with a text.
fn item(number: u32, text: &str) -> StoredItem {
    let id = format!("msg_{number}");
    let body = serde_json::json!({"id": id, "type": "message", "role": "user", "content": text});
    let parent = number.checked_sub(1);
    let node = Node { number, parent, id, created_at: 1, deleted: false, pending: false };
    StoredItem { node, body: body.as_object().unwrap().clone() }
}

fn response(user: UserId, text: &str) -> ResponseRecord {
    let mut record = ResponseRecord::new(user, 7, serde_json::json!({"model": "m"}));
    record.input = vec![serde_json::json!({"text": text})];
    record
}
