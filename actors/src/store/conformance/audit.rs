//! The audit log.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{NewSubject, no_quotas};
use crate::audit::{ACTIONS, AuditFilter, AuditId, AuditOutcome, AuditRecord, Class};
use crate::store::AuditStore;

fn record(second: u64, number: u8, outcome: AuditOutcome) -> AuditRecord {
    let mut id = AuditId::first_of(second).to_bytes();
    id[15] = number;
    let id = AuditId::from_bytes(id);
    let action = ACTIONS[usize::from(number) % ACTIONS.len()];
    AuditRecord { id, created_at: second, ..AuditRecord::new(action, outcome) }
}

fn all(store: &dyn AuditStore, filter: &AuditFilter, limit: usize, look: usize) -> Vec<AuditRecord> {
    let (mut filter, mut records) = (filter.clone(), Vec::new());
    loop {
        let page = store.page(&filter, limit, look).unwrap();
        assert!(page.records.len() <= limit);
        records.extend(page.records);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return records,
        }
    }
}

pub fn record_is_added_once(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let record = AuditRecord::new("import", AuditOutcome::Ok);
    for _ in 0..2 {
        stores.audit().add(std::slice::from_ref(&record)).unwrap();
    }
    assert_eq!(all(stores.audit(), &AuditFilter::default(), 5, 5), [record]);
}

pub fn oldest_of_a_class_are_removed_first(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open();
    let store = stores.audit();
    let records: Vec<_> =
        (0..10).flat_map(|n| [record(n, 0, AuditOutcome::Ok), record(n, 1, AuditOutcome::Refused)]).collect();
    store.add(&records).unwrap();
    assert_eq!(store.count().unwrap(), [10, 10]);
    assert_eq!(store.remove_oldest(Class::Minor, None, 3).unwrap(), 3);
    assert_eq!(store.remove_oldest(Class::Done, Some(AuditId::first_of(2)), 100).unwrap(), 2);
    assert_eq!(store.remove_oldest(Class::Done, None, 0).unwrap(), 0);
    assert_eq!(store.count().unwrap(), [8, 7]);
    let oldest: Vec<_> = all(store, &AuditFilter::default(), 100, 100);
    assert_eq!(oldest.last().unwrap().created_at, 2);
    let refused = AuditFilter { outcome: Some(AuditOutcome::Refused), ..AuditFilter::default() };
    assert_eq!(all(store, &refused, 100, 100).len(), 7);
}

/// Pages of any size give all matching records, newest first, each once.
pub fn pages_are_the_whole(new: NewSubject) {
    let made = prop::collection::btree_set((0u64..20, 0u8..40, 0usize..4), 0..60);
    let times = (prop::option::of(0u64..22), prop::option::of(0u64..22));
    let strategy = (made, times, prop::option::of(0usize..4), 1usize..7, 1usize..9);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(16));
    let run = runner.run(&strategy, |(made, (since, until), outcome, limit, look)| {
        let mut records: Vec<_> = made
            .into_iter()
            .map(|(second, number, outcome)| {
                // The outcome is a part of the id, so that ids are unique.
                record(second, number * 4 + u8::try_from(outcome).unwrap(), AuditOutcome::ALL[outcome].1)
            })
            .collect();
        let subject = new(no_quotas());
        let stores = subject.open();
        stores.audit().add(&records).unwrap();
        let outcome = outcome.map(|at| AuditOutcome::ALL[at].1);
        let filter = AuditFilter { since, until, outcome, ..AuditFilter::default() };
        records.retain(|record| filter.lets_through(record));
        records.sort_by_key(|record| std::cmp::Reverse(record.id));
        prop_assert_eq!(all(stores.audit(), &filter, limit, look), records);
        Ok(())
    });
    run.unwrap();
}
