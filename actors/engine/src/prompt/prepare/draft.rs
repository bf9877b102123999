//! Requests as the worker takes them in, and what becomes of them before they run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use jan_protocol::output_formats::Layout;
use jan_protocol::report::Rejection;
use jan_protocol::types::{Constraint, Prompt, SamplingParams, Token, ToolPlan};

use crate::types::Sequence;

/// A prompt that several requests have. It is read once.
#[derive(Debug)]
pub struct SharedPrompt {
    /// What the server knows it by.
    pub id: u64,
    pub(super) prompt: Prompt,
    pub(super) read: OnceLock<Result<ReadPrompt, Rejection>>,
    /// Whether the server was told how it was read.
    told: AtomicBool,
}

impl SharedPrompt {
    /// One that was not read yet.
    pub const fn new(id: u64, prompt: Prompt) -> Self {
        Self { id, prompt, read: OnceLock::new(), told: AtomicBool::new(false) }
    }

    /// Whether the server was told how it was read.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// How it was read is on its way to the server: what is sent from now on comes behind it. Not before, since several
    /// threads prepare.
    pub fn set_told(&self) {
        self.told.store(true, Ordering::Release);
    }
}

/// What a prompt was read as.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPrompt {
    /// Its tokens.
    pub tokens: Arc<[Token]>,
    /// Its text, of a chat and where it is wanted.
    pub text: Option<Arc<str>>,
}

/// A request as it reaches the worker.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Chosen by the server, unique in this worker.
    pub id: u64,
    /// Whom to be fair to.
    pub user: String,
    /// Who may share what is computed for it.
    pub tenant: String,
    /// What keeps a tenant's requests apart; may be empty.
    pub cache_key: String,
    /// What to continue.
    pub prompt: Arc<SharedPrompt>,
    /// What was generated and delivered before a crash.
    pub generated: Vec<Token>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer.
    pub stop: Arc<[String]>,
    /// Most tokens to generate; `None`: to the end of the context.
    pub max_tokens: Option<u32>,
    /// Whether the prompt is wanted back as text.
    pub want_prompt_text: bool,
    /// Whether log-probabilities are wanted, and of how many of the likeliest tokens.
    pub logprobs: Option<u32>,
    /// Whether those of the prompt's tokens are wanted, too.
    pub score_prompt: bool,
    /// What the answer has to be, where it is not free.
    pub constraint: Option<Arc<Constraint>>,
    /// The tools that it may call.
    pub tools: Option<Arc<ToolPlan>>,
    /// Most tokens of thinking.
    pub thinking_budget: Option<u32>,
    /// How the answer is read, where that was found out before a crash.
    pub layout: Option<Layout>,
}

/// A request that can run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the engine is given.
    pub sequence: Sequence,
    /// Its prompt.
    pub prompt: Arc<SharedPrompt>,
    /// How that was read, for the server, which is told once.
    pub told: Option<ReadPrompt>,
    /// How the answer is to be read.
    pub layout: Layout,
}

/// A chat as its template wrote it.
pub(super) struct Rendered {
    pub(super) text: String,
    /// Where it has to be cut, lest what a caller wrote is read as a control token.
    pub(super) mark: Option<char>,
}

impl Rendered {
    /// The text that the model is to read.
    pub(super) fn into_text(self) -> String {
        match self.mark {
            Some(mark) => self.text.replace(mark, ""),
            None => self.text,
        }
    }
}
