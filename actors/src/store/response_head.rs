//! What is to be known of a response without its bodies, and what leads to it.

use serde::{Deserialize, Serialize};
use sled::Db;
use sled::transaction::{ConflictableTransactionError, ConflictableTransactionResult, TransactionalTree};

use super::db::{decode, encode, id_bytes};
use super::doomed::{self, Doomed};
use super::quota::Used;
use super::response_links::{Link, Links};
use super::{StoreError, readable};
use crate::identity::UserId;
use crate::responses::ResponseId;

/// Longest part of a body in bytes.
pub const PART: usize = 64 * 1024;

/// Text or JSON in parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Body {
    pub id: [u8; 16],
    pub parts: u32,
    pub bytes: u64,
}

/// What is to be known of a response without its bodies.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// As schema 2 has it.
    Whole {
        user: UserId,
        parts: u32,
    },
    Split(Split),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub user: UserId,
    pub asked: Body,
    /// `None`: it runs.
    pub said: Option<Body>,
}

impl Head {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Whole { user, parts } => [user.to_bytes().as_slice(), &parts.to_be_bytes()].concat(),
            Self::Split(split) => encode(split),
        }
    }

    pub fn decode(id: ResponseId, value: &[u8]) -> Result<Self, StoreError> {
        // No JSON of a head is that short.
        if let (Some((user, parts)), 20) = (value.split_first_chunk::<16>(), value.len()) {
            let parts = u32::from_be_bytes([parts[0], parts[1], parts[2], parts[3]]);
            return Ok(Self::Whole { user: UserId::from_bytes(*user), parts });
        }
        decode(|| id.to_string(), value).map(Self::Split)
    }

    pub const fn user(&self) -> UserId {
        match self {
            Self::Whole { user, .. } | Self::Split(Split { user, .. }) => *user,
        }
    }

    pub fn of(self, user: UserId) -> Self {
        match self {
            Self::Whole { parts, .. } => Self::Whole { user, parts },
            Self::Split(split) => Self::Split(Split { user, ..split }),
        }
    }

    /// What it takes of its user's quota. Of a whole record only the parts are known.
    pub fn used(&self) -> Used {
        Used::of_response(match self {
            Self::Whole { parts, .. } => u64::from(*parts) * PART as u64,
            Self::Split(split) => split.asked.bytes + split.said.as_ref().map_or(0, |said| said.bytes),
        })
    }

    pub fn bodies(&self, id: ResponseId) -> Vec<[u8; 16]> {
        match self {
            Self::Whole { .. } => vec![id.to_bytes()],
            Self::Split(split) => {
                std::iter::once(&split.asked).chain(&split.said).map(|body| body.id).collect()
            }
        }
    }

    /// Whether it is known to run without its bodies being read.
    const fn runs(&self) -> bool {
        matches!(self, Self::Split(Split { said: None, .. }))
    }
}

/// What each user's responses take, counted anew.
pub fn count(db: &Db, add: &mut dyn FnMut(UserId, Used)) -> Result<(), StoreError> {
    for entry in &db.open_tree("response")? {
        let (key, value) = entry?;
        let Some(id) = readable(response_id(&key))? else { continue };
        if let Some(head) = readable(Head::decode(id, &value))? {
            add(head.user(), head.used());
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

pub struct Trees<'a> {
    pub response: &'a TransactionalTree,
    pub by_user: &'a TransactionalTree,
    pub running: &'a TransactionalTree,
    pub links: Links<'a>,
}

impl Trees<'_> {
    pub fn head(&self, id: ResponseId) -> ConflictableTransactionResult<Option<Head>, StoreError> {
        let head = self.response.get(id.to_bytes())?.map(|value| Head::decode(id, &value)).transpose();
        head.map_err(ConflictableTransactionError::Abort)
    }

    pub fn put(&self, id: ResponseId, head: &Head) -> ConflictableTransactionResult<(), StoreError> {
        self.links.changed.add(head.user(), head.used());
        self.response.insert(&id.to_bytes(), head.encode())?;
        self.by_user.insert(&by_user_key(head.user(), id), &[])?;
        match (head.runs(), head) {
            (true, _) => drop(self.running.insert(&id.to_bytes(), &[])?),
            (false, Head::Split(_)) => drop(self.running.remove(&id.to_bytes())?),
            (false, Head::Whole { .. }) => {}
        }
        Ok(())
    }

    /// Removes what leads to a response, where there is anything, and notes that its bodies are gone.
    pub fn forget(&self, id: ResponseId) -> ConflictableTransactionResult<(), StoreError> {
        let Some(value) = self.response.remove(&id.to_bytes())? else { return Ok(()) };
        self.running.remove(&id.to_bytes())?;
        // What a damaged one led to is not known any more.
        let Ok(head) = Head::decode(id, &value) else { return Ok(()) };
        self.links.changed.add(head.user(), head.used().less());
        self.by_user.remove(&by_user_key(head.user(), id))?;
        match head {
            Head::Split(split) => {
                self.links.leave(split.asked.id)?;
                let said = split.said.iter();
                said.map(|said| said.id)
                    .try_for_each(|said| doomed::doom(self.links.notes, Doomed::Body(said)))
            }
            Head::Whole { .. } => doomed::doom(self.links.notes, Doomed::Body(id.to_bytes())),
        }
    }
}

pub fn part_key(id: &[u8; 16], number: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(id);
    bytes[16..].copy_from_slice(&number.to_be_bytes());
    bytes
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
