//! Texts of a wanted length that no cache has seen.

use std::time::{SystemTime, UNIX_EPOCH};

/// Short words that most vocabularies hold as one token each.
const WORDS: [&str; 24] = [
    "the", "house", "stands", "by", "a", "river", "and", "people", "come", "from", "far", "to", "see", "how",
    "old", "it", "is", "while", "birds", "sing", "in", "trees", "all", "day",
];

/// About `words` words that begin with a number of this run and `number`, so that no two prompts share more
/// than their template.
pub fn unlike(number: usize, words: usize) -> String {
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let mut text = format!("{} {number}:", run % 1_000_000_007);
    // A step that is prime to the table's length makes each prompt go through the words in its own order.
    let step = [1, 5, 7, 11, 13, 17, 19, 23][number % 8];
    for i in 0..words {
        text.push(' ');
        text.push_str(WORDS[(number + i * step) % WORDS.len()]);
    }
    text
}
