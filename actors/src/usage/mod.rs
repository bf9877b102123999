//! Who used how much: tokens and requests by user, key, model and day.
//!
//! [`UsageLedger`] is the door. What happens is added to a book in memory ([`book`]) as it happens, and the book goes
//! to the database in numbered batches, each applied once whatever fails in between. A request's end waits for its
//! batch, so what was answered is counted; a killed server loses at most what unfinished requests used in the last
//! second.

mod book;
mod ledger;
mod report;
mod types;

pub use ledger::{UsageError, UsageLedger};
pub use report::{UsageBucket, UsageFilter, UsageGroup, UsageGrouping, UsagePage, UsageResult};
pub use types::{Day, Payer, UsageCounts, UsageKey};

pub(crate) use book::BatchId;
