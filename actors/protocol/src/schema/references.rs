//! Targets of `$ref`: pointers, anchors and ids within one document.

use std::collections::HashMap;

use serde_json::Value;

use super::MAX_VALUES;

/// The named places of a document.
pub struct Targets<'a> {
    root: &'a Value,
    /// Anchors, with the `#`, and ids as they are written.
    named: HashMap<String, &'a Value>,
}

impl<'a> Targets<'a> {
    /// Collects the names in a document.
    pub fn new(root: &'a Value) -> Self {
        let mut named = HashMap::new();
        let mut left = vec![root];
        let mut visits = 0;
        while let Some(value) = left.pop() {
            visits += 1;
            if visits > MAX_VALUES {
                break;
            }
            match value {
                Value::Array(values) => left.extend(values.iter().rev()),
                Value::Object(fields) => {
                    for keyword in ["$anchor", "$dynamicAnchor"] {
                        if let Some(Value::String(name)) = fields.get(keyword) {
                            named.entry(format!("#{name}")).or_insert(value);
                        }
                    }
                    for keyword in ["$id", "id"] {
                        if let Some(Value::String(id)) = fields.get(keyword) {
                            let id = if id.starts_with('#') { id } else { id.trim_end_matches('#') };
                            named.entry(id.to_owned()).or_insert(value);
                        }
                    }
                    left.extend(fields.values().rev());
                }
                _ => {}
            }
        }
        Self { root, named }
    }

    /// Returns the target of a reference; `None` if there is none in the document.
    pub fn find(&self, reference: &str) -> Option<&'a Value> {
        if let Some(target) = self.named.get(reference) {
            return Some(target);
        }
        let (id, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base = if id.is_empty() { self.root } else { self.resource(id)? };
        if fragment.is_empty() {
            return Some(base);
        }
        if fragment.starts_with('/') {
            return pointed(base, fragment).or_else(|| pointed(self.root, fragment));
        }
        // Names that are no pointers can be written with escapes.
        self.named.get(&format!("#{}", decoded(fragment))).copied()
    }

    /// Returns the schema with this id. Relative ids are compared by their last segments, since the documents that they
    /// are relative to are this one.
    fn resource(&self, id: &str) -> Option<&'a Value> {
        if let Some(found) = self.named.get(id) {
            return Some(found);
        }
        let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
        let wanted = last(id);
        let mut found = self.named.iter().filter(|(known, _)| !wanted.is_empty() && last(known) == wanted);
        match (found.next(), found.next()) {
            (Some((_, only)), None) => Some(only),
            _ => None,
        }
    }
}

/// Follows a JSON pointer. Characters that a URI would have escaped can stand for themselves, and the other way round.
fn pointed<'a>(base: &'a Value, pointer: &str) -> Option<&'a Value> {
    base.pointer(pointer).or_else(|| base.pointer(&decoded(pointer)))
}

/// Decodes `%41`; other characters, and escapes that are none, stand for themselves.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_of_all_spellings_are_found() {
        let names =
            ["Record<string,number>", "Foo[int]", "A|B", "é", "a b", "List`1[System.String]", "a/b~c"];
        for name in names {
            let schema = json!({"$defs": {name: {"type": "null"}}});
            let targets = Targets::new(&schema);
            let escaped = name.replace('~', "~0").replace('/', "~1");
            let raw = format!("#/$defs/{escaped}");
            assert_eq!(targets.find(&raw), Some(&json!({"type": "null"})), "{raw}");
            let hex: String = raw[2..].bytes().map(|byte| format!("%{byte:02X}")).collect();
            assert_eq!(
                targets.find(&format!("#/{}", hex.replace("%2F", "/"))),
                Some(&json!({"type": "null"}))
            );
        }
        let schema = json!({
            "$id": "https://example.com/root.json",
            "$defs": {"a": {"$anchor": "here"}, "b": {"$id": "b.json", "definitions": {"c": true}}, "d": {"$id": "#old"}},
        });
        let targets = Targets::new(&schema);
        for (reference, pointer) in [
            ("#", ""),
            ("https://example.com/root.json", ""),
            ("https://example.com/root.json#/$defs/a", "/$defs/a"),
            ("root.json#/$defs/a", "/$defs/a"),
            ("#here", "/$defs/a"),
            ("b.json", "/$defs/b"),
            ("https://example.com/b.json#/definitions/c", "/$defs/b/definitions/c"),
            ("#old", "/$defs/d"),
        ] {
            assert_eq!(targets.find(reference), schema.pointer(pointer), "{reference}");
        }
        for nowhere in ["#/no", "other.json", "#no", "http://127.0.0.1:1/x.json"] {
            assert_eq!(targets.find(nowhere), None, "{nowhere}");
        }
    }
}
