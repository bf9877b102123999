//! `truncation: "auto"`: selection of the oldest messages to leave out.

use serde_json::Value;

/// Returns the indexes at which a conversation may begin: messages that are not the model's, since answers to omitted
/// questions make no sense, and many templates reject them. The whole conversation comes first.
pub fn beginnings(messages: &[Value]) -> Vec<usize> {
    let starts = |message: &Value| matches!(message["role"].as_str(), Some("user" | "system" | "developer"));
    let later = (1..messages.len()).filter(|index| starts(&messages[*index]));
    std::iter::once(0).chain(later).collect()
}

/// Searches for the first of a number of candidates that fits, if all after a fitting one fit as well, in few steps.
#[derive(Clone, Copy, Debug)]
pub struct FirstFit {
    /// No candidate before this one fits.
    low: usize,
    /// This candidate fits, or is one past the last.
    high: usize,
}

impl FirstFit {
    /// Starts the search among `count` candidates.
    pub const fn new(count: usize) -> Self {
        Self { low: 0, high: count }
    }

    /// Returns the next candidate to try; `None` when the result is known. The first is tried first, since most fit
    /// unchanged.
    pub const fn next(&self) -> Option<usize> {
        if self.low >= self.high {
            None
        } else if self.low == 0 {
            Some(0)
        } else {
            Some(self.low + (self.high - self.low) / 2)
        }
    }

    /// Records whether that candidate fits.
    pub const fn record(&mut self, candidate: usize, fits: bool) {
        if fits {
            self.high = candidate;
        } else {
            self.low = candidate + 1;
        }
    }

    /// Returns the result; the number of candidates if none fits.
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
                fit.record(candidate, candidate >= first);
                questions += 1;
            }
            prop_assert_eq!(fit.found(), first.min(count));
            prop_assert!(questions <= 12);
        }
    }
}
