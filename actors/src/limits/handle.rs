//! The edge's door to the rate limits.

use super::types::{CheckKind, Verdict};
use crate::identity::{ClientNet, Principal};

/// The rate limits. Cheap to clone; no method waits.
#[derive(Clone, Debug)]
pub struct Limiter {}

/// A stream that is counted. Dropping it ends the count.
#[derive(Debug)]
#[must_use = "dropping it means that the stream is over"]
pub struct StreamPermit {}

impl Limiter {
    /// Counts a request, unless a bucket is empty: a request that is refused costs nothing.
    pub fn check(&self, _principal: &Principal, _kind: CheckKind) -> Verdict {
        Verdict::UNLIMITED
    }

    /// What [`check`](Self::check) would say, without counting.
    #[must_use]
    pub fn peek(&self, _principal: &Principal, _kind: CheckKind) -> Verdict {
        Verdict::UNLIMITED
    }

    /// Charges the tokens of an answer, once they are known. The bucket may go below empty; the next inference
    /// waits until it is paid back.
    pub fn charge_tokens(&self, _principal: &Principal, _tokens: u32) {}

    /// Counts a stream for as long as the permit lives.
    ///
    /// # Errors
    /// The refusal, when the principal has as many streams as it may.
    pub fn stream(&self, _principal: &Principal) -> Result<StreamPermit, Verdict> {
        Ok(StreamPermit {})
    }

    /// Whether somebody from there may try to sign in.
    #[must_use]
    pub fn sign_in_allowed(&self, _net: ClientNet) -> Verdict {
        Verdict::UNLIMITED
    }

    /// Somebody from there failed to sign in.
    pub fn sign_in_failed(&self, _net: ClientNet) {}
}
