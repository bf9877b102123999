//! Numbers that the grammar compiler can be given.
//!
//! The compiler calculates in floating point and in 64-bit integers, some of it without checks. Bounds and values that
//! are not exact there, or would overflow, are kept away from it.

use serde_json::{Map, Value};

use super::decimal::Decimal;

/// Integers up to this are exact in floating point.
const MAX_EXACT: i128 = 1 << 53;

/// Maximum number of digits behind the point of a bound.
const MAX_DECIMALS: i64 = 15;

/// Maximum number of digits behind the point of a factor.
const MAX_FACTOR_DECIMALS: i64 = 6;

/// Returns whether the compiler can hold numbers to this bound.
pub fn is_enforceable_bound(bound: &Value) -> bool {
    Decimal::of_value(bound).is_some_and(|bound| {
        let in_range = |side: Option<i128>| side.is_some_and(|side| side.abs() <= MAX_EXACT);
        in_range(bound.floor()) && in_range(bound.ceil()) && bound.decimals() <= MAX_DECIMALS
    })
}

/// Returns the closed bound to enforce in place of an open one; `None` if the compiler can be given that.
///
/// The compiler allows the bound itself if it is whole and the other one has the same whole part, as in the range from 0, which
/// is excluded, to 0.5. A number just behind it is the bound then.
pub fn closed_bound(keyword: &str, fields: &Map<String, Value>) -> Option<(String, Value)> {
    let (closed, others, sign) = match keyword {
        "exclusiveMinimum" => ("minimum", ["maximum", "exclusiveMaximum"], 1.0),
        "exclusiveMaximum" => ("maximum", ["minimum", "exclusiveMinimum"], -1.0),
        _ => return None,
    };
    // As if it were a minimum: away from zero.
    let bound = sign * fields.get(keyword)?.as_f64()?;
    let other = others.into_iter().filter_map(|other| fields.get(other)?.as_f64()).map(|other| sign * other);
    let other = other.min_by(f64::total_cmp)?;
    if bound < 0.0
        || bound.fract() != 0.0
        || other <= bound
        || other >= bound + 1.0
        || fields.contains_key(closed)
    {
        return None;
    }
    // A double has fewer digits behind the point, the more are in front of it.
    let next = if bound == 0.0 { 1e-15 } else { bound * (1.0 + 1e-14) };
    (next > bound && next <= other).then(|| (closed.to_owned(), Value::from(sign * next)))
}

/// Returns whether the compiler can hold numbers to multiples of this.
pub fn is_enforceable_factor(factor: &Value) -> bool {
    let Some(decimal) = Decimal::of_value(factor) else { return false };
    // It multiplies by 10 in floating point until nothing is left behind the point.
    let mut value = factor.as_f64().unwrap_or(f64::INFINITY);
    for _ in 0..decimal.decimals() {
        value *= 10.0;
    }
    decimal.decimals() <= MAX_FACTOR_DECIMALS && value.fract() == 0.0 && value <= f64::from(u32::MAX)
}

/// Returns whether a value has numbers that the compiler would write otherwise.
pub fn is_inexact(value: &Value) -> bool {
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Number(_) if !is_enforceable_bound(value) => return true,
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    false
}

/// Returns `true` if several factors meet: their common multiple is calculated without checks.
pub fn has_factor(fields: &Map<String, Value>) -> bool {
    fields.contains_key("multipleOf")
}

/// The type of a value.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if Decimal::of(number).is_integer() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn open_bounds_stay_where_the_compiler_keeps_them() {
        for fields in [
            json!({"exclusiveMinimum": 0}),
            json!({"exclusiveMinimum": 0, "maximum": 1}),
            json!({"exclusiveMinimum": 0.25, "maximum": 0.5}),
            json!({"exclusiveMinimum": -1, "maximum": -0.5}),
            json!({"exclusiveMinimum": 0, "minimum": 0.1, "maximum": 0.5}),
        ] {
            assert_eq!(closed_bound("exclusiveMinimum", fields.as_object().unwrap()), None, "{fields}");
        }
    }

    proptest! {
        /// The closed bound is just inside the open one.
        #[test]
        fn closed_bounds_are_just_inside(whole in 0..1_000_000u32, width in 0.01..0.99f64, is_low: bool) {
            let (bound, other) = (f64::from(whole), f64::from(whole) + width);
            let (open, closed, limit, sign) = match is_low {
                true => ("exclusiveMinimum", "minimum", "maximum", 1.0),
                false => ("exclusiveMaximum", "maximum", "minimum", -1.0),
            };
            let fields = json!({open: sign * bound, limit: sign * other});
            let (keyword, value) = closed_bound(open, fields.as_object().unwrap()).unwrap();
            let next = sign * value.as_f64().unwrap();
            prop_assert_eq!(keyword, closed);
            prop_assert!(next > bound && next < other && next - bound <= 1e-13 * bound.max(1.0));
        }
    }

    #[test]
    fn bounds_of_64_bits_are_kept_away_from_the_compiler() {
        for bound in [json!(0), json!(-5.25), json!(1e15), json!(9_007_199_254_740_992_u64), json!(0.1)] {
            assert!(is_enforceable_bound(&bound), "{bound}");
        }
        for bound in
            [json!(i64::MIN), json!(u64::MAX), json!(1e22), json!(9_007_199_254_740_993_u64), json!(1e-20)]
        {
            assert!(!is_enforceable_bound(&bound), "{bound}");
        }
        assert!(is_enforceable_factor(&json!(0.01)) && is_enforceable_factor(&json!(100)));
        assert!(!is_enforceable_factor(&json!(0.07)) && !is_enforceable_factor(&json!(1e-9)));
        assert!(!is_enforceable_factor(&json!(1e10)));
        assert!(is_inexact(&json!({"a": [1, 1e300]})) && !is_inexact(&json!({"a": [1, "1e300"]})));
    }
}
