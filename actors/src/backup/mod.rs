//! Exports: everything that is kept, as lines of JSON (NDJSON), and taking them in again.
//!
//! The first line is a header, the last a trailer with the number of records of each kind and a SHA-256 over all
//! lines before it. Each line between is one record. What opens things is not in it: API keys are there as hashes, and
//! neither the keys that tokens are signed with nor `admin.key` are.
//!
//! [`mod@format`] is pure; [`offline`] works on a store that no server has open, [`Backup`] on one that is being served.

pub(crate) mod format;
mod keep;
mod offline;
mod online;

pub use format::{ExportError, FORMAT, ImportError};
pub use offline::{ImportMode, OfflineError, export, import};
pub use online::{Backup, BackupError, ExportStream};

/// How many records of each kind.
pub type Counts = std::collections::BTreeMap<String, u64>;
