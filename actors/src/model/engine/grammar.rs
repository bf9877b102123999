//! Constrained generation: keeps an answer inside a JSON schema, a regular expression or a grammar.
//!
//! llguidance (<https://github.com/guidance-ai/llguidance>) turns a constraint into an automaton over the model's
//! vocabulary. Before each choice a [`Guide`] takes every token off the table that would leave the constraint; where
//! only one continuation is left ("forced" tokens: an object's next key, punctuation) it names that, and nothing has to
//! be sampled.
//!
//! Constraints are compiled on the thread that prepares requests, never between decode steps, and within llguidance's
//! bounds on the size of a grammar and on the work of a mask, so that a hostile one is refused and stalls nobody.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::llama::Model;
use crate::model::types::{Constraint, Token};

/// Compiled constraints kept for the next request with the same one.
const KEPT: usize = 32;

/// Most lexer states of one constraint, at 1 to 2 kB each.
const LEXER_STATES: usize = 50_000;

/// How JSON is written where the schema leaves it open: on one line, as Python's `json.dumps` does by default. Free
/// whitespace would let a small model fill its answer with it, and would leave fewer tokens forced.
fn json_layout() -> Value {
    json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "})
}

/// A schema with that layout.
#[must_use]
pub fn with_layout(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        fields.insert("x-guidance".to_owned(), json_layout());
    }
    schema
}

/// Compiles constraints for one model.
pub struct Grammars {
    factory: ParserFactory,
    /// The most recently used last. A refusal is kept as well: it can have taken as long as any success, and the answers
    /// of one request ask for the same.
    compiled: Vec<(Constraint, Result<Matcher, String>)>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("compiled", &self.compiled.len()).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Reads the vocabulary, which takes some tens of milliseconds.
    ///
    /// # Errors
    /// The vocabulary cannot be used, or the model has no token that ends an answer.
    pub fn new(model: Arc<Model>) -> Result<Self, String> {
        Self::with_vocabulary(Arc::new(Vocabulary::new(model)?))
    }

    fn with_vocabulary(vocabulary: TokEnv) -> Result<Self, String> {
        let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&vocabulary, capabilities, &slices).map_err(|error| error.to_string())?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = LEXER_STATES;
        limits.verbose_errors = false;
        Ok(Self { factory, compiled: Vec::new() })
    }

    /// The guide for an answer under this constraint, at its beginning.
    ///
    /// # Errors
    /// What is wrong with the constraint, for its author.
    pub fn guide(&mut self, constraint: &Constraint) -> Result<Guide, String> {
        let known = self.compiled.iter().position(|(compiled, _)| compiled == constraint);
        let entry = match known {
            Some(index) => self.compiled.remove(index),
            None => (constraint.clone(), self.compile(constraint)),
        };
        let guide = match &entry.1 {
            Ok(matcher) => Ok(Guide { matcher: matcher.deep_clone() }),
            Err(refusal) => Err(refusal.clone()),
        };
        if self.compiled.len() == KEPT {
            drop(self.compiled.remove(0));
        }
        self.compiled.push(entry);
        guide
    }

    fn compile(&self, constraint: &Constraint) -> Result<Matcher, String> {
        let grammar = match constraint {
            Constraint::JsonSchema(schema) => {
                let schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
                TopLevelGrammar::from_json_schema(with_layout(&schema))
            }
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Constraint::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(readable(&error));
        }
        // Warnings name what is only approximated, such as a keyword that could not be enforced.
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(readable(&warning));
        }
        // What is too much work even for the first token is refused here rather than between decode steps.
        matcher.deep_clone().compute_mask_or_eos().map_err(|error| readable(&error.to_string()))?;
        Ok(matcher)
    }
}

/// What llguidance says, for people: on one line, without its own marks.
fn readable(error: &str) -> String {
    if error.contains("NoExtensionBias") {
        return "no answer of any length satisfies it: it contradicts itself or never comes to an end"
            .to_owned();
    }
    let error = error.replace("<non-verbose/>", "");
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Keeps one answer inside its constraint.
pub struct Guide {
    matcher: Matcher,
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("stopped", &self.matcher.is_stopped()).finish_non_exhaustive()
    }
}

impl Clone for Guide {
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone() }
    }
}

/// A guide lost its way: a bound on the work of one step was hit, or a token came that it had not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot be kept inside its schema or grammar: {0}")]
pub struct GuideError(String);

impl Guide {
    /// Writes `logits` with every token that would leave the constraint at -∞.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn restrict(&mut self, logits: &[f32], into: &mut Vec<f32>) -> Result<(), GuideError> {
        let mask =
            self.matcher.compute_mask_or_eos().map_err(|error| GuideError(readable(&error.to_string())))?;
        into.clear();
        into.extend_from_slice(logits);
        for (word, chunk) in into.chunks_mut(32).enumerate() {
            let bits = mask.as_slice().get(word).copied().unwrap_or(0);
            if bits != u32::MAX {
                for (bit, logit) in chunk.iter_mut().enumerate() {
                    if bits >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on by a token of the answer.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn accept(&mut self, token: Token) -> Result<(), GuideError> {
        let token = TokenId::try_from(token).map_err(|error| GuideError(error.to_string()))?;
        self.matcher.consume_token(token).map_err(|error| GuideError(readable(&error.to_string())))
    }

    /// Goes on by text that came with a token which began before the constraint did.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn accept_bytes(&mut self, bytes: &[u8]) -> Result<(), GuideError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let wrong = |error: &dyn fmt::Display| GuideError(error.to_string());
        let vocabulary = self.matcher.tok_env().map_err(|error| wrong(&error))?;
        let tokens = vocabulary.tok_trie().greedy_tokenize(bytes);
        self.matcher.consume_tokens(&tokens).map_err(|error| wrong(&error))
    }

    /// The tokens that have to come next, if there is no choice.
    pub fn forced(&mut self) -> Vec<Token> {
        let forced = self.matcher.compute_ff_tokens();
        // Ids come from a vocabulary whose size is an i32.
        forced.into_iter().map(|token| token as Token).collect()
    }

    /// Whether the answer is complete and nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

/// A model's vocabulary as llguidance sees it.
struct Vocabulary {
    model: Arc<Model>,
    trie: TokTrie,
    /// Whether the text of its tokens is the tokenized text. Tokenizers that put a space in front are not like that,
    /// and nothing is forced with them: the model would see tokens that it was not trained on.
    canonical: bool,
}

impl Vocabulary {
    fn new(model: Arc<Model>) -> Result<Self, String> {
        let tokens = 0..Token::try_from(model.vocabulary()).unwrap_or(0);
        let words: Vec<Vec<u8>> = tokens.clone().map(|token| word(&model, token)).collect();
        let ends = [model.eos()].into_iter().chain(tokens).find(|&t| t >= 0 && model.is_end_of_generation(t));
        let end = ends.and_then(|token| TokenId::try_from(token).ok());
        let end = end.ok_or("the model has no token that ends an answer")?;
        let trie = TokTrie::from(&TokRxInfo::new(model.vocabulary(), end), &words);
        let sample = "{\"a\": [1, \"b c\"]}";
        let text: Vec<u8> = model.tokenize_plain(sample).iter().flat_map(|&t| model.piece(t)).collect();
        let canonical = text == sample.as_bytes();
        Ok(Self { model, trie, canonical })
    }
}

/// A token's bytes; control tokens are marked, so that no text can be taken for one.
fn word(model: &Model, token: Token) -> Vec<u8> {
    let piece = model.piece(token);
    if !piece.is_empty() {
        return piece;
    }
    let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    marked.extend_from_slice(model.special_text(token).as_bytes());
    marked
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if !self.canonical {
            return self.trie.greedy_tokenize(bytes);
        }
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.model.tokenize_plain(text).into_iter().map(|token| token as TokenId).collect()
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

#[cfg(test)]
mod tests;
