//! Removal of the data of deleted users and conversations, in steps that are transactions of their own.
//!
//! Every server does it, and a step can be done twice: what one server left behind, another one removes.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::codec::{column, id};
use super::database::Statement;
use super::{PgStores, conversations, params, responses, usage};
use crate::identity::UserId;
use crate::store::{CleanupProgress, StoreError};
use crate::usage::UsageOwner;

/// Items removed in one step.
const ITEMS: u64 = 256;

/// Keys, sessions and rows of usage removed in one step.
const CREDENTIALS: i64 = 64;

/// Conversations deleted or moved in one step.
pub const CONVERSATIONS: i64 = 16;

impl PgStores {
    /// Removes contents of deleted records until `until`.
    ///
    /// # Errors
    /// The database failed.
    pub(super) async fn clean_up(&self, until: Instant) -> Result<CleanupProgress, StoreError> {
        let opening = &self.opening;
        if opening.pending.swap(false, Ordering::AcqRel) {
            let discarded = opening.take_discarded();
            if !discarded.is_empty() {
                let ids = || vec![params::ids(discarded.iter().map(|id| id.into_bytes()))];
                let bodies = "DELETE FROM {s}.bodies WHERE id = ANY($1) AND epoch IS NOT NULL";
                let requests = "DELETE FROM {s}.requests WHERE id = ANY($1) AND epoch IS NOT NULL";
                self.db
                    .execute_all(vec![Statement::new(bodies, ids()), Statement::new(requests, ids())])
                    .await?;
                self.remove_unreferred().await?;
            }
            while self.remove_some().await? {
                if Instant::now() >= until {
                    opening.pending.store(true, Ordering::Release);
                    return Ok(CleanupProgress::More);
                }
            }
        }
        let unfinished = !opening.deleted().is_empty();
        Ok(if unfinished { CleanupProgress::Finish } else { CleanupProgress::Nothing })
    }

    /// Forgets the users whose data is removed.
    ///
    /// # Errors
    /// The database failed.
    pub(super) async fn finish_clean_up(&self) -> Result<(), StoreError> {
        let users = std::mem::take(&mut *self.opening.deleted());
        let ids = || vec![params::ids(users.iter().map(|user| user.to_bytes()))];
        let totals = "DELETE FROM {s}.totals WHERE user_id = ANY($1) AND bytes = 0 AND conversations = 0 AND responses = 0";
        let deleting = "DELETE FROM {s}.deleting WHERE user_id = ANY($1)";
        let done =
            self.db.execute_all(vec![Statement::new(totals, ids()), Statement::new(deleting, ids())]).await;
        if done.is_err() {
            // Found again by the next pass.
            self.opening.pending.store(true, Ordering::Release);
        }
        done.map(|_| ())
    }

    /// Removes requests that were kept for others which are gone as well.
    pub(super) async fn remove_unreferred(&self) -> Result<(), StoreError> {
        let sql = "DELETE FROM {s}.requests r WHERE kept AND NOT EXISTS (SELECT FROM {s}.requests c WHERE c.before = r.id)";
        // Each pass removes the last ones of the chains.
        while self.db.execute(sql, Vec::new()).await? > 0 {}
        Ok(())
    }

    /// Removes what openings that have ended left staged: those of this server, and of servers not seen for a day.
    pub(super) async fn remove_stale_stages(&self) -> Result<(), StoreError> {
        let epochs = || {
            vec![params::id(self.opening.epoch.into_bytes()), params::id(self.opening.server.into_bytes())]
        };
        let bodies = "DELETE FROM {s}.bodies WHERE epoch IS NOT NULL AND epoch <> $1 AND epoch NOT IN \
                      (SELECT epoch FROM {s}.server WHERE id <> $2 AND seen_at > now() - interval '1 day')";
        let requests = "DELETE FROM {s}.requests WHERE epoch IS NOT NULL AND epoch <> $1 AND epoch NOT IN \
                        (SELECT epoch FROM {s}.server WHERE id <> $2 AND seen_at > now() - interval '1 day')";
        let batches = "DELETE FROM {s}.usage_batch WHERE added_at < now() - interval '7 days'";
        self.db
            .execute_all(vec![
                Statement::new(bodies, epochs()),
                Statement::new(requests, epochs()),
                Statement::new(batches, Vec::new()),
            ])
            .await?;
        self.remove_unreferred().await
    }

    /// Removes something. `false`: there is nothing left.
    async fn remove_some(&self) -> Result<bool, StoreError> {
        let row = self.db.row("SELECT conversation FROM {s}.doomed LIMIT 1", Vec::new()).await?;
        if let Some(row) = row {
            self.remove_items(id(&row, 0)?).await?;
            return Ok(true);
        }
        // A user that still has an account stays: its deletion was not committed.
        let sql = "SELECT user_id FROM {s}.deleting d WHERE user_id <> ALL($1) \
                   AND NOT EXISTS (SELECT FROM {s}.users u WHERE u.id = d.user_id) ORDER BY user_id LIMIT 1";
        let done = params::ids(self.opening.deleted().iter().map(|user| user.to_bytes()));
        let Some(row) = self.db.row(sql, vec![done]).await? else { return Ok(false) };
        self.remove_some_of(UserId::from_bytes(id(&row, 0)?)).await?;
        Ok(true)
    }

    async fn remove_items(&self, conversation: [u8; 16]) -> Result<(), StoreError> {
        let items = "DELETE FROM {s}.items WHERE conversation = $1 AND number IN \
                     (SELECT number FROM {s}.items WHERE conversation = $1 ORDER BY number LIMIT $2)";
        let id = || params::id(conversation);
        let removed = self.db.execute(items, vec![id(), params::number(ITEMS)]).await?;
        if removed < ITEMS {
            self.db.execute("DELETE FROM {s}.doomed WHERE conversation = $1", vec![id()]).await?;
        }
        Ok(())
    }

    /// Removes some of a deleted user's data. The usage stays in the totals, without its user.
    async fn remove_some_of(&self, user: UserId) -> Result<(), StoreError> {
        let of_user = || vec![params::id(user.to_bytes()), params::signed(CREDENTIALS)];
        let keys = "DELETE FROM {s}.keys WHERE hash IN (SELECT hash FROM {s}.keys WHERE user_id = $1 LIMIT $2 FOR UPDATE)";
        let sessions = "DELETE FROM {s}.sessions WHERE id IN (SELECT id FROM {s}.sessions WHERE user_id = $1 LIMIT $2 FOR UPDATE)";
        let counts = self
            .db
            .execute_all(vec![
                Statement::new(keys, of_user()),
                Statement::new(sessions, of_user()),
                conversations::deleting(user, CONVERSATIONS),
                responses::deleting(user, responses::PER_STEP),
                usage::moving(user, UsageOwner::Deleted, CREDENTIALS),
            ])
            .await?;
        if counts.iter().all(|&count| count == 0) {
            self.opening.deleted().push(user);
        }
        Ok(())
    }

    /// Moves some of a user's data to another user; `false`: there may be more.
    pub(super) async fn move_a_part(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        let mut statements = vec![conversations::moving(from, to, CONVERSATIONS)];
        statements.extend(responses::moving(from, to, responses::PER_STEP));
        statements.push(usage::moving(from, UsageOwner::User(to), CREDENTIALS));
        Ok(self.db.execute_all(statements).await?.iter().all(|&count| count == 0))
    }

    /// The storage that a user takes.
    pub(super) async fn total(&self, user: UserId) -> Result<crate::store::Used, StoreError> {
        let sql = "SELECT bytes, conversations, responses FROM {s}.totals WHERE user_id = $1";
        let Some(row) = self.db.row(sql, vec![params::id(user.to_bytes())]).await? else {
            return Ok(crate::store::Used::default());
        };
        Ok(crate::store::Used {
            bytes: column(&row, 0)?,
            conversations: column(&row, 1)?,
            responses: column(&row, 2)?,
        })
    }
}
