//! Changes of credentials in the order of their commits, for the servers that did not make them; and what servers tell each
//! other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::codec::{column, decode, number};
use super::database::{Database, Lane, Statement, runtime};
use super::{PgStores, accounts, errors, params};
use crate::identity::{ApiKeyRecord, SessionId, UserId, UserRecord};
use crate::store::{
    AccountChange, CredentialChanges, KeyHash, SessionChange, StoreError, StoredSession, readable,
};

/// Changes read at a time.
const AT_ONCE: i64 = 500;

/// Time between two attempts to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Interval at which a listener looks whether anybody still waits for it.
const LISTEN_CHECK: Duration = Duration::from_secs(2);

impl PgStores {
    /// The changes after a number; without one, only the number of the last change.
    pub(super) async fn changes_after(&self, seen: Option<u64>) -> Result<CredentialChanges, StoreError> {
        let floor = "coalesce((SELECT value::bigint FROM {s}.meta WHERE key = 'changes_forgotten'), 0)";
        let Some(seen) = seen else {
            let sql = format!("SELECT GREATEST({floor}, coalesce((SELECT max(seq) FROM {{s}}.change), 0))");
            let rows = self.db.rows_by(Lane::Mirror, &sql, Vec::new()).await?;
            let seen = rows.first().map(|row| number(row, 0)).transpose()?.unwrap_or_default();
            return Ok(CredentialChanges { seen, is_complete: true, ..CredentialChanges::default() });
        };
        let sql = format!(
            "SELECT c.seq, c.kind, c.key, c.owner, c.old, f.floor, \
             GREATEST(f.floor, coalesce((SELECT max(seq) FROM {{s}}.change), 0)) FROM (SELECT {floor} AS floor) f \
             LEFT JOIN (SELECT * FROM {{s}}.change WHERE seq > $1 ORDER BY seq LIMIT $2) c ON true ORDER BY c.seq"
        );
        let rows =
            self.db.rows_by(Lane::Mirror, &sql, vec![params::number(seen), params::signed(AT_ONCE)]).await?;
        let mut news = CredentialChanges { seen, is_complete: true, ..CredentialChanges::default() };
        let (mut users, mut keys, mut sessions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut old_keys, mut owners) = (Vec::new(), std::collections::BTreeMap::new());
        for row in &rows {
            // Some are forgotten; or they were counted further than they go now: the database was restored.
            if number(row, 5)? > seen || number(row, 6)? < seen {
                return Ok(CredentialChanges { is_complete: false, ..news });
            }
            // Of no change, there is one row with nothing in it.
            let Some(seq) = column::<Option<i64>>(row, 0)? else { break };
            news.seen = news.seen.max(params::unsigned(seq));
            let key: Vec<u8> = column(row, 2)?;
            let id = || <[u8; 16]>::try_from(key.as_slice()).unwrap_or_default();
            match column::<String>(row, 1)?.as_str() {
                "user" => drop(users.insert(id())),
                "session" => {
                    let owner = column::<Option<uuid::Uuid>>(row, 3)?.unwrap_or_default();
                    owners.insert(id(), UserId::from_bytes(owner.into_bytes()));
                    sessions.insert(id());
                }
                _ => {
                    let old = column::<Option<String>>(row, 4)?;
                    old_keys.extend(old.map(|old| (key.clone(), old)));
                    keys.insert(key);
                }
            }
        }
        news.has_more = rows.len() as i64 >= AT_ONCE;
        news.changes.accounts.extend(self.changed_users(users).await?);
        news.changes.accounts.extend(self.changed_keys(keys, &old_keys).await?);
        news.changes.sessions = self.changed_sessions(sessions, &owners).await?;
        Ok(news)
    }

    async fn changed_users(&self, ids: BTreeSet<[u8; 16]>) -> Result<Vec<AccountChange>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut gone: BTreeSet<_> = ids.iter().copied().collect();
        let sql = "SELECT record FROM {s}.users WHERE id = ANY($1)";
        let mut changes = Vec::new();
        for row in self.db.rows_by(Lane::Mirror, sql, vec![params::ids(ids)]).await? {
            let user: Result<UserRecord, _> = decode(|| "a user".to_owned(), &column::<String>(&row, 0)?);
            if let Some(user) = readable(user)? {
                gone.remove(&user.id.to_bytes());
                changes.push(AccountChange::PutUser(user));
            }
        }
        changes.extend(gone.into_iter().map(|id| AccountChange::DeleteUser(UserId::from_bytes(id))));
        Ok(changes)
    }

    async fn changed_keys(
        &self,
        hashes: BTreeSet<Vec<u8>>,
        old: &[(Vec<u8>, String)],
    ) -> Result<Vec<AccountChange>, StoreError> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let mut gone = hashes.clone();
        let sql = "SELECT hash, record FROM {s}.keys WHERE hash = ANY($1)";
        let rows = self
            .db
            .rows_by(Lane::Mirror, sql, vec![params::many_bytes(hashes.into_iter().collect())])
            .await?;
        let mut changes = Vec::new();
        for (hash, record) in accounts::keys(&rows)? {
            gone.remove(hash.as_slice());
            changes.push(AccountChange::PutKey(hash, record));
        }
        for (hash, json) in old.iter().filter(|(hash, _)| gone.contains(hash)) {
            let record: Result<ApiKeyRecord, _> = decode(|| "a deleted API key".to_owned(), json);
            if let (Ok(hash), Some(record)) = (KeyHash::try_from(hash.as_slice()), readable(record)?) {
                changes.push(AccountChange::DeleteKey(hash, record));
            }
        }
        Ok(changes)
    }

    async fn changed_sessions(
        &self,
        ids: BTreeSet<[u8; 16]>,
        owners: &std::collections::BTreeMap<[u8; 16], UserId>,
    ) -> Result<Vec<SessionChange>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut gone = ids.clone();
        let sql = "SELECT record FROM {s}.sessions WHERE id = ANY($1)";
        let mut changes = Vec::new();
        for row in self.db.rows_by(Lane::Mirror, sql, vec![params::ids(ids)]).await? {
            let session: Result<StoredSession, _> =
                decode(|| "a session".to_owned(), &column::<String>(&row, 0)?);
            if let Some(session) = readable(session)? {
                gone.remove(&session.id.to_bytes());
                changes.push(SessionChange::Put(session));
            }
        }
        let end = |id| Some(SessionChange::End(*owners.get(&id)?, SessionId::from_bytes(id)));
        changes.extend(gone.into_iter().filter_map(end));
        Ok(changes)
    }

    /// Tells the others that this server runs, and forgets changes that all of them have seen long ago.
    pub(super) async fn beat(&self) -> Result<(), StoreError> {
        let ids =
            vec![params::id(self.opening.server.into_bytes()), params::id(self.opening.epoch.into_bytes())];
        let forgotten = "WITH gone AS (DELETE FROM {s}.change WHERE made_at < now() - interval '1 hour' RETURNING seq) \
                         INSERT INTO {s}.meta AS m (key, value) SELECT 'changes_forgotten', max(seq)::text FROM gone \
                         HAVING max(seq) IS NOT NULL ON CONFLICT (key) DO UPDATE \
                         SET value = GREATEST(m.value::bigint, EXCLUDED.value::bigint)::text";
        let seen = "UPDATE {s}.server SET seen_at = now() WHERE id = $1 AND epoch = $2";
        self.db
            .uncounted()
            .execute_all(vec![Statement::new(seen, ids), Statement::new(forgotten, Vec::new())])
            .await?;
        // What another server left behind is removed by any.
        self.opening.pending.store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }
}

/// Listens for announcements on a connection of its own, until nobody waits for them any more.
pub fn listen(database: &Arc<Database>) -> Arc<Notify> {
    let announced = Arc::new(Notify::new());
    let (database, weak) = (Arc::clone(database), Arc::downgrade(&announced));
    let Ok(runtime) = runtime() else { return announced };
    runtime.spawn(async move {
        while weak.strong_count() > 0 {
            if let Ok((client, mut connection)) = database.connect_direct().await {
                let mut messages =
                    futures_util::stream::poll_fn(move |context| connection.poll_message(context));
                let listening = client.batch_execute("LISTEN jan_changes");
                let receive = async {
                    loop {
                        let message = tokio::time::timeout(LISTEN_CHECK, messages.next()).await;
                        let Some(announced) = weak.upgrade() else { return };
                        let message = match message {
                            Ok(Some(message)) => message,
                            Ok(None) => return,
                            Err(_) => continue,
                        };
                        match message {
                            Ok(AsyncMessage::Notification(note)) if note.payload() == database.schema() => {
                                announced.notify_one();
                            }
                            Ok(_) => {}
                            Err(error) => {
                                tracing::debug!(
                                    error = errors::message(&error),
                                    "listening for changes ended"
                                );
                                return;
                            }
                        }
                    }
                };
                // The connection is driven by `receive`.
                let (_, ()) = futures_util::future::join(listening, receive).await;
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    });
    announced
}
