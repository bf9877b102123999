//! From a prompt to tokens: rendering the chat template, tokenizing, checking that it fits.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::Sequence;
use super::grammar::{Grammars, Guide};
use super::llama::Model;
use super::template::{ChatInput, ChatTemplate, TemplateError};
use crate::model::types::{Constraint, Prompt, SamplingParams, Token};

/// A request as it reaches the worker.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Chosen by the server, unique in this worker.
    pub id: u64,
    /// Whom to be fair to.
    pub user: String,
    /// What to continue.
    pub prompt: Prompt,
    /// What was generated and delivered before a crash.
    pub generated: Vec<Token>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Most tokens to generate; `None`: to the end of the context.
    pub max_tokens: Option<u32>,
    /// Whether the prompt is wanted back as text.
    pub want_prompt_text: bool,
    /// Whether log-probabilities are wanted, and of how many of the likeliest tokens.
    pub logprobs: Option<u32>,
    /// What the answer has to be, where it is not free.
    pub constraint: Option<Constraint>,
}

/// A request that can run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the engine is given.
    pub sequence: Sequence,
    /// The prompt as text, where it was wanted.
    pub prompt_text: Option<String>,
}

/// Why a request cannot run.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// Prompt and answer do not fit.
    ContextLengthExceeded {
        /// Context in tokens.
        limit: u32,
        /// Prompt in tokens.
        prompt_tokens: u32,
        /// Asked for in the answer.
        requested: u32,
    },
    /// The template refuses the messages, the prompt is empty, a token is out of range.
    InvalidPrompt(String),
    /// A parameter does not fit this model.
    InvalidParameter {
        /// The field.
        param: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The answer's schema or grammar cannot be used.
    InvalidConstraint(String),
    /// A defect of the model file or ours.
    Internal(String),
}

/// What preparing needs to know of a model.
#[derive(Debug)]
pub struct Preparer {
    template: ChatTemplate,
    bos_text: String,
    context_length: u32,
    longest_piece: usize,
    /// Made with the first constraint.
    grammars: Mutex<Option<Grammars>>,
}

impl Preparer {
    /// `template`: Jinja source, or `None` for the GGUF's own (ChatML where it has none).
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn new(model: &Model, template: Option<&str>, context_length: u32) -> Result<Self, TemplateError> {
        let own = model.metadata("tokenizer.chat_template");
        let source = template.or(own.as_deref()).unwrap_or(super::template::CHATML);
        let bos_text = model.special_text(model.bos());
        let eos_text = model.special_text(model.eos());
        let template = ChatTemplate::new(source, &bos_text, &eos_text)?;
        let vocabulary = Token::try_from(model.vocabulary()).unwrap_or(0);
        let longest_piece = (0..vocabulary).map(|t| model.piece(t).len()).max().unwrap_or(1).max(1);
        Ok(Self { template, bos_text, context_length, longest_piece, grammars: Mutex::default() })
    }

    /// # Errors
    /// [`Rejection`], which says what is wrong.
    pub fn prepare(&self, model: &Arc<Model>, draft: Draft) -> Result<Prepared, Rejection> {
        let vocabulary = Token::try_from(model.vocabulary()).unwrap_or(0);
        if let Some(&(token, _)) =
            draft.sampling.logit_bias.iter().find(|(t, _)| !(0..vocabulary).contains(t))
        {
            return Err(Rejection::InvalidParameter {
                param: "logit_bias",
                message: format!("token {token} is not in this model's vocabulary of {vocabulary} tokens"),
            });
        }
        let (prompt, prompt_text) = self.tokens(model, draft.prompt, vocabulary, draft.want_prompt_text)?;
        if prompt.is_empty() {
            return Err(Rejection::InvalidPrompt("the prompt has no tokens; give at least one".to_owned()));
        }
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let requested = draft.max_tokens.unwrap_or(1);
        if prompt_tokens.saturating_add(requested) > self.context_length {
            let limit = self.context_length;
            return Err(Rejection::ContextLengthExceeded { limit, prompt_tokens, requested });
        }
        let room = self.context_length - prompt_tokens;
        let guide = match &draft.constraint {
            Some(constraint) => Some(self.guide(model, constraint, &draft.generated)?),
            None => None,
        };
        Ok(Prepared {
            sequence: Sequence {
                id: draft.id,
                user: draft.user,
                prompt,
                generated: draft.generated,
                sampling: draft.sampling,
                stop: draft.stop,
                max_tokens: draft.max_tokens.unwrap_or(room),
                logprobs: draft.logprobs,
                guide,
            },
            prompt_text,
        })
    }

    fn render(&self, mut messages: Vec<Value>) -> Result<String, Rejection> {
        let render = |messages: &[Value]| {
            self.template.render(&ChatInput {
                messages,
                tools: None,
                documents: None,
                add_generation_prompt: true,
                extra: None,
                now: jiff::Zoned::now(),
            })
        };
        let mut text = render(&messages);
        // A message that only calls tools has no content. Templates that know nothing of tools add it to a text, and
        // fail; to them it is one that says nothing.
        if text.is_err() && messages.iter().any(|message| message["content"].is_null()) {
            for message in messages.iter_mut().filter(|message| message["content"].is_null()) {
                message["content"] = Value::String(String::new());
            }
            text = render(&messages);
        }
        // The template itself parsed when the model was loaded: what fails now is in the messages.
        text.map_err(|error| {
            Rejection::InvalidPrompt(format!("the model's chat template refuses these messages: {error}"))
        })
    }

    /// The guide of an answer that has come as far as `generated`.
    fn guide(
        &self,
        model: &Arc<Model>,
        constraint: &Constraint,
        generated: &[Token],
    ) -> Result<Guide, Rejection> {
        let mut grammars = self.grammars.lock().unwrap_or_else(PoisonError::into_inner);
        let grammars = match &mut *grammars {
            Some(grammars) => grammars,
            none => none.insert(Grammars::new(Arc::clone(model)).map_err(Rejection::Internal)?),
        };
        let mut guide = grammars.guide(constraint).map_err(Rejection::InvalidConstraint)?;
        for &token in generated {
            guide.accept(token).map_err(|error| Rejection::Internal(error.to_string()))?;
        }
        Ok(guide)
    }

    fn tokens(
        &self,
        model: &Model,
        prompt: Prompt,
        vocabulary: Token,
        want_text: bool,
    ) -> Result<(Vec<Token>, Option<String>), Rejection> {
        match prompt {
            Prompt::Chat { messages } => {
                let text = self.render(messages)?;
                let has_bos = !self.bos_text.is_empty() && text.starts_with(&self.bos_text);
                let tokens = self.tokenize(model, &text, !has_bos)?;
                Ok((tokens, want_text.then_some(text)))
            }
            Prompt::Text(text) => {
                let mut tokens = self.tokenize(model, &text, true)?;
                if tokens.is_empty() {
                    // An empty prompt means "from the beginning", as OpenAI's default `<|endoftext|>` does.
                    let first = [model.bos(), model.eos()].into_iter().find(|t| (0..vocabulary).contains(t));
                    tokens.extend(first);
                }
                Ok((tokens, want_text.then_some(text)))
            }
            Prompt::Tokens(tokens) => {
                if let Some(token) = tokens.iter().find(|t| !(0..vocabulary).contains(t)) {
                    return Err(Rejection::InvalidPrompt(format!(
                        "token {token} is not in this model's vocabulary of {vocabulary} tokens"
                    )));
                }
                let text = want_text.then(|| {
                    let bytes: Vec<u8> = tokens.iter().flat_map(|&t| model.piece(t)).collect();
                    String::from_utf8_lossy(&bytes).into_owned()
                });
                Ok((tokens, text))
            }
        }
    }

    /// Tokenizes, but not texts so long that they cannot fit however they are cut: tokenizing megabytes
    /// would keep others waiting for nothing.
    fn tokenize(&self, model: &Model, text: &str, add_bos: bool) -> Result<Vec<Token>, Rejection> {
        let least = text.len() / self.longest_piece;
        if least > self.context_length as usize {
            return Err(Rejection::ContextLengthExceeded {
                limit: self.context_length,
                prompt_tokens: u32::try_from(least).unwrap_or(u32::MAX),
                requested: 1,
            });
        }
        Ok(model.tokenize(text, add_bos))
    }
}
