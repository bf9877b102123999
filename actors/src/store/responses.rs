//! Responses on disk.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `response` | response id | its user's id, number of parts |
//! | `response_part` | response id, part number | a part of the [`ResponseRecord`] |
//! | `response_by_user` | user id, response id | nothing |
//! | `response_running` | response id | nothing |
//!
//! A record is cut in parts, since sled wants small values. Ids begin with their time, so the oldest come first.

use std::fmt::Debug;

use sled::transaction::{
    ConflictableTransactionError, ConflictableTransactionResult, TransactionError, Transactional,
    TransactionalTree,
};
use sled::{Db, Tree};

use super::StoreError;
use super::db::{decode, encode, id_bytes};
use crate::identity::UserId;
use crate::responses::{ResponseId, ResponseRecord};

/// Longest part of a record in bytes.
const PART: usize = 64 * 1024;

/// A change to responses.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseChange {
    /// A new response, or a new state of one.
    Put(Box<ResponseRecord>),
    /// The response is gone.
    Delete(ResponseId),
    /// The user is gone with all responses.
    DeleteUser(UserId),
    /// All of one user's responses are another's.
    MoveUser {
        /// Whose they were.
        from: UserId,
        /// Whose they are.
        to: UserId,
    },
}

// Nothing compares records but tests, and no record has a number that is not one.
impl Eq for ResponseChange {}

/// Responses. What a read gives includes changes that are not durable yet.
pub trait ResponsesStore: Debug + Send {
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

    /// Makes these changes in order, each response's at once or not at all.
    ///
    /// # Errors
    /// The database failed.
    fn commit(&self, changes: &[ResponseChange]) -> Result<(), StoreError>;
}

/// The trees.
#[derive(Debug)]
pub struct SledResponses {
    response: Tree,
    part: Tree,
    by_user: Tree,
    running: Tree,
}

impl SledResponses {
    /// Opens the trees, or makes them.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self {
            response: db.open_tree("response")?,
            part: db.open_tree("response_part")?,
            by_user: db.open_tree("response_by_user")?,
            running: db.open_tree("response_running")?,
        })
    }

    fn head(&self, id: ResponseId) -> Result<Option<Head>, StoreError> {
        self.response.get(id.to_bytes())?.map(|value| Head::decode(id, &value)).transpose()
    }

    /// Puts a response in with what leads to it.
    pub fn put(&self, record: &ResponseRecord) -> Result<(), StoreError> {
        let body = encode(record);
        let trees = (&self.response, &self.part, &self.by_user, &self.running);
        let outcome = trees.transaction(|(response, part, by_user, running)| {
            forget(record.id, response, part, by_user, running)?;
            let mut parts = 0;
            for piece in body.chunks(PART) {
                part.insert(&part_key(record.id, parts), piece)?;
                parts += 1;
            }
            response.insert(&record.id.to_bytes(), Head { user: record.user, parts }.encode().as_slice())?;
            by_user.insert(&by_user_key(record.user, record.id), &[])?;
            if record.end.is_none() {
                running.insert(&record.id.to_bytes(), &[])?;
            }
            Ok(())
        });
        outcome.map_err(from_transaction)
    }

    fn delete(&self, id: ResponseId) -> Result<(), StoreError> {
        let trees = (&self.response, &self.part, &self.by_user, &self.running);
        let outcome = trees
            .transaction(|(response, part, by_user, running)| forget(id, response, part, by_user, running));
        outcome.map_err(from_transaction)
    }
}

impl ResponsesStore for SledResponses {
    fn response(&self, id: ResponseId) -> Result<Option<ResponseRecord>, StoreError> {
        let Some(head) = self.head(id)? else { return Ok(None) };
        let mut body = Vec::new();
        for number in 0..head.parts {
            let piece = self.part.get(part_key(id, number))?;
            body.extend_from_slice(&piece.ok_or_else(|| StoreError::Value {
                what: id.to_string(),
                problem: format!("part {number} of {} is missing", head.parts),
            })?);
        }
        decode(|| id.to_string(), &body).map(Some)
    }

    fn owner(&self, id: ResponseId) -> Result<Option<UserId>, StoreError> {
        Ok(self.head(id)?.map(|head| head.user))
    }

    fn of_user(
        &self,
        user: UserId,
        after: Option<ResponseId>,
        limit: usize,
    ) -> Result<Vec<ResponseId>, StoreError> {
        let after = after.map(|id| by_user_key(user, id));
        let keys = self.by_user.scan_prefix(user.to_bytes()).keys();
        let behind = keys.filter(|key| {
            let before = |key: &sled::IVec| after.is_some_and(|after| key.as_ref() <= after.as_slice());
            !key.as_ref().is_ok_and(before)
        });
        behind.take(limit).map(|key| response_id(&key?)).collect()
    }

    fn running(&self) -> Result<Vec<ResponseId>, StoreError> {
        self.running.iter().keys().map(|key| response_id(&key?)).collect()
    }

    fn made_before(&self, epoch_s: u64, limit: usize) -> Result<Vec<ResponseId>, StoreError> {
        // A UUID of version 7 begins with 48 bits of milliseconds.
        let millis = (epoch_s.saturating_mul(1000)).min((1 << 48) - 1).to_be_bytes();
        let range = self.response.range(..&millis[2..]);
        range.keys().take(limit).map(|key| response_id(&key?)).collect()
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

    fn commit(&self, changes: &[ResponseChange]) -> Result<(), StoreError> {
        for change in changes {
            match change {
                ResponseChange::Put(record) => self.put(record)?,
                ResponseChange::Delete(id) => self.delete(*id)?,
                ResponseChange::DeleteUser(user) => {
                    for id in self.of_user(*user, None, usize::MAX)? {
                        self.delete(id)?;
                    }
                }
                ResponseChange::MoveUser { from, to } => {
                    for id in self.of_user(*from, None, usize::MAX)? {
                        if let Some(record) = self.response(id)? {
                            self.put(&ResponseRecord { user: *to, ..record })?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Head {
    user: UserId,
    parts: u32,
}

impl Head {
    fn encode(self) -> Vec<u8> {
        [self.user.to_bytes().as_slice(), &self.parts.to_be_bytes()].concat()
    }

    fn decode(id: ResponseId, value: &[u8]) -> Result<Self, StoreError> {
        let problem = || StoreError::Value {
            what: id.to_string(),
            problem: format!("its head has {} bytes, expected 20", value.len()),
        };
        let (user, parts) = value.split_first_chunk::<16>().ok_or_else(problem)?;
        let parts = <[u8; 4]>::try_from(parts).map_err(|_| problem())?;
        Ok(Self { user: UserId::from_bytes(*user), parts: u32::from_be_bytes(parts) })
    }
}

/// Removes everything of a response, where there is anything.
fn forget(
    id: ResponseId,
    response: &TransactionalTree,
    part: &TransactionalTree,
    by_user: &TransactionalTree,
    running: &TransactionalTree,
) -> ConflictableTransactionResult<(), StoreError> {
    let Some(value) = response.remove(&id.to_bytes())? else { return Ok(()) };
    let head = Head::decode(id, &value).map_err(ConflictableTransactionError::Abort)?;
    for number in 0..head.parts {
        part.remove(&part_key(id, number))?;
    }
    by_user.remove(&by_user_key(head.user, id))?;
    running.remove(&id.to_bytes())?;
    Ok(())
}

fn from_transaction(error: TransactionError<StoreError>) -> StoreError {
    match error {
        TransactionError::Abort(error) => error,
        TransactionError::Storage(error) => error.into(),
    }
}

fn part_key(id: ResponseId, number: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&id.to_bytes());
    bytes[16..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn by_user_key(user: UserId, id: ResponseId) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&user.to_bytes());
    bytes[16..].copy_from_slice(&id.to_bytes());
    bytes
}

fn response_id(key: &[u8]) -> Result<ResponseId, StoreError> {
    id_bytes("an index of responses", key).map(ResponseId::from_bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store() -> SledResponses {
        SledResponses::open(&sled::Config::new().temporary(true).open().unwrap()).unwrap()
    }

    fn record(user: UserId, length: usize) -> ResponseRecord {
        let mut record = ResponseRecord::new(user, 7, json!({"model": "m"}));
        record.input = vec![json!({"text": "x".repeat(length)})];
        record
    }

    fn put(store: &SledResponses, record: &ResponseRecord) {
        store.commit(&[ResponseChange::Put(Box::new(record.clone()))]).unwrap();
    }

    #[test]
    fn large_records_are_cut_and_put_together_again_and_leave_nothing() {
        let store = store();
        let user = UserId::new();
        let mut one = record(user, 5 * PART + 3);
        put(&store, &one);
        assert!(store.part.iter().values().all(|part| part.unwrap().len() <= PART));
        assert_eq!(store.part.len(), 6);
        assert_eq!(store.response(one.id).unwrap(), Some(one.clone()));
        one.input.clear();
        put(&store, &one);
        assert_eq!((store.part.len(), store.response(one.id).unwrap()), (1, Some(one.clone())));
        store.commit(&[ResponseChange::Delete(one.id), ResponseChange::Delete(one.id)]).unwrap();
        for tree in [&store.response, &store.part, &store.by_user, &store.running] {
            assert!(tree.is_empty());
        }
    }

    #[test]
    fn users_go_and_merge_with_their_responses() {
        let store = store();
        let (guest, ann, bob) = (UserId::new(), UserId::new(), UserId::new());
        let records: Vec<_> = [guest, guest, ann, bob].iter().map(|user| record(*user, 10)).collect();
        records.iter().for_each(|record| put(&store, record));
        store.commit(&[ResponseChange::MoveUser { from: guest, to: ann }]).unwrap();
        assert_eq!(store.owner(records[0].id).unwrap(), Some(ann));
        assert_eq!(store.response(records[1].id).unwrap().unwrap().user, ann);
        assert_eq!(store.owners().unwrap(), [ann, bob]);
        let anns = store.of_user(ann, None, 10).unwrap();
        assert_eq!(anns, [records[0].id, records[1].id, records[2].id]);
        assert_eq!(store.of_user(ann, Some(anns[0]), 1).unwrap(), [anns[1]]);
        store.commit(&[ResponseChange::DeleteUser(ann)]).unwrap();
        assert_eq!((store.owners().unwrap(), store.response.len()), (vec![bob], 1));
    }

    #[test]
    fn running_and_old_ones_are_found() {
        let store = store();
        let mut one = record(UserId::new(), 1);
        put(&store, &one);
        assert_eq!(store.running().unwrap(), [one.id]);
        one.end = Some(crate::responses::End::lost(9));
        put(&store, &one);
        assert!(store.running().unwrap().is_empty());
        let now = crate::identity::now_s();
        assert!(store.made_before(now - 100, 10).unwrap().is_empty());
        assert_eq!(store.made_before(now + 100, 10).unwrap(), [one.id]);
        assert_eq!(store.made_before(u64::MAX, 10).unwrap(), [one.id]);
    }
}
