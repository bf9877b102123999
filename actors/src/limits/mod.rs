//! How much a principal may ask for: token buckets and counts of streams.
//!
//! `bucket` is the arithmetic, `table` every principal's buckets, [`Limiter`] the edge's door, and `actor` the
//! supervised actors that look after the table.

mod actor;
mod bucket;
mod handle;
mod table;
mod types;

pub use handle::{Limiter, StreamPermit};
pub use types::{AnswersRefused, BucketView, CheckKind, LimitName, LimitOverrides, Verdict};
