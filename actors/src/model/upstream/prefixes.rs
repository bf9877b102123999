//! The beginnings of prompts that upstreams have seen, and so probably have in their prefix caches.
//!
//! Pure. A prompt is cut into blocks of 256 bytes, and each block's hash covers all before it, so the longest known beginning of a
//! prompt is a walk along its hashes: the approximate index of llm-d's router. The first hash is salted with the tenant and its
//! cache key, so that nobody's requests follow another's, and all with a secret of this process, so that nobody can make hashes
//! collide.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use jan_protocol::types::{GenerationRequest, Prompt};
use sha2::{Digest, Sha256};

/// Length of a block in bytes.
const BLOCK: usize = 256;
/// Maximum number of a prompt's blocks that are considered: its first MiB.
const MAX_BLOCKS: usize = 4096;
/// Maximum number of blocks that are remembered of an upstream, some 100 bytes each.
const MAX_KNOWN: usize = 65_536;
/// Bytes of a text that tell conversations apart.
const CONVERSATION: usize = 1024;

/// A request's beginning, as routing sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptKey {
    /// The hashes of its blocks.
    pub blocks: Vec<u64>,
    /// The conversation that it probably belongs to: the same number on every server.
    pub conversation: u64,
}

/// Hashes prompts.
#[derive(Debug, Default)]
pub struct PromptHasher(RandomState);

impl PromptHasher {
    /// Returns the key of a request.
    #[must_use]
    pub fn key(&self, request: &GenerationRequest) -> PromptKey {
        let mut blocks = Blocks { state: &self.0, last: 0, pending: Vec::new(), hashes: Vec::new() };
        let (tenant, cache_key) = (request.tenant.as_str(), request.cache_key.as_deref().unwrap_or_default());
        blocks.last = self.0.hash_one((tenant, cache_key));
        // The writer refuses nothing but what it has no use for any more.
        let _ = write_prompt(&request.prompt, &mut blocks);
        PromptKey { blocks: blocks.hashes, conversation: conversation(request) }
    }
}

/// Writes a prompt so that the beginning of a prompt is written as the beginning of its text.
fn write_prompt(prompt: &Prompt, to: &mut impl io::Write) -> io::Result<()> {
    match prompt {
        Prompt::Chat(chat) => {
            serde_json::to_writer(&mut *to, &chat.template_kwargs)?;
            serde_json::to_writer(&mut *to, &chat.tools)?;
            serde_json::to_writer(&mut *to, &chat.documents)?;
            for message in &chat.messages {
                serde_json::to_writer(&mut *to, message)?;
            }
            Ok(())
        }
        Prompt::Text(text) => to.write_all(text.as_bytes()),
        Prompt::Tokens(tokens) => tokens.iter().try_for_each(|token| to.write_all(&token.to_le_bytes())),
        Prompt::Infill { prefix, suffix } => {
            to.write_all(prefix.as_bytes())?;
            to.write_all(suffix.as_bytes())
        }
    }
}

/// Returns the number of the conversation of a request: of its cache key if it has one, otherwise of what stays at its beginning
/// while it goes on. Depends on the request alone.
fn conversation(request: &GenerationRequest) -> u64 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(request.tenant.as_bytes());
    match (&request.cache_key, &*request.prompt) {
        (Some(key), _) => part(key.as_bytes()),
        (None, Prompt::Chat(chat)) => {
            for message in &chat.messages {
                let text = message["content"].as_str().unwrap_or_default();
                part(&text.as_bytes()[..text.len().min(CONVERSATION)]);
                if message["role"] == "user" {
                    break;
                }
            }
        }
        (None, Prompt::Text(text) | Prompt::Infill { prefix: text, .. }) => {
            part(&text.as_bytes()[..text.len().min(CONVERSATION)]);
        }
        (None, Prompt::Tokens(tokens)) => {
            tokens.iter().take(CONVERSATION / 4).for_each(|token| part(&token.to_le_bytes()));
        }
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Hashes what is written to it, a block at a time.
struct Blocks<'a> {
    state: &'a RandomState,
    last: u64,
    pending: Vec<u8>,
    hashes: Vec<u64>,
}

impl io::Write for Blocks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.hashes.len() >= MAX_BLOCKS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let part = &bytes[..bytes.len().min(BLOCK - self.pending.len())];
        self.pending.extend_from_slice(part);
        if self.pending.len() == BLOCK {
            let mut hasher = self.state.build_hasher();
            hasher.write_u64(self.last);
            hasher.write(&self.pending);
            self.last = hasher.finish();
            self.hashes.push(self.last);
            self.pending.clear();
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The blocks that one upstream has seen, the least recently used forgotten first.
#[derive(Debug)]
pub struct KnownPrefixes {
    most: usize,
    /// The last use of each block.
    used: HashMap<u64, u64>,
    /// The blocks by their last use.
    order: BTreeMap<u64, u64>,
    clock: u64,
}

impl Default for KnownPrefixes {
    fn default() -> Self {
        Self::new(MAX_KNOWN)
    }
}

impl KnownPrefixes {
    /// Nothing is known; at most so many blocks will be.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, used: HashMap::new(), order: BTreeMap::new(), clock: 0 }
    }

    /// Returns the number of blocks at the beginning that are known.
    #[must_use]
    pub fn matched(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    /// Notes that the upstream reads these blocks.
    pub fn note(&mut self, blocks: &[u64]) {
        // A block is older than the one before it, so that an end is forgotten before its beginning.
        for block in blocks.iter().take(self.most).rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(*block, self.clock) {
                self.order.remove(&before);
            }
            self.order.insert(self.clock, *block);
        }
        while self.used.len() > self.most {
            let Some((_, block)) = self.order.pop_first() else { return };
            self.used.remove(&block);
        }
    }

    /// Forgets everything, as the upstream does when it is started anew.
    pub fn forget(&mut self) {
        self.used.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use jan_protocol::types::ChatPrompt;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::upstream::test_requests::{chat, text};

    fn turns(count: usize) -> ChatPrompt {
        let message = |n: usize| {
            let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
            json!({"role": role, "content": format!("message {n} ").repeat(60)})
        };
        ChatPrompt::from((0..count).map(message).collect::<Vec<_>>())
    }

    #[test]
    fn a_conversation_that_goes_on_begins_as_before() {
        let hasher = PromptHasher::default();
        let (first, second) = (hasher.key(&chat(turns(3))), hasher.key(&chat(turns(5))));
        assert!(first.blocks.len() > 6 && second.blocks.starts_with(&first.blocks));
        assert_eq!(first.conversation, second.conversation);
        let mut other = chat(turns(3));
        other.tenant = "bob".to_owned();
        let other = hasher.key(&other);
        assert_ne!((other.blocks[0], other.conversation), (first.blocks[0], first.conversation));
        let mut keyed = chat(turns(3));
        keyed.cache_key = Some("k".to_owned());
        assert_ne!(hasher.key(&keyed).blocks[0], first.blocks[0]);
    }

    #[test]
    fn conversations_have_one_number_on_all_servers_and_blocks_have_none() {
        let (one, other) = (PromptHasher::default(), PromptHasher::default());
        let request = text(&"word ".repeat(200));
        assert_eq!(one.key(&request).conversation, other.key(&request).conversation);
        assert_ne!(one.key(&request).blocks, other.key(&request).blocks);
        let long = text(&"x".repeat(BLOCK * MAX_BLOCKS + 9));
        assert_eq!(one.key(&long).blocks.len(), MAX_BLOCKS);
    }

    proptest! {
        /// The index is bounded, and a known prompt is known from its beginning on: no hole, whatever was forgotten.
        #[test]
        fn known_prefixes_have_no_holes(most in 1usize..40, prompts in prop::collection::vec((0u64..4, 0usize..20), 1..60)) {
            let mut known = KnownPrefixes::new(most);
            let chain = |kind: u64, length: usize| (0..length as u64).map(|n| kind << 32 | n).collect::<Vec<_>>();
            for (kind, length) in &prompts {
                known.note(&chain(*kind, *length));
                prop_assert!(known.used.len() <= most && known.used.len() == known.order.len());
                prop_assert!(known.matched(&chain(*kind, *length)) == (*length).min(most), "the last one is known");
            }
            for kind in 0..4 {
                let all = chain(kind, 20);
                let held = all.iter().filter(|block| known.used.contains_key(block)).count();
                prop_assert_eq!(known.matched(&all), held);
            }
        }

        /// Texts with a common beginning have common blocks as far as it goes, and none beyond.
        #[test]
        fn blocks_follow_the_text(common in 0usize..2000, a in "[a-m]{1,600}", b in "[n-z]{1,600}") {
            let hasher = PromptHasher::default();
            let begin = "=".repeat(common);
            let (a, b) = (hasher.key(&text(&format!("{begin}{a}"))), hasher.key(&text(&format!("{begin}{b}"))));
            let same = a.blocks.iter().zip(&b.blocks).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(same, common / BLOCK);
        }
    }
}
