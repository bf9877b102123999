//! References of a canonical schema to each other.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Returns the schemas of a document that refer to others, by their addresses.
pub fn places(root: &Value) -> HashMap<usize, &Value> {
    let mut found = HashMap::new();
    let mut left = vec![root];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                if ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|keyword| fields.contains_key(*keyword)) {
                    found.insert(std::ptr::from_ref(value) as usize, value);
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    found
}

/// Returns the references of a canonical schema that lead to themselves.
pub fn recursive(root: &Value) -> HashSet<&str> {
    let definitions = root.get("$defs").and_then(Value::as_object);
    let mut edges: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut names: HashMap<&str, &Value> = HashMap::from([("#", root)]);
    let mut references: HashSet<&str> = HashSet::new();
    collect(root, false, &mut references);
    for reference in references {
        if let Some(target) = reference.strip_prefix("#/$defs/").and_then(|name| definitions?.get(name)) {
            names.insert(reference, target);
        }
    }
    for (name, target) in &names {
        let mut found = HashSet::new();
        collect(target, *name == "#", &mut found);
        edges.insert(name, found.into_iter().collect());
    }
    components(&edges)
}

fn collect<'a>(schema: &'a Value, skip_definitions: bool, into: &mut HashSet<&'a str>) {
    let mut left = vec![(schema, skip_definitions)];
    while let Some((value, skip)) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values.iter().map(|value| (value, false))),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(target) if name == "$ref" => {
                            into.insert(target);
                        }
                        _ if skip && name == "$defs" => {}
                        _ => left.push((value, false)),
                    }
                }
            }
            _ => {}
        }
    }
}

/// Returns the nodes of a graph that are on a cycle: Kosaraju's algorithm, without recursion.
fn components<'a>(edges: &HashMap<&'a str, Vec<&'a str>>) -> HashSet<&'a str> {
    let mut reversed: HashMap<&str, Vec<&str>> = HashMap::new();
    for (from, targets) in edges {
        targets.iter().for_each(|to| reversed.entry(to).or_default().push(from));
    }
    let mut order = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for start in edges.keys() {
        let mut left = vec![(*start, false)];
        while let Some((node, done)) = left.pop() {
            if done {
                order.push(node);
            } else if seen.insert(node) {
                left.push((node, true));
                left.extend(edges.get(node).into_iter().flatten().map(|next| (*next, false)));
            }
        }
    }
    let mut cyclic = HashSet::new();
    seen.clear();
    for start in order.into_iter().rev() {
        let mut component = Vec::new();
        let mut left = vec![start];
        while let Some(node) = left.pop() {
            if seen.insert(node) {
                component.push(node);
                left.extend(reversed.get(node).into_iter().flatten());
            }
        }
        let to_itself = |node: &&str| edges.get(node).is_some_and(|targets| targets.contains(node));
        if component.len() > 1 || component.first().is_some_and(to_itself) {
            cyclic.extend(component);
        }
    }
    cyclic
}
