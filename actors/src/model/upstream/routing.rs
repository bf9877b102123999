//! The choice of the upstream for a request.
//!
//! Pure. The rules are those of SGLang's gateway (`cache_aware`): a request goes where the most of its beginning is known, unless
//! the loads are too different. Otherwise it goes to the less loaded of two. These two follow from the conversation by rendezvous
//! hashing, so that several servers send a conversation to the same upstream without talking to each other.

use std::cmp::Ordering;

use sha2::{Digest, Sha256};

/// The part of a beginning that has to be known for it to count, in tenths.
const MIN_MATCH_TENTHS: usize = 3;

/// An upstream that can take the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its place in the configuration.
    pub place: usize,
    /// Requests that it works on.
    pub in_flight: u32,
    /// Its share of the load, 1 or more.
    pub weight: u32,
    /// Blocks of the prompt's beginning that it has seen.
    pub matched: usize,
    /// Its [`preference`] for the conversation.
    pub preference: f64,
}

impl Candidate {
    fn load(&self) -> f64 {
        f64::from(self.in_flight) / f64::from(self.weight.max(1))
    }
}

/// The thresholds beyond which loads are too different; both have to be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Difference between the highest and the lowest load, in requests.
    pub requests: u32,
    /// The highest load in percent of the lowest one.
    pub percent: u32,
}

impl Balance {
    fn is_exceeded(self, candidates: &[Candidate]) -> bool {
        let loads = candidates.iter().map(Candidate::load);
        let highest = loads.clone().fold(0.0, f64::max);
        let lowest = loads.fold(f64::INFINITY, f64::min);
        highest - lowest > f64::from(self.requests) && highest * 100.0 > lowest * f64::from(self.percent)
    }
}

/// Returns the preference of an upstream for a conversation (weighted rendezvous hashing; Schindelhauer and Schomaker 2005):
/// over all conversations, an upstream has the highest one in proportion to its weight.
#[must_use]
pub fn preference(url: &str, model: &str, weight: u32, conversation: u64) -> f64 {
    let mut hash = Sha256::new();
    for part in [url.as_bytes(), b"\0", model.as_bytes(), b"\0", &conversation.to_le_bytes()] {
        hash.update(part);
    }
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    // In (0, 1): 53 bits are exact, and a half keeps both ends away.
    let unit = ((number >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(weight.max(1)) / -unit.ln()
}

/// Returns the place of the best candidate; `None` without any. `blocks`: number of the prompt's blocks.
#[must_use]
pub fn choose(candidates: &[Candidate], blocks: usize, balance: Balance) -> Option<usize> {
    let less_loaded = |a: &Candidate, b: &Candidate| {
        a.load().total_cmp(&b.load()).then(b.preference.total_cmp(&a.preference)).then(a.place.cmp(&b.place))
    };
    if !balance.is_exceeded(candidates) {
        let most = candidates.iter().map(|candidate| candidate.matched).max()?;
        if most > 0 && most * 10 > blocks * MIN_MATCH_TENTHS {
            let best = candidates.iter().filter(|candidate| candidate.matched == most);
            return best.min_by(|a, b| less_loaded(a, b)).map(|best| best.place);
        }
    }
    let by_preference = |a: &&Candidate, b: &&Candidate| -> Ordering {
        b.preference.total_cmp(&a.preference).then(a.place.cmp(&b.place))
    };
    let first = candidates.iter().min_by(by_preference)?;
    let second = candidates.iter().filter(|other| other.place != first.place).min_by(by_preference);
    second.into_iter().chain([first]).min_by(|a, b| less_loaded(a, b)).map(|best| best.place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BALANCE: Balance = Balance { requests: 64, percent: 150 };

    fn candidate(place: usize, in_flight: u32, matched: usize) -> Candidate {
        let preference = preference(&format!("http://u{place}"), "m", 1, 7);
        Candidate { place, in_flight, weight: 1, matched, preference }
    }

    #[test]
    fn the_longest_known_beginning_wins_unless_loads_differ_too_much() {
        let two = |a: (u32, usize), b: (u32, usize)| [candidate(0, a.0, a.1), candidate(1, b.0, b.1)];
        assert_eq!(choose(&two((60, 8), (0, 2)), 10, BALANCE), Some(0));
        assert_eq!(choose(&two((65, 8), (0, 2)), 10, BALANCE), Some(1));
        assert_eq!(choose(&two((300, 8), (230, 2)), 10, BALANCE), Some(0), "not by the half");
        assert_eq!(choose(&two((9, 3), (0, 0)), 10, BALANCE), Some(1), "3 of 10 are not enough");
        assert_eq!(choose(&two((9, 4), (0, 0)), 10, BALANCE), Some(0));
        assert_eq!(choose(&[], 10, BALANCE), None);
    }

    #[test]
    fn weights_divide_conversations() {
        let urls = [("http://a", 1), ("http://b", 3)];
        let mut won = [0u32; 2];
        for conversation in 0..4000 {
            let [a, b] = urls.map(|(url, weight)| preference(url, "m", weight, conversation));
            won[usize::from(b > a)] += 1;
        }
        assert!((900..1100).contains(&won[0]), "{won:?}");
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0u32..200, 1u32..4, 0usize..10, 0.01f64..100.0);
        prop::collection::vec(one, 0..8).prop_map(|all| {
            let candidate = |(place, (in_flight, weight, matched, preference))| Candidate {
                place,
                in_flight,
                weight,
                matched,
                preference,
            };
            all.into_iter().enumerate().map(candidate).collect()
        })
    }

    proptest! {
        /// One is chosen whenever there is one, whatever their order; never the busiest while loads are too different; otherwise
        /// none with a shorter known beginning than another's, where that counts.
        #[test]
        fn the_choice_is_sound(candidates in candidates(), blocks in 0usize..20, requests in 1u32..100, percent in 100u32..300) {
            let balance = Balance { requests, percent };
            let chosen = choose(&candidates, blocks, balance);
            prop_assert_eq!(chosen.is_some(), !candidates.is_empty());
            let Some(place) = chosen else { return Ok(()) };
            let mut backwards = candidates.clone();
            backwards.reverse();
            prop_assert_eq!(choose(&backwards, blocks, balance), chosen);
            let best = candidates[place];
            let highest = candidates.iter().map(Candidate::load).fold(0.0, f64::max);
            let longest = candidates.iter().map(|one| one.matched).max().unwrap_or_default();
            if balance.is_exceeded(&candidates) {
                let others = candidates.iter().filter(|one| one.load() >= highest).count();
                prop_assert!(best.load() < highest || others > 1);
            } else if longest > 0 && longest * 10 > blocks * MIN_MATCH_TENTHS {
                prop_assert_eq!(best.matched, longest);
            }
        }

        /// An upstream that is added takes conversations over, and moves none between the others.
        #[test]
        fn conversations_stay_where_they_are(conversation: u64, count in 1usize..6) {
            let idle = |count: usize| -> Vec<Candidate> {
                let one = |place| {
                    let preference = preference(&format!("http://u{place}"), "m", 1, conversation);
                    Candidate { place, in_flight: 0, weight: 1, matched: 0, preference }
                };
                (0..count).map(one).collect()
            };
            let (before, after) = (choose(&idle(count), 4, BALANCE), choose(&idle(count + 1), 4, BALANCE));
            prop_assert!(after == before || after == Some(count));
        }
    }
}
