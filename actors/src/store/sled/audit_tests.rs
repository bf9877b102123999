use proptest::prelude::*;

use super::*;
use crate::audit::{ACTIONS, AuditOutcome};
use crate::store::audit::check;

fn record(second: u64, number: u8, outcome: AuditOutcome) -> AuditRecord {
    let mut id = AuditId::first_of(second).to_bytes();
    id[15] = number;
    let id = AuditId::from_bytes(id);
    let action = ACTIONS[usize::from(number) % ACTIONS.len()];
    AuditRecord { id, created_at: second, ..AuditRecord::new(action, outcome) }
}

fn opened() -> SledAudit {
    SledAudit::open(&sled::Config::new().temporary(true).open().unwrap()).unwrap()
}

fn all(store: &SledAudit, filter: &AuditFilter, limit: usize, look: usize) -> Vec<AuditRecord> {
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

#[test]
fn a_record_is_put_in_once_and_checked() {
    let store = opened();
    let record = AuditRecord::new("import", AuditOutcome::Ok);
    for _ in 0..2 {
        store.add(std::slice::from_ref(&record)).unwrap();
    }
    assert_eq!(all(&store, &AuditFilter::default(), 5, 5), std::slice::from_ref(&record));
    let (at, value) = (key(Class::Done, record.id), encode(&record));
    assert_eq!(check(&at, &value), Ok(()));
    assert!(check(&key(Class::Minor, record.id), &value).is_err());
    let mut more = serde_json::to_value(&record).unwrap();
    more["name"] = "Ann".into();
    assert!(check(&at, more.to_string().as_bytes()).is_err(), "something beside");
}

#[test]
fn the_oldest_of_a_class_go_first() {
    let store = opened();
    let records: Vec<_> =
        (0..10).flat_map(|n| [record(n, 0, AuditOutcome::Ok), record(n, 1, AuditOutcome::Refused)]).collect();
    store.add(&records).unwrap();
    assert_eq!(store.count().unwrap(), [10, 10]);
    assert_eq!(store.remove_oldest(Class::Minor, None, 3).unwrap(), 3);
    assert_eq!(store.remove_oldest(Class::Done, Some(AuditId::first_of(2)), 100).unwrap(), 2);
    assert_eq!(store.remove_oldest(Class::Done, None, 0).unwrap(), 0);
    assert_eq!(store.count().unwrap(), [8, 7]);
    let oldest: Vec<_> = all(&store, &AuditFilter::default(), 100, 100);
    assert_eq!(oldest.last().unwrap().created_at, 2);
    let refused = AuditFilter { outcome: Some(AuditOutcome::Refused), ..AuditFilter::default() };
    assert_eq!(all(&store, &refused, 100, 100).last().unwrap().created_at, 3);
    assert_eq!(store.remove_oldest(Class::Minor, Some(AuditId::from_bytes([0xff; 16])), 100).unwrap(), 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Pages of any size give what one look at everything gives, in order, each record once.
    #[test]
    fn pages_are_the_whole(
        made in prop::collection::btree_set((0u64..20, 0u8..40, 0usize..4), 0..60),
        since in prop::option::of(0u64..22),
        until in prop::option::of(0u64..22),
        outcome in prop::option::of(0usize..4),
        limit in 1usize..7,
        look in 1usize..9,
    ) {
        let mut records: Vec<_> = made
            .into_iter()
            .map(|(second, number, outcome)| {
                // Ids are told apart by their outcome, too.
                record(second, number * 4 + u8::try_from(outcome).unwrap(), AuditOutcome::ALL[outcome].1)
            })
            .collect();
        let store = opened();
        store.add(&records).unwrap();
        let filter = AuditFilter { since, until, outcome: outcome.map(|at| AuditOutcome::ALL[at].1), ..AuditFilter::default() };
        records.retain(|record| filter.lets_through(record));
        records.sort_by_key(|record| std::cmp::Reverse(record.id));
        prop_assert_eq!(all(&store, &filter, limit, look), records);
    }
}
