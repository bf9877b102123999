//! Tools for models whose chat template knows none: they are described in the system message, in Hermes' words, which more
//! models have seen than any others; calls and their results become ordinary messages.

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
    match messages.first_mut().filter(|message| message["role"] == "system") {
        Some(system) => {
            let said = system["content"].as_str().unwrap_or_default();
            system["content"] = Value::from(format!("{said}\n\n{text}"));
        }
        None => messages.insert(0, json!({"role": "system", "content": text})),
    }
    messages
}

/// Writes calls and their results as ordinary messages; results that follow each other are one.
#[must_use]
pub fn spell_out_calls(messages: Vec<Value>) -> Vec<Value> {
    let mut spelt: Vec<Value> = Vec::with_capacity(messages.len());
    let mut behind_result = false;
    for mut message in messages {
        let is_result = message["role"] == "tool";
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
                for call in &calls {
                    let function = &call["function"];
                    let call = json!({"name": function["name"], "arguments": function["arguments"]});
                    lines.push(format!("<tool_call>\n{call}\n</tool_call>"));
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
        let spelt = describe_tools(spell_out_calls(messages), &[json!({"type": "function"})]);
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
}
