//! Changes of credentials that other servers of the same database made.
//!
//! Every server notes its changes in the database, numbered in the order of their commits. This one reads what it has not seen a few
//! times a second, and whenever the database announces a change, and applies it to its index. So a revocation applies
//! everywhere within a second. A server that could not read for longer than `auth.max_staleness_ms` accepts no credential until it
//! can: it cannot know whether one was revoked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::credentials::{CredentialMirror, CredentialNotices, LocalNotices};
use super::index::Index;
use super::now_s;
use super::shared_keys::SharedKeys;
use crate::store::{Changes, Store, StoreError, Stores, block_on};

/// Interval between two looks for changes that nobody announced.
const POLL: Duration = Duration::from_millis(250);

/// Interval between two exchanges of signing keys.
const EXCHANGE: Duration = Duration::from_secs(1);

/// Interval at which a server says that it runs.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The time since the changes of others were last known to be complete.
#[derive(Debug)]
pub struct Freshness {
    begun: Instant,
    /// Milliseconds since `begun`.
    known_at_ms: AtomicU64,
    /// `None`: nobody else changes the database, so what is known is complete.
    bound_ms: Option<u64>,
}

impl Freshness {
    /// Freshness that ends after that time without news; without one, never.
    pub fn new(bound_ms: Option<u64>) -> Self {
        Self { begun: Instant::now(), known_at_ms: 0.into(), bound_ms }
    }

    /// Notes that all changes committed before `moment` are known. Earlier moments change nothing.
    pub fn note(&self, moment: Instant) {
        let ms = u64::try_from(moment.duration_since(self.begun).as_millis()).unwrap_or(u64::MAX);
        self.known_at_ms.fetch_max(ms, Ordering::AcqRel);
    }

    /// Returns `true` if the index may be relied on.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh_at(Instant::now())
    }

    fn is_fresh_at(&self, now: Instant) -> bool {
        let Some(bound_ms) = self.bound_ms else { return true };
        let now = now.duration_since(self.begun).as_millis();
        now <= u128::from(self.known_at_ms.load(Ordering::Acquire)) + u128::from(bound_ms)
    }
}

/// Notices of this server's own changes, in one line with those of other servers: what is read from the database is applied
/// before or after a change of this server. A change of this server that was committed before one that was read already is followed
/// by that one once more.
#[derive(Debug, Default)]
pub struct OrderedNotices {
    local: LocalNotices,
    order: tokio::sync::Mutex<()>,
    /// The number of the last change that was seen.
    seen: AtomicU64,
}

impl CredentialNotices for OrderedNotices {
    fn publish(&self, changes: &Changes) {
        let _turn = block_on(self.order.lock());
        self.local.publish(changes);
    }

    fn place(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    fn publish_after(&self, place: u64, changes: &Changes) {
        let _turn = block_on(self.order.lock());
        self.local.publish(changes);
        if !changes.accounts.is_empty() || !changes.sessions.is_empty() {
            // What lies behind it is read again: some of it may be newer than these changes.
            self.seen.fetch_min(place, Ordering::AcqRel);
        }
    }

    fn subscribe(&self, mirror: Arc<dyn CredentialMirror>) {
        self.local.subscribe(mirror);
    }
}

/// The mirror of a database that other servers may change.
#[derive(Debug)]
pub struct Remote {
    index: Arc<Index>,
    notices: Arc<OrderedNotices>,
    freshness: Arc<Freshness>,
    /// Signing keys that are exchanged with the other servers.
    keys: Option<Arc<SharedKeys>>,
}

impl Remote {
    /// A mirror that has seen nothing.
    pub fn new(
        index: Arc<Index>,
        notices: Arc<OrderedNotices>,
        freshness: Arc<Freshness>,
        keys: Option<Arc<SharedKeys>>,
    ) -> Self {
        Self { index, notices, freshness, keys }
    }

    /// Replaces the index by the contents of the database.
    ///
    /// # Errors
    /// The database failed.
    pub async fn load(&self, stores: &dyn Stores) -> Result<(), StoreError> {
        let _turn = self.notices.order.lock().await;
        let begun = Instant::now();
        // Before the contents: what is committed meanwhile is read twice.
        let news = stores.credential_changes(None).await?;
        self.index.load(stores).await?;
        if let Some(news) = news {
            self.notices.seen.store(news.seen, Ordering::Release);
            self.freshness.note(begun);
        }
        Ok(())
    }

    /// Applies what was committed since the last time.
    ///
    /// # Errors
    /// The database failed.
    pub async fn update(&self, stores: &dyn Stores) -> Result<(), StoreError> {
        let turn = self.notices.order.lock().await;
        loop {
            let begun = Instant::now();
            let seen = self.notices.seen.load(Ordering::Acquire);
            let Some(news) = stores.credential_changes(Some(seen)).await? else { return Ok(()) };
            if !news.is_complete {
                drop(turn);
                tracing::warn!("changes of credentials are no longer listed; all of them are read again");
                return self.load(stores).await;
            }
            self.notices.local.publish(&news.changes);
            self.notices.seen.store(news.seen, Ordering::Release);
            if !news.has_more {
                self.freshness.note(begun);
                return Ok(());
            }
        }
    }

    /// Looks for changes until the store is closed, and tells the other servers that this one runs.
    pub async fn follow(self: Arc<Self>, store: Weak<Store>) {
        let (mut said, mut failed) = (None::<Instant>, false);
        let (mut exchanged, mut differed) = (None::<Instant>, false);
        loop {
            let Some(store) = store.upgrade() else { return };
            let stores = store.view().await;
            drop(store);
            let mut wait = None;
            if let Ok(stores) = stores {
                // Without other servers as well: the answer of an own commit may have been lost.
                let updated = self.update(&*stores).await;
                if let Err(error) = &updated
                    && !failed
                {
                    tracing::warn!(%error, "changes of credentials cannot be read from the database; they are tried again");
                }
                failed = updated.is_err();
                if updated.is_ok() && said.is_none_or(|said| said.elapsed() >= HEARTBEAT) {
                    said = Some(Instant::now());
                    if let Err(error) = stores.heartbeat().await {
                        tracing::warn!(%error, "the other servers cannot be told that this one runs");
                    }
                }
                if let Some(keys) = &self.keys
                    && exchanged.is_none_or(|exchanged| exchanged.elapsed() >= EXCHANGE)
                {
                    exchanged = Some(Instant::now());
                    let outcome = keys.exchange(&*stores, now_s().saturating_mul(1000)).await;
                    if let Err(error) = &outcome
                        && !differed
                    {
                        tracing::warn!(%error, "signing keys cannot be exchanged with the other servers; it is tried again");
                    }
                    differed = outcome.is_err();
                }
                wait = self.freshness.bound_ms.and_then(|_| stores.announcements());
            }
            match wait {
                // Announced by the database, or else after a while.
                Some(announced) => drop(tokio::time::timeout(POLL, announced.notified()).await),
                None => tokio::time::sleep(POLL).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{UserKind, new_member};
    use crate::store::AccountChange;

    #[test]
    fn what_lies_behind_an_own_change_is_read_again() {
        let notices = OrderedNotices::default();
        notices.seen.store(5, Ordering::Release);
        let place = notices.place();
        notices.seen.store(9, Ordering::Release);
        notices.publish_after(place, &Changes::default());
        assert_eq!(notices.place(), 9, "nothing was overwritten");
        let own = Changes::accounts(vec![AccountChange::PutUser(new_member(UserKind::Member))]);
        notices.publish_after(place, &own);
        assert_eq!(notices.place(), 5);
        notices.publish_after(7, &own);
        assert_eq!(notices.place(), 5, "an earlier one is still to be read");
    }

    #[test]
    fn index_is_relied_on_for_as_long_as_it_is_fresh() {
        let alone = Freshness::new(None);
        assert!(
            alone.is_fresh_at(alone.begun + Duration::from_secs(100_000)),
            "nobody else changes anything"
        );
        let freshness = Freshness::new(Some(2000));
        let at = |ms| freshness.begun + Duration::from_millis(ms);
        assert!(!freshness.is_fresh_at(at(2001)));
        freshness.note(at(1000));
        freshness.note(at(500));
        assert!(freshness.is_fresh_at(at(3000)) && !freshness.is_fresh_at(at(3001)));
        freshness.note(at(9000));
        assert!(freshness.is_fresh_at(at(11_000)) && !freshness.is_fresh_at(at(11_001)));
    }
}
