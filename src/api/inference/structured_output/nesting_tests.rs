use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

/// Definitions each of which refers to the next, the last one to `last`.
fn chain(count: usize, link: impl Fn(Value) -> Value, last: Value) -> Value {
    let mut definitions: Map<String, Value> =
        (0..count).map(|n| (format!("d{n}"), link(json!({"$ref": format!("#/$defs/d{}", n + 1)})))).collect();
    definitions.insert(format!("d{count}"), last);
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

#[test]
fn chains_of_references_are_bounded() {
    let plain = |to: Value| to;
    let list = |to: Value| json!({"allOf": [to]});
    assert_eq!(check(&chain(1500, plain, json!(true))), Ok(()));
    assert!(check(&chain(2001, plain, json!({}))).is_err());
    assert_eq!(check(&chain(600, list, json!({}))), Ok(()));
    assert!(check(&chain(700, list, json!({}))).is_err());
    // Also in a cycle, and with references that are not paths.
    assert!(check(&chain(2001, plain, json!({"$ref": "#/$defs/d0"}))).is_err());
    let mut named = chain(2001, plain, json!({}));
    named["$defs"]["d7"]["$id"] = json!("elsewhere");
    assert!(check(&named).is_err());
}

#[test]
fn unevaluated_keywords_have_a_bound_of_their_own() {
    let link = |to: Value| json!({"unevaluatedProperties": false, "allOf": [to]});
    assert_eq!(check(&chain(50, link, json!({}))), Ok(()));
    assert!(check(&chain(100, link, json!({}))).is_err());
}

#[test]
fn many_definitions_side_by_side_are_fine() {
    let properties: Map<String, Value> =
        (0..3000).map(|n| (format!("p{n}"), json!({"$ref": format!("#/$defs/d{n}")}))).collect();
    let definitions: Map<String, Value> =
        (0..3000).map(|n| (format!("d{n}"), json!({"items": {"$ref": "#"}}))).collect();
    let flat: Map<String, Value> =
        definitions.keys().map(|name| (name.clone(), json!({"items": {}}))).collect();
    assert_eq!(check(&json!({"properties": properties.clone(), "$defs": flat})), Ok(()));
    // All in one cycle through the root: any of them could follow any other.
    assert!(check(&json!({"properties": properties, "$defs": definitions})).is_err());
}

#[test]
fn the_deepest_schema_fits_the_stack() {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let schema = chain(640, |to| json!({keyword: [to]}), json!({"type": "null"}));
        check(&schema).unwrap();
        let valid = on_large_stack(|| jsonschema::validator_for(&schema).unwrap().is_valid(&json!(null)));
        assert_eq!(valid, Ok(true));
    }
}

proptest! {
    /// The bound is at least the length of the longest path that visits no node twice, found by trying all paths.
    #[test]
    fn no_path_is_longer_than_the_bound(
        edges in prop::collection::vec(prop::collection::vec(0usize..7, 0..4), 7),
        levels in prop::collection::vec(1usize..5, 7),
    ) {
        fn longest(node: usize, edges: &[Vec<usize>], levels: &[usize], seen: &mut Vec<usize>) -> usize {
            seen.push(node);
            let next: Vec<usize> = edges[node].iter().copied().filter(|next| !seen.contains(next)).collect();
            let most = next.into_iter().map(|next| longest(next, edges, levels, seen)).max().unwrap_or(0);
            seen.pop();
            most + levels[node]
        }
        let found = (0..7).map(|node| longest(node, &edges, &levels, &mut Vec::new())).max().unwrap_or(0);
        prop_assert!(deepest(&edges, &levels) >= found);
    }
}
