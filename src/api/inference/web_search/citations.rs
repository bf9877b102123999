//! Citations of sources in a text: `[1]` cites the first.

use jan_actors::web_search::WebSource;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Maximum number of digits of a source's number.
const MAX_DIGITS: usize = 3;
/// Maximum number of sources in one pair of brackets.
const MAX_TOGETHER: usize = 10;

/// A citation of a page in a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UrlCitation {
    /// Always `url_citation`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The start of the mark, in characters.
    pub start_index: usize,
    /// The end of the mark, exclusive.
    pub end_index: usize,
    /// The page.
    pub url: String,
    /// Its title.
    pub title: String,
}

/// The same as in chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChatCitation {
    /// Always `url_citation`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The position and the page.
    url_citation: CitedUrl,
}

/// A cited page and the position of the citation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CitedUrl {
    /// The start of the mark, in characters.
    start_index: usize,
    /// The end of the mark, exclusive.
    end_index: usize,
    /// The page.
    url: String,
    /// Its title.
    title: String,
}

impl From<UrlCitation> for ChatCitation {
    fn from(cited: UrlCitation) -> Self {
        let UrlCitation { start_index, end_index, url, title, .. } = cited;
        Self { kind: "url_citation", url_citation: CitedUrl { start_index, end_index, url, title } }
    }
}

/// Returns the citations in a text, in order. `[1, 2]` cites two sources in one place; numbers without a source, and
/// brackets with other content, are plain text.
pub fn citations(text: &str, sources: &[WebSource]) -> Vec<UrlCitation> {
    let mut found = Vec::new();
    if sources.is_empty() {
        return found;
    }
    // The text since the last opening bracket, as long as it can be a mark.
    let mut open: Option<(usize, String)> = None;
    for (index, c) in text.chars().enumerate() {
        match (c, &mut open) {
            ('[', _) => open = Some((index, String::new())),
            (']', Some((start, inside))) => {
                for source in
                    numbers(inside).into_iter().flatten().filter_map(|n| sources.get(n.checked_sub(1)?))
                {
                    found.push(UrlCitation {
                        kind: "url_citation".to_owned(),
                        start_index: *start,
                        end_index: index + 1,
                        url: source.url.clone(),
                        title: source.title.clone(),
                    });
                }
                open = None;
            }
            ('0'..='9' | ',' | ' ', Some((_, inside))) if inside.len() < MAX_TOGETHER * (MAX_DIGITS + 2) => {
                inside.push(c)
            }
            _ => open = None,
        }
    }
    found
}

fn numbers(inside: &str) -> Option<Vec<usize>> {
    let number = |part: &str| {
        let part = part.trim();
        let fits = (1..=MAX_DIGITS).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if fits { part.parse().ok() } else { None }
    };
    inside.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sources(count: usize) -> Vec<WebSource> {
        let source = |n| WebSource { url: format!("https://s.example/{n}"), title: format!("S{n}") };
        (1..=count).map(source).collect()
    }

    fn cited(text: &str, count: usize) -> Vec<(usize, usize, String)> {
        let found = citations(text, &sources(count));
        found.into_iter().map(|one| (one.start_index, one.end_index, one.title)).collect()
    }

    #[test]
    fn marks_are_found_and_nothing_else() {
        assert_eq!(cited("Ja [1].", 2), [(3, 6, "S1".to_owned())]);
        assert_eq!(cited("é[2][1]", 2), [(1, 4, "S2".to_owned()), (4, 7, "S1".to_owned())]);
        assert_eq!(cited("x [1, 2]", 2), [(2, 8, "S1".to_owned()), (2, 8, "S2".to_owned())]);
        assert_eq!(cited("[[1]", 1), [(1, 4, "S1".to_owned())]);
        for none in
            ["[3]", "[0]", "[]", "[ ]", "[1", "1]", "[a1]", "[1a]", "[-1]", "[1,]", "[0001]", "[99999999999]"]
        {
            assert_eq!(cited(none, 2), [], "{none}");
        }
        assert_eq!(citations("[1]", &[]), []);
    }

    proptest! {
        #[test]
        fn every_citation_is_a_mark_in_the_text(text in "(\\[|\\]|[0-9]|,| |ü|\\PC){0,60}", count in 0usize..12) {
            let chars: Vec<char> = text.chars().collect();
            let mut last = 0;
            for one in citations(&text, &sources(count)) {
                let mark: String = chars[one.start_index..one.end_index].iter().collect();
                prop_assert!(mark.starts_with('[') && mark.ends_with(']'));
                let number: usize = one.title[1..].parse().unwrap();
                prop_assert!((1..=count).contains(&number));
                let inside = mark[1..mark.len() - 1].split(',').map(|part| part.trim().parse::<usize>().unwrap());
                prop_assert!(inside.into_iter().any(|n| n == number));
                prop_assert!(one.start_index >= last);
                last = one.start_index;
            }
        }
    }
}
