//! Counts the elements of a body as it arrives, before it is parsed: a byte or two of JSON can become hundreds in
//! memory.

/// Weight of a key, a list, an object, a text, `true`, `false` or `null`.
const ELEMENT: u64 = 16;
/// Weight of a number in a list: prompts of tokens contain very many, and each is small.
const NUMBER: u64 = 1;

/// An incremental count of elements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elements {
    /// The weight so far; [`ELEMENT`] is one element.
    weight: u64,
    in_text: bool,
    escaped: bool,
    /// Set if the preceding byte was a digit.
    after_digit: bool,
}

impl Elements {
    /// Continues with the next bytes. Input that is not JSON gets an arbitrary count, and later the parser's error.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.in_text = true;
                    self.after_digit = false;
                }
                // Each value or key but the first follows one of these.
                b',' => {
                    self.weight += if self.after_digit { NUMBER } else { ELEMENT };
                    self.after_digit = false;
                }
                b':' | b'[' | b'{' => {
                    self.weight += ELEMENT;
                    self.after_digit = false;
                }
                b'0'..=b'9' => self.after_digit = true,
                b' ' | b'\t' | b'\n' | b'\r' => {}
                _ => self.after_digit = false,
            }
        }
    }

    /// Returns the number of elements; sixteen numbers in lists count as one.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.weight / ELEMENT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn count(text: &str) -> u64 {
        let mut elements = Elements::default();
        elements.add(text.as_bytes());
        elements.count()
    }

    #[test]
    fn structure_counts_and_texts_do_not() {
        for (text, expected) in [
            ("", 0),
            ("1", 0),
            (r#""[,:{]""#, 0),
            (r#""\"[,","#, 1),
            (r#""\\",["#, 2),
            ("{}", 1),
            (r#"{"a": [true, "b,c"]}"#, 4),
            ("[[],[],[]]", 6),
            ("[{},{},{}]", 6),
            (r#"[ "a" , "b" ]"#, 2),
            ("[null,null]", 2),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
        let numbers = format!("[{}]", vec!["-1.5e3 "; 1601].join(","));
        assert_eq!(count(&numbers), 101);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\\\\"\\[,:a]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 60, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec(("[a\\\\\",]{0,3}", inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// Counts everything but numbers in lists.
    fn heavy(value: &Value) -> u64 {
        match value {
            Value::Array(items) => 1 + items.iter().filter(|item| !item.is_number()).map(heavy).sum::<u64>(),
            Value::Object(members) => members.iter().map(|(_, value)| 1 + heavy(value)).sum::<u64>() + 1,
            _ => 1,
        }
    }

    proptest! {
        /// The count is independent of how the input is split, and at least half of the number of parsed values.
        #[test]
        fn pieces_do_not_matter(value in values(), size in 1..20_usize, pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            let mut elements = Elements::default();
            text.as_bytes().chunks(size).for_each(|piece| elements.add(piece));
            prop_assert_eq!(elements.count(), count(&text));
            prop_assert!(2 * (elements.count() + 1) >= heavy(&value), "{}", text);
        }
    }

    #[test]
    fn a_large_body_of_small_things() {
        assert_eq!(count(&json!({"input": vec![json!({}); 1000]}).to_string()), 1 + 1 + 1 + 2 * 1000 - 1);
    }
}
