//! The pieces that parsers take an answer apart into.

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the reader.
    Content(String),
    /// Thinking.
    Reasoning(String),
    /// A call of this tool begins; its arguments follow.
    Call(String),
    /// More of the last call's arguments.
    Arguments(String),
}

impl Part {
    pub(super) fn content(text: String, parts: &mut Vec<Self>) {
        if text.is_empty() {
            return;
        }
        match parts.last_mut() {
            Some(Self::Content(last)) => last.push_str(&text),
            _ => parts.push(Self::Content(text)),
        }
    }

    pub(super) fn reasoning(text: String, parts: &mut Vec<Self>) {
        if text.is_empty() {
            return;
        }
        match parts.last_mut() {
            Some(Self::Reasoning(last)) => last.push_str(&text),
            _ => parts.push(Self::Reasoning(text)),
        }
    }

    pub(super) fn arguments(text: &str, parts: &mut Vec<Self>) {
        if text.is_empty() {
            return;
        }
        match parts.last_mut() {
            Some(Self::Arguments(last)) => last.push_str(text),
            _ => parts.push(Self::Arguments(text.to_owned())),
        }
    }

    pub(super) fn calls(calls: Vec<(String, String)>, parts: &mut Vec<Self>) {
        for (name, arguments) in calls {
            parts.push(Self::Call(name));
            parts.push(Self::Arguments(arguments));
        }
    }
}

/// Returns the number of bytes at the end of `text` that could be the beginning of one of the `markers`.
pub(super) fn held_prefix(text: &str, markers: &[&str]) -> usize {
    let longest = |marker: &&str| {
        let most = marker.len().saturating_sub(1).min(text.len());
        (1..=most).rev().find(|&n| marker.as_bytes().starts_with(&text.as_bytes()[text.len() - n..]))
    };
    markers.iter().filter_map(longest).max().unwrap_or(0)
}
