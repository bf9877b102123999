//! Responses on disk.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `response` | response id | [`Head`] |
//! | `response_part` | body id, part number | a part of a body |
//! | `response_by_user` | user id, response id | nothing |
//! | `response_running` | response id | nothing |
//! | `response_body` | body id | [`Link`] |
//!
//! A response has two bodies: what was asked, and what came of it once it has ended. Each is JSON, cut in parts, since
//! sled wants small values. Bodies are written on any thread before anybody refers to them ([`ResponsesStore::stage`]),
//! so the store's thread has only the head to write, however large they are. Ids begin with their time, so the oldest
//! come first. What was asked holds the items since the response that it goes on from, and refers to what was asked there
//! ([`super::response_links`]). Heads of 20 bytes are schema 2's: their one body is the whole [`ResponseRecord`], under the response's id.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sled::transaction::{ConflictableTransactionResult, TransactionError, Transactional};
use sled::{Db, Tree};
use uuid::Uuid;

use super::db::{decode, encode};
use super::doomed::{self, Doomed, Notes};
use super::quota::{Changed, Sums, Used};
use super::response_head::{Body, Head, PART, Split, Trees, by_user_key, part_key, response_id};
use super::response_links::{Link, Links};
use super::{StoreError, readable};
use crate::identity::UserId;
use crate::responses::{Delta, End, ResponseId, ResponseRecord};

/// Responses deleted or moved at a time when a user is: bounds the time.
const AT_ONCE: usize = 16;

/// How often a read begins anew because the response was changed meanwhile.
const READS: usize = 100;

/// Tells databases of one process apart: what was staged in one that failed is not in the next.
static EPOCHS: AtomicU64 = AtomicU64::new(0);

/// A change to responses.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseChange {
    /// A new response, or a new state of one, in one go.
    #[cfg(test)]
    Put(Box<ResponseRecord>),
    /// A new response, or a new state of one, with its bodies written.
    PutStaged(Staged),
    /// The response has ended; one that is gone stays so.
    End(ResponseId, StagedEnd),
    /// The response is gone.
    Delete(ResponseId),
}

// Nothing compares records but tests, and no record has a number that is not one.
impl Eq for ResponseChange {}

/// A response whose bodies are written and that nobody refers to yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Staged {
    id: ResponseId,
    head: Head,
    epoch: u64,
}

impl Staged {
    /// Whose it is.
    #[must_use]
    pub const fn user(&self) -> UserId {
        self.head.user()
    }

    /// What it takes of its user's quota.
    #[must_use]
    pub fn used(&self) -> Used {
        self.head.used()
    }
}

/// What came of a response, written, and nobody refers to it yet.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedEnd {
    said: Body,
    epoch: u64,
}

/// Responses. What a read gives includes changes that are not durable yet. Reads and staging are for any thread.
pub trait ResponsesStore: Debug + Send + Sync {
    /// One response.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError>;

    /// Whose response it is.
    ///
    /// # Errors
    /// The database failed.
    fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError>;

    /// Up to `limit` of a user's responses behind `after`, oldest first.
    ///
    /// # Errors
    /// The database failed.
    fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError>;

    /// The responses that have not ended.
    ///
    /// # Errors
    /// The database failed.
    fn running(&self) -> Result<Vec<ResponseId>, StoreError>;

    /// Up to `limit` responses made before `epoch_s`, oldest first.
    ///
    /// # Errors
    /// The database failed.
    fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError>;

    /// All users who have responses.
    ///
    /// # Errors
    /// The database failed.
    fn owners(&self) -> Result<Vec<UserId>, StoreError>;

    /// Writes the bodies of a response. They count once it is [put](ResponseChange::PutStaged); if it never is, the next
    /// start removes them.
    ///
    /// # Errors
    /// The database failed.
    fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError>;

    /// Writes what came of a response.
    ///
    /// # Errors
    /// The database failed.
    fn stage_end(&self, deltas: Vec<Delta>, end: End) -> Result<StagedEnd, StoreError>;

    /// Lets go of what was written and is not to be put after all.
    ///
    /// # Errors
    /// The database failed.
    fn discard(&self, staged: &Staged) -> Result<(), StoreError>;

    /// Makes these changes in order, each response's at once or not at all.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &[ResponseChange]) -> Result<(), StoreError>;

    /// Deletes a few responses of a user; `false`: there may be more.
    ///
    /// # Errors
    /// The database failed.
    fn delete_some(&self, user: UserId) -> Result<bool, StoreError>;

    /// Gives a few responses of one user to another; `false`: there may be more.
    ///
    /// # Errors
    /// The database failed.
    fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError>;
}

/// The trees.
#[derive(Debug)]
pub struct SledResponses {
    response: Tree,
    part: Tree,
    by_user: Tree,
    running: Tree,
    bodies: Tree,
    notes: Notes,
    sums: Sums,
    epoch: u64,
}

/// What was asked, as it is stored.
#[derive(Deserialize)]
struct Asked {
    created_at: u64,
    background: bool,
    shown: Value,
    /// What was asked before: its items come first.
    #[serde(default)]
    before: Option<Body>,
    history: Vec<Value>,
    input: Vec<Value>,
}

/// The same, to be written.
#[derive(Serialize)]
struct Asking<'a> {
    created_at: u64,
    background: bool,
    shown: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Body>,
    history: &'a [Value],
    input: &'a [Value],
}

/// What came of it.
#[derive(Serialize, Deserialize)]
struct Said {
    deltas: Vec<Delta>,
    end: End,
}

impl SledResponses {
    /// Opens the trees, or makes them.
    pub fn open(db: &Db, notes: Notes) -> Result<Self, StoreError> {
        Ok(Self {
            response: db.open_tree("response")?,
            part: db.open_tree("response_part")?,
            by_user: db.open_tree("response_by_user")?,
            running: db.open_tree("response_running")?,
            bodies: db.open_tree("response_body")?,
            notes,
            sums: Sums::open(db)?,
            epoch: EPOCHS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Removes some of what is left of a body, until then. `true`: nothing is.
    pub fn remove_body(&self, id: [u8; 16], until: Instant) -> Result<bool, StoreError> {
        if !doomed::remove_prefix(&self.part, &id, until)? {
            return Ok(false);
        }
        if self.bodies.contains_key(id)? {
            self.linked(|links| links.forget(id))?;
        }
        Ok(true)
    }

    /// Changes what refers to what.
    fn linked<T>(
        &self,
        change: impl Fn(&Links<'_>) -> ConflictableTransactionResult<T, StoreError>,
    ) -> Result<T, StoreError> {
        let trees = (&self.bodies, self.notes.tree(), self.sums.tree());
        let outcome = trees.transaction(|(bodies, notes, sums)| {
            let changed = Changed::default();
            let outcome = change(&Links { bodies, notes, changed: &changed })?;
            changed.write(sums)?;
            Ok(outcome)
        });
        self.notes.added();
        outcome.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(error) => error.into(),
        })
    }

    /// The body that a response may refer to for the beginning of its history, and how much that is.
    fn before(&self, record: &ResponseRecord) -> Result<Option<(Body, usize)>, StoreError> {
        let previous = record.shown["previous_response_id"].as_str().and_then(|id| id.parse().ok());
        let Some(Head::Split(split)) = previous.map(|id| self.head(id)).transpose()?.flatten() else {
            return Ok(None);
        };
        if split.user != record.user {
            return Ok(None);
        }
        let Some(Asked { history, input, .. }) = readable(self.asked(&split.asked))?.flatten() else {
            return Ok(None);
        };
        let items = history.len() + input.len();
        // What it says it goes on from is one thing, what it holds is another.
        let same = items > 0
            && items <= record.history.len()
            && history.iter().chain(&input).eq(&record.history[..items]);
        Ok(same.then_some((split.asked, items)))
    }

    /// What was asked, with all that was asked before. `None`: a part of it is missing.
    fn asked(&self, body: &Body) -> Result<Option<Asked>, StoreError> {
        let read = |body: &Body| -> Result<Option<Asked>, StoreError> {
            let bytes = self.read_body(&body.id, body.parts)?;
            bytes.map(|bytes| decode(|| "what was asked of a response".to_owned(), &bytes)).transpose()
        };
        let Some(mut asked) = read(body)? else { return Ok(None) };
        let mut earlier = Vec::new();
        let mut next = asked.before.take();
        while let Some(body) = next {
            let Some(Asked { before, history, input, .. }) = read(&body)? else { return Ok(None) };
            earlier.push([history, input].concat());
            next = before;
        }
        let own = std::mem::take(&mut asked.history);
        asked.history = earlier.into_iter().rev().flatten().chain(own).collect();
        Ok(Some(asked))
    }

    fn head(&self, id: ResponseId) -> Result<Option<Head>, StoreError> {
        self.response.get(id.to_bytes())?.map(|value| Head::decode(id, &value)).transpose()
    }

    /// Writes what was asked. What it refers to is kept from then on.
    fn write_asked(&self, record: &ResponseRecord) -> Result<Body, StoreError> {
        let ResponseRecord { user, created_at, background, ref shown, ref history, ref input, .. } = *record;
        let bytes = |before: Option<&(Body, usize)>| {
            let (before, items) = before.map_or((None, 0), |(body, items)| (Some(body.clone()), *items));
            encode(&Asking { created_at, background, shown, before, history: &history[items..], input })
        };
        let id = Uuid::now_v7().into_bytes();
        if let Some(before) = self.before(record)? {
            let bytes = bytes(Some(&before));
            let referred = self.linked(|links| {
                let Some(depth) = links.refer(&before.0, user)? else { return Ok(false) };
                let link = Link { depth, before: Some(before.0.id), ..Link::new(user, bytes.len() as u64) };
                links.put(id, &link)?;
                links.notes.insert(&Doomed::Body(id).key(), doomed::STAGED)?;
                Ok(true)
            })?;
            if referred {
                return self.write_parts(id, &bytes);
            }
        }
        let bytes = bytes(None);
        self.linked(|links| {
            links.put(id, &Link::new(user, bytes.len() as u64))?;
            links.notes.insert(&Doomed::Body(id).key(), doomed::STAGED)?;
            Ok(())
        })?;
        self.write_parts(id, &bytes)
    }

    fn write_body(&self, bytes: &[u8]) -> Result<Body, StoreError> {
        let id = Uuid::now_v7().into_bytes();
        self.notes.stage(Doomed::Body(id))?;
        self.write_parts(id, bytes)
    }

    fn write_parts(&self, id: [u8; 16], bytes: &[u8]) -> Result<Body, StoreError> {
        let mut parts = 0;
        for piece in bytes.chunks(PART) {
            self.part.insert(part_key(&id, parts), piece)?;
            parts += 1;
        }
        Ok(Body { id, parts, bytes: bytes.len() as u64 })
    }

    /// `None`: a part is missing.
    fn read_body(&self, id: &[u8; 16], parts: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let mut body = Vec::new();
        for number in 0..parts {
            let Some(piece) = self.part.get(part_key(id, number))? else { return Ok(None) };
            body.extend_from_slice(&piece);
        }
        Ok(Some(body))
    }

    /// `None`: something is missing.
    fn read(&self, id: ResponseId, head: &Head) -> Result<Option<ResponseRecord>, StoreError> {
        let what = || id.to_string();
        match head {
            Head::Whole { user, parts } => {
                let Some(body) = self.read_body(&id.to_bytes(), *parts)? else { return Ok(None) };
                let record: ResponseRecord = decode(what, &body)?;
                Ok(Some(ResponseRecord { user: *user, ..record }))
            }
            Head::Split(Split { user, asked, said }) => {
                let Some(asked) = self.asked(asked)? else { return Ok(None) };
                let Asked { created_at, background, shown, history, input, .. } = asked;
                let (mut deltas, mut end) = (Vec::new(), None);
                if let Some(said) = said {
                    let Some(body) = self.read_body(&said.id, said.parts)? else { return Ok(None) };
                    let said: Said = decode(what, &body)?;
                    (deltas, end) = (said.deltas, Some(said.end));
                }
                let record = ResponseRecord::new(*user, created_at, shown);
                Ok(Some(ResponseRecord { id, background, history, input, deltas, end, ..record }))
            }
        }
    }

    fn transaction(
        &self,
        change: impl Fn(&Trees<'_>) -> ConflictableTransactionResult<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Self { response, by_user, running, bodies, notes, sums, .. } = self;
        let trees = (response, by_user, running, bodies, notes.tree(), sums.tree());
        let outcome = trees.transaction(|(response, by_user, running, bodies, notes, sums)| {
            let changed = Changed::default();
            let links = Links { bodies, notes, changed: &changed };
            change(&Trees { response, by_user, running, links })?;
            changed.write(sums)
        });
        self.notes.added();
        outcome.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(error) => error.into(),
        })
    }

    fn put(&self, staged: &Staged) -> Result<(), StoreError> {
        self.check(staged.epoch)?;
        let (id, head) = (staged.id, &staged.head);
        self.transaction(|trees| {
            trees.forget(id)?;
            trees.put(id, head)?;
            head.bodies(id).iter().try_for_each(|&body| doomed::keep(trees.links.notes, Doomed::Body(body)))
        })
    }

    fn end(&self, id: ResponseId, staged: &StagedEnd) -> Result<(), StoreError> {
        self.check(staged.epoch)?;
        let body = Doomed::Body(staged.said.id);
        self.transaction(|trees| match trees.head(id)? {
            Some(Head::Split(split)) => {
                if let Some(before) = &split.said {
                    doomed::doom(trees.links.notes, Doomed::Body(before.id))?;
                }
                trees.links.changed.add(split.user, Head::Split(split.clone()).used().less());
                trees.put(id, &Head::Split(Split { said: Some(staged.said.clone()), ..split }))?;
                doomed::keep(trees.links.notes, body)
            }
            // Gone, or whole and ended long ago.
            _ => doomed::doom(trees.links.notes, body),
        })
    }

    /// What was staged in a database that failed may not be in this one.
    fn check(&self, epoch: u64) -> Result<(), StoreError> {
        if epoch == self.epoch { Ok(()) } else { Err(StoreError::Reopening) }
    }
}

impl ResponsesStore for SledResponses {
    fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError> {
        for _ in 0..READS {
            let Some(head) = self.head(id)? else { return Ok(None) };
            if let Some(record) = self.read(id, &head)? {
                return Ok(Some(record));
            }
            // It is another one by now, or gone; or else it is damaged.
            if self.head(id)?.as_ref() == Some(&head) {
                break;
            }
        }
        Err(StoreError::Value { what: id.to_string(), problem: "a part of it is missing".to_owned() })
    }

    fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError> {
        Ok(self.head(id)?.map(|head| head.user()))
    }

    fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError> {
        let after = after.map(|id| by_user_key(user, id));
        let start = after.map_or(std::ops::Bound::Included([user.to_bytes(), [0; 16]].concat()), |after| {
            std::ops::Bound::Excluded(after.to_vec())
        });
        let end = std::ops::Bound::Included([user.to_bytes(), [0xff; 16]].concat());
        let keys = self.by_user.range((start, end)).keys();
        keys.map(|key| readable(response_id(&key?))).filter_map(Result::transpose).take(limit).collect()
    }

    fn running(&self) -> Result<Vec<ResponseId>, StoreError> {
        let keys = self.running.iter().keys();
        keys.map(|key| readable(response_id(&key?))).filter_map(Result::transpose).collect()
    }

    fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError> {
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

    fn owners(&self) -> Result<Vec<UserId>, StoreError> {
        let mut owners: Vec<UserId> = Vec::new();
        let mut from = Vec::new();
        while let Some(entry) = self.by_user.range(from.as_slice()..).next() {
            let (key, _) = entry?;
            let user = <[u8; 16]>::try_from(&key[..key.len().min(16)]).map_err(|_| StoreError::Value {
                what: "an index of responses".to_owned(),
                problem: format!("its key has {} bytes, expected 32", key.len()),
            })?;
            owners.push(UserId::from_bytes(user));
            // Behind every key of this user: a key has 32 bytes.
            from = [user.as_slice(), &[0xff; 17]].concat();
        }
        Ok(owners)
    }

    fn stage(&self, record: &ResponseRecord) -> Result<Staged, StoreError> {
        let ResponseRecord { id, user, .. } = *record;
        let asked = self.write_asked(record)?;
        let said = match &record.end {
            Some(end) => Some(self.stage_end(record.deltas.clone(), end.clone())?.said),
            None => None,
        };
        Ok(Staged { id, head: Head::Split(Split { user, asked, said }), epoch: self.epoch })
    }

    fn stage_end(&self, deltas: Vec<Delta>, end: End) -> Result<StagedEnd, StoreError> {
        Ok(StagedEnd { said: self.write_body(&encode(&Said { deltas, end }))?, epoch: self.epoch })
    }

    fn discard(&self, staged: &Staged) -> Result<(), StoreError> {
        self.check(staged.epoch)?;
        staged.head.bodies(staged.id).into_iter().try_for_each(|body| self.notes.doom(Doomed::Body(body)))
    }

    fn commit(&self, changes: &[ResponseChange]) -> Result<(), StoreError> {
        for change in changes {
            match change {
                #[cfg(test)]
                ResponseChange::Put(record) => self.put(&self.stage(record)?)?,
                ResponseChange::PutStaged(staged) => self.put(staged)?,
                ResponseChange::End(id, staged) => self.end(*id, staged)?,
                ResponseChange::Delete(id) => self.transaction(|trees| trees.forget(*id))?,
            }
        }
        Ok(())
    }

    fn delete_some(&self, user: UserId) -> Result<bool, StoreError> {
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys().take(AT_ONCE);
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        for key in &keys {
            if let Some(id) = readable(response_id(key))? {
                self.transaction(|trees| trees.forget(id))?;
            }
            // What led to a damaged one, too.
            self.by_user.remove(key)?;
        }
        Ok(keys.len() < AT_ONCE)
    }

    fn move_some(&self, from: UserId, to: UserId) -> Result<bool, StoreError> {
        let ids = self.of_user(from, None, AT_ONCE)?;
        for &id in &ids {
            self.transaction(|trees| {
                trees.by_user.remove(&by_user_key(from, id))?;
                let head = trees.head(id)?;
                if let Some(head) = &head {
                    trees.links.changed.add(head.user(), head.used().less());
                }
                let Some(head) = head else { return Ok(()) };
                if let Head::Split(split) = &head {
                    trees.links.hand_over(split.asked.id, from, to)?;
                }
                trees.put(id, &head.of(to))
            })?;
        }
        Ok(ids.len() < AT_ONCE)
    }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
