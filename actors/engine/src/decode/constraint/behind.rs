//! Tokens that end a mark and go on behind it, where a constraint begins.

use std::collections::HashMap;

use llguidance::toktrie::TokenId;

use super::Guide;

impl Guide {
    /// Returns the tokens that begin with `text` and continue in a way that the constraint, which begins behind it, does not allow.
    /// With `trim`, whitespace at its beginning does not count.
    pub fn refused_behind(&self, text: &[u8], trim: bool) -> Vec<usize> {
        let Ok(vocabulary) = self.matcher.tok_env() else { return Vec::new() };
        let trie = vocabulary.tok_trie();
        let mut known: HashMap<&[u8], bool> = HashMap::new();
        let mut refused = Vec::new();
        for (index, token) in (0..trie.vocab_size()).zip(TokenId::MIN..) {
            let Some(rest) = trie.token(token).strip_prefix(text) else { continue };
            let rest = if trim { rest.trim_ascii_start() } else { rest };
            let is_refused = || self.clone().accept_bytes(rest).is_err();
            if !rest.is_empty() && *known.entry(rest).or_insert_with(is_refused) {
                refused.push(index);
            }
        }
        refused
    }
}
