//! Bodies: JSON of any size, split into parts, which a record refers to.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `response_part` | body id, part number | a part of a body |
//!
//! Bodies are written on any thread before a record refers to them, so that the commit thread writes the reference alone.
//! Until then a tombstone marks a body as staged: should the process end, the next opening removes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::{Db, Tree};
use uuid::Uuid;

use super::codec::{decode, encode};
use super::tombstones::{self, Tombstone, Tombstones};
use crate::store::StoreError;

/// Maximum size of a part of a body: sled wants values below 100 KiB.
pub const MAX_PART_BYTES: usize = 64 * 1024;

/// Numbers the databases opened by this process: bodies staged in one that failed may be missing after it is reopened.
static EPOCHS: AtomicU64 = AtomicU64::new(0);

/// A body that is stored in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    pub id: [u8; 16],
    pub parts: u32,
    pub bytes: u64,
}

/// The bodies of one database. Clones share it.
#[derive(Clone, Debug)]
pub struct Bodies {
    pub(super) part: Tree,
    pub(super) tombstones: Tombstones,
    epoch: u64,
}

impl Bodies {
    /// Opens the tree, or creates it.
    pub fn open(db: &Db, tombstones: Tombstones) -> Result<Self, StoreError> {
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { part: db.open_tree("response_part")?, tombstones, epoch })
    }

    /// An unused id.
    pub fn new_id() -> [u8; 16] {
        Uuid::now_v7().into_bytes()
    }

    /// Writes a body that nothing refers to yet.
    pub fn stage(&self, bytes: &[u8]) -> Result<Body, StoreError> {
        let id = Self::new_id();
        self.tombstones.stage(Tombstone::Body(id))?;
        self.write(id, bytes)
    }

    /// Writes a body whose tombstone marks it as staged already.
    pub fn write(&self, id: [u8; 16], bytes: &[u8]) -> Result<Body, StoreError> {
        let mut parts = 0;
        for piece in bytes.chunks(MAX_PART_BYTES) {
            self.part.insert(part_key(&id, parts), piece)?;
            parts += 1;
        }
        Ok(Body { id, parts, bytes: bytes.len() as u64 })
    }

    /// `None`: a part is missing.
    pub fn read(&self, id: &[u8; 16], parts: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let mut body = Vec::new();
        for number in 0..parts {
            let Some(piece) = self.part.get(part_key(id, number))? else { return Ok(None) };
            body.extend_from_slice(&piece);
        }
        Ok(Some(body))
    }

    /// Removes a staged body that nothing is going to refer to.
    pub fn discard(&self, id: [u8; 16]) -> Result<(), StoreError> {
        self.tombstones.add(Tombstone::Body(id))
    }

    /// Removes parts of a deleted body until `until`. `true`: none is left.
    pub fn remove(&self, id: [u8; 16], until: Instant) -> Result<bool, StoreError> {
        tombstones::remove_prefix(&self.part, &id, until)
    }

    /// The token of something staged: the number of this database, then JSON.
    pub fn token<T: Serialize>(&self, value: &T) -> Vec<u8> {
        [self.epoch.to_be_bytes().as_slice(), &encode(value)].concat()
    }

    /// Reads a token. Bodies staged in a database that failed may not be in this one.
    pub fn staged<T: DeserializeOwned>(&self, token: &[u8]) -> Result<T, StoreError> {
        match token.split_first_chunk::<8>() {
            Some((epoch, value)) if u64::from_be_bytes(*epoch) == self.epoch => {
                decode(|| "something staged".to_owned(), value)
            }
            _ => Err(StoreError::Reopening),
        }
    }
}

pub fn part_key(id: &[u8; 16], number: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(id);
    bytes[16..].copy_from_slice(&number.to_be_bytes());
    bytes
}
