//! The limits and the time of a decision.

use super::types::ConversationRecord;
use crate::config::ConversationsConfig;

/// The limits and the time of a decision.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How large conversations may be.
    pub limits: ConversationsConfig,
    /// Now (epoch microseconds); later than at any decision before.
    pub now_us: u64,
}

impl Rules {
    /// Now (epoch seconds).
    pub const fn now_s(&self) -> u64 {
        self.now_us / 1_000_000
    }

    /// Notes a change of a conversation. A clock that was set back does not move it down its user's list.
    pub fn touch(&self, record: &mut ConversationRecord) {
        record.updated_us = record.updated_us.max(self.now_us);
    }
}
