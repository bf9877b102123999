//! Storage that each user takes, and its limits.
//!
//! The size of a conversation or a response follows from its record alone. A store changes a user's total in the same transaction
//! as the record, so totals are exact after any crash, import, deletion or retention pass.

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::config::StorageConfig;
use crate::conversations::ConversationRecord;
use crate::identity::UserKind;

/// The size of a conversation or a response without its contents, in bytes.
const RECORD_BYTES: u64 = 256;

/// The size of an item without its body, in bytes. A deleted item still takes it.
const ITEM_BYTES: u64 = 128;

/// Storage that a user takes, or a difference of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Bytes of conversations and responses.
    pub bytes: i64,
    /// Conversations.
    pub conversations: i64,
    /// Responses.
    pub responses: i64,
}

impl Used {
    /// The storage that a conversation takes.
    pub fn of_conversation(record: &ConversationRecord) -> Self {
        let texts = [&record.title, &record.model].into_iter().flatten().map(String::len);
        let notes = record.metadata.iter().map(|(name, value)| name.len() + value.len());
        let texts: u64 = texts.chain(notes).map(|length| length as u64).sum();
        let bytes = RECORD_BYTES + texts + record.bytes.saturating_add(u64::from(record.next) * ITEM_BYTES);
        Self { bytes: signed(bytes), conversations: 1, responses: 0 }
    }

    /// The storage that a response of that size takes.
    pub fn of_response(bytes: u64) -> Self {
        Self { bytes: signed(bytes.saturating_add(RECORD_BYTES)), conversations: 0, responses: 1 }
    }

    /// The storage of a deleted response's body that later responses refer to.
    pub const fn of_body(bytes: u64) -> Self {
        let bytes = if bytes > i64::MAX as u64 { i64::MAX } else { bytes as i64 };
        Self { bytes, conversations: 0, responses: 0 }
    }

    /// The sum.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            conversations: self.conversations.saturating_add(other.conversations),
            responses: self.responses.saturating_add(other.responses),
        }
    }

    /// The negation.
    #[must_use]
    pub const fn less(self) -> Self {
        Self { bytes: -self.bytes, conversations: -self.conversations, responses: -self.responses }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The limits of one user; 0: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    mib: u32,
    conversations: u32,
    responses: u32,
}

/// The storage quotas of users and guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    users: Limits,
    guests: Limits,
}

impl Quotas {
    /// The quotas of the configuration.
    pub const fn new(storage: &StorageConfig) -> Self {
        Self {
            users: Limits {
                mib: storage.max_user_mib,
                conversations: storage.max_user_conversations,
                responses: storage.max_user_responses,
            },
            guests: Limits {
                mib: storage.max_guest_mib,
                conversations: storage.max_guest_conversations,
                responses: storage.max_guest_responses,
            },
        }
    }

    /// Checks whether a user of that kind with `used` may take `more`. A change that takes no more is never refused.
    ///
    /// # Errors
    /// [`StoreError::Quota`].
    pub fn check(self, kind: UserKind, used: Used, more: Used) -> Result<(), StoreError> {
        let guest = kind == UserKind::Guest;
        let limits = if guest { self.guests } else { self.users };
        let who = if guest { "guest" } else { "user" };
        let checks = [
            ("mib", "MiB", used.bytes, more.bytes, i64::from(limits.mib) << 20, limits.mib),
            (
                "conversations",
                "conversations",
                used.conversations,
                more.conversations,
                limits.conversations.into(),
                limits.conversations,
            ),
            (
                "responses",
                "responses",
                used.responses,
                more.responses,
                limits.responses.into(),
                limits.responses,
            ),
        ];
        for (name, unit, used, more, limit, shown) in checks {
            if limit > 0 && more > 0 && used.saturating_add(more) > limit {
                let quota = format!("storage.max_{who}_{name}");
                return Err(StoreError::Quota { quota, limit: shown.into(), unit });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quotas() -> Quotas {
        let storage = StorageConfig {
            max_user_mib: 2,
            max_user_conversations: 20,
            max_user_responses: 0,
            max_guest_mib: 1,
            max_guest_conversations: 2,
            max_guest_responses: 3,
            ..StorageConfig::default()
        };
        Quotas::new(&storage)
    }

    fn name(outcome: Result<(), StoreError>) -> Option<String> {
        match outcome {
            Ok(()) => None,
            Err(StoreError::Quota { quota, .. }) => Some(quota),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn quotas_are_named_and_guests_have_their_own() {
        let one = Used { bytes: 1 << 19, conversations: 1, responses: 1 };
        let used = |times: i64| Used { bytes: times << 19, conversations: times, responses: times };
        let check = |kind, used| name(quotas().check(kind, used, one));
        assert_eq!(check(UserKind::Guest, used(1)), None);
        assert_eq!(check(UserKind::Guest, used(2)).as_deref(), Some("storage.max_guest_mib"));
        let small = Used { bytes: 0, ..used(2) };
        assert_eq!(check(UserKind::Guest, small).as_deref(), Some("storage.max_guest_conversations"));
        assert_eq!(check(UserKind::Member, used(3)), None);
        assert_eq!(check(UserKind::Admin, used(4)).as_deref(), Some("storage.max_user_mib"));
        let many = Used { responses: 1 << 40, ..Used::default() };
        assert_eq!(check(UserKind::Member, many), None, "0 is without a limit");
        let error = quotas().check(UserKind::Member, used(4), one).unwrap_err().to_string();
        assert!(error.contains("storage.max_user_mib") && error.contains("2 MiB"), "{error}");
    }

    proptest! {
        #[test]
        fn shrinking_is_never_refused(bytes in 0i64..1 << 40, count in 0i64..1 << 40, less in 0i64..1 << 40) {
            let used = Used { bytes, conversations: count, responses: count };
            let more = Used { bytes: -less, conversations: 0, responses: -1 };
            prop_assert!(quotas().check(UserKind::Guest, used, more).is_ok());
        }
    }
}
