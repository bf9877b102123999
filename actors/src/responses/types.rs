//! What a response is to the actors: what was asked, what was said so far, and how it ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::run::Reader;
use crate::identity::ids::id;
use crate::identity::{InvalidId, UserId};
use crate::model::{TokenLogprob, TokenUsage};
use crate::web_search::WebSource;

id!(
    /// A response's id, `resp_…`.
    ResponseId,
    "resp_"
);

/// A response as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseRecord {
    /// Its id.
    pub id: ResponseId,
    /// Whose it is.
    pub user: UserId,
    /// When it was made (epoch seconds).
    pub created_at: u64,
    /// Whether it runs without its client.
    pub background: bool,
    /// The response as the edge showed it when it was made.
    pub shown: Value,
    /// The items of earlier turns, oldest first.
    pub history: Vec<Value>,
    /// The items of this turn.
    pub input: Vec<Value>,
    /// What the model said, in the pieces that it came in.
    pub deltas: Vec<Delta>,
    /// How it ended; `None` while it runs.
    pub end: Option<End>,
}

impl ResponseRecord {
    /// A response that is about to run.
    #[must_use]
    pub fn new(user: UserId, created_at: u64, shown: Value) -> Self {
        Self {
            id: ResponseId::new(),
            user,
            created_at,
            background: false,
            shown,
            history: Vec::new(),
            input: Vec::new(),
            deltas: Vec::new(),
            end: None,
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { started: self.end.is_some(), deltas: self.deltas.clone(), end: self.end.clone() }
    }
}

/// More of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// What it is.
    #[serde(rename = "k", default, skip_serializing_if = "DeltaKind::is_text")]
    pub kind: DeltaKind,
    /// The new text; of a call, the tool's name.
    #[serde(rename = "t")]
    pub text: String,
    /// Its tokens' log-probabilities, where they are wanted.
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

/// What a piece of an answer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaKind {
    /// Text for the reader.
    #[default]
    Text,
    /// Thinking.
    Reasoning,
    /// A call of a tool begins.
    Call {
        /// What its result is to name.
        call_id: String,
    },
    /// More of the last call's arguments.
    Arguments,
    /// The server begins to search the web; the text is what for.
    Search,
    /// That search has ended.
    Searched {
        /// What the model is shown of it; `None` where the search failed.
        #[serde(default)]
        sources: Option<Vec<WebSource>>,
    },
}

impl DeltaKind {
    /// Whether it is text for the reader.
    #[must_use]
    pub fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// How a response ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub status: EndStatus,
    /// When (epoch seconds).
    pub at: u64,
    /// What went wrong, where something did.
    pub problem: Option<Problem>,
    /// What it took, where that is known.
    pub usage: Option<TokenUsage>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndStatus {
    /// The model ended it.
    Completed,
    /// It is as long as it may be.
    Incomplete,
    /// It could not be made, or not to its end.
    Failed,
    /// Its caller ended it, or left.
    Cancelled,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

const SERVER_STOPPED: &str = "server_stopped";

impl End {
    /// It was running when the server ended.
    #[must_use]
    pub fn lost(at: u64) -> Self {
        let message = "The server stopped while the response was being generated. Create it again.";
        Self::failed(at, SERVER_STOPPED, message)
    }

    /// Whether it was running when the server ended: what was said of it is not kept then.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.code == SERVER_STOPPED)
    }

    /// It failed.
    #[must_use]
    pub fn failed(at: u64, code: &str, message: &str) -> Self {
        let problem = Problem { code: code.to_owned(), message: message.to_owned() };
        Self { status: EndStatus::Failed, at, problem: Some(problem), usage: None }
    }

    /// It was cancelled.
    #[must_use]
    pub const fn cancelled(at: u64) -> Self {
        Self { status: EndStatus::Cancelled, at, problem: None, usage: None }
    }
}

/// How far a response is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Whether the model has begun.
    pub started: bool,
    /// What it said so far.
    pub deltas: Vec<Delta>,
    /// How it ended.
    pub end: Option<End>,
}

/// A stored response, and the way to follow it while it runs.
#[derive(Debug)]
pub struct Found {
    /// As it is stored.
    pub record: ResponseRecord,
    /// Follows it; `None` once it has ended.
    pub reader: Option<Reader>,
}
