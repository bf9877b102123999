//! From older schemas to the present one, a step at a time.
//!
//! Each step can be done again on what it has done half or whole: the schema number is written after it, so a crash in
//! its middle has the next start do it again.

use std::collections::BTreeMap;

use serde_json::Value;
use sled::Db;

use super::db::{decode, encode};
use super::{StoreError, Used};
use crate::identity::UserId;

/// The version of keys and values. One that is newer than this is refused.
pub const SCHEMA: u32 = 5;

type Step = fn(&Db) -> Result<(), StoreError>;

/// The step from schema 1, from 2, and so on.
static STEPS: &[Step] = &[v1_to_v2, v2_to_v3, v3_to_v4, v4_to_v5];

/// The steps from that schema on, each with the schema that it leads to.
pub fn steps_from(schema: u32) -> impl Iterator<Item = (u32, Step)> {
    (2..).zip(STEPS.iter().copied()).filter(move |(to, _)| *to > schema)
}

/// Schema 2 has usage. What came before it counted none, so there is nothing to convert; but a program that knows no
/// usage must not open a store that has some, since deleting a user would leave theirs behind.
fn v1_to_v2(db: &Db) -> Result<(), StoreError> {
    for tree in ["usage", "usage_batch", "forget"] {
        db.open_tree(tree)?;
    }
    Ok(())
}

/// Schema 3 has notes of what is gone, sums of what users have, and responses in two bodies. Those of schema 2 are read as they are and become
/// such when they are next written; a program that knows neither would take what is gone for lost.
fn v2_to_v3(db: &Db) -> Result<(), StoreError> {
    db.open_tree("doomed")?;
    let mut sums: BTreeMap<UserId, Used> = BTreeMap::new();
    let mut add = |user, more| {
        let sum = sums.entry(user).or_default();
        *sum = sum.and(more);
    };
    super::conversation_keys::count(db, &mut add)?;
    super::response_head::count(db, &mut add)?;
    let quota = db.open_tree("quota")?;
    quota.clear()?;
    for (user, used) in sums {
        quota.insert(user.to_bytes(), encode(&used))?;
    }
    Ok(())
}

/// Schema 4 has keys that manage keys, sessions and the account by the permission `keys` alone. Keys with `admin` could
/// do so by anything that they might lose, so they get it; others lose what they were not meant to do.
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

/// Schema 5 has responses that refer to what was asked before instead of holding it, and counts of what refers to what.
/// Those of schema 4 hold everything and are referred to as they are; a program that knows no references would miss the
/// beginning of what it reads, and remove what others go on from.
fn v4_to_v5(db: &Db) -> Result<(), StoreError> {
    db.open_tree("response_body")?;
    Ok(())
}

/// Brings a record of an older schema, as it is in an export, to the present one; says whether that changed it.
pub fn upgrade(kind: &str, schema: u32, record: &mut Value) -> bool {
    if kind == "key" && schema < 4 {
        let permissions = record.get_mut("permissions").and_then(Value::as_array_mut);
        let Some(permissions) = permissions else { return false };
        let has = |name: &str| permissions.iter().any(|permission| permission == name);
        if has("admin") && !has("keys") {
            permissions.push("keys".into());
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_is_a_step_from_every_schema() {
        assert_eq!(STEPS.len() as u32 + 1, SCHEMA);
        assert_eq!(steps_from(1).map(|(to, _)| to).collect::<Vec<_>>(), (2..=SCHEMA).collect::<Vec<_>>());
        assert_eq!(steps_from(SCHEMA).count(), 0);
    }

    #[test]
    fn keys_that_administer_go_on_managing_keys() {
        for (before, after) in [
            (json!(["read", "write", "admin"]), json!(["read", "write", "admin", "keys"])),
            (json!(["admin"]), json!(["admin", "keys"])),
            (json!(["read", "write"]), json!(["read", "write"])),
            (json!(["admin", "keys"]), json!(["admin", "keys"])),
        ] {
            let mut record = json!({"permissions": before, "name": "n"});
            let changed = upgrade("key", 3, &mut record);
            assert_eq!(record, json!({"permissions": after, "name": "n"}));
            assert_eq!(changed, before != after);
            assert!(!upgrade("key", 3, &mut record), "a step can be done again");
            let mut new = json!({"permissions": before});
            assert!(!upgrade("key", 4, &mut new), "who makes a key now means what it says");
        }
    }

    #[test]
    fn steps_can_be_done_again() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for _ in 0..2 {
            steps_from(1).for_each(|(_, step)| step(&db).unwrap());
        }
    }
}
