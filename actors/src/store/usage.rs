//! Token usage.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::usage::{BatchId, Day, UsageCounts, UsageFilter, UsageKey, UsageOwner};

/// The usage of a model on a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The user, day, API key and model.
    #[serde(flatten)]
    pub key: UsageKey,
    /// The counts.
    #[serde(flatten)]
    pub counts: UsageCounts,
}

/// Token usage. Reads see committed changes, also those that are not durable yet.
#[async_trait]
pub trait UsageStore: Debug + Send + Sync {
    /// Adds counts to the stored ones in one transaction, unless this batch has been added already.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn add(&self, batch: BatchId, rows: &[(UsageKey, UsageCounts)]) -> Result<(), StoreError>;

    /// Visits the rows that a filter matches, in no particular order.
    ///
    /// # Errors
    /// The database failed.
    async fn rows(
        &self,
        filter: &UsageFilter,
        visit: &mut (dyn for<'a> FnMut(&'a UsageKey, &'a UsageCounts) + Send),
    ) -> Result<(), StoreError>;
}

/// The key of a row in an export: owner (16 bytes), day, API key's id or zeros, model.
pub fn key_bytes(key: &UsageKey) -> Vec<u8> {
    let api_key = key.key.map_or([0; 16], |key| key.to_bytes());
    [&day_bytes(key.user, key.day), api_key.as_slice(), key.model.as_bytes()].concat()
}

/// The beginning of the keys of an owner's rows of a day.
pub fn day_bytes(user: UsageOwner, day: Day) -> Vec<u8> {
    [user.to_bytes().as_slice(), &day.number().to_be_bytes()].concat()
}
