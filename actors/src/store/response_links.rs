//! What was asked refers to what was asked before it: a response that goes on from another has that one's items by
//! reference, and each body has a count of what refers to it.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `response_body` | body id | [`Link`] |
//!
//! A body that has no link was written by schema 4 or before: its response alone refers to it. The count, the head that
//! it belongs to, the note that a body is gone and the sum of its user change in one transaction. A body that is gone
//! lets go of the one before it when the last of it is removed, so a long history goes step by step.

use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionResult, TransactionalTree};

use super::db::{decode, encode};
use super::doomed::{self, Doomed};
use super::quota::{Changed, Used};
use super::response_head::Body;
use crate::identity::UserId;

/// Most bodies that are read for one response, itself included: behind that many, the history is written out again.
pub const MAX_DEPTH: u32 = 256;

/// What is to be known of what was asked without reading it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Who pays for it.
    pub user: UserId,
    /// Its length.
    pub bytes: u64,
    /// Responses and bodies that refer to it.
    pub references: u64,
    /// Whether its own response is gone, and others alone keep it.
    pub kept: bool,
    /// How many bodies its items lie in.
    pub depth: u32,
    /// What it goes on from.
    pub before: Option<[u8; 16]>,
}

impl Link {
    /// That of a body to which its response alone refers.
    pub const fn new(user: UserId, bytes: u64) -> Self {
        Self { user, bytes, references: 1, kept: false, depth: 1, before: None }
    }

    const fn used(&self) -> Used {
        Used::of_body(self.bytes)
    }
}

/// The trees that a reference changes, in a transaction.
pub struct Links<'a> {
    pub bodies: &'a TransactionalTree,
    pub notes: &'a TransactionalTree,
    pub changed: &'a Changed,
}

impl Links<'_> {
    /// `None`: it has none, or a damaged one.
    pub fn get(&self, body: [u8; 16]) -> ConflictableTransactionResult<Option<Link>, super::StoreError> {
        Ok(self.bodies.get(body)?.and_then(|value| decode(|| "a body".to_owned(), &value).ok()))
    }

    pub fn put(&self, body: [u8; 16], link: &Link) -> ConflictableTransactionResult<(), super::StoreError> {
        self.bodies.insert(&body, encode(link))?;
        Ok(())
    }

    /// Refers to a body from another one. `None`: it is gone, or too many lie before it.
    pub fn refer(
        &self,
        before: &Body,
        user: UserId,
    ) -> ConflictableTransactionResult<Option<u32>, super::StoreError> {
        if self.notes.get(Doomed::Body(before.id).key())?.is_some() {
            return Ok(None);
        }
        let link = self.get(before.id)?.unwrap_or_else(|| Link::new(user, before.bytes));
        if link.references == 0 || link.depth >= MAX_DEPTH || link.user != user {
            return Ok(None);
        }
        self.put(before.id, &Link { references: link.references + 1, ..link })?;
        Ok(Some(link.depth + 1))
    }

    /// The response of a body is gone, whose sum has been made less by it.
    pub fn leave(&self, body: [u8; 16]) -> ConflictableTransactionResult<(), super::StoreError> {
        match self.get(body)? {
            Some(link) if link.references > 1 => {
                self.changed.add(link.user, link.used());
                self.put(body, &Link { references: link.references - 1, kept: true, ..link })
            }
            Some(link) => {
                self.put(body, &Link { references: 0, ..link })?;
                doomed::doom(self.notes, Doomed::Body(body))
            }
            None => doomed::doom(self.notes, Doomed::Body(body)),
        }
    }

    /// Nothing is left of a body: it refers to nothing any more.
    pub fn forget(&self, body: [u8; 16]) -> ConflictableTransactionResult<(), super::StoreError> {
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
            self.changed.add(link.user, link.used().less());
        }
        doomed::doom(self.notes, Doomed::Body(before))
    }

    /// Another user pays for a body and for what it goes on from.
    pub fn hand_over(
        &self,
        body: [u8; 16],
        from: UserId,
        to: UserId,
    ) -> ConflictableTransactionResult<(), super::StoreError> {
        let mut next = Some(body);
        while let Some(body) = next {
            let Some(link) = self.get(body)?.filter(|link| link.user == from) else { break };
            if link.kept {
                self.changed.add(from, link.used().less());
                self.changed.add(to, link.used());
            }
            next = link.before;
            self.put(body, &Link { user: to, ..link })?;
        }
        Ok(())
    }
}
