//! One transaction for all changes of a decision.
//!
//! sled's transactions span trees, but need to know them beforehand, may run several times, and cannot scan. So changes are
//! prepared first; the transaction then takes the trees of those concerns that change.

use std::sync::atomic::Ordering;

use sled::Tree;
use sled::transaction::{ConflictableTransactionResult, Transactional, TransactionalTree};

use super::codec::transaction_error;
use super::quota::TotalChanges;
use super::usage::UsageMove;
use super::{SledStores, accounts, conversations, responses, sessions};
use crate::identity::UserRecord;
use crate::store::{AccountChange, Changes, Scope, SessionChange, StoreError, readable};
use crate::usage::UsageOwner;

/// The trees of a transaction.
#[derive(Default)]
pub struct TreeSet<'a>(Vec<&'a Tree>);

/// The place of a concern's trees in a [`TreeSet`].
#[derive(Clone, Copy)]
struct Place(usize);

impl<'a> TreeSet<'a> {
    fn add<const N: usize>(&mut self, trees: [&'a Tree; N]) -> Place {
        let place = Place(self.0.len());
        self.0.extend(trees);
        place
    }
}

impl Place {
    fn of<const N: usize>(self, trees: &[TransactionalTree]) -> &[TransactionalTree; N] {
        trees[self.0..].first_chunk().expect("the trees of a concern were added together")
    }
}

/// Changes that can be applied without a scan.
struct Prepared<'a> {
    changes: &'a Changes,
    conversations: Vec<conversations::Prepared<'a>>,
    responses: Vec<responses::Prepared>,
    usage: Vec<UsageMove>,
}

impl SledStores {
    /// Commits all changes in one transaction.
    pub(super) fn commit_all(&self, changes: &Changes) -> Result<(), StoreError> {
        let prepared = self.prepare(changes)?;
        let scopes = self.scopes(&prepared)?;
        let outcome = self.watchers.changing(scopes, || self.run(&prepared));
        // After a failure as well: looking for nothing costs little.
        if !prepared.conversations.is_empty() || !prepared.responses.is_empty() {
            self.tombstones.notify();
        }
        if changes.accounts.iter().any(|change| matches!(change, AccountChange::DeleteUser(_))) {
            self.deletions_pending.store(true, Ordering::Release);
        }
        outcome
    }

    fn prepare<'a>(&self, changes: &'a Changes) -> Result<Prepared<'a>, StoreError> {
        let mut prepared =
            Prepared { changes, conversations: Vec::new(), responses: Vec::new(), usage: Vec::new() };
        for &(from, to) in &changes.moves {
            self.items.positions(from, None, None, true, &mut |position| {
                let record = readable(self.items.conversation(position.id))?.flatten();
                prepared
                    .conversations
                    .extend(record.map(|record| conversations::Prepared::moved(record, to)));
                Ok(true)
            })?;
            let responses = self.responses.of_user(from, None, usize::MAX)?;
            prepared
                .responses
                .extend(responses.into_iter().map(|id| responses::Prepared::Move(id, from, to)));
            prepared.usage.push(self.usage.prepare_move(from, UsageOwner::User(to), usize::MAX)?);
        }
        for change in &changes.conversations {
            prepared.conversations.push(self.items.prepare(change)?);
        }
        for change in &changes.responses {
            prepared.responses.push(self.responses.prepare(change)?);
        }
        Ok(prepared)
    }

    /// The scopes that changes concern, for readers that have to see one state.
    fn scopes(&self, prepared: &Prepared<'_>) -> Result<Vec<Scope>, StoreError> {
        let mut scopes = Vec::new();
        for &(from, to) in &prepared.changes.moves {
            scopes.extend([Scope::User(from), Scope::User(to)]);
        }
        for change in &prepared.changes.accounts {
            match change {
                AccountChange::PutUser(UserRecord { id, .. }) | AccountChange::DeleteUser(id) => {
                    scopes.extend([Scope::User(*id), Scope::Users]);
                }
                AccountChange::PutKey(_, key) | AccountChange::DeleteKey(_, key) => {
                    scopes.push(Scope::User(key.user));
                }
            }
        }
        scopes.extend(prepared.changes.sessions.iter().map(|change| match change {
            SessionChange::Put(session) => Scope::User(session.user),
            SessionChange::End(user, _) => Scope::User(*user),
        }));
        self.items.scopes(&prepared.conversations, &mut scopes)?;
        Ok(scopes)
    }

    fn run(&self, prepared: &Prepared<'_>) -> Result<(), StoreError> {
        let Prepared { changes, conversations, responses, usage } = prepared;
        let mut set = TreeSet::default();
        let accounts_at = (!changes.accounts.is_empty()).then(|| set.add(self.accounts.trees()));
        let sessions_at = (!changes.sessions.is_empty()).then(|| set.add(self.sessions.trees()));
        let conversations_at = (!conversations.is_empty()).then(|| set.add(self.items.trees()));
        let responses_at = (!responses.is_empty()).then(|| set.add(self.responses.trees()));
        let usage_at = (!usage.is_empty()).then(|| set.add(self.usage.trees()));
        if set.0.is_empty() {
            return Ok(());
        }
        let counted = conversations_at.or(responses_at).is_some();
        let shared_at = counted.then(|| set.add([self.tombstones.tree(), self.totals.tree()]));
        let apply = |trees: &Vec<TransactionalTree>| -> ConflictableTransactionResult<(), StoreError> {
            let totals = TotalChanges::default();
            if let Some(place) = usage_at {
                let [tree] = place.of(trees);
                usage.iter().try_for_each(|moved| moved.apply(tree))?;
            }
            if let Some(place) = accounts_at {
                let accounts = accounts::Transaction::new(place.of(trees));
                changes.accounts.iter().try_for_each(|change| accounts.apply(change))?;
            }
            if let Some(place) = sessions_at {
                changes.sessions.iter().try_for_each(|change| sessions::apply(place.of(trees), change))?;
            }
            let Some([tombstones, sums]) = shared_at.map(|place| place.of::<2>(trees)) else { return Ok(()) };
            if let Some(place) = conversations_at {
                let talks = conversations::Transaction::new(place.of(trees), tombstones, &totals);
                conversations.iter().try_for_each(|change| talks.apply(change))?;
            }
            if let Some(place) = responses_at {
                let stored = responses::transaction(place.of(trees), tombstones, &totals);
                responses.iter().try_for_each(|change| change.apply(&stored))?;
            }
            totals.write(sums)
        };
        set.0.transaction(apply).map_err(transaction_error)
    }
}
