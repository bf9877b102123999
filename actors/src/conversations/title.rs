//! Titles derived from the first message.

use unicode_segmentation::UnicodeSegmentation;

/// Maximum length of a derived title, in characters.
const LENGTH: usize = 60;

/// Returns a title derived from a text: its words on one line, cut at a grapheme boundary; `None` if it has no words.
#[must_use]
pub fn from_text(text: &str, max_chars: usize) -> Option<String> {
    let most = LENGTH.min(max_chars);
    let mut title = String::new();
    let mut chars = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let gap = usize::from(chars > 0);
        for (number, grapheme) in word.graphemes(true).enumerate() {
            let gap = if number == 0 { gap } else { 0 };
            let more = grapheme.chars().count() + gap;
            if chars + more > most {
                return finish(title, true, max_chars);
            }
            title.push_str(&" "[..gap]);
            title.push_str(grapheme);
            chars += more;
        }
    }
    finish(title, false, max_chars)
}

fn finish(mut title: String, cut: bool, max_chars: usize) -> Option<String> {
    if title.is_empty() {
        return None;
    }
    if cut && title.chars().count() < max_chars {
        title.push('…');
    }
    Some(title)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn titles() {
        let title = |text: &str| from_text(text, 200);
        assert_eq!(title("Hello there"), Some("Hello there".to_owned()));
        assert_eq!(title("  two\n\n lines\t"), Some("two lines".to_owned()));
        assert_eq!(title(" \n "), None);
        assert_eq!(title(&"a".repeat(60)), Some("a".repeat(60)));
        assert_eq!(title(&"a".repeat(61)), Some(format!("{}…", "a".repeat(60))));
        // A family of seven code points is one grapheme: whole or not at all.
        let family = "👨‍👩‍👧‍👦";
        assert_eq!(title(&family.repeat(20)), Some(format!("{}…", family.repeat(8))));
        assert_eq!(from_text("abcdef", 3), Some("abc".to_owned()));
    }

    proptest! {
        #[test]
        fn titles_are_cut_at_graphemes_within_the_limit(text in "\\PC{0,200}", max in 1..300usize) {
            let Some(title) = from_text(&text, max) else { return Ok(()) };
            prop_assert!(title.chars().count() <= max && title.chars().count() <= LENGTH + 1);
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let kept = title.strip_suffix('…').unwrap_or(&title);
            if let Some(rest) = words.strip_prefix(kept) {
                // A cut lies at a grapheme boundary.
                let ends: Vec<usize> = words.grapheme_indices(true).map(|(at, g)| at + g.len()).collect();
                prop_assert!(rest.is_empty() || ends.contains(&kept.len()));
            } else {
                // A text that ended with the ellipsis itself.
                prop_assert!(words.starts_with(&title));
            }
        }
    }
}
