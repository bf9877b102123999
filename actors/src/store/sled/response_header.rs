//! The header of a response: its owner and bodies; and the index entries of a response.

use serde::{Deserialize, Serialize};
use sled::Db;
use sled::transaction::{ConflictableTransactionError, ConflictableTransactionResult, TransactionalTree};

use super::bodies::{Body, MAX_PART_BYTES};
use super::codec::{decode, encode, id_bytes};
use super::response_links::{Link, Links};
use super::tombstones::{self, Tombstone};
use crate::identity::UserId;
use crate::responses::ResponseId;
use crate::store::{StoreError, Used, readable};

/// The header of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Header {
    /// The form of schema 2: one body under the response's id.
    Whole { user: UserId, parts: u32 },
    /// The present form: two bodies.
    Split(SplitHeader),
}

/// A header with two bodies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitHeader {
    pub user: UserId,
    /// The request.
    #[serde(rename = "asked")]
    pub request: Body,
    /// The result. `None`: in progress.
    #[serde(rename = "said")]
    pub result: Option<Body>,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Whole { user, parts } => [user.to_bytes().as_slice(), &parts.to_be_bytes()].concat(),
            Self::Split(split) => encode(split),
        }
    }

    pub fn decode(id: ResponseId, value: &[u8]) -> Result<Self, StoreError> {
        // No JSON of a header is that short.
        if let (Some((user, parts)), 20) = (value.split_first_chunk::<16>(), value.len()) {
            let parts = u32::from_be_bytes([parts[0], parts[1], parts[2], parts[3]]);
            return Ok(Self::Whole { user: UserId::from_bytes(*user), parts });
        }
        decode(|| id.to_string(), value).map(Self::Split)
    }

    pub const fn user(&self) -> UserId {
        match self {
            Self::Whole { user, .. } | Self::Split(SplitHeader { user, .. }) => *user,
        }
    }

    /// Returns the same with another owner.
    pub fn with_user(self, user: UserId) -> Self {
        match self {
            Self::Whole { parts, .. } => Self::Whole { user, parts },
            Self::Split(split) => Self::Split(SplitHeader { user, ..split }),
        }
    }

    /// The storage that it takes. Of schema 2's bodies only the number of parts is known.
    pub fn used(&self) -> Used {
        Used::of_response(match self {
            Self::Whole { parts, .. } => u64::from(*parts) * MAX_PART_BYTES as u64,
            Self::Split(split) => {
                split.request.bytes + split.result.as_ref().map_or(0, |result| result.bytes)
            }
        })
    }

    pub fn bodies(&self, id: ResponseId) -> Vec<[u8; 16]> {
        match self {
            Self::Whole { .. } => vec![id.to_bytes()],
            Self::Split(split) => {
                std::iter::once(&split.request).chain(&split.result).map(|body| body.id).collect()
            }
        }
    }

    /// Returns `true` if it is in progress according to the header.
    const fn is_in_progress(&self) -> bool {
        matches!(self, Self::Split(SplitHeader { result: None, .. }))
    }
}

/// Computes the storage of every user's responses from the records.
pub fn count(db: &Db, add: &mut dyn FnMut(UserId, Used)) -> Result<(), StoreError> {
    for entry in &db.open_tree("response")? {
        let (key, value) = entry?;
        let Some(id) = readable(response_id(&key))? else { continue };
        if let Some(header) = readable(Header::decode(id, &value))? {
            add(header.user(), header.used());
        }
    }
    for value in db.open_tree("response_body")?.iter().values() {
        let link: Option<Link> = readable(decode(|| "a body".to_owned(), &value?))?;
        if let Some(link) = link.filter(|link| link.kept && link.references > 0) {
            add(link.user, Used::of_body(link.bytes));
        }
    }
    Ok(())
}

/// The trees of responses in a transaction.
pub struct Trees<'a> {
    pub response: &'a TransactionalTree,
    pub by_user: &'a TransactionalTree,
    pub running: &'a TransactionalTree,
    pub links: Links<'a>,
}

impl Trees<'_> {
    pub fn header(&self, id: ResponseId) -> ConflictableTransactionResult<Option<Header>, StoreError> {
        let header = self.response.get(id.to_bytes())?.map(|value| Header::decode(id, &value)).transpose();
        header.map_err(ConflictableTransactionError::Abort)
    }

    pub fn put(&self, id: ResponseId, header: &Header) -> ConflictableTransactionResult<(), StoreError> {
        self.links.totals.add(header.user(), header.used());
        self.response.insert(&id.to_bytes(), header.encode())?;
        self.by_user.insert(&by_user_key(header.user(), id), &[])?;
        match (header.is_in_progress(), header) {
            (true, _) => drop(self.running.insert(&id.to_bytes(), &[])?),
            (false, Header::Split(_)) => drop(self.running.remove(&id.to_bytes())?),
            (false, Header::Whole { .. }) => {}
        }
        Ok(())
    }

    /// Deletes a response, where there is one, and adds tombstones for its bodies.
    pub fn delete(&self, id: ResponseId) -> ConflictableTransactionResult<(), StoreError> {
        let Some(value) = self.response.remove(&id.to_bytes())? else { return Ok(()) };
        self.running.remove(&id.to_bytes())?;
        // The entries of a damaged response are unknown.
        let Ok(header) = Header::decode(id, &value) else { return Ok(()) };
        self.links.totals.add(header.user(), header.used().less());
        self.by_user.remove(&by_user_key(header.user(), id))?;
        match header {
            Header::Split(split) => {
                self.links.release(split.request.id)?;
                let result = split.result.iter();
                result
                    .map(|result| result.id)
                    .try_for_each(|result| tombstones::add(self.links.tombstones, Tombstone::Body(result)))
            }
            Header::Whole { .. } => tombstones::add(self.links.tombstones, Tombstone::Body(id.to_bytes())),
        }
    }
}

pub fn by_user_key(user: UserId, id: ResponseId) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&user.to_bytes());
    bytes[16..].copy_from_slice(&id.to_bytes());
    bytes
}

pub fn response_id(key: &[u8]) -> Result<ResponseId, StoreError> {
    id_bytes("an index of responses", key).map(ResponseId::from_bytes)
}
