//! Exports: the whole store as lines of JSON (NDJSON), and their import.
//!
//! The first line is a header, the last a trailer with the number of records of each kind and a SHA-256 over all lines before it.
//! Each line between is one record. Secrets are not included: API keys are exported as hashes, and neither the signing keys of
//! tokens nor `admin.key` are exported.
//!
//! [`mod@format`] is pure; [`offline`] works on a store that no server has open, [`Backup`] on the store of a running server.

mod constraints;
pub(crate) mod format;
mod offline;
mod online;

pub use format::{ExportError, FORMAT, ImportError};
pub use offline::{ImportMode, OfflineError, export, import};
pub use online::{Backup, BackupError, ExportStream};

/// Number of records of each kind.
pub type Counts = std::collections::BTreeMap<String, u64>;
