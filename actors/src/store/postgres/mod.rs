//! The store over PostgreSQL, which several servers may share.
//!
//! A decision reads and commits in one serializable transaction: where another server changed what it depends on, the
//! database says so, and the decision is made again; one that met conflicts again and again is made while no other is
//! under way. Commits of one round of the commit thread are made durable together: none of them waits for the disk, and
//! one that does follows them ([`Stores::sync`]).
//!
//! The tables are in `migrations`. Storage totals, the bodies that records refer to, and the notes of changed credentials
//! are kept by triggers, in the transaction of each change.

mod accounts;
mod audit;
mod changes;
mod cleanup;
mod codec;
mod conversations;
mod database;
mod errors;
mod factory;
mod migrations;
mod opening;
mod opening_checks;
mod params;
mod records;
mod responses;
mod sessions;
mod state_files;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
mod url;
mod usage;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::Notify;

use self::accounts::PgAccounts;
use self::audit::PgAudit;
use self::conversations::PgConversations;
use self::database::{Db, Lane, Statement, on_runtime, pause};
use self::opening::Opening;
use self::records::PgRecords;
use self::responses::PgResponses;
use self::sessions::PgSessions;
use self::state_files::StateFiles;
use self::transaction::{Isolation, OpenTransaction};
use self::usage::PgUsage;
use super::{
    AccountChange, AccountsStore, AuditStore, Changes, CleanupProgress, Commit, ConversationChange,
    ConversationsStore, CredentialChanges, Quotas, RecordsStore, ResponsesStore, Scope, SessionsStore,
    Snapshot, StoreError, Stores, UsageStore, Used,
};
use crate::identity::UserId;
use crate::usage::UsageOwner;

pub use factory::{Access, PgFactory};
pub use migrations::MigrationPlan;

/// Attempts of a decision before it is made while no other is under way.
const ATTEMPTS_BESIDE_OTHERS: usize = 3;

/// All stores over one database, or over one transaction of it.
#[derive(Debug)]
pub struct PgStores {
    db: Db,
    opening: Arc<Opening>,
    files: Option<Arc<StateFiles>>,
    quotas: Quotas,
    /// Announcements of changes, once somebody waits for them.
    announced: OnceLock<Arc<Notify>>,
    accounts: PgAccounts,
    sessions: PgSessions,
    usage: PgUsage,
    records: PgRecords,
    audit: PgAudit,
    responses: PgResponses,
    conversations: Arc<dyn ConversationsStore>,
}

impl PgStores {
    fn new(mut db: Db, opening: Arc<Opening>, files: Option<Arc<StateFiles>>, quotas: Quotas) -> Self {
        db.count = Some(Arc::clone(&opening.count));
        let responses = || PgResponses { db: db.clone(), opening: Arc::clone(&opening) };
        let conversations = || PgConversations { db: db.clone(), opening: Arc::clone(&opening) };
        Self {
            accounts: PgAccounts(db.clone()),
            sessions: PgSessions(db.clone()),
            usage: PgUsage(db.clone()),
            records: PgRecords { db: db.clone(), responses: responses(), conversations: conversations() },
            audit: PgAudit(db.clone()),
            responses: responses(),
            conversations: Arc::new(conversations()),
            files,
            quotas,
            announced: OnceLock::new(),
            opening,
            db,
        }
    }

    /// The same stores in a transaction.
    async fn begin(&self, isolation: Isolation) -> Result<Arc<dyn Stores>, StoreError> {
        let database = Arc::clone(&self.db.database);
        let lane = if isolation == Isolation::Snapshot { Lane::Shared } else { Lane::CommitThread };
        let begin = async move { OpenTransaction::begin(&database, lane, isolation).await };
        let transaction = on_runtime(begin).await?;
        let db = Db { transaction: Some(Arc::new(transaction)), ..self.db.clone() };
        Ok(Arc::new(Self::new(db, Arc::clone(&self.opening), self.files.clone(), self.quotas)))
    }

    /// The statements of all changes, in their order.
    fn statements(&self, changes: &Changes) -> Result<Vec<Statement>, StoreError> {
        let mut statements = Vec::new();
        for &(from, to) in &changes.moves {
            statements.push(conversations::moving(from, to, i64::MAX));
            statements.extend(responses::moving(from, to, i64::MAX));
            statements.push(usage::moving(from, UsageOwner::User(to), i64::MAX));
        }
        statements.extend(changes.accounts.iter().flat_map(accounts::statements));
        statements.extend(changes.sessions.iter().map(sessions::statement));
        for change in &changes.conversations {
            statements.extend(conversations::statements(&self.opening, change)?);
        }
        for change in &changes.responses {
            statements.extend(responses::statements(&self.opening, change)?);
        }
        Ok(statements)
    }
}

#[async_trait]
impl Stores for PgStores {
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

    fn responses(&self) -> &dyn ResponsesStore {
        &self.responses
    }

    fn conversations(&self) -> &Arc<dyn ConversationsStore> {
        &self.conversations
    }

    async fn snapshot(self: Arc<Self>, _: Scope) -> Result<Snapshot, StoreError> {
        // A decision has its own state already.
        match self.db.transaction {
            Some(_) => Ok(Snapshot::fixed(self)),
            None => Ok(Snapshot::fixed(self.begin(Isolation::Snapshot).await?)),
        }
    }

    async fn decision(self: Arc<Self>, attempt: usize) -> Result<Arc<dyn Stores>, StoreError> {
        if attempt > 0 {
            let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
            on_runtime(async move {
                pause(attempt).await;
                Ok::<_, StoreError>(())
            })
            .await?;
        }
        let beside = attempt < ATTEMPTS_BESIDE_OTHERS;
        self.begin(if beside { Isolation::Serializable } else { Isolation::Alone }).await
    }

    fn has_conflicted(&self) -> bool {
        self.db.transaction.as_ref().is_some_and(|transaction| transaction.has_conflicted())
    }

    async fn credential_changes(&self, seen: Option<u64>) -> Result<Option<CredentialChanges>, StoreError> {
        self.changes_after(seen).await.map(Some)
    }

    fn announcements(&self) -> Option<Arc<Notify>> {
        Some(Arc::clone(self.announced.get_or_init(|| changes::listen(&self.db.database))))
    }

    async fn secrets(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let rows = self.db.rows("SELECT name, sealed FROM {s}.secrets ORDER BY name", Vec::new()).await?;
        rows.iter().map(|row| Ok((codec::column(row, 0)?, codec::column(row, 1)?))).collect()
    }

    async fn change_secrets(
        &self,
        add: Vec<(String, Vec<u8>)>,
        remove: Vec<String>,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO {s}.secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let add = add.into_iter().map(|(name, sealed)| vec![params::text(name), params::bytes(&sealed)]);
        let mut statements: Vec<_> = add.map(|params| Statement::new(sql, params)).collect();
        let gone = "DELETE FROM {s}.secrets WHERE name = ANY($1)";
        statements.push(Statement::new(gone, vec![params::texts(remove)]));
        self.db.uncounted().execute_all(statements).await.map(|_| ())
    }

    async fn heartbeat(&self) -> Result<(), StoreError> {
        self.beat().await
    }

    async fn used(&self, user: UserId) -> Result<Used, StoreError> {
        self.total(user).await
    }

    fn quotas(&self) -> Quotas {
        self.quotas
    }

    fn can_conflict(&self) -> bool {
        true
    }

    async fn commit(&self, changes: &Changes) -> Result<Commit, StoreError> {
        let statements = self.statements(changes)?;
        let outcome = match self.db.transaction.clone() {
            Some(transaction) => {
                let count = self.db.count.clone();
                on_runtime(async move {
                    transaction.run(&statements).await?;
                    transaction.commit(count.as_deref()).await
                })
                .await
            }
            None => self.db.execute_all(statements).await.map(|_| ()),
        };
        let deletes = changes.accounts.iter().any(|change| matches!(change, AccountChange::DeleteUser(_)))
            || changes.conversations.iter().any(|change| matches!(change, ConversationChange::Delete(_)));
        if deletes {
            // After a failure as well: looking for nothing costs little.
            self.opening.pending.store(true, Ordering::Release);
        }
        match outcome {
            Ok(()) => Ok(Commit::Done),
            Err(StoreError::Conflict) => Ok(Commit::Conflict),
            Err(error) => Err(error),
        }
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.make_durable().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.db.row_on_commit_thread("SELECT 1", Vec::new()).await.map(|_| ())
    }

    async fn deleting_users(&self) -> Result<Vec<UserId>, StoreError> {
        let rows = self.db.rows("SELECT user_id FROM {s}.deleting ORDER BY user_id", Vec::new()).await?;
        rows.iter().map(|row| Ok(UserId::from_bytes(codec::id(row, 0)?))).collect()
    }

    async fn cleanup(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        self.clean_up(until).await
    }

    async fn finish_cleanup(&self) -> Result<(), StoreError> {
        self.finish_clean_up().await
    }

    async fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        self.move_a_part(from, to).await
    }
}
