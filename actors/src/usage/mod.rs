//! Usage accounting: tokens and requests by user, key, model and day.
//!
//! [`UsageLedger`] is the handle. Usage is added to a buffer in memory ([`buffer`]) as it occurs, and the buffer goes to the
//! database in numbered batches, each applied once regardless of failures in between. A request's end waits for its batch, so
//! acknowledged answers are counted; a killed server loses at most the usage of unfinished requests in the last second.

mod buffer;
mod ledger;
mod report;
mod types;

pub use ledger::{UsageError, UsageLedger};
pub use report::{UsageBucket, UsageFilter, UsageGroup, UsageGrouping, UsagePage, UsageResult};
pub use types::{Day, UsageCounts, UsageKey, UsageOwner};

pub(crate) use buffer::BatchId;
