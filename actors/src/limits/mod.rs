//! Rate limits of principals: token buckets and counts of streams.
//!
//! `bucket` is the arithmetic, `rate_buckets` the seam behind which every principal's buckets are kept, `table` keeps them in
//! memory, [`Limiter`] is the edge's handle, and `actor` the supervised actors that maintain the buckets.

mod actor;
mod bucket;
mod handle;
mod rate_buckets;
mod table;
mod types;

pub use handle::{Limiter, StreamPermit};
pub use types::{AnswersRefused, BucketView, CheckKind, LimitName, LimitOverrides, RateLimitDecision};
