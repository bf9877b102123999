//! The books of the files: sizes, owners, times of use, and which give way to a new one. Pure.
//!
//! When the limit is reached, the party with the most loses its least recently used file, the newcomer's own counted with the new
//! file. So a party loses nothing to one that has less, however many files that one makes: with `n` parties each keeps at least an
//! `n`th of the room. A file counts as at least [`LEAST_PART`] of the limit, so that tiny ones are no way to take all numbers.

use std::collections::BTreeMap;

use jan_protocol::prefix_files::{FileId, MAX_FILES};

use super::secret::Tag;

/// The part of the limit that a file counts as, however small it is. It bounds the number of files.
const LEAST_PART: u64 = 4096;

/// A tenant, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant {
    /// `true` if it is a user, whose files are removed with it; otherwise a network, or all callers.
    pub is_user: bool,
    /// Its tag.
    pub tag: Tag,
}

/// Where a file belongs: its model and its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The tag of the model.
    pub model: Tag,
    /// The tenant.
    pub tenant: Tenant,
}

/// Whom a file is counted against.
pub type PartyTag = u64;

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its size.
    pub bytes: u64,
    /// Whom it is counted against.
    pub party: PartyTag,
    /// When it was last used (milliseconds since 1970).
    pub used: u64,
    /// `false` while it is being written: it is neither listed nor given up.
    pub is_whole: bool,
}

/// The books.
#[derive(Clone, Debug, Default)]
pub struct Books {
    files: BTreeMap<(Place, FileId), Entry>,
}

impl Books {
    /// The files of a place that can be read, the most recently used first.
    pub fn of(&self, place: Place) -> Vec<FileId> {
        let range = self.files.range((place, 0)..=(place, FileId::MAX));
        let mut files: Vec<_> = range.filter(|(_, entry)| entry.is_whole).collect();
        files.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.used));
        files.into_iter().map(|((_, file), _)| *file).collect()
    }

    /// One file.
    pub fn get(&self, place: Place, file: FileId) -> Option<&Entry> {
        self.files.get(&(place, file))
    }

    /// One file, to be changed.
    pub fn get_mut(&mut self, place: Place, file: FileId) -> Option<&mut Entry> {
        self.files.get_mut(&(place, file))
    }

    /// Enters a file.
    pub fn insert(&mut self, place: Place, file: FileId, entry: Entry) {
        self.files.insert((place, file), entry);
    }

    /// Removes a file.
    pub fn remove(&mut self, place: Place, file: FileId) -> Option<Entry> {
        self.files.remove(&(place, file))
    }

    /// The files for which `is_wanted` returns `true`.
    pub fn select(&self, is_wanted: impl Fn(Place, &Entry) -> bool) -> Vec<(Place, FileId)> {
        let wanted = self.files.iter().filter(|((place, _), entry)| is_wanted(*place, entry));
        wanted.map(|(key, _)| *key).collect()
    }

    /// The sizes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    /// Returns the files that have to be removed before there is room for `bytes` more of `party` in `place`, within `limit` bytes
    /// of all. `None`: there is none for it.
    pub fn make_room(
        &self,
        place: Place,
        party: PartyTag,
        bytes: u64,
        limit: u64,
    ) -> Option<Vec<(Place, FileId)>> {
        let charge = |bytes: u64| bytes.max(limit / LEAST_PART).max(1);
        let needed = charge(bytes);
        let mut left = self.files.clone();
        let mut gone = Vec::new();
        let own = self.of(place);
        if own.len() >= MAX_FILES {
            for file in &own[MAX_FILES - 1..] {
                left.remove(&(place, *file));
                gone.push((place, *file));
            }
        }
        let mut total: u64 = left.values().map(|entry| charge(entry.bytes)).sum();
        let mut of_party = BTreeMap::from([(party, needed)]);
        for entry in left.values() {
            *of_party.entry(entry.party).or_default() += charge(entry.bytes);
        }
        while total.saturating_add(needed) > limit {
            // Of equal ones the newcomer's.
            let (largest, _) = of_party.iter().max_by_key(|(other, held)| (**held, **other == party))?;
            let largest = *largest;
            let files = left.iter().filter(|(_, entry)| entry.party == largest && entry.is_whole);
            let (&key, entry) = files.min_by_key(|(key, entry)| (entry.used, **key))?;
            let charged = charge(entry.bytes);
            total -= charged;
            *of_party.entry(largest).or_default() -= charged;
            left.remove(&key);
            gone.push(key);
        }
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(tenant: u8) -> Place {
        Place { model: [0; 16], tenant: Tenant { is_user: true, tag: [tenant; 16] } }
    }

    fn held(books: &Books, party: PartyTag, limit: u64) -> u64 {
        let files = books.select(|_, entry| entry.party == party);
        let bytes = files.iter().filter_map(|(place, file)| books.get(*place, *file));
        bytes.map(|entry| entry.bytes.max(limit / LEAST_PART).max(1)).sum()
    }

    proptest! {
        /// The limit holds in bytes and in files, and a party loses a file only to one that will not have more than it had.
        #[test]
        fn nobody_loses_to_one_who_has_more(
            limit in 1u64..20_000,
            files in prop::collection::vec((0u8..4, 0u64..4, 1u64..4000), 1..120),
        ) {
            let mut books = Books::default();
            for (number, (tenant, party, bytes)) in (0..).zip(files) {
                let before: Vec<u64> = (0..4).map(|party| held(&books, party, limit)).collect();
                let Some(gone) = books.make_room(place(tenant), party, bytes, limit) else {
                    // Only one that would have more than its part is refused.
                    let own = before[party as usize] + bytes.max(limit / LEAST_PART).max(1);
                    prop_assert!(own > limit / 4, "{} of {}", own, limit);
                    continue;
                };
                let over_count = books.of(place(tenant)).len() >= MAX_FILES;
                for (place, file) in gone {
                    let entry = *books.get(place, file).unwrap();
                    let same_place = over_count && place.tenant.tag == [tenant; 16];
                    let own = before[party as usize] + bytes.max(limit / LEAST_PART).max(1);
                    prop_assert!(
                        entry.party == party || same_place || before[entry.party as usize] > 0
                            && held(&books, entry.party, limit) > held(&books, party, limit),
                        "{} had {}, {} gets {}", entry.party, before[entry.party as usize], party, own
                    );
                    books.remove(place, file);
                }
                let entry = Entry { bytes, party, used: number, is_whole: true };
                books.insert(place(tenant), number, entry);
                prop_assert!(books.bytes() <= limit);
                prop_assert!(books.of(place(tenant)).len() <= MAX_FILES);
                prop_assert!(books.select(|_, _| true).len() as u64 <= LEAST_PART.min(limit));
            }
        }
    }

    #[test]
    fn the_least_recently_used_of_the_largest_gives_way() {
        let mut books = Books::default();
        for (file, party, bytes) in [(1, 1, 400), (2, 1, 300), (3, 2, 200)] {
            books.insert(place(party as u8), file, Entry { bytes, party, used: file, is_whole: true });
        }
        assert_eq!(books.make_room(place(3), 3, 100, 1000), Some(vec![]));
        assert_eq!(books.make_room(place(3), 3, 101, 1000), Some(vec![(place(1), 1)]));
        books.get_mut(place(1), 1).unwrap().used = 9;
        assert_eq!(books.make_room(place(3), 3, 101, 1000), Some(vec![(place(1), 2)]));
        // One that is being written stays.
        books.get_mut(place(1), 2).unwrap().is_whole = false;
        assert_eq!(books.make_room(place(3), 3, 101, 1000), Some(vec![(place(1), 1)]));
        assert_eq!(books.make_room(place(3), 3, 1001, 1000), None);
        assert_eq!(books.of(place(1)), [1]);
    }
}
