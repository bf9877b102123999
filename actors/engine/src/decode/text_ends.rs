//! The end of a growing text: whether it has a mark, or the beginning of one.

/// The place of the first `wanted`.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Keeps the last `count` bytes.
pub fn keep_last(bytes: &mut Vec<u8>, count: usize) {
    bytes.drain(..bytes.len().saturating_sub(count));
}

/// Returns `true` if `text` ends in a beginning of `mark`.
pub fn ends_in_beginning(text: &[u8], mark: &str) -> bool {
    let longest = text.len().min(mark.len());
    (1..=longest).any(|length| mark.as_bytes().starts_with(&text[text.len() - length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_become_a_mark_is_found() {
        for (text, found) in
            [("", false), ("a", false), ("a<", true), ("a<tool", true), ("<tool_ ", false), ("<<", true)]
        {
            assert_eq!(ends_in_beginning(text.as_bytes(), "<tool_call>"), found, "{text}");
        }
    }
}
