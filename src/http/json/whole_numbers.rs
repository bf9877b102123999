//! Integers written with a fraction or an exponent.
//!
//! JSON has one type of numbers, and some languages (R, Lua, PHP, C++) write all of them as `10.0`. serde recognises
//! integers by their notation.

/// The largest integer that every JSON parser represents exactly ([RFC 8259], section 6).
///
/// [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259
const MAX_EXACT: f64 = 9_007_199_254_740_991.0;

/// Returns `json`, which is valid JSON, with such numbers as plain integers.
pub fn as_integers(json: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(json.len());
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let end = match byte {
            b'"' => string_end(json, at),
            b'-' | b'0'..=b'9' => number_end(json, at),
            _ => at + 1,
        };
        let token = &json[at..end];
        match integer(token).filter(|_| byte != b'"') {
            Some(integer) => plain.extend_from_slice(integer.to_string().as_bytes()),
            None => plain.extend_from_slice(token),
        }
        at = end;
    }
    plain
}

/// Returns the end of the text that begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&byte) = json.get(end) {
        end += if byte == b'\\' { 2 } else { 1 };
        if byte == b'"' {
            break;
        }
    }
    end.min(json.len())
}

fn number_end(json: &[u8], at: usize) -> usize {
    let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    at + json[at..].iter().take_while(|byte| is_number(byte)).count()
}

/// Returns the integer that a number with a fraction or an exponent stands for; `None` if it is not an integer or not
/// exact.
fn integer(token: &[u8]) -> Option<i64> {
    if !token.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return None;
    }
    let number: f64 = std::str::from_utf8(token).ok()?.parse().ok()?;
    let is_exact = number.fract() == 0.0 && number.abs() <= MAX_EXACT;
    // Within the range of an `i64`.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
    is_exact.then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn whole_numbers_lose_their_fraction() {
        for (given, expected) in [
            (
                r#"{"max_tokens":10.0,"n":1e1,"seed":-0.0,"a":[2.50,1E2,-3.0]}"#,
                r#"{"max_tokens":10,"n":10,"seed":0,"a":[2.50,100,-3]}"#,
            ),
            (r#"{"text":"10.0 \" 1e1","k\\":3.0}"#, r#"{"text":"10.0 \" 1e1","k\\":3}"#),
            ("1e400", "1e400"),
            ("9007199254740993.0", "9007199254740993.0"),
            ("0.1", "0.1"),
        ] {
            assert_eq!(String::from_utf8(as_integers(given.as_bytes())).unwrap(), expected);
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-1000i64..1000).prop_map(|number| json!(number as f64)),
            "[ -~]{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{0,4}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    /// Returns whether two values are equal, comparing numbers by their values.
    fn equal(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|((a, one), (b, other))| a == b && equal(one, other))
            }
            (one, other) => one == other,
        }
    }

    proptest! {
        #[test]
        fn nothing_else_changes(value in value()) {
            let json = serde_json::to_vec(&value).unwrap();
            let plain: Value = serde_json::from_slice(&as_integers(&json)).unwrap();
            prop_assert!(equal(&value, &plain), "{value} {plain}");
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = as_integers(&bytes);
        }
    }
}
