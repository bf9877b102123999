//! How much a principal may ask for: token buckets and counts of streams.

mod handle;
mod types;

pub use handle::{Limiter, StreamPermit};
pub use types::{BucketView, CheckKind, LimitName, LimitOverrides, Verdict};
