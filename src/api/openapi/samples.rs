//! Code samples for each operation in curl, Python and JavaScript, generated from the description's examples.

use std::fmt::Write;

use serde_json::{Value, json};

/// The server's URL in the samples.
pub const HOST: &str = "http://localhost:8080";

/// The name of a file to send.
const FILE: &str = "export.ndjson";

/// The request of a sample.
#[derive(Debug)]
pub struct Sample<'a> {
    /// `GET` and so on.
    pub method: &'a str,
    /// The path with its parameters filled in.
    pub path: String,
    /// Set if the request carries a key.
    pub with_key: bool,
    /// The body.
    pub body: Option<&'a Value>,
    /// The content type of a body that is a file.
    pub file: Option<&'a str>,
    /// Set if the response is JSON.
    pub json_answer: bool,
}

impl Sample<'_> {
    /// Returns the value of `x-codeSamples`.
    pub fn to_value(&self) -> Value {
        json!([
            {"lang": "Shell", "label": "curl", "source": self.curl()},
            {"lang": "Python", "label": "Python", "source": self.python()},
            {"lang": "JavaScript", "label": "JavaScript", "source": self.javascript()},
        ])
    }

    fn curl(&self) -> String {
        let mut text = "curl".to_owned();
        let posts = self.body.is_some() || self.file.is_some();
        if self.method != "GET" && !(self.method == "POST" && posts) {
            let _ = write!(text, " -X {}", self.method);
        }
        let _ = write!(text, " {HOST}{}", self.path);
        if self.with_key {
            text.push_str(" \\\n  -H \"Authorization: Bearer $JAN_API_KEY\"");
        }
        if let Some(body) = self.body {
            // In single quotes, a quote is written as: end the quotes, an escaped quote, begin again.
            let body = pretty(body).replace('\'', "'\\''");
            let _ = write!(text, " \\\n  -H \"Content-Type: application/json\" \\\n  -d '{body}'");
        }
        if let Some(kind) = self.file {
            let _ = write!(text, " \\\n  -H \"Content-Type: {kind}\" \\\n  --data-binary @{FILE}");
        }
        text
    }

    fn python(&self) -> String {
        let mut text = String::new();
        if self.with_key {
            text.push_str("import os\n\n");
        }
        let _ = write!(text, "import requests\n\nanswer = requests.{}(\n", self.method.to_lowercase());
        let _ = writeln!(text, "    \"{HOST}{}\",", self.path);
        let mut headers = Vec::new();
        if self.with_key {
            headers.push("\"Authorization\": f\"Bearer {os.environ['JAN_API_KEY']}\"".to_owned());
        }
        headers.extend(self.file.map(|kind| format!("\"Content-Type\": \"{kind}\"")));
        if !headers.is_empty() {
            let _ = writeln!(text, "    headers={{{}}},", headers.join(", "));
        }
        if self.file.is_some() {
            let _ = writeln!(text, "    data=open(\"{FILE}\", \"rb\"),");
        }
        if let Some(body) = self.body {
            let _ = writeln!(text, "    json={},", python_literal(body));
        }
        if !self.json_answer {
            text.push_str("    allow_redirects=False,\n");
        }
        let shown = if self.json_answer { "answer.json()" } else { "answer.status_code, answer.text" };
        let _ = write!(text, ")\nprint({shown})");
        text
    }

    fn javascript(&self) -> String {
        let mut options = Vec::new();
        if self.method != "GET" {
            options.push(format!("  method: \"{}\",", self.method));
        }
        let mut headers = Vec::new();
        if self.with_key {
            headers.push("Authorization: `Bearer ${process.env.JAN_API_KEY}`".to_owned());
        }
        if let Some(body) = self.body {
            headers.push("\"Content-Type\": \"application/json\"".to_owned());
            options.push(format!("  body: JSON.stringify({body}),"));
        }
        if let Some(kind) = self.file {
            headers.push(format!("\"Content-Type\": \"{kind}\""));
            options.push(format!("  body: await fs.readFile(\"{FILE}\"),"));
        }
        if !self.json_answer {
            options.push("  redirect: \"manual\",".to_owned());
        }
        if !headers.is_empty() {
            options.push(format!("  headers: {{ {} }},", headers.join(", ")));
        }
        let options = match options.is_empty() {
            true => String::new(),
            false => format!(", {{\n{}\n}}", options.join("\n")),
        };
        let shown =
            if self.json_answer { "await answer.json()" } else { "answer.status, await answer.text()" };
        let import = if self.file.is_some() { "import fs from \"node:fs/promises\";\n\n" } else { "" };
        format!(
            "{import}const answer = await fetch(\"{HOST}{}\"{options});\nconsole.log({shown});",
            self.path
        )
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON values serialize")
}

/// Returns a JSON value in Python's notation.
fn python_literal(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        // JSON's numbers and strings are valid Python.
        Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", list(items.iter().map(python_literal).collect())),
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| format!("{}: {}", json!(name), python_literal(value));
            format!("{{{}}}", list(fields.iter().map(field).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_quoted_for_their_languages() {
        let body = json!({"text": "it's", "on": true, "off": null, "list": [1, 2.5]});
        let sample = Sample {
            method: "POST",
            path: "/x".to_owned(),
            with_key: true,
            body: Some(&body),
            file: None,
            json_answer: true,
        };
        assert!(sample.curl().contains(r#""text": "it'\''s""#), "{}", sample.curl());
        let literal = r#"{"text": "it's", "on": True, "off": None, "list": [1, 2.5]}"#;
        assert!(sample.python().contains(literal), "{}", sample.python());
        assert!(sample.javascript().contains(r#"JSON.stringify({"text":"it's","#), "{}", sample.javascript());
    }
}
