use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

/// Values of all types, for comparing schemas.
pub fn values() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(-3),
        json!(0),
        json!(1),
        json!(1.5),
        json!(2),
        json!(7),
        json!(""),
        json!("a"),
        json!("b"),
        json!("ab"),
        json!("abc"),
        json!([]),
        json!([1]),
        json!(["a", "a"]),
        json!([1, "a", null]),
        json!({}),
    ];
    for a in [json!(1), json!("a"), json!(null), json!({"a": 1})] {
        values.push(json!({"a": a}));
        values.push(json!({"b": a}));
        values.push(json!({"a": a, "b": 1}));
        values.push(json!({"a": a, "b": "a", "c": true}));
        values.push(json!([a, a]));
    }
    values
}

fn valid(schema: &Value, value: &Value) -> bool {
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .build(schema)
        .unwrap_or_else(|error| panic!("{error}: {schema}"))
        .is_valid(value)
}

fn schemas() -> impl Strategy<Value = Value> {
    let value = || {
        prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (-3..4i64).prop_map(Value::from),
            Just(json!(1.5)),
            "[ab]{0,2}".prop_map(Value::from),
        ]
    };
    let types = || {
        prop::sample::subsequence(
            vec!["null", "boolean", "number", "integer", "string", "array", "object"],
            1..4,
        )
    };
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let names = || prop::sample::subsequence(vec!["a", "b", "c"], 0..3);
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        types().prop_map(|names| json!({"type": names})),
        value().prop_map(|value| json!({"const": value})),
        prop::collection::vec(value(), 1..4).prop_map(|values| json!({"enum": values})),
        (0..3u32, 0..3u32).prop_map(|(a, b)| json!({"minLength": a, "maxLength": a + b})),
        (-2..2i64).prop_map(|n| json!({"minimum": n, "exclusiveMaximum": n + 2})),
        (0..3u32).prop_map(|n| json!({"minProperties": n})),
        (0..3u32, names()).prop_map(|(n, names)| {
            let properties: Value = names.iter().map(|name| (name.to_string(), json!(true))).collect::<Map<_, _>>().into();
            json!({"properties": properties, "additionalProperties": false, "maxProperties": n, "type": "object"})
        }),
        (0..3u32).prop_map(|n| json!({"maxProperties": n, "properties": {"a": true, "b": {"type": "integer"}}})),
        (0..3u32).prop_map(|n| json!({"minItems": n, "uniqueItems": true})),
        names().prop_map(|names| json!({"required": names})),
        (name(), names()).prop_map(|(name, names)| json!({"dependentRequired": {name: names}})),
        names().prop_map(|names| json!({"propertyNames": {"enum": names}})),
        Just(json!({"propertyNames": {"maxLength": 0}})),
        Just(json!({"pattern": "^a|b$"})),
        Just(json!({"contains": {"const": "a"}})),
        Just(json!({"$ref": "#/$defs/x"})),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        let list = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            (list(), names()).prop_map(|(schemas, required)| {
                let named: Map<String, Value> =
                    ["a", "b", "c"].into_iter().map(str::to_owned).zip(schemas).collect();
                json!({"type": "object", "properties": named, "required": required})
            }),
            (inner.clone(), inner.clone())
                .prop_map(|(a, rest)| json!({"properties": {"a": a}, "additionalProperties": rest})),
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            list().prop_map(|all| json!({"allOf": all})),
            list().prop_map(|any| json!({"anyOf": any})),
            list().prop_map(|one| json!({"oneOf": one})),
            (inner.clone(), list())
                .prop_map(|(base, one)| json!({"allOf": [base], "oneOf": one, "type": "object"})),
            inner.clone().prop_map(|schema| json!({"not": schema})),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| json!({"if": a, "then": b, "else": c})),
            (inner.clone(), inner.clone())
                .prop_map(|(a, b)| json!({"allOf": [a, b], "unevaluatedProperties": false})),
            inner.clone().prop_map(|schema| json!({"dependentSchemas": {"a": schema}})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The checked form means the same as the original, the enforced one as well if nothing is unenforced, and accepts
    /// more otherwise.
    #[test]
    fn the_meaning_is_kept(mut schema in schemas(), definition in schemas()) {
        if let Value::Object(fields) = &mut schema {
            // Without a cycle: the definition does not refer to itself.
            let definition: Value = serde_json::from_str(&definition.to_string().replace("#/$defs/x", "#/$defs/y")).unwrap();
            fields.insert("$defs".to_owned(), json!({"x": definition, "y": {"type": ["string", "null"]}}));
        }
        let normalized = normalize(&schema).unwrap();
        for value in values() {
            let wanted = valid(&schema, &value);
            prop_assert_eq!(wanted, valid(&normalized.checked, &value), "{} checked as {}: {}", schema, normalized.checked, value);
            let kept = valid(&normalized.enforced, &value);
            if wanted || normalized.unenforced.is_empty() {
                prop_assert_eq!(wanted, kept, "{} enforced as {}: {}", schema, normalized.enforced, value);
            }
            for step in 0..RELAXATIONS {
                prop_assert!(!kept || valid(&relaxed(&normalized.enforced, step).0, &value));
            }
        }
        // Normalising again changes nothing but definitions that nobody refers to any more.
        let again = normalize(&normalized.checked).unwrap();
        prop_assert!(again.unenforced.is_subset(&normalized.unenforced));
        for value in values() {
            prop_assert_eq!(valid(&normalized.checked, &value), valid(&again.checked, &value));
        }
        prop_assert!(normalized.enforced.to_string().len() < 200_000);
    }
}

/// A schema of `count` definitions, each made from a reference to the next.
fn chain(count: usize, link: impl Fn(usize, Value) -> Value) -> Value {
    let mut definitions: Map<String, Value> = (0..count)
        .map(|number| {
            (format!("d{number}"), link(number, json!({"$ref": format!("#/$defs/d{}", number + 1)})))
        })
        .collect();
    definitions.insert(format!("d{count}"), json!({"type": "object"}));
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

/// Without a bound on the work, each of these takes hours.
#[test]
fn rewrites_of_rewrites_are_bounded() {
    let either = |other: Value| json!({"oneOf": [other, {"not": other}]});
    for schema in [
        chain(60, |_, next| either(next)),
        chain(60, |_, next| json!({"not": {"anyOf": [{"not": next}, next, {"required": ["a"]}]}})),
        chain(
            60,
            |number, next| json!({"if": {"required": [format!("a{number}")]}, "then": next, "else": {"not": next}}),
        ),
        chain(60, |number, next| {
            let names: Map<String, Value> =
                (0..8).map(|name| (format!("p{number}_{name}"), either(next.clone()))).collect();
            json!({"not": {"properties": names}, "dependentSchemas": {"x": {"not": next}}})
        }),
        json!({"allOf": (0..60).map(|number| {
            json!({"oneOf": (0..60).map(|other| json!({"required": [format!("a{number}_{other}")]})).collect::<Vec<_>>()})
        }).collect::<Vec<_>>()}),
    ] {
        if let Ok(normalized) = normalize(&schema) {
            assert!(weight(&normalized.enforced) <= 8 * MAX_VALUES);
        }
    }
}
