//! Cache of results, shared by all users.

use std::collections::HashMap;
use std::sync::Arc;

use super::types::{Found, SearchQuery};

/// The results of the last searches, up to a maximum number.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<SearchQuery, Entry>,
}

#[derive(Debug)]
struct Entry {
    found: Arc<Found>,
    /// Time at which it expires.
    ends_ms: u64,
    used_ms: u64,
}

impl Cache {
    /// Returns the cached results of a search.
    pub fn get(&mut self, query: &SearchQuery, now_ms: u64) -> Option<Arc<Found>> {
        let entry = self.entries.get_mut(query).filter(|entry| entry.ends_ms > now_ms)?;
        entry.used_ms = now_ms;
        Some(Arc::clone(&entry.found))
    }

    /// Adds results. The least recently used entry makes room.
    pub fn put(&mut self, query: SearchQuery, found: Arc<Found>, most: usize, ttl_ms: u64, now_ms: u64) {
        if most == 0 || ttl_ms == 0 {
            return;
        }
        while self.entries.len() >= most && !self.entries.contains_key(&query) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used_ms);
            let Some(oldest) = oldest.map(|(query, _)| query.clone()) else { break };
            self.entries.remove(&oldest);
        }
        let ends_ms = now_ms.saturating_add(ttl_ms);
        self.entries.insert(query, Entry { found, ends_ms, used_ms: now_ms });
    }

    /// Removes expired results; returns their number.
    pub fn forget_old(&mut self, now_ms: u64) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.ends_ms > now_ms);
        before - self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(text: u8) -> SearchQuery {
        SearchQuery { text: text.to_string(), ..SearchQuery::default() }
    }

    #[test]
    fn least_recently_used_entry_makes_room() {
        let mut cache = Cache::default();
        cache.put(query(1), Arc::default(), 2, 100, 0);
        cache.put(query(2), Arc::default(), 2, 100, 1);
        assert!(cache.get(&query(1), 2).is_some());
        cache.put(query(3), Arc::default(), 2, 100, 3);
        assert!(cache.get(&query(1), 4).is_some() && cache.get(&query(2), 4).is_none());
        assert_eq!(cache.forget_old(102), 1);
    }

    proptest! {
        #[test]
        fn entries_are_returned_until_they_expire(
            steps in prop::collection::vec((any::<bool>(), 0u8..8, 0u64..40), 0..200), most in 0usize..5, ttl in 0u64..50
        ) {
            let (mut cache, mut now) = (Cache::default(), 0);
            let mut put: HashMap<u8, u64> = HashMap::new();
            for (is_put, text, passed) in steps {
                now += passed;
                if is_put {
                    cache.put(query(text), Arc::default(), most, ttl, now);
                    put.insert(text, now);
                } else if cache.get(&query(text), now).is_some() {
                    prop_assert!(put[&text] + ttl > now);
                }
                prop_assert!(cache.entries.len() <= most);
            }
        }
    }
}
