//! Rate limits of principals: token buckets and counts of streams.
//!
//! `bucket` is the arithmetic, `table` every principal's buckets, [`Limiter`] the edge's handle, and `actor` the supervised
//! actors that maintain the table.

mod actor;
mod bucket;
mod handle;
mod table;
mod types;

pub use handle::{Limiter, StreamPermit};
pub use types::{AnswersRefused, BucketView, CheckKind, LimitName, LimitOverrides, RateLimitDecision};
