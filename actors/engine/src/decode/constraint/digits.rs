//! A bound on the digits of JSON numbers.
//!
//! A grammar of JSON allows any number of digits, and a small model that has begun a fraction may not find its end. Behind as
//! many digits as a double has, no more are allowed where the number may end; a number that its schema wants longer, such as a
//! constant, is not affected.

use llguidance::toktrie::{TokTrie, TokenId};

/// Maximum number of digits in front of the point.
const MAX_WHOLE: u8 = 40;

/// Maximum number of digits behind the point: those that a double distinguishes.
const MAX_FRACTION: u8 = 17;

/// Maximum number of digits of the exponent. With the others, a number is in a double's range.
const MAX_EXPONENT: u8 = 2;

/// The tokens that a number can continue with, and their bytes.
#[derive(Debug)]
pub struct NumberTokens(Vec<(TokenId, Box<[u8]>)>);

impl NumberTokens {
    /// Finds the tokens of a vocabulary.
    pub fn of(vocabulary: &TokTrie) -> Self {
        let tokens = 0..TokenId::try_from(vocabulary.vocab_size()).unwrap_or(TokenId::MAX);
        let with_bytes = tokens.map(|token| (token, vocabulary.token(token)));
        let of_numbers =
            with_bytes.filter(|(_, bytes)| bytes.first().is_some_and(|first| is_of_number(*first)));
        Self(of_numbers.map(|(token, bytes)| (token, bytes.into())).collect())
    }

    /// Returns the tokens to refuse, of those that are allowed, whose number is `count`: where the number may end, all that
    /// would give it too many digits; where it may not, zeros, which would not bring it to an end.
    pub fn refused(
        &self,
        scanner: Scanner,
        is_allowed: impl Fn(TokenId) -> bool,
        count: usize,
    ) -> Vec<TokenId> {
        let mut refused: Vec<TokenId> = self.exceeding(scanner).filter(|token| is_allowed(*token)).collect();
        if refused.len() == count {
            refused.retain(|token| self.begins_with_zero(*token));
        }
        if refused.len() == count { Vec::new() } else { refused }
    }

    fn begins_with_zero(&self, token: TokenId) -> bool {
        let found = self.0.binary_search_by_key(&token, |(known, _)| *known);
        found.is_ok_and(|at| self.0[at].1.starts_with(b"0"))
    }

    fn exceeding(&self, scanner: Scanner) -> impl Iterator<Item = TokenId> {
        let exceeds = move |bytes: &[u8]| {
            let mut scanner = scanner;
            for byte in bytes {
                scanner.push(*byte);
                if scanner.exceeds() {
                    return true;
                }
                if !scanner.is_in_number() {
                    return false;
                }
            }
            false
        };
        let tokens = if scanner.is_in_number() { self.0.as_slice() } else { &[] };
        tokens.iter().filter(move |(_, bytes)| exceeds(bytes)).map(|(token, _)| *token)
    }
}

const fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')
}

/// The part of a number that a text ends in, with the number of its digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Number {
    #[default]
    None,
    Whole(u8),
    Fraction(u8),
    Exponent(u8),
}

/// Follows JSON text as far as numbers need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanner {
    in_string: bool,
    escaped: bool,
    number: Number,
}

impl Scanner {
    /// Takes the next byte.
    pub fn push(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        self.in_string = byte == b'"';
        self.number = match (self.number, byte) {
            (Number::None, b'0'..=b'9') => Number::Whole(1),
            (Number::Whole(count), b'0'..=b'9') => Number::Whole(count.saturating_add(1)),
            (Number::Fraction(count), b'0'..=b'9') => Number::Fraction(count.saturating_add(1)),
            (Number::Exponent(count), b'0'..=b'9') => Number::Exponent(count.saturating_add(1)),
            (Number::Whole(_), b'.') => Number::Fraction(0),
            (Number::Whole(_) | Number::Fraction(_), b'e' | b'E') => Number::Exponent(0),
            (Number::Exponent(0), b'+' | b'-') => Number::Exponent(0),
            _ => Number::None,
        };
    }

    /// Returns `true` if the text ends in a number that may have further digits.
    pub const fn is_in_number(self) -> bool {
        !matches!(self.number, Number::None)
    }

    const fn exceeds(self) -> bool {
        match self.number {
            Number::None => false,
            Number::Whole(count) => count > MAX_WHOLE,
            Number::Fraction(count) => count > MAX_FRACTION,
            Number::Exponent(count) => count > MAX_EXPONENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scanned(text: &str) -> Scanner {
        let mut scanner = Scanner::default();
        text.bytes().for_each(|byte| scanner.push(byte));
        scanner
    }

    #[test]
    fn digits_are_counted_by_the_part_of_the_number() {
        for (text, number) in [
            ("", Number::None),
            ("[-", Number::None),
            ("[-12", Number::Whole(2)),
            ("{\"a\": 1.", Number::Fraction(0)),
            ("{\"1\": 1.25", Number::Fraction(2)),
            ("1.5e", Number::Exponent(0)),
            ("1e-3", Number::Exponent(1)),
            ("[1.5, 2", Number::Whole(1)),
            ("\"1.5", Number::None),
            ("\"\\\"1.5", Number::None),
            ("\"\\\\\": 7", Number::Whole(1)),
            ("[1]", Number::None),
        ] {
            assert_eq!(scanned(text).number, number, "{text}");
        }
    }

    #[test]
    fn the_longest_allowed_number_is_in_a_doubles_range() {
        let number = "9".repeat(MAX_WHOLE.into()) + "." + &"9".repeat(MAX_FRACTION.into()) + "e99";
        assert!(!scanned(&number).exceeds() && number.parse::<f64>().is_ok_and(f64::is_finite));
        assert!(scanned(&(number + "9")).exceeds());
    }

    proptest! {
        /// Text in strings never counts, and no double's shortest text exceeds the bound of its parts.
        #[test]
        fn shortest_texts_of_doubles_fit(text in ".{0,20}", number in 1.0..1e15_f64, sign in any::<bool>()) {
            let number = if sign { -number } else { number };
            let value = json!({"text": text, "number": number}).to_string();
            let mut scanner = Scanner::default();
            for byte in value.bytes() {
                scanner.push(byte);
                prop_assert!(!scanner.exceeds(), "{}", value);
            }
            prop_assert!(!scanner.in_string && !scanner.is_in_number());
        }
    }
}
