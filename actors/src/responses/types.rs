//! Responses as the actors see them: the request, the answer so far, and the end.

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
    /// The response's id.
    pub id: ResponseId,
    /// The user that owns the response.
    pub user: UserId,
    /// Time of creation (epoch seconds).
    pub created_at: u64,
    /// True if it runs independently of its client.
    pub background: bool,
    /// The response as the edge showed it at its creation.
    pub shown: Value,
    /// The items of earlier turns, oldest first.
    pub history: Vec<Value>,
    /// The items of this turn.
    pub input: Vec<Value>,
    /// The model's answer, in the pieces that it arrived in.
    pub deltas: Vec<Delta>,
    /// The end; `None` while it runs.
    pub end: Option<End>,
}

impl ResponseRecord {
    /// Returns a response that is about to run.
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

    /// Returns the progress as far as it is stored: without an end, another server runs it.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { started: true, deltas: self.deltas.clone(), end: self.end.clone() }
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The kind of the piece.
    #[serde(rename = "k", default, skip_serializing_if = "DeltaKind::is_text")]
    pub kind: DeltaKind,
    /// The new text; for a call, the tool's name.
    #[serde(rename = "t")]
    pub text: String,
    /// Log-probabilities of its tokens, if they were requested.
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

/// The kind of a piece of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaKind {
    /// Text for the reader.
    #[default]
    Text,
    /// Reasoning.
    Reasoning,
    /// The beginning of a tool call.
    Call {
        /// The id that its result has to name.
        call_id: String,
    },
    /// More arguments of the last call.
    Arguments,
    /// The beginning of a web search by the server; the text is the query.
    Search,
    /// The end of that search.
    Searched {
        /// The results that the model is shown; `None` if the search failed.
        #[serde(default)]
        sources: Option<Vec<WebSource>>,
    },
}

impl DeltaKind {
    /// Returns whether it is text for the reader.
    #[must_use]
    pub fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// The end of a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The status.
    pub status: EndStatus,
    /// Time of the end (epoch seconds).
    pub at: u64,
    /// The problem, if one occurred.
    pub problem: Option<Problem>,
    /// The token usage, if it is known.
    pub usage: Option<TokenUsage>,
}

/// The final status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndStatus {
    /// Ended by the model.
    Completed,
    /// Ended at its maximum length.
    Incomplete,
    /// Not generated, or not completely.
    Failed,
    /// Ended by its caller, or because the caller left.
    Cancelled,
}

/// A problem with a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The code for programs.
    pub code: String,
    /// The message for people.
    pub message: String,
}

const SERVER_STOPPED: &str = "server_stopped";

impl End {
    /// Returns the end of a response that was running when the server stopped.
    #[must_use]
    pub fn lost(at: u64) -> Self {
        let message = "The server stopped while the response was being generated. Create it again.";
        Self::failed(at, SERVER_STOPPED, message)
    }

    /// Returns whether the response was running when the server stopped: its answer is not stored then.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.code == SERVER_STOPPED)
    }

    /// Returns the end of a failed response.
    #[must_use]
    pub fn failed(at: u64, code: &str, message: &str) -> Self {
        let problem = Problem { code: code.to_owned(), message: message.to_owned() };
        Self { status: EndStatus::Failed, at, problem: Some(problem), usage: None }
    }

    /// Returns the end of a cancelled response.
    #[must_use]
    pub const fn cancelled(at: u64) -> Self {
        Self { status: EndStatus::Cancelled, at, problem: None, usage: None }
    }
}

/// The progress of a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// True if the model has begun.
    pub started: bool,
    /// The answer so far.
    pub deltas: Vec<Delta>,
    /// The end; `None` while it runs.
    pub end: Option<End>,
}

/// The id of the item that the first new item answers.
#[derive(Debug)]
pub struct Found {
    /// The stored record.
    pub record: ResponseRecord,
    /// A reader of its run; `None` once it has ended, and while another server runs it.
    pub reader: Option<Reader>,
}
