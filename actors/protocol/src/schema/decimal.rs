//! Exact decimal numbers of a schema.

use std::cmp::Ordering;
use std::str::FromStr;

use serde_json::{Number, Value};

/// A decimal number: 0.`digits` × 10^`exponent`, with the sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Reads a number of a schema: integers of 64 bits exactly, others as the shortest text that means the same.
    pub fn of(number: &Number) -> Self {
        let text = number.to_string();
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
        let (negative, mantissa) =
            mantissa.strip_prefix('-').map_or((false, mantissa), |mantissa| (true, mantissa));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent = i64::from_str(exponent.trim_start_matches('+')).unwrap_or(0) + whole.len() as i64;
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        let exponent = if digits.is_empty() { 0 } else { exponent - zeros as i64 };
        Self { negative: negative && !digits.is_empty(), digits, exponent }
    }

    /// Reads a value that is a number.
    pub fn of_value(value: &Value) -> Option<Self> {
        value.as_number().map(Self::of)
    }

    /// Returns `true` for a whole number.
    pub fn is_integer(&self) -> bool {
        self.exponent >= self.digits.len() as i64
    }

    /// Returns the value if it is an integer of 127 bits.
    pub fn as_i128(&self) -> Option<i128> {
        if !self.is_integer() || self.exponent > 38 {
            return None;
        }
        let mut value: i128 = 0;
        for place in 0..usize::try_from(self.exponent).ok()? {
            let digit = self.digits.get(place).copied().unwrap_or(0);
            value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        Some(if self.negative { -value } else { value })
    }

    /// Returns the largest integer that is not above it.
    pub fn floor(&self) -> Option<i128> {
        if self.is_integer() {
            return self.as_i128();
        }
        let whole = Self {
            digits: self.digits.iter().take(self.exponent.max(0) as usize).copied().collect(),
            ..*self
        };
        let whole = Self { exponent: self.exponent.max(0), ..whole };
        let truncated = if whole.digits.is_empty() { 0 } else { whole.as_i128()? };
        Some(if self.negative { truncated - 1 } else { truncated })
    }

    /// Returns the smallest integer that is not below it.
    pub fn ceil(&self) -> Option<i128> {
        if self.is_integer() { self.as_i128() } else { self.floor().map(|floor| floor + 1) }
    }

    /// Returns the number of digits behind the point.
    pub fn decimals(&self) -> i64 {
        (self.digits.len() as i64 - self.exponent).max(0)
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits)),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.magnitude(other),
            (true, true) => other.magnitude(self),
        }
    }
}

/// Returns `true` if two values are the same to JSON Schema, which does not distinguish `1` from `1.0`.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Decimal::of(a) == Decimal::of(b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn decimal(value: &Value) -> Decimal {
        Decimal::of_value(value).unwrap()
    }

    #[test]
    fn numbers_are_exact() {
        let large = decimal(&json!(9_007_199_254_740_993_u64));
        assert!(large > decimal(&json!(9_007_199_254_740_992_u64)));
        assert_eq!(large.as_i128(), Some(9_007_199_254_740_993));
        assert_eq!(decimal(&json!(1e22)).as_i128(), Some(10_i128.pow(22)));
        assert_eq!(decimal(&json!(f64::MAX)).as_i128(), None);
        assert_eq!(decimal(&json!(i64::MIN)).as_i128(), Some(i128::from(i64::MIN)));
        assert_eq!(decimal(&json!(-0.0)), decimal(&json!(0)));
        assert_eq!(decimal(&json!(0.25)).decimals(), 2);
        assert!(equal(&json!({"a": [1.0]}), &json!({"a": [1]})) && !equal(&json!(1), &json!("1")));
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_numbers(a in -1e6..1e6_f64, b in -1e6..1e6_f64) {
            let (x, y) = (decimal(&json!(a)), decimal(&json!(b)));
            prop_assert_eq!(x.cmp(&y), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(x.floor(), Some(a.floor() as i128));
            prop_assert_eq!(x.ceil(), Some(a.ceil() as i128));
        }
    }
}
