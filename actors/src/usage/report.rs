//! Reports: rows summed by day and by the groups that the caller selects. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::types::{Day, UsageCounts, UsageKey, UsageOwner};
use crate::identity::KeyId;

/// A selection of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageFilter {
    /// The owner of the usage; `None`: all owners.
    pub user: Option<UsageOwner>,
    /// The first day.
    pub start: Day,
    /// The last day.
    pub end: Day,
}

/// The groups within a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageGrouping {
    /// True to separate users.
    pub user: bool,
    /// True to separate API keys.
    pub key: bool,
    /// True to separate models.
    pub model: bool,
}

/// The group of one result; `None` where groups are not separated.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageGroup {
    /// The owner of the usage.
    pub user: Option<UsageOwner>,
    /// The key; `Some(None)`: no key.
    pub key: Option<Option<KeyId>>,
    /// The model.
    pub model: Option<Arc<str>>,
}

/// The sum of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageResult {
    /// The group.
    pub group: UsageGroup,
    /// The sum.
    pub counts: UsageCounts,
}

/// A day with its results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageBucket {
    /// The day.
    pub day: Day,
    /// The sums of the day.
    pub results: Vec<UsageResult>,
}

/// Days with usage, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsagePage {
    /// The days.
    pub buckets: Vec<UsageBucket>,
    /// True if more days follow.
    pub has_more: bool,
}

/// Sums rows in any order, keeping the first `limit` days and the information whether there is one more.
#[derive(Debug)]
pub struct Report {
    grouping: UsageGrouping,
    limit: usize,
    days: BTreeMap<Day, BTreeMap<UsageGroup, UsageCounts>>,
}

impl Report {
    /// Returns an empty report.
    pub fn new(grouping: UsageGrouping, limit: usize) -> Self {
        Self { grouping, limit, days: BTreeMap::new() }
    }

    /// Adds one row.
    pub fn add(&mut self, key: &UsageKey, counts: &UsageCounts) {
        let group = UsageGroup {
            user: self.grouping.user.then_some(key.user),
            key: self.grouping.key.then_some(key.key),
            model: self.grouping.model.then(|| Arc::clone(&key.model)),
        };
        self.days.entry(key.day).or_default().entry(group).or_default().add(counts);
        // This day is beyond the page; only the existence of a day after the page matters.
        if self.days.len() > self.limit + 1 {
            self.days.pop_last();
        }
    }

    /// The page.
    pub fn finish(mut self) -> UsagePage {
        let has_more = self.days.len() > self.limit;
        if has_more {
            self.days.pop_last();
        }
        let results = |sums: BTreeMap<UsageGroup, UsageCounts>| {
            sums.into_iter().map(|(group, counts)| UsageResult { group, counts }).collect()
        };
        let buckets = self.days.into_iter().map(|(day, sums)| UsageBucket { day, results: results(sums) });
        UsagePage { buckets: buckets.collect(), has_more }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::UserId;

    fn row() -> impl Strategy<Value = (UsageKey, UsageCounts)> {
        let user = prop_oneof![
            Just(UsageOwner::Anonymous),
            Just(UsageOwner::Deleted),
            (0..3u8).prop_map(|n| UsageOwner::User(UserId::from_bytes([n; 16])))
        ];
        let key = prop::option::of((0..2u8).prop_map(|n| KeyId::from_bytes([n; 16])));
        (user, 0..6u32, key, 0..3u8, 0..9u64).prop_map(|(user, day, key, model, n)| {
            let model = format!("m{model}").into();
            let counts =
                UsageCounts { requests: 1, prompt_tokens: n, cached_tokens: n / 2, completion_tokens: 2 * n };
            (UsageKey { user, day: Day::from_number(day), key, model }, counts)
        })
    }

    /// The reference implementation: filters and sums for each day and group.
    fn naive(rows: &[(UsageKey, UsageCounts)], grouping: UsageGrouping, limit: usize) -> UsagePage {
        let mut days: Vec<Day> = rows.iter().map(|(key, _)| key.day).collect();
        days.sort_unstable();
        days.dedup();
        let has_more = days.len() > limit;
        days.truncate(limit);
        let group = |key: &UsageKey| UsageGroup {
            user: if grouping.user { Some(key.user) } else { None },
            key: if grouping.key { Some(key.key) } else { None },
            model: if grouping.model { Some(Arc::clone(&key.model)) } else { None },
        };
        let buckets = days.into_iter().map(|day| {
            let of_day = || rows.iter().filter(move |(key, _)| key.day == day);
            let mut groups: Vec<_> = of_day().map(|(key, _)| group(key)).collect();
            groups.sort();
            groups.dedup();
            let results = groups.into_iter().map(|wanted| {
                let mine = of_day().filter(|(key, _)| group(key) == wanted);
                let sum = |of: fn(&UsageCounts) -> u64| mine.clone().map(|(_, counts)| of(counts)).sum();
                let counts = UsageCounts {
                    requests: sum(|c| c.requests),
                    prompt_tokens: sum(|c| c.prompt_tokens),
                    cached_tokens: sum(|c| c.cached_tokens),
                    completion_tokens: sum(|c| c.completion_tokens),
                };
                UsageResult { group: wanted, counts }
            });
            UsageBucket { day, results: results.collect() }
        });
        UsagePage { buckets: buckets.collect(), has_more }
    }

    proptest! {
        #[test]
        fn sums_match_the_naive_computation(
            rows in prop::collection::vec(row(), 0..40),
            (user, key, model) in any::<(bool, bool, bool)>(),
            limit in 1..8usize,
        ) {
            let grouping = UsageGrouping { user, key, model };
            let mut report = Report::new(grouping, limit);
            rows.iter().for_each(|(key, counts)| report.add(key, counts));
            prop_assert_eq!(report.finish(), naive(&rows, grouping, limit));
        }
    }
}
