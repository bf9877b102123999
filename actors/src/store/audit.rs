//! The audit log.

use std::fmt::Debug;

use super::StoreError;
use crate::audit::{AuditFilter, AuditId, AuditPage, AuditRecord, Class};
use async_trait::async_trait;

/// Bytes of a record's key.
const KEY: usize = 17;

/// The audit log. Reads see committed changes, also those that are not durable yet.
#[async_trait]
pub trait AuditStore: Debug + Send + Sync {
    /// Adds records. Adding a record twice is the same as adding it once.
    ///
    /// # Errors
    /// The database failed; so for all methods.
    async fn add(&self, records: &[AuditRecord]) -> Result<(), StoreError>;

    /// Up to `limit` records that a filter matches, newest first, among the first `look` records in its range.
    ///
    /// # Errors
    /// The database failed.
    async fn page(&self, filter: &AuditFilter, limit: usize, look: usize) -> Result<AuditPage, StoreError>;

    /// The number of records of each class. Reads all of them: not for the commit thread.
    ///
    /// # Errors
    /// The database failed.
    async fn count(&self) -> Result<[usize; 2], StoreError>;

    /// Removes up to `most` of the oldest records of a class that are before `before`, and returns their number.
    ///
    /// # Errors
    /// The database failed.
    async fn remove_oldest(
        &self,
        class: Class,
        before: Option<AuditId>,
        most: usize,
    ) -> Result<usize, StoreError>;
}

/// The key of a record in an export: [class](Class) (a byte), id.
pub fn key(class: Class, id: AuditId) -> [u8; KEY] {
    let mut key = [class as u8; KEY];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

/// Checks a record's key and value.
pub fn check(at: &[u8], value: &[u8]) -> Result<(), String> {
    let record: AuditRecord = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    // Unknown fields would be stored and exported unseen.
    let known = serde_json::to_value(&record).ok();
    if known != serde_json::from_slice(value).ok() {
        return Err("it has something that this program does not write".to_owned());
    }
    if at != key(record.class(), record.id) {
        return Err("its key is another record's".to_owned());
    }
    record.check()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditOutcome;

    #[test]
    fn record_is_checked_with_its_key() {
        let record = AuditRecord::new("import", AuditOutcome::Ok);
        let value = serde_json::to_vec(&record).unwrap();
        let at = key(Class::Done, record.id);
        assert_eq!(check(&at, &value), Ok(()));
        assert!(check(&key(Class::Minor, record.id), &value).is_err());
        let mut more = serde_json::to_value(&record).unwrap();
        more["name"] = "Ann".into();
        assert!(check(&at, more.to_string().as_bytes()).is_err(), "an unknown field");
    }
}
