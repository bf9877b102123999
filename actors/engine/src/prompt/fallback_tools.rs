//! Tools for models whose chat template knows none: they are described in the system message, in Hermes' words, which more
//! models have seen than any others; calls and their results become ordinary messages.

use std::collections::HashMap;

use jan_protocol::output_formats::ToolFormat;
use serde_json::{Value, json};

/// Puts the description of these tools before everything else.
#[must_use]
pub fn describe_tools(mut messages: Vec<Value>, tools: &[Value]) -> Vec<Value> {
    let listed: Vec<String> = tools.iter().map(Value::to_string).collect();
    let text = format!(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function \
         signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>\n\nFor each function call, return a json \
         object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{{\"name\": \
         <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>",
        listed.join("\n")
    );
    let is_system = |message: &&mut Value| message["role"] == "system" || message["role"] == "developer";
    match messages.first_mut().filter(is_system) {
        Some(system) => {
            let said = system["content"].as_str().unwrap_or_default();
            system["content"] = Value::from(format!("{said}\n\n{text}"));
        }
        None => messages.insert(0, json!({"role": "system", "content": text})),
    }
    messages
}

/// Writes calls and their results as ordinary messages; results that follow each other are one. `format`: the calls' format if
/// the template presents tools; `keep_results`: `true` if it shows results as they are.
#[must_use]
pub fn spell_out_calls(messages: Vec<Value>, format: Option<ToolFormat>, keep_results: bool) -> Vec<Value> {
    let mut spelt: Vec<Value> = Vec::with_capacity(messages.len());
    let mut behind_result = false;
    for mut message in messages {
        let is_result = message["role"] == "tool" && !keep_results;
        if is_result {
            let content = message["content"].as_str().unwrap_or_default();
            let text = format!("<tool_response>\n{content}\n</tool_response>");
            match spelt.last_mut().filter(|_| behind_result) {
                Some(last) => {
                    let before = last["content"].as_str().unwrap_or_default();
                    last["content"] = Value::from(format!("{before}\n{text}"));
                }
                None => spelt.push(json!({"role": "user", "content": text})),
            }
        } else {
            if let Some(calls) = message["tool_calls"].as_array().cloned() {
                let mut lines: Vec<String> = message["content"]
                    .as_str()
                    .filter(|text| !text.is_empty())
                    .map(str::to_owned)
                    .into_iter()
                    .collect();
                match format {
                    Some(format) => lines.push(in_format(format, &calls)),
                    None => lines.extend(calls.iter().map(|call| {
                        let function = &call["function"];
                        let call = json!({"name": function["name"], "arguments": function["arguments"]});
                        format!("<tool_call>\n{call}\n</tool_call>")
                    })),
                }
                message["content"] = Value::from(lines.join("\n"));
                if let Value::Object(fields) = &mut message {
                    fields.shift_remove("tool_calls");
                }
            }
            spelt.push(message);
        }
        behind_result = is_result;
    }
    spelt
}

fn in_format(format: ToolFormat, calls: &[Value]) -> String {
    let written: Vec<(&str, String)> = calls
        .iter()
        .map(|call| {
            let function = &call["function"];
            let arguments = match &function["arguments"] {
                Value::String(text) => text.clone(),
                object => object.to_string(),
            };
            (function["name"].as_str().unwrap_or_default(), arguments)
        })
        .collect();
    let calls: Vec<(&str, &str)> =
        written.iter().map(|(name, arguments)| (*name, arguments.as_str())).collect();
    format.syntax().write(&calls)
}

/// Gives each call a message of its own, followed by its results, for templates that show one call at a time.
#[must_use]
pub fn separate_calls(messages: Vec<Value>) -> Vec<Value> {
    let mut separate: Vec<Value> = Vec::with_capacity(messages.len());
    let mut rest = messages.into_iter().peekable();
    while let Some(mut message) = rest.next() {
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        if calls.len() < 2 {
            separate.push(message);
            continue;
        }
        let mut results: HashMap<String, Vec<Value>> =
            calls.iter().filter_map(|call| Some((call["id"].as_str()?.to_owned(), Vec::new()))).collect();
        let mut others = Vec::new();
        while let Some(result) = rest.next_if(|next| next["role"] == "tool") {
            let its = result["tool_call_id"].as_str().and_then(|id| results.get_mut(id));
            its.unwrap_or(&mut others).push(result);
        }
        for (index, call) in calls.into_iter().enumerate() {
            let its = call["id"].as_str().and_then(|id| results.remove(id)).unwrap_or_default();
            if index == 0 {
                message["tool_calls"] = Value::Array(vec![call]);
                separate.push(message.take());
            } else {
                separate.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
            }
            separate.extend(its);
        }
        separate.append(&mut others);
    }
    separate
}

/// Arguments come as text, and templates expect the text's content. Text that is no JSON object stays text.
pub fn read_arguments(messages: &mut [Value]) {
    for call in
        messages.iter_mut().filter_map(|message| message.get_mut("tool_calls")?.as_array_mut()).flatten()
    {
        let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments"))
        else {
            continue;
        };
        if let Some(Ok(object @ Value::Object(_))) = arguments.as_str().map(serde_json::from_str) {
            *arguments = object;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_become_messages() {
        let mut messages = vec![
            json!({"role": "user", "content": "q"}),
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}),
            json!({"role": "tool", "tool_call_id": "1", "content": "r"}),
            json!({"role": "tool", "tool_call_id": "2", "content": "s"}),
        ];
        read_arguments(&mut messages);
        let spelt = describe_tools(spell_out_calls(messages, None, false), &[json!({"type": "function"})]);
        let roles: Vec<&str> = spelt.iter().filter_map(|message| message["role"].as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(spelt[0]["content"].as_str().unwrap().contains("<tools>\n{\"type\":\"function\"}\n</tools>"));
        assert_eq!(
            spelt[2]["content"],
            "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>"
        );
        let results = "<tool_response>\nr\n</tool_response>\n<tool_response>\ns\n</tool_response>";
        assert_eq!(spelt[3]["content"], results);
    }

    #[test]
    fn calls_are_in_the_format_of_the_template() {
        let call = |name: &str| json!({"id": name, "function": {"name": name, "arguments": {"a": 1}}});
        let messages = vec![
            json!({"role": "assistant", "content": "I look.", "tool_calls": [call("f"), call("g")]}),
            json!({"role": "tool", "tool_call_id": "f", "content": "r"}),
        ];
        let spelt = spell_out_calls(messages.clone(), ToolFormat::by_name("lfm2"), true);
        let calls = r#"<|tool_call_start|>[{"name": "f", "arguments": {"a":1}}, {"name": "g", "arguments": {"a":1}}]<|tool_call_end|>"#;
        assert_eq!(spelt[0], json!({"role": "assistant", "content": format!("I look.\n{calls}")}));
        assert_eq!(spelt[1], messages[1]);
    }

    #[test]
    fn separate_calls_are_followed_by_their_results() {
        let call = |id: &str| json!({"id": id, "function": {"name": "f", "arguments": {}}});
        let calls = |content: Value, ids: &[&str]| {
            let calls: Vec<Value> = ids.iter().map(|id| call(id)).collect();
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        };
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": id});
        let user = json!({"role": "user", "content": "q"});
        let together = vec![
            user.clone(),
            calls(json!("both"), &["1", "2"]),
            result("2"),
            result("1"),
            result("3"),
            user.clone(),
            calls(json!(null), &["4"]),
        ];
        let separate = vec![
            user.clone(),
            calls(json!("both"), &["1"]),
            result("1"),
            calls(json!(null), &["2"]),
            result("2"),
            result("3"),
            user,
            calls(json!(null), &["4"]),
        ];
        assert_eq!(separate_calls(together), separate);
        assert_eq!(separate_calls(separate.clone()), separate);
    }
}
