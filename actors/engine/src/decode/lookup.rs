//! Prompt lookup: what followed the last time that the text ended like this.
//!
//! Answers repeat what is there already: quotations, code with small changes, lists of like items. So the tokens that followed the
//! longest earlier occurrence of an answer's last tokens are a guess at what comes next. An occurrence that goes on being right is
//! kept, which makes it longer. Where a long one goes wrong it has probably been edited, and its continuation is the guess behind
//! the change, too.
//!
//! The index is a hash chain over pairs of tokens, as compressors use. A token costs a bounded number of comparisons, and memory
//! is proportional to the tokens.

use jan_protocol::types::Token;

/// Tokens that are compared; longer occurrences are as good as this.
pub const LONGEST: u32 = 32;

/// Earlier places of a pair that are looked at, the most recent first.
const LOOKED_AT: usize = 16;

/// An occurrence of this length is kept without looking for a longer one.
const LONG: u32 = 16;

/// An occurrence of this length that goes wrong is taken for edited.
const EDITED: u32 = 8;

/// Tokens within which an edited occurrence is looked for again: of the answer, and of the earlier text.
const CHANGED: u32 = 12;

/// A place whose tokens may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The index of the token that is expected next.
    pub next: u32,
    /// Tokens before it that are the last ones of the text, up to [`LONGEST`].
    pub len: u32,
    /// `true` if it is what comes behind a change, and not long enough to speak for itself.
    pub behind_change: bool,
}

/// The index over the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Lookup {
    tokens: Vec<Token>,
    /// For each hash of a pair, the place behind its last occurrence; 0: none.
    last: Vec<u32>,
    /// For each place, the one before it with the same hash; 0: none.
    earlier: Vec<u32>,
    found: Option<Occurrence>,
    /// The place at which a long occurrence went wrong, and the length of the text then.
    change: Option<(u32, u32)>,
}

impl Lookup {
    /// Indexes a text that is still to be continued by about `more` tokens.
    #[must_use]
    pub fn new(text: &[Token], more: usize) -> Self {
        let slots = (text.len() + more).clamp(256, 1 << 16).next_power_of_two();
        let mut lookup = Self {
            tokens: Vec::with_capacity(text.len()),
            last: vec![0; slots],
            earlier: Vec::with_capacity(text.len()),
            found: None,
            change: None,
        };
        for &token in text {
            lookup.index_last();
            lookup.tokens.push(token);
        }
        lookup.found = lookup.longest();
        lookup
    }

    /// All tokens so far.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The best occurrence of the last tokens.
    #[must_use]
    pub const fn found(&self) -> Option<Occurrence> {
        self.found
    }

    /// The token that is expected next.
    #[must_use]
    pub fn expected(&self) -> Option<Token> {
        self.tokens.get(self.found?.next as usize).copied()
    }

    /// The next `count` tokens as they followed the occurrence. Beyond the text's end, what is repeated is repeated again.
    #[must_use]
    pub fn draft(&self, count: usize) -> Vec<Token> {
        let Some(found) = self.found else { return Vec::new() };
        self.tokens[found.next as usize..].iter().copied().cycle().take(count).collect()
    }

    /// Appends a token.
    pub fn push(&mut self, token: Token) {
        let is_expected = self.expected() == Some(token);
        self.index_last();
        self.tokens.push(token);
        let len = self.tokens.len() as u32;
        let kept = self.found.and_then(|found| {
            if is_expected {
                let (next, len) = (found.next + 1, (found.len + 1).min(LONGEST));
                return Some(Occurrence { next, len, behind_change: found.behind_change && len < EDITED });
            }
            if found.len >= EDITED {
                self.change = Some((found.next, len));
            }
            None
        });
        if let Some(found) = kept
            && found.len >= LONG
        {
            self.found = kept;
            return;
        }
        let least = kept.map_or(0, |found| found.len);
        let longer = self.longest().filter(|found| found.len > least);
        self.found =
            longer.filter(|found| found.len > 2).or(kept).or_else(|| self.behind_change()).or(longer);
    }

    /// Notes the place behind the last pair; the place itself is the index of the token to come.
    fn index_last(&mut self) {
        let place = self.tokens.len() as u32;
        let earlier = match self.slot() {
            Some(slot) => std::mem::replace(&mut self.last[slot], place),
            None => 0,
        };
        self.earlier.push(earlier);
    }

    fn slot(&self) -> Option<usize> {
        let &[.., a, b] = &self.tokens[..] else { return None };
        let pair = u64::from(a.cast_unsigned()) << 32 | u64::from(b.cast_unsigned());
        let hash = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Some(hash as usize & (self.last.len() - 1))
    }

    /// The longest earlier occurrence of at least two of the last tokens; of equal ones the most recent.
    fn longest(&self) -> Option<Occurrence> {
        let mut place = self.last[self.slot()?];
        let mut best: Option<Occurrence> = None;
        for _ in 0..LOOKED_AT {
            if place == 0 {
                break;
            }
            let len = self.common(place);
            if len >= 2 && best.is_none_or(|best| len > best.len) {
                best = Some(Occurrence { next: place, len, behind_change: false });
                if len == LONGEST {
                    break;
                }
            }
            place = self.earlier[place as usize];
        }
        best
    }

    /// The number of tokens before `place` that are the last ones.
    fn common(&self, place: u32) -> u32 {
        let (before, all) = (&self.tokens[..place as usize], &self.tokens[..]);
        let pairs = before.iter().rev().zip(all.iter().rev()).take(LONGEST as usize);
        pairs.take_while(|(a, b)| a == b).count() as u32
    }

    /// The continuation of an edited occurrence: right behind the change as if one token had been replaced by another, then where
    /// the last token is next to the change.
    fn behind_change(&mut self) -> Option<Occurrence> {
        let (place, since) = self.change?;
        let len = self.tokens.len() as u32;
        if len - since > CHANGED {
            self.change = None;
            return None;
        }
        let occurrence = |next, len| Occurrence { next, len, behind_change: true };
        if len == since {
            return (place + 1 < len - 1).then(|| occurrence(place + 1, 0));
        }
        let last = *self.tokens.last()?;
        let nearby = place..(place + CHANGED).min(len - 1);
        nearby
            .clone()
            .find(|&at| self.tokens[at as usize] == last)
            .map(|at| occurrence(at + 1, self.common(at + 1).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pushed(prompt: &[Token], more: &[Token]) -> Lookup {
        let mut lookup = Lookup::new(prompt, 64);
        more.iter().for_each(|&token| lookup.push(token));
        lookup
    }

    fn bytes(text: &str) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }

    fn draft(prompt: &str, more: &str, count: usize) -> String {
        let draft = pushed(&bytes(prompt), &bytes(more)).draft(count);
        draft.into_iter().map(|token| char::from(u8::try_from(token).unwrap())).collect()
    }

    #[test]
    fn the_longest_occurrence_counts_and_of_equal_ones_the_last() {
        assert_eq!(draft("the cat. a hat", " the ", 3), "cat");
        assert_eq!(draft("xab1 yab2 yab3 ", "yab", 1), "3");
        assert_eq!(draft("xab1 yab2 ", "xab", 1), "1");
        assert_eq!(draft("xyz", "q", 4), "");
    }

    #[test]
    fn a_repetition_goes_on() {
        assert_eq!(draft("", "abcabc", 8), "abcabcab");
        assert_eq!(draft("", "aaa", 4), "aaaa");
    }

    #[test]
    fn an_edited_text_is_followed_behind_the_change() {
        let text = "fn total(items) { let sum = add(items); sum }";
        // One for one, at once.
        assert_eq!(draft(text, "fn total(items) { let sum = o", 3), "dd(");
        assert_eq!(draft(text, "fn total(items) { let sum = odd", 1), "(");
        // Longer than before: from the first token that is there too.
        assert_eq!(draft(text, "fn total(items) { let sum = plus(", 5), "items");
    }

    proptest! {
        /// All that it says is true: of the text, and of its end.
        #[test]
        fn what_is_found_is_there(text in prop::collection::vec(0..4, 0..80), more in prop::collection::vec(0..4, 0..80)) {
            let mut lookup = Lookup::new(&text, 10);
            let mut all = text;
            for token in more {
                let expected = lookup.expected();
                let found = lookup.found();
                prop_assert_eq!(expected.is_some(), found.is_some());
                prop_assert_eq!(lookup.draft(3).first().copied(), expected);
                if let Some(Occurrence { next, len, behind_change }) = found {
                    let next = next as usize;
                    prop_assert!(next < all.len() && len <= LONGEST);
                    let len = len as usize;
                    prop_assert_eq!(&all[next - len..next], &all[all.len() - len..]);
                    prop_assert!(behind_change || len >= 2);
                }
                lookup.push(token);
                all.push(token);
            }
            // Indexing at once is the same as one after another, but for what was followed.
            let at_once = Lookup::new(&all, 10);
            prop_assert_eq!(at_once.longest(), lookup.longest());
        }
    }
}
