//! The audit log.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{NewSubject, no_quotas};
use crate::audit::{ACTIONS, AuditFilter, AuditId, AuditOutcome, AuditRecord, Class};
use crate::store::{AuditStore, block_on};

fn record(second: u64, number: u8, outcome: AuditOutcome) -> AuditRecord {
    let mut id = AuditId::first_of(second).to_bytes();
    id[15] = number;
    let id = AuditId::from_bytes(id);
    let action = ACTIONS[usize::from(number) % ACTIONS.len()];
    AuditRecord { id, created_at: second, ..AuditRecord::new(action, outcome) }
}

async fn all(store: &dyn AuditStore, filter: &AuditFilter, limit: usize, look: usize) -> Vec<AuditRecord> {
    let (mut filter, mut records) = (filter.clone(), Vec::new());
    loop {
        let page = store.page(&filter, limit, look).await.unwrap();
        assert!(page.records.len() <= limit);
        records.extend(page.records);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return records,
        }
    }
}

pub async fn record_is_added_once(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let record = AuditRecord::new("import", AuditOutcome::Ok);
    for _ in 0..2 {
        stores.audit().add(std::slice::from_ref(&record)).await.unwrap();
    }
    assert_eq!(all(stores.audit(), &AuditFilter::default(), 5, 5).await, [record]);
}

pub async fn oldest_of_a_class_are_removed_first(new: NewSubject) {
    let subject = new(no_quotas());
    let stores = subject.open().await;
    let store = stores.audit();
    let records: Vec<_> =
        (0..10).flat_map(|n| [record(n, 0, AuditOutcome::Ok), record(n, 1, AuditOutcome::Refused)]).collect();
    store.add(&records).await.unwrap();
    assert_eq!(store.count().await.unwrap(), [10, 10]);
    assert_eq!(store.remove_oldest(Class::Minor, None, 3).await.unwrap(), 3);
    assert_eq!(store.remove_oldest(Class::Done, Some(AuditId::first_of(2)), 100).await.unwrap(), 2);
    assert_eq!(store.remove_oldest(Class::Done, None, 0).await.unwrap(), 0);
    assert_eq!(store.count().await.unwrap(), [8, 7]);
    let oldest: Vec<_> = all(store, &AuditFilter::default(), 100, 100).await;
    assert_eq!(oldest.last().unwrap().created_at, 2);
    let refused = AuditFilter { outcome: Some(AuditOutcome::Refused), ..AuditFilter::default() };
    assert_eq!(all(store, &refused, 100, 100).await.len(), 7);
}

/// Pages of any size give all matching records, newest first, each once.
pub async fn pages_are_the_whole(new: NewSubject) {
    let made = prop::collection::btree_set((0u64..20, 0u8..40, 0usize..4), 0..60);
    let times = (prop::option::of(0u64..22), prop::option::of(0u64..22));
    let strategy = (made, times, prop::option::of(0usize..4), 1usize..7, 1usize..9);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(16));
    let run = runner.run(&strategy, |(made, (since, until), outcome, limit, look)| {
        block_on(async {
            let mut records: Vec<_> = made
                .into_iter()
                .map(|(second, number, outcome)| {
                    // The outcome is a part of the id, so that ids are unique.
                    record(second, number * 4 + u8::try_from(outcome).unwrap(), AuditOutcome::ALL[outcome].1)
                })
                .collect();
            let subject = new(no_quotas());
            let stores = subject.open().await;
            stores.audit().add(&records).await.unwrap();
            let outcome = outcome.map(|at| AuditOutcome::ALL[at].1);
            let filter = AuditFilter { since, until, outcome, ..AuditFilter::default() };
            records.retain(|record| filter.lets_through(record));
            records.sort_by_key(|record| std::cmp::Reverse(record.id));
            prop_assert_eq!(all(stores.audit(), &filter, limit, look).await, records);
            Ok(())
        })
    });
    run.unwrap();
}
