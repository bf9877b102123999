//! One opening of a database by a server: the owner of what is staged, and the notes for the commit thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::codec::{decode, encode};
use super::database::CommitCount;
use crate::identity::UserId;
use crate::store::StoreError;

/// An opening.
#[derive(Debug)]
pub struct Opening {
    /// The server.
    pub server: Uuid,
    /// Distinguishes openings: what another one staged may be gone.
    pub epoch: Uuid,
    /// The number of durable syncs of this server.
    pub commits: AtomicU64,
    /// The number of commits of this opening.
    pub count: Arc<CommitCount>,
    /// `true` if there may be deleted users or conversations with data left.
    pub pending: AtomicBool,
    discarded: Mutex<Vec<Uuid>>,
    /// Users whose data is removed, but who are still noted as being deleted.
    deleted: Mutex<Vec<UserId>>,
}

impl Opening {
    /// A new opening of a server whose last sync had that number.
    pub fn new(server: Uuid, commits: u64) -> Self {
        let epoch = Uuid::now_v7();
        Self {
            server,
            epoch,
            commits: commits.into(),
            count: Arc::new(CommitCount { server, epoch, issued: 0.into(), written: 0.into() }),
            pending: true.into(),
            discarded: Mutex::default(),
            deleted: Mutex::default(),
        }
    }

    /// The token of something staged: this opening, then JSON.
    pub fn token<T: Serialize>(&self, value: &T) -> Vec<u8> {
        [self.epoch.as_bytes().as_slice(), encode(value).as_bytes()].concat()
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`StoreError::Reopening`]: it is of another opening.
    pub fn staged<T: DeserializeOwned>(&self, token: &[u8]) -> Result<T, StoreError> {
        let json = token.strip_prefix(self.epoch.as_bytes()).and_then(|json| std::str::from_utf8(json).ok());
        decode(|| "something staged".to_owned(), json.ok_or(StoreError::Reopening)?)
    }

    /// Notes something staged that nothing is going to refer to.
    pub fn discard(&self, id: Uuid) {
        lock(&self.discarded).push(id);
        self.pending.store(true, Ordering::Release);
    }

    /// Takes the notes of what is not going to be referred to.
    pub fn take_discarded(&self) -> Vec<Uuid> {
        std::mem::take(&mut lock(&self.discarded))
    }

    /// The users whose data is removed.
    pub fn deleted(&self) -> MutexGuard<'_, Vec<UserId>> {
        lock(&self.deleted)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_one_opening() {
        let (one, other) = (Opening::new(Uuid::nil(), 0), Opening::new(Uuid::nil(), 0));
        let token = one.token(&Uuid::max());
        assert_eq!(one.staged::<Uuid>(&token), Ok(Uuid::max()));
        assert_eq!(other.staged::<Uuid>(&token), Err(StoreError::Reopening));
        assert_eq!(one.staged::<Uuid>(&token[..9]), Err(StoreError::Reopening));
        assert!(matches!(one.staged::<Uuid>(&token[..20]), Err(StoreError::Value { .. })));
    }
}
