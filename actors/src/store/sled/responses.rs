//! Responses in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `response` | response id | [`Header`] |
//! | `response_by_user` | user id, response id | nothing |
//! | `response_running` | response id | nothing |
//! | `response_body` | body id | [`Link`](super::response_links::Link) |
//!
//! A response has two [bodies](super::bodies): its request, and its result once it has ended
//! ([`response_bodies`](super::response_bodies)). Ids begin with their time, so the oldest sort first. Headers of 20 bytes are
//! of schema 2: one body under the response's id with the whole [`ResponseRecord`].

use std::ops::Bound;
use std::time::Instant;

use async_trait::async_trait;
use sled::transaction::{ConflictableTransactionResult, Transactional, TransactionalTree};
use sled::{Db, Tree};

use super::bodies::{Bodies, Body};
use super::codec::transaction_error;
use super::quota::{TotalChanges, Totals};
use super::response_header::{Header, SplitHeader, Trees, by_user_key, response_id};
use super::response_links::Links;
use super::tombstones::{self, Tombstone};
use crate::identity::UserId;
use crate::responses::{Delta, End, ResponseId, ResponseRecord};
use crate::store::{ResponseChange, ResponsesStore, Staged, StagedEnd, StoreError, readable};

/// Maximum number of responses deleted or moved at a time, which bounds the time.
const MAX_PER_STEP: usize = 16;

/// Maximum number of attempts of a read that races with changes of the response.
const MAX_READS: usize = 100;

/// The trees of responses.
#[derive(Debug)]
pub struct SledResponses {
    response: Tree,
    by_user: Tree,
    running: Tree,
    links: Tree,
    pub(super) bodies: Bodies,
    totals: Totals,
}

impl SledResponses {
    /// Opens the trees, or creates them.
    pub fn open(db: &Db, bodies: Bodies) -> Result<Self, StoreError> {
        Ok(Self {
            response: db.open_tree("response")?,
            by_user: db.open_tree("response_by_user")?,
            running: db.open_tree("response_running")?,
            links: db.open_tree("response_body")?,
            bodies,
            totals: Totals::open(db)?,
        })
    }

    /// Removes parts of a deleted body until `until`. `true`: none is left.
    pub fn remove_body(&self, id: [u8; 16], until: Instant) -> Result<bool, StoreError> {
        if !self.bodies.remove(id, until)? {
            return Ok(false);
        }
        if self.links.contains_key(id)? {
            self.linked(|links| links.remove(id))?;
        }
        Ok(true)
    }

    /// Runs a transaction that changes references alone.
    pub(super) fn linked<T>(
        &self,
        change: impl Fn(&Links<'_>) -> ConflictableTransactionResult<T, StoreError>,
    ) -> Result<T, StoreError> {
        let trees = (&self.links, self.bodies.tombstones.tree(), self.totals.tree());
        let outcome = trees.transaction(|(bodies, tombstones, totals)| {
            let changes = TotalChanges::default();
            let outcome = change(&Links { bodies, tombstones, totals: &changes })?;
            changes.write(totals)?;
            Ok(outcome)
        });
        self.bodies.tombstones.notify();
        outcome.map_err(transaction_error)
    }

    pub(super) fn header(&self, id: ResponseId) -> Result<Option<Header>, StoreError> {
        self.response.get(id.to_bytes())?.map(|value| Header::decode(id, &value)).transpose()
    }

    /// The trees of a transaction, next to those of tombstones and totals.
    pub const fn trees(&self) -> [&Tree; 4] {
        [&self.response, &self.by_user, &self.running, &self.links]
    }

    /// Prepares a change for a transaction.
    pub fn prepare(&self, change: &ResponseChange) -> Result<Prepared, StoreError> {
        Ok(match change {
            ResponseChange::PutStaged(staged) => Prepared::Put(staged.id(), self.staged_header(staged)?),
            ResponseChange::End(id, staged) => Prepared::End(*id, self.bodies.staged(staged.token())?),
            ResponseChange::Delete(id) => Prepared::Delete(*id),
        })
    }

    /// Applies a change in a transaction of its own.
    pub fn apply(&self, change: &Prepared) -> Result<(), StoreError> {
        let [response, by_user, running, links] = self.trees();
        let set = [response, by_user, running, links, self.bodies.tombstones.tree(), self.totals.tree()];
        let outcome = set.as_slice().transaction(|trees| {
            let totals = TotalChanges::default();
            let (own, shared) = trees.split_first_chunk().expect("there are six trees");
            let [tombstones, sums] = shared else { unreachable!("there are six trees") };
            change.apply(&transaction(own, tombstones, &totals))?;
            totals.write(sums)
        });
        self.bodies.tombstones.notify();
        outcome.map_err(transaction_error)
    }

    /// Moves a few responses to another user; `false`: there may be more.
    pub fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        let ids = self.of_user(from, None, MAX_PER_STEP)?;
        ids.iter().try_for_each(|&id| self.apply(&Prepared::Move(id, from, to)))?;
        Ok(ids.len() < MAX_PER_STEP)
    }

    fn staged_header(&self, staged: &Staged) -> Result<Header, StoreError> {
        self.bodies.staged(staged.token()).map(Header::Split)
    }
}

impl SledResponses {
    pub fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError> {
        for _ in 0..MAX_READS {
            let Some(header) = self.header(id)? else { return Ok(None) };
            if let Some(record) = self.read(id, &header)? {
                return Ok(Some(record));
            }
            // It was changed or deleted meanwhile; or else it is damaged.
            if self.header(id)?.as_ref() == Some(&header) {
                break;
            }
        }
        Err(StoreError::Value { what: id.to_string(), problem: "a part of it is missing".to_owned() })
    }

    pub fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError> {
        Ok(self.header(id)?.map(|header| header.user()))
    }

    pub fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError> {
        let after = after.map(|id| by_user_key(user, id));
        let start = after.map_or(Bound::Included([user.to_bytes(), [0; 16]].concat()), |after| {
            Bound::Excluded(after.to_vec())
        });
        let end = Bound::Included([user.to_bytes(), [0xff; 16]].concat());
        let keys = self.by_user.range((start, end)).keys();
        keys.map(|key| readable(response_id(&key?))).filter_map(Result::transpose).take(limit).collect()
    }

    pub fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError> {
        let ResponseRecord { id, user, .. } = *record;
        let request = self.write_request(record)?;
        let result = match &record.end {
            Some(end) => Some(self.write_result(record.deltas.clone(), end.clone())?),
            None => None,
        };
        let header = SplitHeader { user, request, result };
        let token = self.bodies.token(&header);
        Ok(Staged::new(id, user, Header::Split(header).used(), token))
    }

    pub fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys().take(MAX_PER_STEP);
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        for key in &keys {
            if let Some(id) = readable(response_id(key))? {
                self.apply(&Prepared::Delete(id))?;
            }
            // The entry of a damaged response, too.
            self.by_user.remove(key)?;
        }
        Ok(keys.len() < MAX_PER_STEP)
    }
}

#[async_trait]
impl ResponsesStore for SledResponses {
    async fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError> {
        self.response(id)
    }

    async fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError> {
        self.owner(id)
    }

    async fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError> {
        self.of_user(user, after, limit)
    }

    async fn running(&self) -> Result<Vec<ResponseId>, StoreError> {
        let keys = self.running.iter().keys();
        keys.map(|key| readable(response_id(&key?))).filter_map(Result::transpose).collect()
    }

    async fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError> {
        // A UUID of version 7 begins with 48 bits of milliseconds.
        let millis = (epoch_s.saturating_mul(1000)).min((1 << 48) - 1).to_be_bytes();
        let range = self.response.range(..&millis[2..]);
        range
            .keys()
            .map(|key| readable(response_id(&key?)))
            .filter_map(Result::transpose)
            .take(limit)
            .collect()
    }

    async fn owners(&self) -> Result<Vec<UserId>, StoreError> {
        let mut owners: Vec<UserId> = Vec::new();
        let mut from = Vec::new();
        while let Some(entry) = self.by_user.range(from.as_slice()..).next() {
            let (key, _) = entry?;
            let user = <[u8; 16]>::try_from(&key[..key.len().min(16)]).map_err(|_| StoreError::Value {
                what: "an index of responses".to_owned(),
                problem: format!("its key has {} bytes, expected 32", key.len()),
            })?;
            owners.push(UserId::from_bytes(user));
            // Sorts after every key of this user, which have 32 bytes.
            from = [user.as_slice(), &[0xff; 17]].concat();
        }
        Ok(owners)
    }

    async fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError> {
        self.stage(record)
    }

    async fn stage_end(&self, deltas: Vec<Delta>, end: End) -> Result<StagedEnd, StoreError> {
        Ok(StagedEnd::new(self.bodies.token(&self.write_result(deltas, end)?)))
    }

    fn discard(&self, staged: &Staged) -> Result<(), StoreError> {
        let bodies = self.staged_header(staged)?.bodies(staged.id());
        bodies.into_iter().try_for_each(|body| self.bodies.discard(body))
    }

    async fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        self.delete_some(user)
    }
}

/// A change that can be applied in a transaction.
pub enum Prepared {
    /// Creates or replaces a response whose bodies are staged.
    Put(ResponseId, Header),
    /// Ends a response with a staged result.
    End(ResponseId, Body),
    /// Deletes a response.
    Delete(ResponseId),
    /// Moves a response from one user to another.
    Move(ResponseId, UserId, UserId),
}

impl Prepared {
    /// Applies the change.
    pub fn apply(&self, trees: &Trees<'_>) -> ConflictableTransactionResult<(), StoreError> {
        let tombstones = trees.links.tombstones;
        match self {
            Self::Put(id, header) => {
                trees.delete(*id)?;
                trees.put(*id, header)?;
                let mut bodies = header.bodies(*id).into_iter();
                bodies.try_for_each(|body| tombstones::clear(tombstones, Tombstone::Body(body)))
            }
            Self::End(id, result) => match trees.header(*id)? {
                Some(Header::Split(split)) => {
                    if let Some(before) = &split.result {
                        tombstones::add(tombstones, Tombstone::Body(before.id))?;
                    }
                    trees.links.totals.add(split.user, Header::Split(split.clone()).used().less());
                    trees.put(*id, &Header::Split(SplitHeader { result: Some(result.clone()), ..split }))?;
                    tombstones::clear(tombstones, Tombstone::Body(result.id))
                }
                // Deleted, or of schema 2 and ended long ago.
                _ => tombstones::add(tombstones, Tombstone::Body(result.id)),
            },
            Self::Delete(id) => trees.delete(*id),
            Self::Move(id, from, to) => {
                trees.by_user.remove(&by_user_key(*from, *id))?;
                let Some(header) = trees.header(*id)? else { return Ok(()) };
                trees.links.totals.add(header.user(), header.used().less());
                if let Header::Split(split) = &header {
                    trees.links.move_to(split.request.id, *from, *to)?;
                }
                trees.put(*id, &header.with_user(*to))
            }
        }
    }
}

/// A transaction over [`SledResponses::trees`].
pub const fn transaction<'a>(
    [response, by_user, running, bodies]: &'a [TransactionalTree; 4],
    tombstones: &'a TransactionalTree,
    totals: &'a TotalChanges,
) -> Trees<'a> {
    Trees { response, by_user, running, links: Links { bodies, tombstones, totals } }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
