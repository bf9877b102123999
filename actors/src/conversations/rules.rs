//! The limits and the time of a decision.

use super::types::ConversationRecord;
use crate::config::ConversationsConfig;

/// The limits and the time of a decision.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The limits of conversations.
    pub limits: ConversationsConfig,
    /// The current time (epoch microseconds); later than that of any earlier decision.
    pub now_us: u64,
}

impl Rules {
    /// Returns the current time (epoch seconds).
    pub const fn now_s(&self) -> u64 {
        self.now_us / 1_000_000
    }

    /// Records a change of a conversation. A clock that was set back does not move it down its user's list.
    pub fn touch(&self, record: &mut ConversationRecord) {
        record.updated_us = record.updated_us.max(self.now_us);
    }
}
