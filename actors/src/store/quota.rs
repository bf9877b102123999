//! How much each user has, and may have.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `quota` | user id | [`Used`] |
//!
//! What a conversation or a response takes follows from its record alone, and each transaction that changes one changes
//! its user's sum as well. So the sums are exact whatever a crash, an import, a deletion or a retention pass leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionResult, TransactionalTree};
use sled::{Db, Tree};

use super::StoreError;
use super::db::decode;
use crate::config::StorageConfig;
use crate::conversations::ConversationRecord;
use crate::identity::{UserId, UserKind};

/// What a conversation or a response takes beside its contents, in bytes.
const HEAD: u64 = 256;

/// What an item takes beside its body, in bytes; one that was deleted keeps it.
const ITEM: u64 = 128;

/// What a user has, or more or less of it.
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
    /// What a conversation takes.
    pub fn of_conversation(record: &ConversationRecord) -> Self {
        let texts = [&record.title, &record.model].into_iter().flatten().map(String::len);
        let notes = record.metadata.iter().map(|(name, value)| name.len() + value.len());
        let texts: u64 = texts.chain(notes).map(|length| length as u64).sum();
        let bytes = HEAD + texts + record.bytes.saturating_add(u64::from(record.next) * ITEM);
        Self { bytes: signed(bytes), conversations: 1, responses: 0 }
    }

    /// What a response of so many bytes takes.
    pub fn of_response(bytes: u64) -> Self {
        Self { bytes: signed(bytes.saturating_add(HEAD)), conversations: 0, responses: 1 }
    }

    /// What is left of a response that others go on from.
    pub const fn of_body(bytes: u64) -> Self {
        let bytes = if bytes > i64::MAX as u64 { i64::MAX } else { bytes as i64 };
        Self { bytes, conversations: 0, responses: 0 }
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            conversations: self.conversations.saturating_add(other.conversations),
            responses: self.responses.saturating_add(other.responses),
        }
    }

    /// As much less.
    #[must_use]
    pub const fn less(self) -> Self {
        Self { bytes: -self.bytes, conversations: -self.conversations, responses: -self.responses }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What one user may have; 0: without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    mib: u32,
    conversations: u32,
    responses: u32,
}

/// What users may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    users: Limits,
    guests: Limits,
}

impl Quotas {
    /// As the settings say.
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

    /// Whether a user of that kind who has `used` may have `more`. What does not grow is never refused.
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

/// The sums.
#[derive(Clone, Debug)]
pub struct Sums(Tree);

impl Sums {
    /// Opens the tree, or makes it.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self(db.open_tree("quota")?))
    }

    /// The tree, for transactions.
    pub const fn tree(&self) -> &Tree {
        &self.0
    }

    /// What a user has.
    pub fn of(&self, user: UserId) -> Result<Used, StoreError> {
        read(self.0.get(user.to_bytes())?.as_deref())
    }
}

fn read(value: Option<&[u8]>) -> Result<Used, StoreError> {
    value.map_or(Ok(Used::default()), |value| decode(|| "what a user has".to_owned(), value))
}

/// What one run of a transaction changes of the sums.
#[derive(Debug, Default)]
pub struct Changed(RefCell<BTreeMap<UserId, Used>>);

impl Changed {
    /// A user has more, or less.
    pub fn add(&self, user: UserId, more: Used) {
        let mut users = self.0.borrow_mut();
        let sum = users.entry(user).or_default();
        *sum = sum.and(more);
    }

    /// Writes the sums.
    pub fn write(&self, sums: &TransactionalTree) -> ConflictableTransactionResult<(), StoreError> {
        for (user, more) in &*self.0.borrow() {
            if *more == Used::default() {
                continue;
            }
            let key = user.to_bytes();
            // One that is damaged begins anew.
            let sum = read(sums.get(key)?.as_deref()).unwrap_or_default().and(*more);
            match sum == Used::default() {
                true => drop(sums.remove(&key)?),
                false => drop(sums.insert(&key, super::db::encode(&sum))?),
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
    fn each_quota_is_named_and_guests_have_their_own() {
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
        fn what_does_not_grow_is_never_refused(bytes in 0i64..1 << 40, count in 0i64..1 << 40, less in 0i64..1 << 40) {
            let used = Used { bytes, conversations: count, responses: count };
            let more = Used { bytes: -less, conversations: 0, responses: -1 };
            prop_assert!(quotas().check(UserKind::Guest, used, more).is_ok());
        }
    }
}
