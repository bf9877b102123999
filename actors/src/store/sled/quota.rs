//! Users' storage totals in sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `quota` | user id | [`Used`] |
//!
//! Every transaction that changes a conversation or a response changes the total of its user as well.

use std::cell::RefCell;
use std::collections::BTreeMap;

use sled::transaction::{ConflictableTransactionResult, TransactionalTree};
use sled::{Db, Tree};

use super::codec::decode;
use crate::identity::UserId;
use crate::store::{StoreError, Used};

/// The totals.
#[derive(Clone, Debug)]
pub struct Totals(Tree);

impl Totals {
    /// Opens the tree, or creates it.
    pub fn open(db: &Db) -> Result<Self, StoreError> {
        Ok(Self(db.open_tree("quota")?))
    }

    /// The tree, for transactions.
    pub const fn tree(&self) -> &Tree {
        &self.0
    }

    /// A user's total.
    pub fn of(&self, user: UserId) -> Result<Used, StoreError> {
        read(self.0.get(user.to_bytes())?.as_deref())
    }
}

fn read(value: Option<&[u8]>) -> Result<Used, StoreError> {
    value.map_or(Ok(Used::default()), |value| decode(|| "a user's storage total".to_owned(), value))
}

/// The changes of totals in one attempt of a transaction.
#[derive(Debug, Default)]
pub struct TotalChanges(RefCell<BTreeMap<UserId, Used>>);

impl TotalChanges {
    /// Adds to a user's total.
    pub fn add(&self, user: UserId, more: Used) {
        let mut users = self.0.borrow_mut();
        let sum = users.entry(user).or_default();
        *sum = sum.and(more);
    }

    /// Writes the changed totals.
    pub fn write(&self, totals: &TransactionalTree) -> ConflictableTransactionResult<(), StoreError> {
        for (user, more) in &*self.0.borrow() {
            if *more == Used::default() {
                continue;
            }
            let key = user.to_bytes();
            // A damaged total starts from zero.
            let sum = read(totals.get(key)?.as_deref()).unwrap_or_default().and(*more);
            match sum == Used::default() {
                true => drop(totals.remove(&key)?),
                false => drop(totals.insert(&key, super::codec::encode(&sum))?),
            }
        }
        Ok(())
    }
}
