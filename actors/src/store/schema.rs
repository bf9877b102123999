//! The version of stored and exported records.

use serde_json::Value;

/// The schema version of records, as written to stores and exports. A newer one is refused.
pub const SCHEMA: u32 = 6;

/// Upgrades a record of an export from an older schema to the present one; returns whether that changed it.
pub fn upgrade(kind: &str, schema: u32, record: &mut Value) -> bool {
    if kind == "key" && schema < 4 {
        let permissions = record.get_mut("permissions").and_then(Value::as_array_mut);
        let Some(permissions) = permissions else { return false };
        let has = |name: &str| permissions.iter().any(|permission| permission == name);
        if has("admin") && !has("keys") {
            permissions.push("keys".into());
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn admin_keys_keep_managing_keys() {
        for (before, after) in [
            (json!(["read", "write", "admin"]), json!(["read", "write", "admin", "keys"])),
            (json!(["admin"]), json!(["admin", "keys"])),
            (json!(["read", "write"]), json!(["read", "write"])),
            (json!(["admin", "keys"]), json!(["admin", "keys"])),
        ] {
            let mut record = json!({"permissions": before, "name": "n"});
            let changed = upgrade("key", 3, &mut record);
            assert_eq!(record, json!({"permissions": after, "name": "n"}));
            assert_eq!(changed, before != after);
            assert!(!upgrade("key", 3, &mut record), "a step can be done again");
            let mut new = json!({"permissions": before});
            assert!(!upgrade("key", 4, &mut new), "who makes a key now means what it says");
        }
    }
}
