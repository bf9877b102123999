//! Requests as the worker takes them in, and their processing before they run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use jan_protocol::output_formats::Layout;
use jan_protocol::report::Rejection;
use jan_protocol::types::{GenerationRequest, Prompt, Token};

use crate::types::Sequence;

/// A prompt that several requests have. It is read once.
#[derive(Debug)]
pub struct SharedPrompt {
    /// The server's id of it.
    pub id: u64,
    /// The prompt.
    pub prompt: Arc<Prompt>,
    pub(super) read: OnceLock<Result<ReadPrompt, Rejection>>,
    /// `true` if the server was sent how it was read.
    told: AtomicBool,
}

impl SharedPrompt {
    /// One that was not read yet.
    pub const fn new(id: u64, prompt: Arc<Prompt>) -> Self {
        Self { id, prompt, read: OnceLock::new(), told: AtomicBool::new(false) }
    }

    /// Returns `true` if the server was sent how it was read.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Marks that the reading is on its way to the server: messages sent from now on follow it. Not before, since several threads
    /// prepare.
    pub fn set_told(&self) {
        self.told.store(true, Ordering::Release);
    }
}

/// A prompt as it was read.
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
    /// Id chosen by the server, unique in this worker.
    pub id: u64,
    /// The request.
    pub request: GenerationRequest,
    /// Its prompt, which is read once for all requests that share it.
    pub prompt: Arc<SharedPrompt>,
    /// Tokens generated and delivered before a crash.
    pub generated: Vec<Token>,
    /// Formats of the answer, where they were determined before a crash.
    pub layout: Option<Layout>,
    /// `true` if the length of its prompt is wanted and no answer.
    pub count_only: bool,
}

/// A request that can run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The sequence for the engine.
    pub sequence: Sequence,
    /// Its prompt.
    pub prompt: Arc<SharedPrompt>,
    /// The reading for the server, which gets it once.
    pub told: Option<ReadPrompt>,
    /// The way in which the answer is to be read.
    pub layout: Layout,
}

/// A chat as its template wrote it.
pub(super) struct Rendered {
    pub(super) text: String,
    /// The mark at which it has to be cut, lest a caller's text is read as a control token.
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
