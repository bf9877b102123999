//! Links between request bodies: a response that continues another one refers to the request body of that one, and each
//! body has a reference count.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `response_body` | body id | [`Link`] |
//!
//! A body without a link was written by schema 4 or before: its response alone refers to it. The count, the header of the
//! response, a body's tombstone and the total of its user change in one transaction. A deleted body releases the one
//! before it when its last part is removed, so a long history is removed step by step.

use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionResult, TransactionalTree};

use super::bodies::Body;
use super::codec::{decode, encode};
use super::quota::TotalChanges;
use super::tombstones::{self, Tombstone};
use crate::identity::UserId;
use crate::store::{StoreError, Used};

/// Maximum number of bodies that one response is read from, including its own: beyond it, the history is stored again.
pub const MAX_DEPTH: u32 = 256;

/// The references of a request body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The user whose total it counts in.
    pub user: UserId,
    /// Its length.
    pub bytes: u64,
    /// The number of responses and bodies that refer to it.
    pub references: u64,
    /// `true` if its own response is deleted, and only other bodies refer to it.
    pub kept: bool,
    /// The number of bodies that hold its items.
    pub depth: u32,
    /// The body that it continues.
    pub before: Option<[u8; 16]>,
}

impl Link {
    /// The link of a body that only its own response refers to.
    pub const fn new(user: UserId, bytes: u64) -> Self {
        Self { user, bytes, references: 1, kept: false, depth: 1, before: None }
    }

    const fn used(&self) -> Used {
        Used::of_body(self.bytes)
    }
}

/// The trees that a change of references needs, in a transaction.
pub struct Links<'a> {
    pub bodies: &'a TransactionalTree,
    pub tombstones: &'a TransactionalTree,
    pub totals: &'a TotalChanges,
}

impl Links<'_> {
    /// The link of a body. `None`: it has none, or a damaged one.
    pub fn get(&self, body: [u8; 16]) -> ConflictableTransactionResult<Option<Link>, StoreError> {
        Ok(self.bodies.get(body)?.and_then(|value| decode(|| "a body".to_owned(), &value).ok()))
    }

    pub fn put(&self, body: [u8; 16], link: &Link) -> ConflictableTransactionResult<(), StoreError> {
        self.bodies.insert(&body, encode(link))?;
        Ok(())
    }

    /// Adds a reference from another body and returns the depth of that one. `None`: the body is deleted, belongs to
    /// another user, or is too deep.
    pub fn refer(
        &self,
        before: &Body,
        user: UserId,
    ) -> ConflictableTransactionResult<Option<u32>, StoreError> {
        if self.tombstones.get(Tombstone::Body(before.id).key())?.is_some() {
            return Ok(None);
        }
        let link = self.get(before.id)?.unwrap_or_else(|| Link::new(user, before.bytes));
        if link.references == 0 || link.depth >= MAX_DEPTH || link.user != user {
            return Ok(None);
        }
        self.put(before.id, &Link { references: link.references + 1, ..link })?;
        Ok(Some(link.depth + 1))
    }

    /// Releases a body whose response is deleted and subtracted from its user's total.
    pub fn release(&self, body: [u8; 16]) -> ConflictableTransactionResult<(), StoreError> {
        match self.get(body)? {
            Some(link) if link.references > 1 => {
                self.totals.add(link.user, link.used());
                self.put(body, &Link { references: link.references - 1, kept: true, ..link })
            }
            Some(link) => {
                self.put(body, &Link { references: 0, ..link })?;
                tombstones::add(self.tombstones, Tombstone::Body(body))
            }
            None => tombstones::add(self.tombstones, Tombstone::Body(body)),
        }
    }

    /// Removes the link of a body that has no part left, and its reference to the one before.
    pub fn remove(&self, body: [u8; 16]) -> ConflictableTransactionResult<(), StoreError> {
        let before = self.get(body)?.and_then(|link| link.before);
        self.bodies.remove(&body)?;
        let Some(before) = before else { return Ok(()) };
        let Some(link) = self.get(before)? else { return Ok(()) };
        let references = link.references.saturating_sub(1);
        self.put(before, &Link { references, ..link })?;
        if references > 0 {
            return Ok(());
        }
        if link.kept {
            self.totals.add(link.user, link.used().less());
        }
        tombstones::add(self.tombstones, Tombstone::Body(before))
    }

    /// Moves a body and those that it continues to another user.
    pub fn move_to(
        &self,
        body: [u8; 16],
        from: UserId,
        to: UserId,
    ) -> ConflictableTransactionResult<(), StoreError> {
        let mut next = Some(body);
        while let Some(body) = next {
            let Some(link) = self.get(body)?.filter(|link| link.user == from) else { break };
            if link.kept {
                self.totals.add(from, link.used().less());
                self.totals.add(to, link.used());
            }
            next = link.before;
            self.put(body, &Link { user: to, ..link })?;
        }
        Ok(())
    }
}
