//! From older schemas to the present one, a step at a time.
//!
//! Each step can be done again on what it has done half or whole: the schema number is written after it, so a crash in
//! its middle has the next start do it again.

use std::collections::BTreeMap;

use sled::Db;

use super::{StoreError, Used};
use crate::identity::UserId;

/// The version of keys and values. One that is newer than this is refused.
pub const SCHEMA: u32 = 3;

type Step = fn(&Db) -> Result<(), StoreError>;

/// The step from schema 1, from 2, and so on.
static STEPS: &[Step] = &[v1_to_v2, v2_to_v3];

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
        quota.insert(user.to_bytes(), super::db::encode(&used))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
