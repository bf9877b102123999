//! Roles that a chat template does not know, or not at that place.
//!
//! Templates are written for one system message in front and turns that alternate. Others drop a message silently (Qwen 3 a
//! `developer` message, Gemma and Mistral a system message alone), or refuse the whole chat. What a template does is tried
//! once, when it is loaded; messages are then adapted so that none of their texts is lost.

use serde_json::{Value, json};

/// The messages that a template shows beyond a system message in front of alternating turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// It distinguishes `developer` from `system`.
    developer: bool,
    /// A system message in front.
    system: bool,
    /// A system message without any other message.
    lone_system: bool,
    /// Several system messages in front.
    several_systems: bool,
    /// A system message behind other messages.
    late_system: bool,
    /// Several messages of a user in a row.
    repeated_user: bool,
    /// Several messages of the assistant in a row.
    repeated_assistant: bool,
}

impl Roles {
    /// Tries a template. `shows`: whether it renders the messages and its output has all of the texts.
    pub fn find(source: &str, shows: impl Fn(&[Value], &[&str]) -> bool) -> Self {
        const TEXTS: [&str; 4] = ["zqx_first", "zqx_second", "zqx_third", "zqx_fourth"];
        let tries = |roles: &[&str]| {
            let texts = &TEXTS[..roles.len()];
            let message = |(role, text): (&&str, &&str)| json!({"role": role, "content": text});
            let messages: Vec<Value> = roles.iter().zip(texts).map(message).collect();
            shows(&messages, texts)
        };
        Self {
            // Templates name it for other reasons, too.
            developer: source.contains("developer") && tries(&["developer", "user"]),
            system: tries(&["system", "user"]),
            lone_system: tries(&["system"]),
            several_systems: tries(&["system", "system", "user"]),
            late_system: tries(&["user", "system", "user"])
                && tries(&["user", "assistant", "system", "user"]),
            repeated_user: tries(&["user", "user"]),
            repeated_assistant: tries(&["user", "assistant", "assistant", "user"]),
        }
    }

    /// The messages in a form whose texts the template shows: `developer` as `system`, system messages at places that it
    /// does not know as a user's, and messages in a row as one where it takes only one.
    pub fn adapt(self, messages: Vec<Value>) -> Vec<Value> {
        let mut adapted: Vec<Value> = Vec::with_capacity(messages.len());
        let is_system = |message: &Value| {
            message["role"] == "system" || (!self.developer && message["role"] == "developer")
        };
        let is_alone = messages.iter().all(is_system);
        let mut is_late = false;
        for mut message in messages {
            if is_system(&message) {
                let is_known =
                    self.system && (!is_late || self.late_system) && (!is_alone || self.lone_system);
                message["role"] = Value::from(if is_known { "system" } else { "user" });
            } else {
                is_late = true;
            }
            match adapted.last_mut().filter(|last| self.is_merged(last, &message)) {
                Some(last) => append(last, message),
                None => adapted.push(message),
            }
        }
        adapted
    }

    fn is_merged(self, before: &Value, message: &Value) -> bool {
        let has_calls =
            |message: &Value| message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
        let is_known = match message["role"].as_str() {
            Some("system") => self.several_systems,
            Some("user") => self.repeated_user,
            Some("assistant") => self.repeated_assistant,
            _ => true,
        };
        !is_known && before["role"] == message["role"] && !has_calls(before) && !has_calls(message)
    }
}

/// Appends the content of a message to another one's, as a paragraph of its own.
fn append(to: &mut Value, message: Value) {
    let Value::Object(mut message) = message else { return };
    let more = message.remove("content").unwrap_or_default();
    let content = match (to["content"].take(), more) {
        // In place: thousands of messages may be merged into one.
        (Value::String(mut before), Value::String(more)) => {
            if !before.is_empty() && !more.is_empty() {
                before.push_str("\n\n");
            }
            before.push_str(&more);
            Value::String(before)
        }
        (Value::Null, content) | (content, Value::Null) => content,
        (before, more) => {
            let mut all = parts(before);
            all.extend(parts(more));
            Value::Array(all)
        }
    };
    to["content"] = content;
}

fn parts(content: Value) -> Vec<Value> {
    match content {
        Value::Array(parts) => parts,
        text => vec![json!({"type": "text", "text": text})],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roles(bits: u8) -> Roles {
        let bit = |at: u8| bits >> at & 1 == 1;
        Roles {
            developer: bit(0),
            system: bit(1),
            lone_system: bit(2),
            several_systems: bit(3),
            late_system: bit(4),
            repeated_user: bit(5),
            repeated_assistant: bit(6),
        }
    }

    fn message() -> impl Strategy<Value = Value> {
        let role = prop_oneof![
            3 => Just("user"), 3 => Just("assistant"), 2 => Just("system"), 1 => Just("developer"), 1 => Just("tool")
        ];
        let content = prop_oneof![
            5 => "[a-z]{0,6}".prop_map(Value::String),
            1 => Just(Value::Null),
            1 => "[a-z]{1,6}".prop_map(|text| json!([{"type": "text", "text": text}])),
        ];
        (role, content, prop::bool::weighted(0.2)).prop_map(|(role, content, calls)| {
            let mut message = json!({"role": role, "content": content});
            if calls && role == "assistant" {
                message["tool_calls"] = json!([{"id": "c"}]);
            }
            message
        })
    }

    fn texts(messages: &[Value]) -> String {
        let text = |content: &Value| match content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        };
        messages.iter().map(|message| text(&message["content"]).replace("\n\n", "")).collect()
    }

    proptest! {
        /// No text is lost or changes its place, and no role is at a place that the template does not know.
        #[test]
        fn texts_stay_in_their_order(bits in 0u8..128, messages in prop::collection::vec(message(), 0..8)) {
            let known = roles(bits);
            let adapted = known.adapt(messages.clone());
            prop_assert_eq!(texts(&adapted), texts(&messages));
            let calls = |messages: &[Value]| messages.iter().filter(|message| message["tool_calls"].is_array()).count();
            prop_assert_eq!(calls(&adapted), calls(&messages));
            prop_assert!(known.developer || adapted.iter().all(|message| message["role"] != "developer"));
            prop_assert!(known.system || adapted.iter().all(|message| message["role"] != "system"));
            for pair in adapted.windows(2) {
                let both = |role| pair.iter().all(|message| message["role"] == role);
                prop_assert!(known.repeated_user || !both("user"));
                prop_assert!(known.several_systems || !both("system"));
            }
            if !known.late_system {
                let late = adapted.iter().skip_while(|message| message["role"] == "system");
                prop_assert!(late.into_iter().all(|message| message["role"] != "system"));
            }
        }

        #[test]
        fn what_is_known_stays(messages in prop::collection::vec(message(), 0..8)) {
            prop_assert_eq!(roles(127).adapt(messages.clone()), messages);
        }
    }
}
