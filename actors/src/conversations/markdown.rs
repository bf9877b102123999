//! Export of a conversation as Markdown for people to read.

use std::fmt::Write;

use super::item::{kind, role, text_of};
use super::types::{ConversationRecord, Item};

/// Returns the title, then each message under a heading of its own. Messages are Markdown already and remain unchanged; arguments
/// and results of tools are fenced.
#[must_use]
pub fn export(record: &ConversationRecord, items: &[Item]) -> String {
    let title = record.title.as_deref().unwrap_or("Conversation").replace(char::is_control, " ");
    let mut page = format!("# {title}\n");
    for item in items {
        let body = &item.body;
        let text = text_of(body);
        let name = |field: &str| body.get(field).and_then(|value| value.as_str()).unwrap_or_default();
        let (heading, text) = match kind(body) {
            "message" => (speaker(role(body).unwrap_or_default()).to_owned(), text),
            "function_call" => (format!("Call of {}", name("name")), fenced(&text)),
            "function_call_output" => ("Result".to_owned(), fenced(&text)),
            "reasoning" => ("Reasoning".to_owned(), text),
            other => (other.to_owned(), String::new()),
        };
        let broke_off = if name("status") == "incomplete" { " (incomplete)" } else { "" };
        let _ = write!(page, "\n## {heading}{broke_off}\n");
        if !text.is_empty() {
            let _ = write!(page, "\n{}\n", text.trim_end_matches('\n'));
        }
    }
    page
}

fn speaker(role: &str) -> &'static str {
    match role {
        "user" => "User",
        "assistant" => "Assistant",
        "system" => "System",
        "developer" => "Developer",
        _ => "Message",
    }
}

/// Returns a fenced block that nothing in the text can end.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{text}\n{fence}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conversations::ConversationId;
    use crate::identity::UserId;

    #[test]
    fn page_is_rendered() {
        let record = ConversationRecord {
            id: ConversationId::new(),
            user: UserId::new(),
            title: Some("Tools".to_owned()),
            model: None,
            metadata: Default::default(),
            created_at: 0,
            updated_us: 0,
            items: 3,
            bytes: 0,
            next: 3,
            head: Some(2),
            share: None,
        };
        let items = [
            json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Run *it*"}]}),
            json!({"type": "function_call", "name": "run", "arguments": "a ``` b"}),
            json!({"type": "message", "role": "assistant", "status": "incomplete", "content": []}),
        ];
        let items = items.map(|body| Item {
            id: String::new(),
            parent: None,
            created_at: 0,
            body: body.as_object().unwrap().clone(),
        });
        assert_eq!(
            export(&record, &items),
            "# Tools\n\n## User\n\nRun *it*\n\n## Call of run\n\n````\na ``` b\n````\n\n## Assistant (incomplete)\n"
        );
    }
}
