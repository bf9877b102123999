//! Migrations from older schemas to the present one, in steps.
//!
//! Every step is idempotent: the schema number is written after it, so after a crash in its middle the next start runs it
//! again.

use std::collections::BTreeMap;

use serde_json::Value;
use sled::Db;

use super::codec::{decode, encode};
use crate::identity::UserId;
use crate::store::{StoreError, Used, upgrade};

type Step = fn(&Db) -> Result<(), StoreError>;

/// The step from schema 1, from 2, and so on.
static STEPS: &[Step] = &[v1_to_v2, v2_to_v3, v3_to_v4, v4_to_v5, v5_to_v6];

/// The steps from a schema on, each with the schema that it leads to.
pub fn steps_from(schema: u32) -> impl Iterator<Item = (u32, Step)> {
    (2..).zip(STEPS.iter().copied()).filter(move |(to, _)| *to > schema)
}

/// Schema 2 adds usage. There is nothing to convert; but a program without usage must not open such a store, since it
/// would leave a deleted user's rows behind.
fn v1_to_v2(db: &Db) -> Result<(), StoreError> {
    for tree in ["usage", "usage_batch", "forget"] {
        db.open_tree(tree)?;
    }
    Ok(())
}

/// Schema 3 adds tombstones, users' storage totals, and responses in two bodies. Responses of schema 2 are read as they
/// are and converted when they are next written; an older program would take deleted records for damaged ones.
fn v2_to_v3(db: &Db) -> Result<(), StoreError> {
    db.open_tree("doomed")?;
    let mut totals: BTreeMap<UserId, Used> = BTreeMap::new();
    let mut add = |user, more| {
        let sum = totals.entry(user).or_default();
        *sum = sum.and(more);
    };
    super::conversation_keys::count(db, &mut add)?;
    super::response_header::count(db, &mut add)?;
    let quota = db.open_tree("quota")?;
    quota.clear()?;
    for (user, used) in totals {
        quota.insert(user.to_bytes(), encode(&used))?;
    }
    Ok(())
}

/// Schema 4 allows managing keys, sessions and the account by the permission `keys` alone. Keys with `admin` could do so
/// before and get it; others lose a permission that they were not meant to have.
fn v3_to_v4(db: &Db) -> Result<(), StoreError> {
    let keys = db.open_tree("key")?;
    for entry in &keys {
        let (hash, value) = entry?;
        let mut record: Value = decode(|| "an API key".to_owned(), &value)?;
        if upgrade("key", 3, &mut record) {
            keys.insert(hash, encode(&record))?;
        }
    }
    Ok(())
}

/// Schema 5 adds responses that refer to earlier request bodies instead of repeating them, with reference counts. Those
/// of schema 4 are complete in themselves and can be referred to; an older program would read responses without their
/// beginning, and remove bodies that others refer to.
fn v4_to_v5(db: &Db) -> Result<(), StoreError> {
    db.open_tree("response_body")?;
    Ok(())
}

/// Schema 6 adds items that refer to a staged body. There is nothing to convert; an older program would take those items for
/// damaged ones, and leave their bodies behind.
const fn v5_to_v6(_: &Db) -> Result<(), StoreError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SCHEMA;

    #[test]
    fn there_is_a_step_from_every_schema() {
        assert_eq!(STEPS.len() as u32 + 1, SCHEMA);
        assert_eq!(steps_from(1).map(|(to, _)| to).collect::<Vec<_>>(), (2..=SCHEMA).collect::<Vec<_>>());
        assert_eq!(steps_from(SCHEMA).count(), 0);
    }

    #[test]
    fn steps_can_be_done_again() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for _ in 0..2 {
            steps_from(1).for_each(|(_, step)| step(&db).unwrap());
        }
    }
}
