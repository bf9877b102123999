//! `truncation: "auto"`: which of the oldest messages to leave out.

use serde_json::Value;

/// Where a conversation may begin: at a message of somebody who is not the model, for answers to what is left out
/// make no sense, and many templates refuse them. The whole conversation is the first.
pub fn beginnings(messages: &[Value]) -> Vec<usize> {
    let starts = |message: &Value| matches!(message["role"].as_str(), Some("user" | "system" | "developer"));
    let later = (1..messages.len()).filter(|index| starts(&messages[*index]));
    std::iter::once(0).chain(later).collect()
}

/// Finds the first of a number of candidates that fits, where all behind one that fits do, in few questions.
#[derive(Clone, Copy, Debug)]
pub struct FirstFit {
    /// Everything before it does not fit.
    low: usize,
    /// It fits, or is behind the last.
    high: usize,
}

impl FirstFit {
    /// Of `count` candidates.
    pub const fn new(count: usize) -> Self {
        Self { low: 0, high: count }
    }

    /// The next candidate to try; `None` when the answer is known. The first is tried first, since most fit as they are.
    pub const fn next(&self) -> Option<usize> {
        if self.low >= self.high {
            None
        } else if self.low == 0 {
            Some(0)
        } else {
            Some(self.low + (self.high - self.low) / 2)
        }
    }

    /// Whether that candidate fits.
    pub const fn tell(&mut self, candidate: usize, fits: bool) {
        if fits {
            self.high = candidate;
        } else {
            self.low = candidate + 1;
        }
    }

    /// The answer; the number of candidates where none fits.
    pub const fn found(&self) -> usize {
        self.high
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_begins_with_a_question() {
        let roles = ["assistant", "user", "assistant", "tool", "assistant", "developer", "user", "assistant"];
        let messages: Vec<Value> = roles.iter().map(|role| json!({"role": role})).collect();
        assert_eq!(beginnings(&messages), [0, 1, 5, 6]);
        assert_eq!(beginnings(&[]), [0]);
    }

    proptest! {
        #[test]
        fn the_first_that_fits_is_found_in_few_questions(count in 0usize..1000, first in 0usize..1100) {
            let mut fit = FirstFit::new(count);
            let mut questions = 0;
            while let Some(candidate) = fit.next() {
                prop_assert!(candidate < count);
                fit.tell(candidate, candidate >= first);
                questions += 1;
            }
            prop_assert_eq!(fit.found(), first.min(count));
            prop_assert!(questions <= 12);
        }
    }
}
