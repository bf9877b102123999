//! Constrained generation: keeps an answer inside a JSON schema, a regular expression or a grammar.
//!
//! llguidance (<https://github.com/guidance-ai/llguidance>) turns a constraint into an automaton over the model's
//! vocabulary. Before each choice a [`Guide`] takes every token off the table that would leave the constraint; where
//! only one continuation is left ("forced" tokens: an object's next key, punctuation) it names that, and nothing has to
//! be sampled.
//!
//! Constraints are compiled on a thread of their own, never between decode steps, and within [`limits`] on the size of a
//! grammar and on the work of a mask. Those bounds do not hold inside each of llguidance's operations, so a helper process
//! compiles an untrusted constraint first ([`vetting`](crate::vetting)).

mod behind;
mod convert;
mod digits;
pub mod gbnf;
pub mod held;
mod messages;
mod notation;
mod product;
pub mod source;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jan_protocol::output_formats::is_calls_of_json;
use jan_protocol::types::{Constraint, Token};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use self::digits::{NumberTokens, Scanner};
use self::held::Held;
use self::messages::{during_answer, is_limit, refusal};
use self::source::Source;
use crate::llama::Model;
use crate::vetting::{Refusal, Vetter, VettingSettings};

/// Compiled constraints kept for the next request with the same one.
const KEPT: usize = 32;

/// Memory of them all, as far as it was measured.
const MAX_KEPT_KIB: u64 = 64 << 10;

/// The bounds on one constraint, all of them: an update of llguidance must not move any of them unseen. They depend on the
/// constraint and the vocabulary alone, not on the machine or on time, so that a worker comes to the same end as its
/// helper and as every other worker.
fn limits() -> ParserLimits {
    ParserLimits {
        // The maximum ambiguity of a grammar at one place.
        max_items_in_row: 2_000,
        // Work on the regular expressions when it is compiled; FHIR's schema, a very large one, takes half of it.
        initial_lexer_fuel: 1_000_000,
        // The same for one mask: some 15 ms.
        step_lexer_fuel: 200_000,
        // Work on the rules for one mask: some 3 ms.
        step_max_items: 50_000,
        // At 1 to 2 kB each.
        max_lexer_states: 50_000,
        // Symbols; FHIR's schema has 200,000.
        max_grammar_size: 500_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// The format of JSON where the schema leaves it open: on one line, as Python's `json.dumps` does by default. Free whitespace
/// would let a small model fill its answer with it, and would leave fewer tokens forced.
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
    numbers: Arc<NumberTokens>,
    vetter: Option<Mutex<Vetter>>,
    /// The most recently used last. A refusal is kept as well: it can have taken as long as any success, and the answers
    /// of one request ask for the same.
    compiled: Mutex<Vec<Compiled>>,
    /// KiB of `compiled`, which may be locked for long.
    kept_kib: AtomicU64,
    /// KiB of the constraints of running answers.
    in_use: Arc<AtomicU64>,
    vocabulary_bytes: u64,
}

/// A constraint and its outcome.
struct Compiled {
    constraint: Constraint,
    result: Result<Matcher, Refusal>,
    kib: u64,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("compiled", &self.kept().len()).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Reads the vocabulary, which takes some tens of milliseconds.
    ///
    /// # Errors
    /// The vocabulary cannot be used, or the model has no token that ends an answer.
    pub fn new(model: Arc<Model>, vetting: Option<VettingSettings>) -> Result<Self, String> {
        let vocabulary: TokEnv = Arc::new(Vocabulary::new(model)?);
        let vetter = vetting.map(|settings| Mutex::new(Vetter::new(settings, Arc::clone(&vocabulary))));
        Ok(Self { vetter, ..Self::with_vocabulary(vocabulary)? })
    }

    /// Creates a compiler without a helper.
    ///
    /// # Errors
    /// The vocabulary cannot be used.
    pub fn with_vocabulary(vocabulary: TokEnv) -> Result<Self, String> {
        // Nothing is forced where the text of tokens is not the tokenized text; llguidance refuses all constraints otherwise.
        let ff_tokens = vocabulary.tokenize_is_canonical();
        let capabilities = InferenceCapabilities { ff_tokens, ..InferenceCapabilities::default() };
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&vocabulary, capabilities, &slices).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let numbers = Arc::new(NumberTokens::of(vocabulary.tok_trie()));
        let vocabulary_bytes = held::of_vocabulary(vocabulary.tok_trie());
        let (compiled, kept_kib, in_use) = Default::default();
        Ok(Self { factory, numbers, vetter: None, compiled, kept_kib, in_use, vocabulary_bytes })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Compiled>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if the outcome of a constraint is stored; then it stays so for a while.
    pub fn knows(&self, constraint: &Constraint) -> bool {
        let mut kept = self.kept();
        let Some(index) = kept.iter().position(|compiled| compiled.constraint == *constraint) else {
            return false;
        };
        kept[index..].rotate_left(1);
        true
    }

    /// The guide for an answer under this constraint, at its beginning.
    ///
    /// # Errors
    /// The defect of the constraint, for its author.
    pub fn guide(&self, constraint: &Constraint) -> Result<Guide, Refusal> {
        if !self.knows(constraint) {
            let vetted = Source::of(constraint).and_then(|source| {
                product::check(&source).map_err(Refusal::TooExpensive)?;
                let kib = self.vet(&source)?;
                Ok((source, kib))
            });
            let (result, kib) = match vetted {
                Ok((source, kib)) => (self.compile(&source), kib),
                Err(refusal) => (Err(refusal), 0),
            };
            if let Err(refusal) = &result
                && !refusal.is_final()
            {
                return Err(refusal.clone());
            }
            self.keep(Compiled { constraint: constraint.clone(), result, kib });
        }
        // The last one is the one that was asked for, unless another thread was faster.
        let kept = self.kept();
        let compiled = kept.iter().rfind(|compiled| compiled.constraint == *constraint);
        let kib = compiled.map_or(0, |compiled| compiled.kib);
        match compiled.map(|compiled| &compiled.result) {
            Some(Ok(matcher)) => {
                let digits = is_json(constraint).then(|| (Scanner::default(), Arc::clone(&self.numbers)));
                Ok(Guide { matcher: matcher.deep_clone(), digits, held: Held::new(&self.in_use, kib) })
            }
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::Unavailable("too many constraints are compiled at once".to_owned())),
        }
    }

    fn keep(&self, new: Compiled) {
        let mut kept = self.kept();
        let mut room = MAX_KEPT_KIB.saturating_sub(new.kib);
        let mut places = KEPT - 1;
        // The oldest go: the longest end that has room is left.
        let fits = kept.iter().rev().take_while(|compiled| {
            let fits = places > 0 && compiled.kib <= room;
            (room, places) = (room.saturating_sub(compiled.kib), places.saturating_sub(1));
            fits
        });
        let gone = kept.len() - fits.count();
        kept.drain(..gone);
        kept.push(new);
        self.kept_kib.store(kept.iter().map(|compiled| compiled.kib).sum(), Ordering::Relaxed);
    }

    /// Compiles a constraint in the helper first, if there is one. Returns the amount of memory that took.
    fn vet(&self, source: &Source) -> Result<u64, Refusal> {
        match &self.vetter {
            Some(vetter) if !is_trusted(source) => {
                vetter.lock().unwrap_or_else(PoisonError::into_inner).vet(source).map(u64::from)
            }
            _ => Ok(0),
        }
    }

    /// Compiles a constraint here and now.
    ///
    /// # Errors
    /// The defect of the constraint.
    pub fn compile(&self, source: &Source) -> Result<Matcher, Refusal> {
        // A defect of a library must not end the thread: the constraint is refused, since it could not be compiled.
        catch_unwind(AssertUnwindSafe(|| self.compile_now(source)))
            .unwrap_or_else(|_| Err("it cannot be compiled".to_owned()))
            .map_err(|error| {
                let message = refusal(source, &error);
                match is_limit(&error) {
                    true => Refusal::TooExpensive(message),
                    false => Refusal::Invalid(message),
                }
            })
    }

    fn compile_now(&self, source: &Source) -> Result<Matcher, String> {
        let grammar = match source {
            Source::JsonSchema(schema) => {
                let schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
                TopLevelGrammar::from_json_schema(with_layout(&schema))
            }
            Source::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Source::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(error);
        }
        // Warnings name features that are only approximated, such as a keyword that could not be enforced.
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(warning);
        }
        // A constraint that is too much work even for the first token is refused here rather than between decode steps.
        matcher.deep_clone().compute_mask_or_eos().map_err(|error| error.to_string())?;
        Ok(matcher)
    }
}

/// Returns `true` if a constraint is one of the server's own: any JSON object.
fn is_trusted(source: &Source) -> bool {
    matches!(source, Source::JsonSchema(schema) if schema == r#"{"type":"object"}"#)
}

/// Returns `true` if whatever a constraint allows outside of quotes is JSON or a mark of a call.
fn is_json(constraint: &Constraint) -> bool {
    match constraint {
        Constraint::JsonSchema(_) => true,
        Constraint::Lark(rules) => is_calls_of_json(rules),
        Constraint::Regex(_) | Constraint::Choice(_) | Constraint::Gbnf(_) => false,
    }
}

/// Keeps one answer inside its constraint.
pub struct Guide {
    matcher: Matcher,
    /// The numbers of an answer in JSON, and the tokens that continue them.
    digits: Option<(Scanner, Arc<NumberTokens>)>,
    held: Held,
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("stopped", &self.matcher.is_stopped()).finish_non_exhaustive()
    }
}

impl Clone for Guide {
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), digits: self.digits.clone(), held: self.held.clone() }
    }
}

/// A guide lost its way: a bound on the work of one step was hit, or a token came that it had not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot be kept inside its schema or grammar: {0}")]
pub struct GuideError(String);

impl GuideError {
    /// A refusal with this message.
    pub(super) const fn new(message: String) -> Self {
        Self(message)
    }
}

impl Guide {
    /// Writes `logits` with every token that would leave the constraint at -∞.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn restrict(&mut self, logits: &[f32], into: &mut Vec<f32>) -> Result<(), GuideError> {
        let mask = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| GuideError(during_answer(&error.to_string())))?;
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
        if let Some((scanner, numbers)) = &self.digits {
            let is_allowed = |token: TokenId| mask.is_allowed(token);
            for token in numbers.refused(*scanner, is_allowed, mask.num_set()) {
                if let Some(logit) = into.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    /// Advances by a token of the answer.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn accept(&mut self, token: Token) -> Result<(), GuideError> {
        let token = TokenId::try_from(token).map_err(|error| GuideError(error.to_string()))?;
        self.matcher.consume_token(token).map_err(|error| GuideError(during_answer(&error.to_string())))?;
        if let Some((scanner, _)) = &mut self.digits
            && let Ok(vocabulary) = self.matcher.tok_env()
        {
            vocabulary.tok_trie().token(token).iter().for_each(|byte| scanner.push(*byte));
        }
        Ok(())
    }

    /// Advances by text that came with a token which began before the constraint did.
    ///
    /// # Errors
    /// See [`GuideError`].
    pub fn accept_bytes(&mut self, bytes: &[u8]) -> Result<(), GuideError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let wrong = |error: &dyn fmt::Display| GuideError(during_answer(&error.to_string()));
        let vocabulary = self.matcher.tok_env().map_err(|error| wrong(&error))?;
        let tokens = vocabulary.tok_trie().greedy_tokenize(bytes);
        self.matcher.consume_tokens(&tokens).map_err(|error| wrong(&error))?;
        if let Some((scanner, _)) = &mut self.digits {
            bytes.iter().for_each(|byte| scanner.push(*byte));
        }
        Ok(())
    }

    /// The tokens that have to come next, if there is no choice.
    pub fn forced(&mut self) -> Vec<Token> {
        let forced = self.matcher.compute_ff_tokens();
        // Ids come from a vocabulary whose size is an i32.
        forced.into_iter().map(|token| token as Token).collect()
    }

    /// Returns `true` if the answer is complete and nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

/// A model's vocabulary as llguidance sees it.
struct Vocabulary {
    model: Arc<Model>,
    trie: TokTrie,
    /// `true` if the text of the tokenizer's tokens is the tokenized text. Tokenizers that put a space in front are not like
    /// that, and nothing is forced with them: the model would see tokens that it was not trained on.
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
mod number_tests;
#[cfg(test)]
mod tests;
